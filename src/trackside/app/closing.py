"""Closes observers, which may fail or hang when they are closed."""

from __future__ import annotations

import logging

from trackside.harness.foreign.failures import is_own_failure, line_of
from trackside.harness.foreign.timelimit import call_observer

__all__ = ["close_observer"]


async def close_observer(observer: object, *, name: str, limit: float, logger: logging.Logger) -> None:
    """Close an observer that can be closed, in `limit` seconds; a failure is logged, so others are closed all the same.

    Args:
        observer: the observer.
        name: what it is called.
        limit: seconds after which it is left behind.
        logger: where a failure is logged.
    """
    close = getattr(observer, "aclose", None)
    if close is None:
        return

    async def closing() -> None:
        await close()

    try:
        await call_observer(closing(), observer=f"{name}.aclose", limit=limit)
    except BaseException as exc:  # the observer's failure
        if not is_own_failure(exc):
            raise
        logger.warning("observer %s could not be closed: %s", name, line_of(exc))
