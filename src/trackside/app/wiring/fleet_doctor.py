"""Looks for what is wrong with a fleet: runs that nobody executes, workers that differ, an engine that is not there.

Changes nothing; `doctor` shows this along with what else it finds.
"""

from __future__ import annotations

import asyncio
import shlex
from collections.abc import Iterator, Sequence
from contextlib import suppress
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Final

from trackside._version import __version__
from trackside.app.command_lines import command_line
from trackside.app.settings import Settings
from trackside.app.wiring.database import open_store
from trackside.app.wiring.findings import Finding, Severity, long_time
from trackside.app.wiring.fleet import nats_options
from trackside.harness.errors import TracksideError

if TYPE_CHECKING:
    from trackside.app.storage.fleet import HeldDuty, QueueDepth, StoredWorker

DUTIES: Final = ("reaper", "scheduler", "sweeper")
"""What one process does for all of a fleet; who that is changes within seconds."""
_PATIENCE: Final = timedelta(seconds=10)  # that a run may wait for a worker that is about to come
_CLOCK_SECONDS: Final = 5.0  # by which clocks may differ
_ENGINE_SECONDS: Final = 5.0  # in which an engine that can be reached is reached
_LOOK_SECONDS: Final = 0.05


async def examine_fleet(settings: Settings, *, now: datetime, flags: str = "", connects: bool = True) -> list[Finding]:
    """What is wrong with the fleet of these settings, or the one whose processes are in the database.

    Args:
        settings: what is examined; its database can be opened.
        now: the time.
        flags: the flags with which commands find this database, if they would take another one without them.
        connects: whether to try to reach the engine; a running server knows how its own does.
    """
    if not settings.is_postgres:
        return []
    async with open_store(settings, create=False, read_only=True) as store:
        fleet = store.fleet
        workers, queue, duties = await fleet.workers(), await fleet.queue(), await fleet.duties()
    found = [*findings_of(settings, workers, queue, duties, now=now, flags=flags)]
    if connects and settings.engine_kind == "nats":
        found += await _engine(settings, flags)
    return found


def findings_of(
    settings: Settings,
    workers: Sequence[StoredWorker],
    queue: QueueDepth,
    duties: Sequence[HeldDuty],
    *,
    now: datetime,
    flags: str = "",
) -> Iterator[Finding]:
    """What somebody should know about a fleet, by what the database says; nothing if there is no fleet."""
    alive = [worker for worker in workers if worker.seconds_left > 0]
    members = [worker for worker in alive if worker.kind != "inline"]
    is_fleet = settings.engine_kind != "inline"
    where = settings.database_shown
    if is_fleet and not any(worker.kind == "worker" for worker in members):
        what = "no worker is alive, so nobody executes what servers let in"
        fix = f"start some: `trackside worker{engine_flag(settings)}{flags}`"
        severity = Severity.error if members or queue.unserved else Severity.note
        yield Finding(severity=severity, what=what, where=where, fix=fix if severity is Severity.error else "")
    if is_fleet or members:
        yield from _unserved(settings, queue, where, now, flags)
    for worker in members:
        yield from _member(worker, now)
    if members:
        yield from _duties(duties, where, flags)


def _unserved(settings: Settings, queue: QueueDepth, where: str, now: datetime, flags: str) -> Iterator[Finding]:
    for unserved in queue.unserved:
        waited, agent = now - unserved.oldest_at, unserved.agent
        if waited < _PATIENCE:
            continue
        runs = "1 run waits" if unserved.count == 1 else f"{unserved.count:,} runs wait"
        of = agent if unserved.version is None else f"{agent} in version {unserved.version}"
        what = f"no live worker serves {of}: {runs}, the oldest for {long_time(waited)}"
        pool = f" --pool {settings.pools[agent]}" if agent in settings.pools else ""
        start = command_line("worker", agent, flags=f"{pool}{engine_flag(settings)}{flags}")
        fix = f"start one that has it, for its pool: `{start}`"
        yield Finding(severity=Severity.error, what=what, where=where, fix=fix)


def _member(worker: StoredWorker, now: datetime) -> Iterator[Finding]:
    where = f"{worker.kind} {worker.name}"
    if worker.release is not None and worker.release != __version__:
        what = f"it is Trackside {worker.release}, and this command is {__version__}"
        fix = "use the same version of both, and restart it: `pip install --upgrade trackside`"
        yield Finding(severity=Severity.warning, what=what, where=where, fix=fix)
    ahead = (worker.started_at - now).total_seconds()
    if ahead > _CLOCK_SECONDS:
        what = f"its clock is at least {ahead:.0f} s ahead of this machine's: it says that it started then"
        fix = "have both set by NTP: `timedatectl set-ntp true`"
        yield Finding(severity=Severity.warning, what=what, where=where, fix=fix)
    if worker.draining:
        what = f"it takes no more runs, and leaves {_when_over(worker.running)}"
        yield Finding(severity=Severity.note, what=what, where=where)


def _when_over(running: int) -> str:
    match running:
        case 0:
            return "within moments, as it has none"
        case 1:
            return "when its last run is over"
        case _:
            return f"when its {running:,} runs are over"


def _duties(duties: Sequence[HeldDuty], where: str, flags: str) -> Iterator[Finding]:
    held = {name for name, _, _, seconds_left in duties if seconds_left > 0}
    for name in DUTIES:
        if name not in held:
            what = f"nobody is the {name} of the fleet; the next process takes that over within seconds"
            fix = f"look again; if that stays so, the log of a server or worker says why: `trackside doctor{flags}`"
            yield Finding(severity=Severity.warning, what=what, where=where, fix=fix)


async def _engine(settings: Settings, flags: str) -> list[Finding]:
    """Whether NATS can be reached from here, with what the settings say."""
    why = await _why_cut_off(settings)
    if why is None:
        return []
    what = f"it cannot be reached: {why.rstrip('.')}; workers look into the database meanwhile"
    fix = f"start it, or correct [engine] in trackside.toml, and look again: `trackside doctor{flags}`"
    return [Finding(severity=Severity.error, what=what, where=settings.engine.shown, fix=fix)]


async def _why_cut_off(settings: Settings) -> str | None:
    """Why NATS is not reached in time; None if it is."""
    from trackside.app.engine.nats import open_nats

    try:
        # As a worker, which creates nothing that is not there.
        async with open_nats(nats_options(settings, "worker", "doctor")) as nats:
            before = nats.status()
            with suppress(TimeoutError):
                async with asyncio.timeout(_ENGINE_SECONDS):
                    # Until it is there, or the first try has failed; nothing tells of either.
                    while not nats.status().connected and nats.status().why == before.why:  # noqa: ASYNC110
                        await asyncio.sleep(_LOOK_SECONDS)
            return nats.status().why
    except TracksideError as exc:
        return str(exc)


def engine_flag(settings: Settings) -> str:
    """The flag with which another command uses the same engine, if only a flag says so; else nothing."""
    given = settings.sources.get("engine.url") == "--engine"
    return f" --engine {shlex.quote(settings.engine.shown)}" if given else ""
