"""The two streams that the command line writes to.

A command's result goes to standard output, and messages about it to standard error. A reader that goes away early
(`| head`) is not an error: the console falls silent, and the command goes on or ends, whichever makes sense for it. A
stream that cannot be written (a full disk, a closed terminal) also silences the console, but is an error in the end.
"""

from __future__ import annotations

import asyncio
import json
import os
import stat
import sys
import threading
from collections.abc import Callable, Generator, Iterable
from contextlib import contextmanager
from typing import Any, ClassVar, Self, TextIO

from rich.console import Console

from trackside.app.cli.formatting import json_line
from trackside.app.cli.streams import discard
from trackside.app.cli.views.appearance import Look
from trackside.harness.errors import Fault, TracksideError
from trackside.harness.types import JsonObject

_UNBOUNDED = 1_000_000  # columns; without a screen, nothing is cut
_MOST_DIGITS = 6  # of `COLUMNS`; no real width has more
_NARROWEST = 20  # columns, whatever `COLUMNS` says: a narrower table says nothing


class OutputError(TracksideError, OSError, code="output-not-writable"):
    """standard output cannot be written: {why}."""

    fault: ClassVar[Fault] = "store"


class OutputConsole(Console):
    """A console that prints every text as it is, and falls silent when its reader has gone.

    Without a terminal it has no colours, and no width unless `COLUMNS` gives it one; 0 is no width.
    """

    reader_gone = False
    _failure: OSError | None = None
    guard: threading.RLock
    """Held while something is printed, so that output from several threads does not mix."""
    is_bounded: bool
    """Whether the output must fit into a width, given by a terminal or by `COLUMNS`."""

    def __init__(self, file: TextIO) -> None:
        self.guard = threading.RLock()
        columns = _columns()
        self.is_bounded = columns is not None or file.isatty()
        width = columns if self.is_bounded else _UNBOUNDED
        environ = {**os.environ, "COLUMNS": ""}  # Rich would believe any value of it
        super().__init__(file=file, markup=False, emoji=False, highlight=False, width=width, _environ=environ)

    @property
    def is_screen(self) -> bool:
        """Whether a person is looking, so that the output must fit; colours can also be forced elsewhere."""
        return self.file.isatty()

    @property
    def is_live(self) -> bool:
        """Whether lines that are already shown can be rewritten."""
        return self.is_screen and not self.is_dumb_terminal

    @property
    def is_unicode(self) -> bool:
        """Whether the stream's encoding certainly has more than ASCII."""
        return self.encoding.startswith("utf")

    def symbol(self, look: Look) -> str:
        """The symbol of a look, or its plain form if the stream's encoding lacks it."""
        return look.symbol if self.is_unicode else look.plain

    def print(self, *objects: Any, **options: Any) -> None:
        """Print as `rich` does, in one piece."""
        with self.guard:
            super().print(*objects, **options)

    def check(self) -> None:
        """Check that all output was written.

        Raises:
            OutputError: it could not be written.
        """
        _check(self._failure)

    def print_json_lines(self, values: Iterable[JsonObject]) -> None:
        """Print each value as JSON on a line of its own."""
        try:
            for value in values:
                self.file.write(f"{json_line(value) if self.is_unicode else json.dumps(value)}\n")
            self.file.flush()
        except BrokenPipeError:
            self.on_broken_pipe()
        except OSError as exc:
            self._on_failure(exc)

    @contextmanager
    def watching_reader(self, on_gone: Callable[[], object]) -> Generator[None]:
        """Call `on_gone` on the running loop when the reader goes away, even while there is nothing to print."""

        def gone() -> None:
            loop.remove_reader(self.file)
            self.on_broken_pipe()
            on_gone()

        mode = os.fstat(self.file.fileno()).st_mode
        if not stat.S_ISFIFO(
            mode
        ):  # only a pipe has one reader; nothing can be read here, so an event can only mean that the reader is gone
            yield
            return
        loop = asyncio.get_running_loop()
        loop.add_reader(self.file, gone)
        try:
            yield
        finally:
            loop.remove_reader(self.file)

    def on_broken_pipe(self) -> None:
        """Say nothing more."""
        self.quiet = True
        self.reader_gone = True
        discard(self.file)

    def _check_buffer(self) -> None:
        # Rich writes here, whoever prints; on its own, it only handles a broken pipe.
        try:
            super()._check_buffer()
        except OSError as exc:
            self._on_failure(exc)

    def _on_failure(self, exc: OSError) -> None:
        self.quiet = True
        self._failure = exc
        discard(self.file)


def _columns() -> int | None:
    """The width that `COLUMNS` gives; None if it gives none."""
    typed = os.environ.get("COLUMNS", "")
    columns = int(typed[:_MOST_DIGITS]) if typed.isascii() and typed.isdigit() else 0
    return max(columns, _NARROWEST) if columns else None


def _check(failure: OSError | None) -> None:
    if failure is not None:
        raise OutputError(why=failure.strerror) from failure


def standard_output() -> OutputConsole:
    """A console on standard output."""
    return OutputConsole(sys.stdout)


def standard_error() -> OutputConsole:
    """A console on standard error."""
    return OutputConsole(sys.stderr)


class JsonOutput:
    """Standard output for JSON lines only: anything else written there, even by an agent, goes to standard error.

    Use it as a context manager. It notices if its reader has gone, and does not complain.
    """

    def __init__(self) -> None:
        self._lines: TextIO | None = None
        self._failure: OSError | None = None

    def __enter__(self) -> Self:
        sys.stdout.flush()
        self._lines = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8", errors="backslashreplace")
        os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
        return self

    def __exit__(self, *_: object) -> None:
        sys.stdout.flush()
        if self._lines is not None:
            os.dup2(self._lines.fileno(), sys.stdout.fileno())
            self._lines.close()

    def print(self, value: JsonObject) -> None:
        """Print a value as one line, at once."""
        assert self._lines is not None, "used outside of its context"
        try:
            print(json_line(value), file=self._lines, flush=True)
        except BrokenPipeError:
            discard(self._lines)
        except OSError as exc:
            self._failure = exc
            discard(self._lines)

    def check(self) -> None:
        """Check that all output was written.

        Raises:
            OutputError: it could not be written.
        """
        _check(self._failure)
