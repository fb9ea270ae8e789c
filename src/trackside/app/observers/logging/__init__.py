"""Writes a line into the log for each thing that happens to a run.

The lines go where the program's own lines go: through structlog if the program has configured it, else through the
logger `trackside.runs`. With a `format`, the observer writes them itself. A thread does it, so that no log, however
slow, holds up a run.

To have the lines of an agent say which run they belong to, put `trackside.RunFieldsFilter` on a handler,
or `add_run_fields` among structlog's processors.
"""

from __future__ import annotations

import importlib.util
import logging
import os
from collections.abc import Callable, Sequence
from contextvars import copy_context
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

from trackside.app.delivery import Delivery, ObserverOptionError
from trackside.app.observers.logging._handover import Handover, LineStats
from trackside.app.observers.logging._lines import RunLine, console_line, json_line, line_about
from trackside.app.observers.logging._outputs import LOGGER, CapturingHandler, FileOutput, Spoken, speak
from trackside.harness.amounts import is_count
from trackside.harness.observer import RunLifecycleEvent
from trackside.harness.running.logs import run_fields

__all__ = ["LineStats", "LoggingObserver", "add_run_fields"]

_BACKENDS = ("auto", "structlog", "stdlib")
_FORMATS = {"json": json_line, "console": console_line}
_LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}

_CLOSE_SECONDS = 2.0
"""How long closing waits for a log that takes nothing, in seconds."""


def add_run_fields(logger: Any, method: str, event_dict: dict[str, Any]) -> dict[str, Any]:
    """A structlog processor: adds `run_id`, `thread_id` and `agent` of the run that the calling code belongs to, if any.

    >>> structlog.configure(processors=[add_run_fields, structlog.processors.JSONRenderer()])
    """
    for name, value in run_fields().items():
        if value:
            event_dict.setdefault(name, value)
    return event_dict


class LoggingObserver:
    """Logs what happens to runs: failures as errors, cancels and timeouts as warnings, what humans say as debug.

        LoggingObserver()                                    # to the program's own logging
        LoggingObserver(format="json", file="runs.jsonl")    # one JSON object in a line

    Args:
        backend: where lines go without a `format`: to "structlog", to the "stdlib", or "auto": to structlog if the program
            has configured it.
        format: "json" or "console": the observer writes the lines itself, and no handler of the program sees them.
        file: with a `format`, the file to write to; standard error if left out. A file that was moved away is made
            anew.
        level: "debug", "info", "warning" or "error": lines below that are left out. Without a `format` the program
            decides, and all are passed on; with one the default is "info".
        content: whether to quote what humans and models said, cut at 500 characters.
        loggers: with a `format`, names of loggers whose lines are also written here: those of your agents; "" for all.
            A logger's lines include those of the loggers below it ("a" includes "a.b").
        capacity: how many lines may wait for a slow log. Further lines are dropped and counted, and a line in their
            place says so.

    Raises:
        ObserverOptionError: an option does not fit.
    """

    delivery: ClassVar[Delivery] = Delivery.live

    def __init__(
        self,
        *,
        backend: str = "auto",
        format: str | None = None,
        file: str | None = None,
        level: str | None = None,
        content: bool = False,
        loggers: Sequence[str] = (),
        capacity: int = 10_000,
    ) -> None:
        _check("backend", backend, _BACKENDS)
        _check("format", format, (None, *_FORMATS))
        _check("level", level, (None, *_LEVELS))
        _check("content", content, (True, False))
        if not is_count(capacity):
            raise ObserverOptionError(option="capacity", why=f"it is a number of lines, at least 1, not {capacity!r}")
        if not isinstance(loggers, list | tuple) or not all(isinstance(name, str) for name in loggers):
            raise ObserverOptionError(option="loggers", why=f'it is a list of names, as ["my_agent"], not {loggers!r}')
        if format is None:
            _check_speaking(backend, file, loggers)
        elif backend != "auto":
            why = f'it says who writes lines that have no format; with format = "{format}" the observer does: leave it out'
            raise ObserverOptionError(option="backend", why=why)
        self._content = content
        self._level = _LEVELS[level] if level else logging.INFO if format else logging.DEBUG
        self._captured: list[tuple[logging.Logger, CapturingHandler, int | None]] = []
        self._handover: Handover[Any]
        self._make: Callable[[RunLine], Any]
        if format is None:
            self._make = _spoken
            self._handover = Handover(
                partial(speak, backend), _nothing, _missing_spoken, capacity=capacity, name="trackside-log-lines"
            )
        else:
            self._write_as(_FORMATS[format], _checked_file(file), capacity)
            for captured in _topmost(loggers):
                self._capture(captured, _FORMATS[format])

    def _write_as(self, written: Callable[..., bytes], path: Path | None, capacity: int) -> None:
        def make(line: RunLine) -> bytes:
            return written(line.at, line.level, LOGGER, line.message, line.fields)

        output = FileOutput(path)
        self._make = make
        self._handover = Handover(
            output.write,
            output.close,
            lambda count: make(_missing(count)),
            capacity=capacity,
            name="trackside-log-lines",
        )

    async def on_event(self, event: RunLifecycleEvent) -> None:
        """Have the event's line written. This waits a little only while there is no room and the log takes anything.

        Raises:
            ClosedError: the observer has been closed.
        """
        line = line_about(event, level=self._level, content=self._content)
        if line is not None:
            written = self._make(line)
            if self._handover.is_full:
                await self._handover.wait_for_room()
            self._handover.offer(written)

    def stats(self) -> LineStats:
        """What became of all lines so far, including those of `loggers`."""
        return self._handover.stats()

    async def flush(self, timeout: float) -> LineStats:
        """Wait, for at most `timeout` seconds, until all earlier lines are written."""
        return await self._handover.flush(timeout)

    async def aclose(self) -> None:
        """Write what waits, for at most two seconds, and close the file. May be called again."""
        while self._captured:
            captured, handler, level = self._captured.pop()
            captured.removeHandler(handler)
            if level is not None and captured.level == self._level:
                captured.setLevel(level)
            handler.close()
        await self._handover.aclose(_CLOSE_SECONDS)

    def _capture(self, captured: logging.Logger, written: Callable[..., bytes]) -> None:
        def take(record: logging.LogRecord, fields: dict[str, Any]) -> None:
            at = datetime.fromtimestamp(record.created, UTC)
            self._handover.offer(written(at, record.levelno, record.name, record.getMessage(), fields))

        handler = CapturingHandler(take)
        handler.setLevel(self._level)
        before = None
        if captured.level == logging.NOTSET or (captured is logging.root and not captured.handlers):
            before = captured.level
            captured.setLevel(self._level)
        captured.addHandler(handler)
        self._captured.append((captured, handler, before))


def _topmost(names: Sequence[str]) -> list[logging.Logger]:
    """The loggers with these names, each once, without those whose lines reach another one of them."""
    named = dict.fromkeys(logging.getLogger(name or None) for name in names)

    def is_heard_above(logger: logging.Logger) -> bool:
        while logger.propagate and logger.parent is not None:
            logger = logger.parent
            if logger in named:
                return True
        return False

    return [logger for logger in named if not is_heard_above(logger)]


def _check(option: str, value: Any, accepted: Sequence[Any]) -> None:
    if value not in accepted or isinstance(value, bool) is not isinstance(accepted[0], bool):
        names = ", ".join(
            f'"{name}"' if isinstance(name, str) else str(name).lower() for name in accepted if name is not None
        )
        raise ObserverOptionError(option=option, why=f"{value!r} is not one of {names}")


def _check_speaking(backend: str, file: str | None, loggers: Sequence[str]) -> None:
    """Check that lines can be given to the program's own logging."""
    for option, value in (("file", file), ("loggers", loggers)):
        if value:
            why = 'it needs a format, "json" or "console": without one the program decides where lines go'
            raise ObserverOptionError(option=option, why=why)
    if backend == "structlog" and importlib.util.find_spec("structlog") is None:
        raise ObserverOptionError(option="backend", why="structlog is not installed: pip install 'trackside[logging]'")


def _checked_file(file: Any) -> Path | None:
    if file is None:
        return None
    if not isinstance(file, str) or not file.isprintable():
        raise ObserverOptionError(option="file", why=f'it is the path of a file, as "runs.jsonl", not {file!r}')
    path = Path(file).expanduser()
    if path.is_dir():  # "" is one, too
        raise ObserverOptionError(option="file", why=f"{file!r} is a folder, and the lines need a file")
    if not path.parent.is_dir():
        raise ObserverOptionError(
            option="file", why=f"the folder {path.parent} is not there: make it, or choose another"
        )
    if not os.access(path if path.exists() else path.parent, os.W_OK):
        raise ObserverOptionError(option="file", why=f"{path} cannot be written to")
    return path.absolute()


def _missing(count: int) -> RunLine:
    message = f"{count} lines are missing here: the log was too slow for them"
    return RunLine(level=logging.WARNING, message=message, at=datetime.now(UTC), fields={"missing": count})


def _spoken(line: RunLine) -> Spoken:
    return Spoken(line, copy_context())


def _missing_spoken(count: int) -> Spoken:
    return _spoken(_missing(count))


def _nothing() -> None: ...
