"""Adds to log records which run they are about."""

from __future__ import annotations

import logging
from typing import Protocol

from trackside.harness.context import current_run


class _Run(Protocol):
    """A run as a record or a context has it."""

    @property
    def run_id(self) -> str: ...
    @property
    def thread_id(self) -> str: ...
    @property
    def agent(self) -> str: ...


_OUTSIDE = {"run_id": "", "thread_id": "", "agent": ""}


def run_fields() -> dict[str, str]:
    """The `run_id`, `thread_id` and `agent` of the run that the calling code belongs to; empty texts outside a run.

    For loggers that bind values, such as structlog's processors:

        >>> def add_run(logger, method, event):
        ...     return run_fields() | event
    """
    run = current_run()
    return dict(_OUTSIDE) if run is None else fields_of(run)


def fields_of(run: _Run) -> dict[str, str]:
    """What `run_fields` says inside this run: the `extra` of a log line about it that may be written elsewhere."""
    return {"run_id": run.run_id, "thread_id": run.thread_id, "agent": run.agent}


class RunFieldsFilter(logging.Filter):
    """Adds `run_id`, `thread_id` and `agent` to every record, for a handler's format; empty texts outside a run.

    Add it to the handler that the code's own thread calls: to a `QueueHandler`, not to the handler that its listener
    calls. A record that already has one of these fields, from its `extra`, keeps it.

        >>> handler = logging.StreamHandler()
        >>> handler.addFilter(RunFieldsFilter())
        >>> handler.setFormatter(logging.Formatter("%(levelname)s %(run_id)s %(message)s"))
    """

    def filter(self, record: logging.LogRecord) -> bool:
        """Add the fields; every record passes."""
        for name, value in run_fields().items():
            record.__dict__.setdefault(name, value)
        return True
