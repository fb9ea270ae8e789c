"""Whether a server can do its work, and why not: load balancers ask every second, people when something is wrong.

A server of a fleet whose engine is cut off is ready, and says that it is degraded. The runs that it lets in are in the
database, where workers find them; and its neighbours, to which requests would go instead, have the same engine.
"""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from itertools import chain
from pathlib import Path
from typing import Final, Literal, NamedTuple

import msgspec

from trackside.app.spool.standing import nearest_place
from trackside.app.storage import Store
from trackside.app.vitals import EngineVitals, Vitals, WriterStats
from trackside.harness.errors import TracksideError
from trackside.harness.threads import in_own_thread

_FRESH: Final = 1.0  # seconds for which an answer is good: however many ask, the database is asked once
_PATIENCE: Final = 2.0  # seconds that a read, and a look at the disks beside it, may take
_STALLED: Final = 5.0  # seconds without a transaction while some wait
_LAGS: Final = 0.5  # seconds for one turn of the event loop
_BEHIND: Final = 60.0  # seconds that an observer may be behind
_LITTLE_SPACE: Final = 256 * 1_048_576
_NO_SPACE: Final = 16 * 1_048_576
INLINE: Final = "inline"
"""What the engine of a server that executes the runs that it lets in is called."""

_NO_RUN: Final = "00000000-0000-0000-0000-000000000000"


class Finding(msgspec.Struct, frozen=True):
    """Something that is wrong."""

    check: str
    why: str


type _Judged = tuple[Finding, bool]
"""Something that is wrong, and whether it is a reason to be unready; otherwise it is a warning."""


class EngineShown(msgspec.Struct, frozen=True):
    """The engine, which moves runs to where they are executed; `inline` is this process itself.

    If it is cut off, `since` says since when. The reason is not for everybody, because it may contain addresses and
    file names; `/system` and the server's log have it.
    """

    name: str
    connected: bool
    since: datetime | None = None


class Readiness(msgspec.Struct, frozen=True):
    """Whether the server can do its work.

    `reasons` say why it cannot. `degraded` says what it does worse than it should, and `warnings` say what is not well:
    neither keeps it from its work.
    """

    status: Literal["ready", "unready"]
    reasons: list[Finding]
    warnings: list[Finding]
    degraded: list[Finding]
    engine: EngineShown


class _Seen(NamedTuple):
    """What the writer had done at the last look, since when it stalls while writes wait, and whether they fail."""

    took: int
    failed: int
    since: float
    fails: bool


class Health:
    """Looks at a server, at most once a second."""

    def __init__(self) -> None:
        self._ending: str | None = None
        self._lock = asyncio.Lock()
        self._found: Readiness | None = None
        self._at = 0.0
        self._writer: _Seen | None = None
        self._blocks = 0
        self._looking: asyncio.Task[list[_Judged]] | None = None
        """The look at the disks that began last."""

    def begin_ending(self, why: str) -> None:
        """From now on the server is not ready, for this reason."""
        self._ending = why
        self._found = None

    async def look(self, store: Store, vitals: Vitals, folders: Sequence[str]) -> Readiness:
        """How it is now, or was less than a second ago.

        Args:
            store: where runs are recorded.
            vitals: of the app that the server belongs to.
            folders: where files grow.
        """
        loop = asyncio.get_running_loop()
        async with self._lock:
            if self._found is None or loop.time() - self._at >= _FRESH:
                self._found = await self._look(store, vitals, folders)
                self._at = loop.time()
            return self._found

    async def _look(self, store: Store, vitals: Vitals, folders: Sequence[str]) -> Readiness:
        lag = await _lag()
        looked = await asyncio.gather(_read(store, vitals), self._disks(folders))
        reasons, warnings = list[Finding](), [*self._blocked(vitals), *_unfinished(vitals)]
        for finding, is_reason in chain.from_iterable(looked):
            (reasons if is_reason else warnings).append(finding)
        reasons += self._unwritable(vitals.writer())
        if lag > _LAGS:
            reasons.append(Finding("event_loop", f"it takes {lag:.1f} s to get to anything"))
        engine = _engine(vitals.engine())
        if self._ending is not None:  # last: the end may begin during the other looks
            reasons.insert(0, Finding("closing", self._ending))
        return Readiness("unready" if reasons else "ready", reasons, warnings, [*_cut_off(engine)], engine)

    def _unwritable(self, stats: WriterStats) -> Iterator[Finding]:
        """What the writer says of the database: nobody writes only to see whether writing works."""
        now, before = asyncio.get_running_loop().time(), self._writer
        took, failed = stats.batches_total - stats.failures_total, stats.failures_total
        moves = before is None or took > before.took
        # The next write that succeeds says that this is over: this process renews its lease every few seconds.
        fails = before is not None and not moves and (before.fails or failed > before.failed)
        since = now if before is None or moves or not stats.pending else before.since
        self._writer = _Seen(took, failed, since, fails)
        if stats.full:
            yield Finding("database", "it has no room for what is new; the log says what it said")
        elif fails:
            yield Finding("database", "it takes nothing: transactions fail; the log says why")
        elif now - since > _STALLED:
            yield Finding("database", f"it has taken nothing for {now - since:.0f} s")

    async def _disks(self, folders: Sequence[str]) -> list[_Judged]:
        """What there is to say of the disks that these folders are on. One that hangs keeps one thread, however often it
        is looked at.
        """
        if self._looking is None or self._looking.done():
            self._looking = asyncio.create_task(in_own_thread(_space, folders), name="trackside-looks-at-disks")
        await asyncio.wait((self._looking,), timeout=_PATIENCE)
        if not self._looking.done():  # as with one that has gone, that is no reason to answer nobody
            return [(Finding("disk", f"how much is free is not known within {_PATIENCE:g} s"), False)]
        return self._looking.result()

    def _blocked(self, vitals: Vitals) -> Iterator[Finding]:
        blocks = vitals.manager().loop_blocks_total
        if blocks > self._blocks:
            yield Finding("event_loop", "an agent or observer blocked it; the log says who")
        self._blocks = blocks


def _engine(engine: EngineVitals | None) -> EngineShown:
    if engine is None:
        return EngineShown(INLINE, connected=True)
    return EngineShown(engine.name, engine.status.connected, engine.status.since)


def _cut_off(engine: EngineShown) -> Iterator[Finding]:
    if engine.connected:
        return
    since = "" if engine.since is None else f" since {engine.since.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"
    says = "runs start later, and live output of other processes waits; the log says why"
    yield Finding("engine", f"{engine.name} is cut off{since}: {says}")


async def _lag() -> float:
    loop = asyncio.get_running_loop()
    begun = loop.time()
    await asyncio.sleep(0)
    return loop.time() - begun


async def _read(store: Store, vitals: Vitals) -> list[_Judged]:
    """What a read of the database has come to."""
    before = vitals.reads()
    try:
        async with asyncio.timeout(_PATIENCE):
            await store.run(_NO_RUN)
    except TimeoutError:
        if vitals.reads() > before:  # it answers, and the line of those who ask is long: that of other servers is, too
            return [(Finding("database", f"a read takes more than {_PATIENCE:g} s, though others succeed"), False)]
        return [(Finding("database", f"it does not answer within {_PATIENCE:g} s"), True)]
    except TracksideError as exc:  # its text has the database's address, which is not for everybody
        return [(Finding("database", f"it cannot be read ({type(exc).__name__}); the log says more"), True)]
    return []


def _unfinished(vitals: Vitals) -> Iterator[Finding]:
    if spooled := vitals.spooled():
        yield Finding("spool", f"the ends of {spooled} runs wait on disk for the database")
    for feed in vitals.feeds():
        if feed.behind_seconds > _BEHIND:
            yield Finding("feeds", f"{feed.subscription} is {feed.behind_seconds:.0f} s behind")


def _space(folders: Sequence[str]) -> list[_Judged]:
    """Where there is little space left."""
    found: dict[int | str, _Judged] = {}
    for folder in folders:
        there = nearest_place(Path(folder))
        try:
            free, disk = shutil.disk_usage(there).free, there.stat().st_dev
        except OSError as exc:  # the folder or its disk has gone: that is no reason to answer nobody
            found[folder] = Finding("disk", f"how much is free cannot be seen: {exc.strerror}"), False
            continue
        if free < _LITTLE_SPACE:
            found[disk] = Finding("disk", f"{free // 1_048_576} MiB are free"), free < _NO_SPACE
    return list(found.values())
