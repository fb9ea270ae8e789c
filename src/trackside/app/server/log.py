"""What a server says while it runs: a line for each request, and one for each thing that somebody should know.

Lines go through structlog, in a thread of their own: the event loop waits neither for their rendering nor for their
reader. Lines for which there is no room are dropped and counted.
"""

from __future__ import annotations

import json
import logging
import os
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime
from io import BytesIO
from queue import Empty, SimpleQueue
from types import TracebackType
from typing import Any, Final, NamedTuple, Self, TextIO, override

import msgspec

from trackside.harness.payload import with_whole_characters

_MOST: Final = 20_000  # lines that may wait: those of some seconds of a busy server
_TOGETHER: Final = 0.05  # seconds for which lines are collected: a thread that wakes for each costs more than the line
_BATCH: Final = 1_000  # lines that are written at once
_PATIENCE: Final = 2.0  # seconds that closing waits for whoever reads
_EXCEPTION: Final = "exception"  # the one fact that may have several lines
_LOGGERS: Final = ("trackside", "uvicorn.error")
_CUT_OFF: Final = "ASGI callable returned without completing response."  # the line of its request says so, too


class _Line(NamedTuple):
    at: float
    level: str
    event: str
    facts: Mapping[str, Any]


class ServerLog:
    """Writes lines while its `with` block goes on: for people on a terminal, else as JSON.

    Within the block, warnings of Trackside's own parts come here, too.
    """

    def __init__(self, file: TextIO, *, as_json: bool | None = None) -> None:
        self._fd, self._file = file.fileno(), file  # kept, so that it stays open while this writes to it
        self._as_json = not file.isatty() if as_json is None else as_json
        # Not a deque and an event: a signal handler may say something while its thread is doing so.
        self._lines: SimpleQueue[_Line | None] = SimpleQueue()
        self._dropped = 0
        self._thread = threading.Thread(target=self._write_lines, name="trackside-server-log", daemon=True)
        self._handler = _Warnings(self)

    def __enter__(self) -> Self:
        self._thread.start()
        for name in _LOGGERS:
            logging.getLogger(name).addHandler(self._handler)
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None) -> None:
        for name in _LOGGERS:
            logging.getLogger(name).removeHandler(self._handler)
        self._lines.put(None)
        self._thread.join(_PATIENCE)

    def say(self, event: str, facts: Mapping[str, Any], *, level: str = "info") -> None:
        """Have a line written; from any thread, and without waiting."""
        if self._lines.qsize() >= _MOST:
            self._dropped += 1
        else:
            self._lines.put(_Line(time.time(), level, event, facts))

    def _write_lines(self) -> None:
        written = BytesIO()
        logger = _logger(written, as_json=self._as_json)
        goes_on = True
        while goes_on:
            lines = self._next_lines()
            goes_on = lines[-1] is not None
            for line in lines:
                if line is not None:
                    moment = _moment(line.at, as_json=self._as_json)
                    getattr(logger, line.level)(line.event, timestamp=moment, **line.facts)
            if (dropped := self._dropped) > 0:
                self._dropped -= dropped
                logger.warning("lines were dropped", lines=dropped)
            _write(self._fd, written.getvalue())
            written.seek(0)
            written.truncate()

    def _next_lines(self) -> list[_Line | None]:
        """Some lines, at least one; a None, which comes last of all, says that there are no more."""
        lines = [self._lines.get()]
        if self._lines.empty():
            time.sleep(_TOGETHER)
        with suppress(Empty):
            while lines[-1] is not None and len(lines) < _BATCH:
                lines.append(self._lines.get_nowait())
        return lines


class _Warnings(logging.Handler):
    """Passes records of Python's own logging on."""

    def __init__(self, log: ServerLog) -> None:
        super().__init__(logging.WARNING)
        self._log = log

    @override
    def emit(self, record: logging.LogRecord) -> None:
        if record.msg == _CUT_OFF:  # streams are cut off, so that clients come back
            return
        facts: dict[str, Any] = {"logger": record.name}
        if record.exc_info and record.exc_info[1] is not None:
            facts[_EXCEPTION] = logging.Formatter().formatException(record.exc_info)
        self._log.say(record.getMessage(), facts, level="error" if record.levelno >= logging.ERROR else "warning")


def _logger(file: BytesIO, *, as_json: bool) -> Any:
    import structlog

    renderer = structlog.processors.JSONRenderer(serializer=_json) if as_json else _for_people()
    return structlog.wrap_logger(
        structlog.BytesLogger(file),
        processors=[structlog.processors.add_log_level, renderer],
        wrapper_class=structlog.BoundLogger,
        cache_logger_on_first_use=True,
    )


def _for_people() -> Any:
    import structlog

    console = structlog.dev.ConsoleRenderer(colors=not os.environ.get("NO_COLOR"), pad_event_to=0)

    def render(logger: Any, method: str, line: Any) -> bytes:
        shown = {name: _visible(name, value) for name, value in line.items()}
        return console(logger, method, shown).encode("utf-8", "replace")

    return render


def _visible(name: str, value: Any) -> Any:
    """A text without what would steer the terminal or look like another line: senders choose paths and names."""
    if not isinstance(value, str) or value.isprintable():
        return value
    lines = value.split("\n") if name == _EXCEPTION else [value]
    return "\n    ".join("".join(sign if sign.isprintable() else repr(sign)[1:-1] for sign in line) for line in lines)


def _json(line: Any, **options: Any) -> bytes:
    try:
        return msgspec.json.encode(line, enc_hook=str)
    except UnicodeEncodeError:  # a text has half a character, which must not end the log
        return with_whole_characters(json.dumps(line, default=str, ensure_ascii=False)).encode()


def _moment(at: float, *, as_json: bool) -> str:
    moment = datetime.fromtimestamp(at, UTC)
    return moment.isoformat(timespec="milliseconds") if as_json else moment.astimezone().strftime("%H:%M:%S")


def _write(fd: int, data: bytes) -> None:
    try:
        while data:
            data = data[os.write(fd, data) :]
    except OSError:  # nobody reads the log any more; the server goes on for its clients
        return
