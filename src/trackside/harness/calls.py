"""The single calls of a run: which model, tool or agent was called, when, by whom, and with what result."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from operator import add, attrgetter
from typing import Any, Literal

from trackside.harness.amounts import is_seconds
from trackside.harness.errors import InvalidCallError
from trackside.harness.payload import canonical
from trackside.harness.types import JsonObject

__all__ = ["BROKEN_OFF", "CALL_KINDS", "MAX_CALLS", "Call", "CallKind", "CallLog"]

type CallKind = Literal["chat", "execute_tool", "invoke_agent"]
"""A model is asked, a tool is run, another agent is run: the operations' names are OpenTelemetry's."""

CALL_KINDS: tuple[CallKind, ...] = ("chat", "execute_tool", "invoke_agent")

MAX_CALLS = 1_000
"""How many calls of a run `completion_data` lists: the first that were reported."""

BROKEN_OFF = frozenset({"cancelled", "unfinished"})
"""The `error_type` of calls that were broken off, or had not come back: nothing failed in them."""

_NAME_CHARS = 200
_CANCELLED = "cancelled"
_UNANSWERED = "unanswered"


class Call:
    """One call, from its start to its end. May be used from any thread.

    `at` is the seconds from the start of the run to the start of the call. `name` is the model that answered, once one
    has; `asked` is the name by which it was asked for, None if there was none.
    """

    __slots__ = ("_elapsed", "_error_type", "_seconds", "_tokens", "asked", "at", "caller", "kind", "name")

    def __init__(self, kind: CallKind, name: str, caller: str, at: float, elapsed: Callable[[], float]) -> None:
        self.kind = kind
        self.name = name
        self.asked: str | None = name
        self.caller = caller
        self.at = at
        self._elapsed = elapsed
        self._seconds: float | None = None
        self._tokens: tuple[int, ...] | None = None
        self._error_type: str | None = None

    def end(self, error: BaseException | None = None) -> None:
        """Report that the call came back, or failed with `error`. The first report counts."""
        if self._seconds is None:
            self._seconds = max(0.0, self._elapsed() - self.at)
            if error is not None:
                self._error_type = _error_type(error)

    def used(self, model: str, *tokens: int) -> None:
        """Count what the model that answered used: tokens of input and output, read from a cache, spent on reasoning,
        written to a cache.
        """
        self.name = _short(model)
        self._tokens = tokens if self._tokens is None else tuple(map(add, self._tokens, tokens))

    def as_json(self, run_seconds: float, open_as: str) -> JsonObject:
        """The call as `completion_data` shows it, for a run that took `run_seconds`. A call that has not come back
        failed with `open_as`.
        """
        seconds, error_type = self._seconds, self._error_type
        if seconds is None:
            seconds, error_type = max(0.0, run_seconds - self.at), open_as
        shown: JsonObject = {
            "kind": self.kind,
            "name": self.name,
            "caller": self.caller,
            "at": round(self.at, 6),
            "seconds": round(seconds, 6),
        }
        if self.asked not in {None, self.name}:
            shown["request_model"] = self.asked
        if self._tokens is not None:
            shown["input_tokens"], shown["output_tokens"], cached, reasoning, written = self._tokens
            if cached:
                shown["cache_read_tokens"] = cached
            if written:
                shown["cache_write_tokens"] = written
            if reasoning:
                shown["reasoning_tokens"] = reasoning
        if error_type is not None:
            shown["error_type"] = error_type
        return shown


class CallLog:
    """The calls of one run, the first `MAX_CALLS` of them. Any thread may write to it.

    Args:
        monotonic: the clock by which calls are measured, in seconds.
    """

    __slots__ = ("_began", "_calls", "_lock", "_monotonic", "_omitted")

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self._monotonic = monotonic
        self._began: float | None = None
        self._lock = threading.Lock()
        self._calls: list[Call] = []
        self._omitted = 0

    def start(self) -> None:
        """The run starts now."""
        self._began = self._monotonic()

    def elapsed(self) -> float:
        """Seconds since the start of the run; 0 if it never started."""
        return 0.0 if self._began is None else self._monotonic() - self._began

    def begin(self, kind: CallKind, name: str, caller: str, *, at: float | None = None) -> Call:
        """Note a call that begins now, or began `at` that second of the run.

        Raises:
            InvalidCallError: (a `ValueError`) there is no such kind, or `at` is not a number of seconds.
        """
        if kind not in CALL_KINDS:
            raise InvalidCallError(field="kind", value=kind, why=f"choose one of {', '.join(CALL_KINDS)}")
        began = self.elapsed() if at is None else _seconds_of(at, "at", "a call begins at")
        call = Call(kind, _short(name), _short(caller), began, self.elapsed)
        self._note(call)
        return call

    def add(self, kind: CallKind, name: str, caller: str, seconds: float | None, *, answered: bool = True) -> Call:
        """Note a call that came back just now, after `seconds`, which may be unknown.

        Raises:
            InvalidCallError: (a `ValueError`) `seconds` is not a number of seconds.
        """
        lasted = 0.0 if seconds is None else _seconds_of(seconds, "seconds", "a call takes")
        call = Call(kind, _short(name), _short(caller), max(0.0, self.elapsed() - lasted), self.elapsed)
        call._seconds, call._error_type = lasted, None if answered else _UNANSWERED  # noqa: SLF001  # of this module
        self._note(call)
        return call

    def _note(self, call: Call) -> None:
        with self._lock:
            if len(self._calls) < MAX_CALLS:
                self._calls.append(call)
            else:
                self._omitted += 1

    def as_json(self, run_seconds: float, open_as: str) -> JsonObject:
        """The part of `completion_data` that lists the calls, in the order of their starts; empty if there were none."""
        with self._lock:
            calls, omitted = list(self._calls), self._omitted
        if not calls:
            return {}
        calls.sort(key=attrgetter("at"))
        shown: JsonObject = {"calls": [call.as_json(run_seconds, open_as) for call in calls]}
        if omitted:
            shown["calls_omitted"] = omitted
        return shown


def _seconds_of(value: Any, field: str, what: str) -> float:
    if not is_seconds(value):
        raise InvalidCallError(field=field, value=value, why=f"{what} a number of seconds from 0 up")
    return float(value)


def _short(name: str) -> str:
    if type(name) is str and len(name) <= _NAME_CHARS and name.isascii() and name.isprintable():
        return name  # as nearly all are
    plain: str = canonical(str(name))[0]
    return plain[:_NAME_CHARS]


def _error_type(error: BaseException) -> str:
    return _CANCELLED if isinstance(error, asyncio.CancelledError) else _short(type(error).__qualname__)
