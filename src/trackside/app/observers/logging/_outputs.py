"""Where lines go: into a file or standard error, to the program's own logging, or to its structlog."""

from __future__ import annotations

import asyncio
import logging
import math
import os
import select
from collections.abc import Callable, Sequence
from contextlib import suppress
from contextvars import Context
from pathlib import Path
from typing import Any, Final, NamedTuple, override

from trackside.app.observers.logging._lines import RunLine, one_line
from trackside.harness.errors import ClosedError
from trackside.harness.running.logs import run_fields

LOGGER: Final = "trackside.runs"

_STANDARD_ERROR = 2
_LINE_END = ord("\n")

_PLAIN_RECORD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


class FileOutput:
    """Appends lines to a file, which others may move away or empty; or writes them to standard error.

    The file is opened with the first lines. Nothing is buffered: what was taken is with the operating system.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._file = _STANDARD_ERROR if path is None else -1
        self._is_torn = False

    def write(self, lines: Sequence[bytes]) -> None:
        """Write these lines.

        Raises:
            OSError: it cannot be written to.
        """
        if self._path is not None:
            self._open(self._path)
        text = b"".join(lines)
        if self._is_torn:
            text = b"\n" + text  # so that the half line that is there does not spoil another one
        written = 0
        try:
            while written < len(text):
                written += self._write(memoryview(text)[written:])
        finally:
            if written:
                self._is_torn = text[written - 1] != _LINE_END

    def _write(self, text: memoryview) -> int:
        while True:
            try:
                return os.write(self._file, text)
            except BlockingIOError:  # the program was started with a non-blocking pipe
                select.select((), (self._file,), ())

    def close(self) -> None:
        """Close the file, if it was opened."""
        if self._path is not None and self._file >= 0:
            os.close(self._file)
            self._file = -1

    def _open(self, path: Path) -> None:
        """Open the file, again if by now there is a different file of its name, or none."""
        if self._file >= 0:
            with suppress(FileNotFoundError):
                now, ours = path.stat(), os.fstat(self._file)
                if (now.st_dev, now.st_ino) == (ours.st_dev, ours.st_ino):
                    return
            self.close()
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o640)


class Spoken(NamedTuple):
    """A line for the program's own logging, and the context in which its event was accepted."""

    line: RunLine
    context: Context


def speak(backend: str, spoken: Sequence[Spoken]) -> None:
    """Give lines to the program's logging, each in its own context, so that what the program has bound is there.

    Raises:
        Exception: what the program's own processors or filters raise.
    """
    to_structlog = backend == "structlog" or (backend == "auto" and uses_structlog())
    for line, context in spoken:
        # Only one thread at a time may enter a context, and nothing else uses this one.
        context.run(_to_structlog if to_structlog else _to_logging, line)


def uses_structlog() -> bool:
    """Whether the program has configured structlog."""
    try:
        import structlog
    except ImportError:
        return False
    return structlog.is_configured()


def _to_logging(line: RunLine) -> None:
    extra = {**line.fields, "occurred_at": line.at.isoformat()}
    logging.getLogger(LOGGER).log(line.level, "%s", line.sentence, extra=extra)


def _to_structlog(line: RunLine) -> None:
    import structlog

    async def say_and_await() -> None:
        await say()

    def say() -> Any:
        method = getattr(structlog.get_logger(LOGGER), logging.getLevelName(line.level).lower())
        return method(line.message, occurred_at=line.at.isoformat(), **line.fields)

    if issubclass(structlog.get_config()["wrapper_class"], structlog.stdlib.AsyncBoundLogger):
        asyncio.run(say_and_await())  # such a logger must be made on a loop
    else:
        say()


class CapturingHandler(logging.Handler):
    """Passes each record of the program's loggers on, with the fields of the run in which it was made."""

    def __init__(self, take: Callable[[logging.LogRecord, dict[str, Any]], None]) -> None:
        super().__init__()
        self._give = take
        self._exceptions = logging.Formatter()

    @override
    def emit(self, record: logging.LogRecord) -> None:
        try:
            fields: dict[str, Any] = {name: value for name, value in run_fields().items() if value}
            fields |= {name: _plain(value) for name, value in vars(record).items() if name not in _PLAIN_RECORD}
            if record.exc_info:
                fields["exception"] = self._exceptions.formatException(record.exc_info)
            with suppress(ClosedError):
                self._give(record, fields)
        except Exception:  # noqa: BLE001  # the code that logs goes on, whatever is wrong with its record
            self.handleError(record)


def _plain(value: object) -> str | int | float | bool | None:
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, float) and math.isfinite(value):  # JSON has only finite numbers
        return float(value)
    return one_line(str(value), 10_000)
