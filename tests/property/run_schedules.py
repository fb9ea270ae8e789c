"""A world of runs for generated schedules: agents of every temper, observers with moods, witnesses that check.

Everything happens on one `VirtualTimeLoop`, so a schedule is a seed and a list of steps. Whatever is wrong is noted in
`World.wrong` at the moment at which it happens.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from typing import Any, Literal

from tests.contract.slow_ports import SlowCoordinator, SlowStates
from tests.property.other_processes import OtherProcesses

from trackside.harness import (
    ClosedError,
    CompositeObserver,
    DispatchPolicy,
    DuplicateRunError,
    ObserverBinding,
    RunContext,
    RunLifecycleEvent,
    RunManager,
    RunResult,
    RunSpec,
    RunStatus,
    ThreadBusyError,
    UnknownRunError,
    current_run,
    run_agent,
)
from trackside.harness.buffered import BufferedObserver
from trackside.harness.errors import EventOrderError
from trackside.harness.ids import new_id
from trackside.harness.lifecycle import RunFold, is_final, is_terminal
from trackside.harness.observer import PartlyTaken
from trackside.testing import VirtualClock, VirtualTimeLoop, assert_run_order

type Mood = BaseException | Literal["hang", "swallow", "starts", "takes a part"]

TEMPERS = ("quick", "sleeps", "long", "fails", "exits", "rogue", "swallows", "slow to stop", "asks", "chats", "nests")
POLICY = {"call_limit": 5.0, "retry_for": 1.0, "first_pause": 0.1, "longest_pause": 0.5}


PATIENCE = 2_000.0
"""Seconds after which what still waits is taken to wait for ever; far more than all limits and agents need."""


class MoodError(Exception):
    """What an observer in a bad mood raises."""


class World:
    """A manager, its runs, everybody who watches; and runs of `run_agent` beside them."""

    def __init__(self, seed: int, *, max_running: int, buffer: bool, slow: bool) -> None:
        self.loop = VirtualTimeLoop(seed=seed)
        self.id = new_id()
        self.wrong: list[str] = []
        self.stoppable: set[str] = set()
        """Runs that somebody asked to stop, in whatever way: no other may be cancelled (I16)."""
        self.closed = False
        self.callers: list[asyncio.Task[Any]] = []
        self.results: dict[str, RunResult] = {}
        self.agents = {temper: self._agent(temper) for temper in TEMPERS}
        self.witness = Witness(self, "the witness")
        self.embedded_witness = Witness(self, "the witness of run_agent")
        self.moody = [
            Moody(self, "required"),
            MoodyBatches(self, "required, batches"),
            Moody(self, "optional"),
            MoodyBatches(self, "optional, batches"),
        ]
        self.last = Watcher(self, "the last")
        self.guest: Watcher | None = None
        self.own_buffer = BufferedObserver(Moody(self, "own buffer"), capacity=7, terminal_reserve=2, batch_size=3)
        self.release = asyncio.Event()
        self.others = OtherProcesses(self)
        self.coordinator = SlowCoordinator(0.25, inner=self.others.coordinator) if slow else self.others.coordinator
        self.run(self._open(max_running, DispatchPolicy(buffer=buffer, **POLICY), slow=slow))  # type: ignore[arg-type]

    async def _open(self, max_running: int, policy: DispatchPolicy, *, slow: bool) -> None:
        self.manager = RunManager(
            self.agents,
            observers=[
                ObserverBinding(self.witness, required=True),
                ObserverBinding(self.moody[0], required=True),
                ObserverBinding(self.moody[1], required=True),
                self.moody[2],
                self.moody[3],
                self.own_buffer,
                ObserverBinding(self.last, required=True),
            ],
            coordinator=self.coordinator,  # type: ignore[arg-type]
            states=SlowStates(0.25) if slow else None,
            policy=policy,
            max_running=max_running,
            shutdown_grace=30.0,
            clock=VirtualClock(),
        )

    @property
    def run_ids(self) -> list[str]:
        """The manager's runs that have not ended."""
        return [run.run_id for run in self.manager._runs.all()]

    def run(self, step: Any) -> Any:
        """Let the loop run until this has happened."""
        return self.loop.run_until_complete(step)

    def advance(self, seconds: float) -> None:
        """Let time pass; 0 is one turn of the loop."""
        self.run(asyncio.sleep(seconds))

    def start(self, temper: str, thread_id: str | None, **asked: Any) -> None:
        """Somebody starts a run of the manager and awaits its result."""
        given: dict[str, Any] = {"input": None if "command" in asked else temper}
        self._call(self._start(RunSpec(self.agents[temper], **given, thread_id=thread_id, **asked)), "starts")

    def start_embedded(self, temper: str, thread_id: str | None, **asked: Any) -> None:
        """Somebody calls `run_agent`."""
        observer = CompositeObserver(
            [ObserverBinding(self.embedded_witness, required=True), self.moody[2], self.moody[3]]
        )
        given: dict[str, Any] = {"input": None if "command" in asked else temper}
        # What a thread of `run_agent` needs to go on outlives its event loop, so no other world may know the thread.
        thread_id = thread_id and f"{thread_id} of {self.id}"
        call = run_agent(self.agents[temper], **given, thread_id=thread_id, observer=observer, **asked)
        self._call(self._keep(call), "run_agent")

    def cancel(self, run_id: str, action: str) -> None:
        """Somebody cancels a run of the manager."""
        self.stoppable.add(run_id)
        self._call(self.manager.cancel(run_id, action=action, wait=True), "cancels")

    def cancel_caller(self, index: int) -> None:
        """Whoever starts, awaits or cancels is cancelled."""
        waiting = [task for task in self.callers if not task.done()]
        if waiting:
            waiting[index % len(waiting)].cancel()

    def cancel_run_task(self, index: int) -> None:
        """Somebody reaches past the manager for the task of a run."""
        tasks = [(run.run_id, run.task) for run in self.manager._runs.all() if run.task]
        if tasks:
            run_id, task = tasks[index % len(tasks)]
            self.stoppable.add(run_id)
            task.cancel()

    def receive_guest(self, *, required: bool) -> None:
        """An observer comes, or the one that came before leaves."""
        if self.guest is not None:
            self.manager.observers.remove(self.guest)
            self.guest = None
        elif not self.closed:
            self.guest = Watcher(self, "a guest")
            self.manager.observers.add(self.guest, required=required)

    def close(self, grace: float) -> None:
        """Somebody closes the manager."""
        self.closed = True
        self._call(self.manager.aclose(grace=grace), "closes")

    def settle_down(self) -> None:
        """Everybody is in a good mood again; every run is stopped that does not end by itself; then all is quiet."""
        self.release.set()
        for observer in self.moody:
            observer.moods.clear()
        self.advance(5)  # until every start has been answered
        self.run(self.others.tell())
        for run_id in self.run_ids:
            self.cancel(run_id, "interrupt")
        for task in self.callers:
            if task.get_name() == "run_agent":
                task.cancel()
        self.run(self._quiet())

    async def _quiet(self) -> None:
        if waiting := [task for task in self.callers if not task.done()]:
            _, waiting = await asyncio.wait(waiting, timeout=PATIENCE)
        self.check(not waiting, f"callers wait for ever: {waiting}")
        patience = PATIENCE
        while self.run_ids and patience > 0:
            await asyncio.sleep(10)
            patience -= 10
        self.check(not self.run_ids, f"runs never end: {self.run_ids}")
        await self.manager.observers.flush(1_000)
        self.check_quiet()
        self.closed = True
        await self.manager.aclose()

    def end(self) -> None:
        """Close the loop; nothing of ours may be left on it."""
        self.run(asyncio.sleep(100))
        left = sorted(task.get_name() for task in asyncio.all_tasks(self.loop))
        self.loop.close()
        assert not left, f"tasks are left: {left}"
        self.__dict__.clear()  # thousands of worlds follow; `all_tasks` looks through what is still there of them

    def _call(self, work: Any, name: str) -> None:
        self.callers.append(self.loop.create_task(self._caller(work), name=name))
        self.advance(0)

    async def _caller(self, work: Any) -> None:
        before = current_run()
        try:
            await work
        except (ClosedError, ThreadBusyError, DuplicateRunError, UnknownRunError):
            pass  # closing, busy; a key whose run is being let in; a cancel before its run is let in
        except BaseException as exc:
            if not isinstance(exc, asyncio.CancelledError) and type(exc).__name__ != "ObserverCancelledError":
                self.wrong.append(f"a caller got {exc!r}")
            raise
        finally:
            self.check(current_run() is before is None, "I21: a caller sees a run")

    async def _start(self, spec: RunSpec) -> None:
        handle = await self.manager.start(spec)
        await self._keep(handle.result())

    async def _keep(self, result: Any) -> None:
        got = await result
        self.results[got.run_id] = got

    def _agent(self, temper: str) -> Any:
        """An agent of this temper; it resumes as it began."""

        async def agent(input: Any, run: RunContext) -> Any:
            self._enter(run)
            try:
                return await self._behave(temper, run)
            finally:
                self.check(current_run() is run, "I21: an agent lost its run")
                self._of(run).agents.discard(run.run_id)

        agent.__name__ = temper.replace(" ", "_")
        return agent

    def _of(self, run: RunContext) -> Thread:
        witness = self.witness if run.run_id in self.witness.runs else self.embedded_witness
        return witness.threads[run.thread_id]

    def _enter(self, run: RunContext) -> None:
        self.check(current_run() is run, "I21: an agent does not see its run")
        known = run.run_id in self.witness.runs or run.run_id in self.embedded_witness.runs
        self.check(known, "I14: an agent is called whose start nobody has taken")
        if known and run.run_id not in self.others.ended:
            thread = self._of(run)
            thread.agents -= self.others.ended  # which may take their time to notice
            self.check(not thread.agents, f"two agents on thread {run.thread_id}: {thread.agents}, {run.run_id}")
            self.check(thread.status == "busy", f"an agent runs on a thread that is {thread.status}")
            told = run.run_id in self.embedded_witness.runs or all(run.run_id in m.started for m in self.moody[:2])
            self.check(told, "I14: an agent is called whose start a required observer has not taken")
            thread.agents.add(run.run_id)

    async def _behave(self, temper: str, run: RunContext) -> Any:
        match temper:
            case "sleeps":
                await asyncio.sleep(1)
            case "long":
                await asyncio.sleep(10_000)
            case "fails":
                await asyncio.sleep(0)
                raise MoodError
            case "exits":
                raise SystemExit(1)
            case "rogue":
                await asyncio.sleep(0.5)
                raise asyncio.CancelledError
            case "swallows":
                try:
                    await asyncio.sleep(10_000)
                except asyncio.CancelledError:
                    await asyncio.sleep(1)
            case "slow to stop":
                try:
                    await asyncio.sleep(3)
                finally:
                    await asyncio.sleep(2)
            case "asks":
                return {"answer": run.interrupt("which?")}
            case "chats":
                for i in range(3):
                    run.message({"type": "human", "content": str(i)})
                    await asyncio.sleep(0.3 * i)
            case "nests":
                await self._nest(run)
        return {"temper": temper}

    async def _nest(self, run: RunContext) -> None:
        if run.depth >= 2:
            return
        handle = await self.manager.start(RunSpec(self.agents["nests"], "child"))
        await handle.result()

    def check(self, holds: object, otherwise: str) -> None:
        """Note what does not hold."""
        if not holds:
            self.wrong.append(otherwise)

    def check_step(self) -> None:
        """What holds after every step."""
        for _, observer in self.manager.observers._wrapped.values():
            if isinstance(observer, BufferedObserver):
                stats = observer.stats()
                accounted = stats.delivered + stats.failed + sum(stats.dropped.values()) + stats.pending
                self.check(stats.accepted == accounted, f"I22: {observer.name}: {stats}")
        executing = [r for r in self.manager._runs.all() if r.needs_place and r.task and not r.task.done()]
        self.check(len(executing) <= self.manager._runs._places.total, f"{len(executing)} runs have a place")
        assert not self.wrong, "\n".join(self.wrong)

    def check_quiet(self) -> None:
        """What holds when nothing is going on any more."""
        for witness in (self.witness, self.embedded_witness):
            assert_run_order(witness.taken)
            for thread_id, thread in witness.threads.items():
                self.check(thread.status != "busy", f"thread {thread_id} stays busy")
                self.check(thread.active is None, f"thread {thread_id} is held by {thread.active}")
            for run_id, result in self.results.items():
                if run_id in witness.runs:
                    witness.check_result(run_id, result)
        taken = [set(map(_id_of, observer.taken)) for observer in self.moody[:2]]
        late = [e for e in self.last.taken if not all(e.event_id in ids for ids in taken)]
        self.check(not late, f"I11: after the stores, but not in them: {late}")
        inner = self.others.coordinator
        self.check(inner._runs == inner._threads == {}, "the coordinator still holds runs or threads")
        places = self.manager._runs._places
        self.check(places.taken == places.waiting == 0, "places are still taken")
        self.check(not self.manager._runs._tasks, f"tasks: {self.manager._runs._tasks}")
        assert not self.wrong, "\n".join(self.wrong)


class Thread:
    """A thread as its events tell it."""

    def __init__(self) -> None:
        self.status = "idle"
        self.active: str | None = None
        self.agents: set[str] = set()


class Watcher:
    """Checks what every observer may rely on: the order of a run's events, each once, and whose run it is."""

    def __init__(self, world: World, name: str) -> None:
        self.world = world
        self.name = name
        self.taken: list[RunLifecycleEvent] = []
        self.started: set[str] = set()
        self.ended: set[str] = set()
        self._last: dict[str, int] = {}

    async def on_event(self, event: RunLifecycleEvent) -> None:
        self.check_current([event])
        self.take(event)

    def check_current(self, events: Sequence[RunLifecycleEvent]) -> None:
        """I21: an observer sees the run of its events; events of several runs belong to none."""
        ids = {event.run_id for event in events}
        run = current_run()
        expected = ids.pop() if len(ids) == 1 else None
        seen = None if run is None else run.run_id
        self.world.check(seen == expected, f"I21: {self.name} sees run {seen} with events of {expected}")

    def take(self, event: RunLifecycleEvent) -> None:
        self.taken.append(event)
        before = self._last.get(event.run_id, 0)
        self.world.check(event.sequence > before, f"I12: {self.name} got {event.sequence} after {before}")
        self._last[event.run_id] = event.sequence
        if event.event_type == "run_started":
            self.started.add(event.run_id)
        if is_terminal(event.event_type):
            self.world.check(event.run_id not in self.ended, f"{self.name} got two ends of a run")
            self.ended.add(event.run_id)


class Witness(Watcher):
    """Is told everything: checks each run against the rules, and each thread's status against what was said before."""

    def __init__(self, world: World, name: str) -> None:
        super().__init__(world, name)
        self.runs: dict[str, RunFold] = {}
        self.ends: dict[str, RunLifecycleEvent] = {}
        self.threads: dict[str, Thread] = {}

    async def on_event(self, event: RunLifecycleEvent) -> None:
        self.world.others.refuse(event)
        await super().on_event(event)

    def take(self, event: RunLifecycleEvent) -> None:
        super().take(event)
        fold = self.runs.get(event.run_id) or RunFold(event.run_id)
        try:
            self.runs[event.run_id] = fold.apply(event.event_type, event.sequence, event.payload)
        except EventOrderError as exc:
            self.world.wrong.append(f"I1: {exc}")
        self._follow_thread(event)
        if is_terminal(event.event_type):
            self.ends[event.run_id] = event
            if event.event_type == "run_cancelled":
                self._check_cancelled(event)

    def _follow_thread(self, event: RunLifecycleEvent) -> None:
        thread = self.threads.setdefault(event.thread_id, Thread())
        if event.event_type == "run_started":
            self.world.check(thread.active is None, f"thread {event.thread_id} has two active runs")
            thread.active = event.run_id
        elif event.event_type == "thread_status_updated":
            says = event.payload
            self.world.check(says["previous"] == thread.status, f"{says} although the thread was {thread.status}")
            thread.status = says["status"]
        elif is_terminal(event.event_type) and thread.active == event.run_id:
            stopped = event.run_id not in thread.agents or event.run_id in self.world.others.ended
            self.world.check(stopped, "a run ends while its agent still runs")
            thread.active = None

    def _check_cancelled(self, event: RunLifecycleEvent) -> None:
        mode, reason = event.payload["cancel_mode"], event.payload.get("reason", "")
        excused = (
            event.run_id in self.world.stoppable
            or (mode == "shutdown" and self.world.closed)
            or (mode == "task_cancelled" and (self is self.world.embedded_witness or "starting it" in reason))
            or "took its place" in reason
        )
        self.world.check(excused, f"I16: nobody had cancelled {event.run_id}, but {dict(event.payload)}")

    def check_result(self, run_id: str, result: RunResult) -> None:
        """What the caller got is what was announced."""
        status = self.runs[run_id].status
        self.world.check(is_final(status), f"a result of {run_id}, which has not ended")
        undelivered = "did not take that" in (result.error or "")
        same = result.status is status or (undelivered and result.status is RunStatus.error)
        self.world.check(same, f"the result says {result.status}, the events {status}")
        if result.thread_id.startswith("keyed-") or run_id in self.world.others.ended:
            return  # these get what the coordinator knows, and that is not who took the end
        stored = self is not self.world.witness or all(run_id in m.ended for m in self.world.moody[:2])
        self.world.check(stored or undelivered, "nobody says that the end of a run was not taken")


class Moody(Watcher):
    """Takes its events, unless it is in a mood: each mood spoils one call."""

    def __init__(self, world: World, name: str) -> None:
        super().__init__(world, name)
        self.moods: deque[Mood] = deque()

    async def on_event(self, event: RunLifecycleEvent) -> None:
        await self.give_in_to_mood()
        await super().on_event(event)

    async def give_in_to_mood(self) -> None:
        if not self.moods:
            return
        mood = self.moods.popleft()
        if isinstance(mood, BaseException):
            raise mood
        if mood == "takes a part":
            raise PartlyTaken(0, MoodError())
        if mood == "starts":
            manager = self.world.manager
            await (await manager.start(RunSpec(self.world.agents["quick"], "from an observer"))).result()
            return
        while not self.world.release.is_set():
            try:
                await self.world.release.wait()
            except asyncio.CancelledError:
                if mood == "hang":
                    raise
        raise MoodError  # it has been left behind long ago


class MoodyBatches(Moody):
    """The same for batches, all or nothing."""

    async def on_events(self, events: Sequence[RunLifecycleEvent]) -> None:
        if self.moods and self.moods[0] == "takes a part":
            self.moods.popleft()
            self.take(events[0])
            raise PartlyTaken(1, MoodError())
        await self.give_in_to_mood()
        self.check_current(events)
        for event in events:
            self.take(event)


def _id_of(event: RunLifecycleEvent) -> str:
    return event.event_id
