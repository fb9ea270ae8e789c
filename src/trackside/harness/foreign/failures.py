"""Whose failure an exception is, and what it says, in a form that can be kept."""

from __future__ import annotations

import asyncio
import traceback
from typing import TypeGuard

from trackside.harness.errors import TracksideError

TRACEBACK_CHARS = 16_000
"""How much of a failed agent's traceback is kept: the end of it, where the failure is."""

ERROR_CHARS = 16_000
"""How much of what an exception says is kept: the beginning of it, which leaves room for everything else."""

_OF_A_GROUP = 3
"""How many exceptions of a group are said."""

_OWN_MODULES = "trackside.harness."


def is_own_failure(exc: BaseException) -> bool:
    """Whether what an observer raised is its own failure, and not somebody stopping the task that dispatches.

    A `CancelledError` that nobody asked for (I16) and a `SystemExit` are failures of the observer like any other;
    a real cancel, Ctrl-C and the closing of a coroutine are not.
    """
    if isinstance(exc, asyncio.CancelledError):
        task = asyncio.current_task()
        return task is None or task.cancelling() == 0
    return not isinstance(exc, KeyboardInterrupt | GeneratorExit)


def is_of[E: BaseException](exc: BaseException | None, *kinds: type[E]) -> TypeGuard[E]:
    """Whether its type is one of these; `isinstance` would also ask the exception, whose own code may fail."""
    return issubclass(type(exc), kinds)


def text_of(exc: BaseException | None) -> str:
    """What an exception says, readable even if it says little, or too much, or its own `__str__` fails.

    A group says how many exceptions are in it; then come these, as far as they are not groups themselves.
    """
    name = type(exc).__qualname__
    try:
        text = str(exc)
        if is_of(exc, BaseExceptionGroup):
            text = f"{text}: {_texts_in(exc)}"
    except BaseException:  # noqa: BLE001  # the agent's own exception class is broken; the run has to end (I18)
        return f"{name}, whose message cannot be read"
    if is_of(exc, KeyError, SystemExit):  # these say a key or a number, but not what about it
        return f"{name}: {text}"
    if len(text) > ERROR_CHARS:
        return f"{text[:ERROR_CHARS]}… [truncated: {len(text) - ERROR_CHARS} characters]"
    return text or f"{name} without a message"


def named_text_of(exc: BaseException) -> str:
    """What an exception is and what it says, as the last line of a traceback does."""
    name, text = type(exc).__qualname__, text_of(exc)
    return text if text.startswith(name) else f"{name}: {text}"


def _texts_in(group: BaseExceptionGroup[BaseException]) -> str:
    """The first few exceptions in a group, at whatever depth."""
    texts, left = list[str](), [*group.exceptions]
    while left and len(texts) < _OF_A_GROUP:
        one = left.pop(0)
        if is_of(one, BaseExceptionGroup):
            left[:0] = one.exceptions
        else:
            texts.append(named_text_of(one))
    return "; ".join([*texts, "…"] if left else texts)


def line_of(exc: BaseException | None) -> str:
    """What an exception says, as one line that fits into the middle of a sentence or at its end."""
    return " ".join(text_of(exc).split()).rstrip(".")


def trace_of[E: BaseException](exc: E) -> E | None:
    """What a log shows besides the words: where a failure came from, unless it is our error, which says what it is."""
    return None if is_of(exc, TracksideError) else exc


def traceback_of(exc: BaseException) -> str:
    """The exception's traceback, from the first frame that is not the harness's own; only its end if it is long."""
    try:
        trace = exc.__traceback__
        while trace is not None and trace.tb_frame.f_globals.get("__name__", "").startswith(_OWN_MODULES):
            trace = trace.tb_next
        text = "".join(traceback.format_exception(type(exc), exc, trace))
    except BaseException:  # noqa: BLE001  # as above
        return ""
    return text if len(text) <= TRACEBACK_CHARS else f"…{text[-TRACEBACK_CHARS:]}"
