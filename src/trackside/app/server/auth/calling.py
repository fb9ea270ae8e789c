"""Calls functions of the user's that decide about requests: in time, beside the loop, and without telling what they saw."""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

from trackside.app.masking import without_secrets
from trackside.app.server.failures import FAILED, HttpError
from trackside.app.server.responses import Scope

logger = logging.getLogger("trackside.server")

SECONDS: Final = 10.0
_AT_ONCE: Final = 64  # synchronous calls of one function
_ERRORS: Final = range(400, 600)


class Failure:
    """What went wrong with a function of the user's. The log says it, and no client."""

    def __init__(self, why: str) -> None:
        self._why = why

    def answer(self) -> HttpError:
        """Say it in the log; what the client is told."""
        logger.error("%s", self._why)
        return HttpError(status=500, detail=FAILED)


class Called:
    """A function of the user's, asynchronous or not."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function
        self._is_async = inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(
            getattr(function, "__call__", None)  # noqa: B004  # an object that is called
        )
        self._turns = asyncio.Semaphore(_AT_ONCE)

    async def __call__(
        self, what: str, scope: Scope, given: Mapping[str, Any], asserted: Callable[[AssertionError], HttpError]
    ) -> Any:
        """What it returns.

        Args:
            what: what the function is, for the log.
            scope: the request; nothing of its headers comes into the log.
            given: what it takes.
            asserted: makes the answer if an assertion of its failed.

        Raises:
            HttpError: it has refused the request, failed, or taken too long.
        """
        try:
            async with asyncio.timeout(SECONDS):
                return await self._ask(given)
        except TimeoutError:
            detail = "who asks, or what he may, could not be found out in time"
            raise HttpError(status=503, detail=detail, headers={"Retry-After": "1"}) from None
        except HttpError:
            raise
        except AssertionError as exc:
            raise asserted(exc) from None
        except Exception as exc:  # noqa: BLE001  # the user's own code, whatever it raises
            raise _answer_to(exc, what, scope) from None

    async def _ask(self, given: Mapping[str, Any]) -> Any:
        if self._is_async:
            return await self._function(**given)
        async with self._turns:
            found = await asyncio.to_thread(self._function, **given)
        return await found if isinstance(found, Awaitable) else found


def _answer_to(exc: Exception, what: str, scope: Scope) -> HttpError:
    """What a client is told of what the function raised: its own status and sentence, else nothing."""
    status = getattr(exc, "status_code", None)
    if isinstance(status, int) and status in _ERRORS:
        headers = getattr(exc, "headers", None)
        shown = {str(key): str(value) for key, value in headers.items()} if isinstance(headers, Mapping) else {}
        return HttpError(status=status, detail=str(getattr(exc, "detail", "") or "you are not let in"), headers=shown)
    sent = {value.decode("latin-1"): "…" for name, value in scope["headers"] if name != b"host"}
    words = {word: "…" for text in sent for word in text.split()}
    said = without_secrets(f"{type(exc).__name__}: {exc}", {**sent, **words})
    return Failure(f"{what} failed: {said}").answer()
