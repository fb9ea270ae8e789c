"""What a fleet shares in its database: runs that are ready and nobody's, workers, duties that one has for all."""

from __future__ import annotations

from typing import NamedTuple

DEFAULT_POOL = "default"


class ReadyRun(NamedTuple):
    """A run that holds its thread, has not started, and is nobody's: a worker of the pool may claim it."""

    run_id: str
    pool: str = DEFAULT_POOL


class StopAsked(NamedTuple):
    """A run that somebody wants to stop, and the worker that executes it."""

    run_id: str
    worker_id: str


class QueueNews(NamedTuple):
    """What a transaction of this process has changed that others have to hear of, now that it is committed."""

    ready: tuple[ReadyRun, ...] = ()
    stops: tuple[StopAsked, ...] = ()
