"""One system's ordeal: it is used, faults happen one after the other, it comes to rest, and it is judged."""

from __future__ import annotations

import asyncio
import os
import random
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from log_check import look_into
from tests.torture.faults import FAULTS, Fault
from tests.torture.faults._fault import Toll, revive
from tests.torture.judgement import ENDS, Finding, Judgement, judge
from tests.torture.people import People
from tests.torture.systems import SYSTEMS, System
from tests.torture.watch import Watch

REST_SECONDS: Final = 120.0
"""How long nothing may move while something is left to do; a thousand kills leave webhooks busy for minutes."""
_LONGEST_REST: Final = 1_800.0
_OVERTIME: Final = 120.0
"""Seconds after the time is over, within which each fault has to have happened once."""
_PROGRESS: Final = 5
"""Turns that clients have to finish before the next fault, if they do so in time."""
_PROGRESS_SECONDS: Final = 5.0
_HASTY_SECONDS: Final = 1.0
"""The same where a number of kills is asked for."""
_LOOK_AGAIN: Final = 0.1  # seconds


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What to do to a system.

    Each enabled fault once, and more of them until the time is over and there were so many kills. After the time is
    over, only those still have to happen that have not happened to another system.
    """

    system: str
    seed: int
    seconds: float
    kills: int = 0
    only: Sequence[str] = ()
    clients: int = 1


@dataclass(slots=True, kw_only=True)
class Result:
    """What was done to a system, and what came of it."""

    system: str
    seconds: float = 0.0
    toll: Toll = field(default_factory=Toll)
    happened: Counter[str] = field(default_factory=Counter)
    """How often each fault happened."""
    skipped: dict[str, str] = field(default_factory=dict)
    """Faults that could not be done here, and why."""
    missing: list[str] = field(default_factory=list)
    """Faults that should have happened, and did not."""
    turns: Counter[str] = field(default_factory=Counter)
    """How often clients finished what they do, by kind."""
    judgement: Judgement | None = None
    findings: list[Finding] = field(default_factory=list)
    kept: Path | None = None
    """Where everything is, if there is a finding."""


class Ordeal:
    """Takes one system through its ordeal; see the module.

    Args:
        plan: what to do.
        folder: where everything is; gone afterwards, if there is no finding.
        say: is told what happens, a line each.
        elsewhere: faults that have happened to other systems.
    """

    def __init__(
        self, plan: Plan, folder: Path, say: Callable[[str], None], *, elsewhere: Collection[str] = ()
    ) -> None:
        self._plan = plan
        self._elsewhere = elsewhere
        self._folder = folder
        self._say = say
        self._chance = random.Random(plan.seed)
        self._result = Result(system=plan.system)

    async def go_through(self) -> Result:
        """Go through all of it."""
        began = time.monotonic()
        result = self._result
        async with self._system() as system:
            people = People(system, seed=self._chance.randrange(2**32), clients=self._plan.clients)
            try:
                await people.receive()
                await self._timed("start", system.start(people.hook))
                async with Watch(system) as watch:
                    await people.come()
                    await self._hurt(system, people)
                    await self._timed("people stop", people.stop())
                    await self._timed("rest", self._rest(system))
                    result.turns = people.load.done if people.load is not None else Counter()
                await self._timed("end", self._end(system))
                judging = asyncio.to_thread(judge, system, people.told_files, people.arrivals, watch.samples)
                result.judgement = await self._timed("judgement", judging)
                result.findings += result.judgement.findings
            finally:
                await people.leave()
            result.findings += [Finding(what=what) for what in result.toll.wrong]
            result.seconds = time.monotonic() - began
            if result.findings:
                result.kept = self._folder
                await asyncio.to_thread(system.keep)
        if result.kept is None:
            await asyncio.to_thread(shutil.rmtree, self._folder, ignore_errors=True)
        return result

    def _system(self) -> System:
        return SYSTEMS[self._plan.system](self._folder, is_plain=self._only_kills)

    @property
    def _only_kills(self) -> bool:
        """Whether the faults asked for need nothing of processes except that they die."""
        kinds = {kind.kind for kind in FAULTS if kind.name in self._plan.only}
        return bool(kinds) and kinds <= {"kill", "stop"}

    async def _timed[T](self, what: str, doing: Awaitable[T]) -> T:
        began = time.monotonic()
        done = await doing
        self._say(f"{self._plan.system:<9} {what}, {time.monotonic() - began:.1f} s")
        return done

    async def _hurt(self, system: System, people: People) -> None:
        """Let faults happen until there were enough of them."""
        faults = self._faults(system, people)
        until = time.monotonic() + self._plan.seconds
        left = [*faults]
        self._chance.shuffle(left)
        while faults:
            if (late := time.monotonic() - until) > 0:
                left = [fault for fault in left if fault.name not in self._elsewhere]
            if left and late > _OVERTIME:
                self._result.missing += [fault.name for fault in left]
                break
            if not left and late > 0 and self._kills >= self._plan.kills:
                break
            fault = left.pop() if left else self._chance.choices(faults, [one.weight for one in faults])[0]
            await self._progress(people)
            await self._see_that_all_live(system)
            await self._happen(fault)
        while time.monotonic() < until:
            await asyncio.sleep(_LOOK_AGAIN)
        await self._progress(people)

    def _faults(self, system: System, people: People) -> list[Fault]:
        faults: list[Fault] = []
        for kind in FAULTS:
            fault = kind(system, people, self._chance, self._result.toll)
            if not fault.concerns or (self._plan.only and fault.name not in self._plan.only):
                continue
            reason = fault.why_not()
            if reason is None:
                faults.append(fault)
            else:
                self._result.skipped[fault.name] = reason
        return faults

    @property
    def _kills(self) -> int:
        return self._result.toll.kills.total()

    async def _happen(self, fault: Fault) -> None:
        began = time.monotonic()
        try:
            whom = await fault.inject()
        except (OSError, RuntimeError) as exc:
            self._result.toll.wrong.append(f"{fault.name} could not be done: {exc!r}")
            return
        try:
            await fault.hold()
        finally:
            await fault.heal()
        self._result.happened[fault.name] += 1
        self._say(f"{self._plan.system:<9} {fault.name:<14} {whom}, {time.monotonic() - began:.1f} s")

    async def _progress(self, people: People) -> None:
        """Wait until clients have got a little further, or for a while."""
        assert people.load is not None
        wanted = people.load.done.total() + _PROGRESS
        try:
            async with asyncio.timeout(_HASTY_SECONDS if self._plan.kills else _PROGRESS_SECONDS):
                while people.load.done.total() < wanted:  # clients do not report that
                    await asyncio.sleep(_LOOK_AGAIN)
        except TimeoutError:
            pass

    async def _rest(self, system: System) -> None:
        """Wait until all that was let in has ended, and all that has to be told is told."""
        await self._see_that_all_live(system)
        await asyncio.to_thread(_end_leases, system.url)
        why, began = "", time.monotonic()
        since = began
        while now := await asyncio.to_thread(_why_busy, system.url):
            if now != why:
                why, since = now, time.monotonic()
            seconds = time.monotonic() - since
            if seconds > REST_SECONDS or since - began > _LONGEST_REST:
                all_of_it = time.monotonic() - began
                what = f"there is no rest after {all_of_it:.0f} s, in the last {seconds:.0f} of which nothing went on: {why}"
                self._result.toll.wrong.append(what)
                return
            await asyncio.sleep(_LOOK_AGAIN)

    async def _see_that_all_live(self, system: System) -> None:
        for process in system.processes:
            if not process.is_up:
                self._result.toll.wrong.append(f"{process.name} has ended by itself: {process.log[-1_000:]}")
                await revive(process, self._result.toll)

    async def _end(self, system: System) -> None:
        """Have all processes end by themselves."""
        codes = await asyncio.gather(*(self._code_of(process) for process in system.processes))
        for process, code in zip(system.processes, codes, strict=True):
            if code:
                why = f"{process.name} was told to end, and ended with {code}: {process.log[-1_000:]}"
                self._result.toll.wrong.append(why)

    async def _code_of(self, process: Any) -> int | str:
        try:
            return int(await process.terminate())
        except RuntimeError as exc:
            return str(exc)[-1_000:]


def _end_leases(url: str) -> None:
    """Expire the half-minute leases that dead feeders of webhooks left, so that others feed from now on."""
    with look_into(url) as database:
        database.execute("UPDATE subscriptions SET lease_until = 0 WHERE lease_until > 0")


def _why_busy(url: str) -> str:
    """What is still to do; empty if all is at rest."""
    with look_into(url) as database:
        ((active,),) = database.execute("SELECT count(*) FROM active_runs").fetchall()
        ((due,),) = database.execute("SELECT count(*) FROM crons WHERE next_run_at < '2026-01-02'").fetchall()
        some = ", ".join(f"'{kind}'" for kind in ENDS)
        ((last,),) = database.execute(f"SELECT max(position) FROM events WHERE event_type IN ({some})").fetchall()
        behind = database.execute(f"SELECT name, cursor FROM subscriptions WHERE cursor < {last or 0}").fetchall()
    said = {"runs": active, "crons": due, "subscriptions": ", ".join(f"{name} at {cursor}" for name, cursor in behind)}
    return ", ".join(f"{what}: {number}" for what, number in said.items() if number)


def new_folder(system: str) -> Path:
    """Make a system's folder; the database server's user has to get through it to what is his."""
    folder = Path(tempfile.mkdtemp(prefix=f"trackside-torture-{system}-"))
    if os.geteuid() == 0:
        folder.chmod(0o711)
    return folder
