"""What can happen to a process that works on a database, short of its death: no room, no right to write, a wrong clock."""

import asyncio
import contextlib
import random
import resource
import signal
import sys
import time
from collections.abc import AsyncIterator, Generator
from contextlib import asynccontextmanager, contextmanager
from datetime import datetime, timedelta, tzinfo
from functools import partial
from pathlib import Path
from typing import Any

from trackside.app.storage._databases.sqlite.session import SqliteSession
from trackside.harness.ports import SystemClock

DAY = 86_400  # seconds

_transaction = SqliteSession.transaction


def have_a_full_disk(url: str) -> None:
    """From SIGUSR1 on no file may grow; from SIGUSR2 on they may again."""
    log_ahead = Path(f"{url.removeprefix('sqlite:///')}-wal")
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    signal.signal(signal.SIGUSR1, lambda *_: _limit_files(log_ahead.stat().st_size))
    signal.signal(signal.SIGUSR2, lambda *_: _limit_files(resource.RLIM_INFINITY))


def _limit_files(size: int) -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))


def have_read_only_media() -> None:
    """From SIGUSR1 on SQLite may write nothing; from SIGUSR2 on it may again."""
    read_only = [False]

    @contextmanager
    def transaction(session: SqliteSession, **options: Any) -> Generator[None]:
        session._driver.execute(f"PRAGMA query_only = {read_only[0]}")
        with _transaction(session, **options):
            yield

    SqliteSession.transaction = transaction
    signal.signal(signal.SIGUSR1, lambda *_: read_only.__setitem__(0, True))
    signal.signal(signal.SIGUSR2, lambda *_: read_only.__setitem__(0, False))


class _LikeDatetime(type):
    """Takes every time for one of its own."""

    def __instancecheck__(cls, instance: object) -> bool:
        return isinstance(instance, datetime)


class JumpyTime(datetime, metaclass=_LikeDatetime):
    """A wall clock that somebody sets wrong again and again."""

    offset = 0

    @classmethod
    def now(cls, tz: tzinfo | None = None) -> datetime:
        """The wrong time."""
        return datetime.now(tz) + timedelta(seconds=cls.offset)


@asynccontextmanager
async def have_jumpy_clocks() -> AsyncIterator[None]:
    """Have the wall clock jump by a day, forth and back, every few milliseconds."""
    real, real_ns = time.time, time.time_ns
    jumpy = {
        datetime: JumpyTime,
        real: lambda: real() + JumpyTime.offset,
        real_ns: lambda: real_ns() + JumpyTime.offset * 1_000_000_000,
    }
    for name, module in [*sys.modules.items()]:
        if name == "time" or name.startswith("trackside"):
            for known, right in [*vars(module).items()]:  # by identity: it may have been imported under any name
                for clock, wrong in jumpy.items():
                    if right is clock:
                        setattr(module, known, wrong)
    system_clock: Any = SystemClock
    system_clock.now = staticmethod(partial(JumpyTime.now, SystemClock.now.args[0]))
    jumping = asyncio.create_task(_jump())
    yield
    jumping.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await jumping


async def _jump() -> None:
    while True:
        JumpyTime.offset = random.choice([-DAY, 0, DAY])
        await asyncio.sleep(0.005)
