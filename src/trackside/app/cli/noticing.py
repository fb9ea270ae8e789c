"""Shows during a command what only its log would say: what failed, mostly in live observers, and what it waits for."""

from __future__ import annotations

import logging
from collections.abc import Generator
from contextlib import contextmanager
from types import TracebackType
from typing import Final, Self, override

from trackside.app.cli.formatting import one_line
from trackside.app.cli.views.output import standard_error
from trackside.harness.foreign.failures import line_of

_LOGGERS: Final = frozenset(
    f"trackside.{part}" for part in ("buffer", "cli", "metrics", "observer", "tracing", "wiring")
)
_MOST: Final = 10  # lines; more would not help
_UPGRADES: Final = logging.getLogger("trackside.storage.upgrade")


class Notices(logging.Handler):
    """Collects warnings about observers, and those of commands, in its `with` block, and counts repeated ones."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self._times: dict[tuple[str, str], int] = {}
        self._first: dict[tuple[str, str], str] = {}

    def __enter__(self) -> Self:
        logging.getLogger("trackside").addHandler(self)
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None) -> None:
        logging.getLogger("trackside").removeHandler(self)

    @override
    def filter(self, record: logging.LogRecord) -> bool:
        return record.name in _LOGGERS

    @override
    def emit(self, record: logging.LogRecord) -> None:
        """Note a warning. Any thread may call this, because the handler's lock is held."""
        failure = record.exc_info[1] if record.exc_info else None
        why = "" if failure is None else f": {line_of(failure)}"
        of = str(record.args[0]) if isinstance(record.args, tuple) and record.args else ""
        kind = (f"{record.msg} {of}", why)
        if kind in self._times or len(self._times) < _MOST:
            self._times[kind] = self._times.get(kind, 0) + 1
            self._first.setdefault(kind, f"{record.getMessage()}{why}")

    def say(self) -> None:
        """Print each of them on its own line."""
        for kind, first in self._first.items():
            again = self._times[kind] - 1
            more = f" (and {again} more times)" if again else ""
            standard_error().print(f"{one_line(first)}{more}", soft_wrap=True, markup=False)


class _AtOnce(logging.Handler):
    """Prints each warning on its own line, as soon as it comes."""

    @override
    def emit(self, record: logging.LogRecord) -> None:
        standard_error().print(one_line(record.getMessage()), soft_wrap=True, markup=False)


@contextmanager
def saying_waits() -> Generator[None]:
    """Say at once if the command waits for another process, which may be upgrading the database."""
    handler = _AtOnce(logging.WARNING)
    _UPGRADES.addHandler(handler)
    try:
        yield
    finally:
        _UPGRADES.removeHandler(handler)
