"""Calls the user's functions that decide about requests: in time, off the loop, and without telling what they saw."""

from __future__ import annotations

import asyncio
import inspect
import logging
import traceback
from collections.abc import Awaitable, Callable, Mapping
from types import CodeType
from typing import Any, Final

from trackside.app.masking import without_secrets
from trackside.app.server.failures import FAILED, HttpError, answer_to_unexpected
from trackside.app.server.responses import Scope
from trackside.harness.threads import Threads, in_thread_of

logger = logging.getLogger("trackside.server")

SECONDS: Final = 10.0
_AT_ONCE: Final = 64  # synchronous calls of one function
_ERRORS: Final = range(400, 600)
_MOST_PLACES: Final = 100  # whose tracebacks are logged
_LONGEST_SENTENCE: Final = 2_000  # characters: the log needs no more, and it is searched for all that was sent


class Failure:
    """What went wrong with a function of the user's. The log says it, and no client hears it."""

    def __init__(self, why: str) -> None:
        self._why = why

    def answer(self) -> HttpError:
        """Say it in the log; returns what the client is told."""
        logger.error("%s", self._why)
        return HttpError(status=500, detail=FAILED)


class Called:
    """One of the user's functions, asynchronous or not."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function
        self._is_async = inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(
            getattr(function, "__call__", None)  # noqa: B004  # an object with `__call__`
        )
        # Threads of its own: agents' functions do not get in its way, and it gets in nobody's.
        self._threads = Threads(_AT_ONCE, thread_name_prefix="trackside-auth")
        self._shown: set[tuple[CodeType | None, int]] = set()

    async def __call__(
        self, what: str, scope: Scope, given: Mapping[str, Any], asserted: Callable[[AssertionError], HttpError]
    ) -> Any:
        """What it returns.

        Args:
            what: what the function is, for the log.
            scope: the request; nothing of its headers comes into the log.
            given: what it takes.
            asserted: makes the answer if one of its assertions failed.

        Raises:
            HttpError: it has refused the request, failed, or taken too long.
        """
        try:
            async with asyncio.timeout(SECONDS):
                return await self._ask(given)
        except TimeoutError:
            detail = "who you are, or what you may do, could not be found out in time"
            raise HttpError(status=503, detail=detail, headers={"Retry-After": "1"}) from None
        except HttpError:
            raise
        except AssertionError as exc:
            raise asserted(exc) from None
        except Exception as exc:  # noqa: BLE001  # the user's own code, whatever it raises
            raise self._answer_to(exc, what, scope) from None

    def _answer_to(self, exc: Exception, what: str, scope: Scope) -> HttpError:
        """What a client is told of what the function raised: its own status and sentence, else nothing. The log says where
        it was raised, and the first time also the traceback, without values: a line of code tells no secrets.
        """
        if (said := _own_answer(exc)) is not None:
            return said
        place, way = _place_of(exc), ""
        if place not in self._shown and len(self._shown) < _MOST_PLACES:
            self._shown.add(place)
            frames = traceback.extract_tb(exc.__traceback__)
            way = "\n" + "".join(traceback.format_list([one for one in frames if one.filename != __file__])).rstrip()
        last = "" if place[0] is None else f" ({place[0].co_filename}:{place[1]})"
        logger.error("%s failed: %s%s%s", what, _without_headers(exc, scope), last, way)
        told = answer_to_unexpected(exc)
        return HttpError(status=told.status, detail=told.detail, headers=told.headers)

    async def _ask(self, given: Mapping[str, Any]) -> Any:
        if self._is_async:
            return await self._function(**given)
        found = await in_thread_of(self._threads, self._function, **given)
        return await found if isinstance(found, Awaitable) else found


def _own_answer(exc: Exception) -> HttpError | None:
    """The answer with an exception's own status and sentence; None if it has no such status."""
    status = getattr(exc, "status_code", None)
    if not isinstance(status, int) or status not in _ERRORS:
        return None
    headers = getattr(exc, "headers", None)
    shown = {str(key): str(value) for key, value in headers.items()} if isinstance(headers, Mapping) else {}
    return HttpError(status=status, detail=str(getattr(exc, "detail", "") or "you are not let in"), headers=shown)


def _without_headers(exc: Exception, scope: Scope) -> str:
    name, sentence = type(exc).__name__, str(exc)
    if len(sentence) > _LONGEST_SENTENCE:
        return f"{name}, which says more than {_LONGEST_SENTENCE:,} characters"
    sent = {value.decode("latin-1"): "…" for name, value in scope["headers"] if name != b"host"}
    words = {word: "…" for text in sent for word in text.split()}
    return without_secrets(f"{name}: {sentence}", {**sent, **words})


def _place_of(exc: Exception) -> tuple[CodeType | None, int]:
    trace = exc.__traceback__
    if trace is None:
        return None, 0
    while trace.tb_next is not None:
        trace = trace.tb_next
    return trace.tb_frame.f_code, trace.tb_lineno
