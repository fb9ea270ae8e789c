"""I12, I13, I22, I23: whatever happens around a buffer, in whatever order, its counts are exact and its order holds.

This also holds with a log that fails, hangs or has lost something.
"""

import asyncio
from collections import Counter, defaultdict
from collections.abc import Coroutine, Sequence
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from tests.contract.recorded_log import RecordedLog

from trackside.harness.errors import ClosedError
from trackside.harness.observer import RunLifecycleEvent
from trackside.harness.observing.backlog import UNWEIGHED, Deferred, Pending
from trackside.harness.observing.buffered import MAX_LEFT_BEHIND, BufferedObserver, EventGap
from trackside.harness.types import LifecycleEventType
from trackside.testing import VirtualTimeLoop, make_event

LIMIT = 12.0
SLOW = 4.0
LARGEST = 10_300
KINDS = st.sampled_from(["human_message", "human_message", "run_completed"])
RUNS = 4
AT_ONCE = 256
"""How many events are reread at once at most."""
MOODS = ["well", "well", "slow", "raise", "cancelled", "exit", "hang", "swallow", "bad"]


class Moody:
    """Takes events as its mood is; `offered` has each event once, in the order of first offers, with gaps between."""

    def __init__(self) -> None:
        self.mood = "well"
        self.offered: list[RunLifecycleEvent | EventGap] = []
        self.taken: list[RunLifecycleEvent] = []
        self.released = asyncio.Event()

    async def on_event(self, event: RunLifecycleEvent) -> None:
        await self.take([event])

    async def on_gap(self, gap: EventGap) -> None:
        self.offered.append(gap)
        await self.react(bad=False)

    async def take(self, events: Sequence[RunLifecycleEvent]) -> None:
        self.offered.extend(event for event in events if event not in self.offered)
        if await self.react(bad=any(event.sequence % 5 == 0 for event in events)):
            self.taken.extend(events)

    async def react(self, *, bad: bool) -> bool:
        """Whether it takes what it is given; False if by then nobody waits for it any more."""
        match self.mood:
            case "slow":
                await asyncio.sleep(SLOW)
            case "raise":
                raise RuntimeError("no")
            case "cancelled":
                raise asyncio.CancelledError
            case "exit":
                raise SystemExit(1)
            case "hang":
                await asyncio.sleep(LIMIT * 1_000)
            case "swallow":
                return await self.wait_stubbornly(self.released)
            case "bad" if bad:
                raise ValueError("bad")
            case _:
                pass
        return True

    async def wait_stubbornly(self, released: asyncio.Event) -> bool:
        cancelled = False
        while not released.is_set():
            try:
                await released.wait()
            except asyncio.CancelledError:
                cancelled = True
        return not cancelled


def by_run(offered: Sequence[RunLifecycleEvent | EventGap]) -> dict[str, list[RunLifecycleEvent]]:
    runs: dict[str, list[RunLifecycleEvent]] = defaultdict(list)
    for it in offered:
        if isinstance(it, RunLifecycleEvent):
            runs[it.run_id].append(it)
    return runs


class MoodyInBatches(Moody):
    async def on_events(self, events: Sequence[RunLifecycleEvent]) -> None:
        await self.take(events)


class BufferMachine(RuleBasedStateMachine):
    @initialize(
        seed=st.none() | st.integers(0, 1_000),
        batches=st.booleans(),
        capacity=st.integers(1, 6) | st.integers(UNWEIGHED, 2 * UNWEIGHED),
        reserve=st.integers(0, 3),
        max_bytes=st.integers(1, 4_000),
        batch_size=st.integers(1, 4),
        deferred_runs=st.sampled_from([0, 1, 3, 1_000]),
    )
    def make(
        self,
        seed: int | None,
        batches: bool,
        capacity: int,
        reserve: int,
        max_bytes: int,
        batch_size: int,
        deferred_runs: int,
    ) -> None:
        self.loop = VirtualTimeLoop(seed=seed)
        self.observer = MoodyInBatches() if batches else Moody()
        self.log = RecordedLog()
        self.deferred_runs = deferred_runs
        self.buffer = BufferedObserver(
            self.observer,
            capacity=capacity,
            max_wait=0,
            terminal_reserve=reserve,
            max_bytes=max_bytes,
            batch_size=batch_size,
            call_limit=LIMIT,
            log=self.log if deferred_runs else None,
            max_deferred_runs=deferred_runs or 1,
            name="x",
        )
        self.lengths: Counter[str] = Counter()
        self.capacity, self.reserve, self.max_bytes = capacity, reserve, max_bytes
        self.pushed: list[RunLifecycleEvent] = []
        self.dropped: list[RunLifecycleEvent] = []
        self.closed = False

    def run[T](self, coro: Coroutine[Any, Any, T]) -> T:
        return self.loop.run_until_complete(coro)

    @rule(kinds=st.lists(KINDS, min_size=1, max_size=5), batch=st.booleans())
    def push(self, kinds: list[str], batch: bool) -> None:
        self.run(self._push([(LifecycleEventType(kind), 0) for kind in kinds], batch))

    @rule(drafts=st.lists(st.tuples(KINDS, st.sampled_from([0, 0, 100, 1_000, 10_000])), min_size=10, max_size=30))
    def push_many_of_any_size(self, drafts: list[tuple[str, int]]) -> None:
        self.run(self._push([(LifecycleEventType(kind), chars) for kind, chars in drafts]))

    async def _push(self, drafts: list[tuple[LifecycleEventType, int]], batch: bool = False) -> None:
        for kind, chars in drafts:
            run_id = f"run-{len(self.pushed) // 3 % RUNS}"
            event = make_event(kind, sequence=self.lengths[run_id] + 1, run_id=run_id, payload={"content": "x" * chars})
            self.log.write([event])
            before, has_room, may_wait = self.buffer.stats(), self.has_room(kind), self.may_wait_in_log(run_id)
            try:
                await (self.buffer.on_events([event]) if batch else self.buffer.on_event(event))
            except ClosedError:
                assert self.closed
                assert self.buffer.stats() == before
                continue
            assert not self.closed
            self.pushed.append(event)
            self.lengths[run_id] += 1
            dropped = self.buffer.stats().dropped.get("overflow", 0) - before.dropped.get("overflow", 0)
            assert dropped == (not has_room and not may_wait)
            assert has_room or may_wait <= self.buffer.stats().deferred - before.deferred
            if dropped:
                self.dropped.append(event)
            assert self.buffer.stats().dropped.get("overflow", 0) == len(self.dropped)

    def has_room(self, kind: LifecycleEventType) -> bool:
        """Whether the buffer must take an event of this kind, and may."""
        waiting = self.waiting()
        ends = kind == "run_completed"
        if len(waiting) >= self.capacity + (self.reserve if ends else 0):
            return False
        of_ends = sum(item.size for item in waiting if item.event.event_type == "run_completed")
        of_others = sum(item.size for item in waiting) - of_ends
        if len(waiting) < UNWEIGHED or of_ends + of_others < self.max_bytes:
            return True
        return ends and self.reserve > 0 and of_ends + min(of_others, self.max_bytes) < 2 * self.max_bytes

    def may_wait_in_log(self, run_id: str) -> bool:
        """Whether the buffer must let an event of this run in that has no room in memory, to wait in the log."""
        places = self.deferred()
        newest = self.buffer._backlog.items[-1] if self.buffer._backlog.items else None
        known = isinstance(newest, Deferred) and newest.grows and run_id in newest.runs
        return known or sum(len(place.runs) for place in places) < self.deferred_runs

    def deferred(self) -> list[Deferred]:
        return [item for item in self.buffer._backlog.items if isinstance(item, Deferred)]

    def waiting(self) -> list[Pending]:
        return [item for item in self.buffer._backlog.items if isinstance(item, Pending)]

    @rule(mood=st.sampled_from(MOODS))
    def change_mood(self, mood: str) -> None:
        self.observer.mood = mood

    @rule(how=st.sampled_from(["well", "well", "fail", "hang"]))
    def change_log(self, how: str) -> None:
        self.log.failure = OSError("away") if how == "fail" else None
        if how == "hang":
            self.log.answers.clear()
        else:
            self.log.answers.set()

    @rule(every=st.integers(2, 7))
    def lose_from_log(self, every: int) -> None:
        self.log.lost.update(event.event_id for event in self.pushed[-10:][::every])

    @rule(seconds=st.sampled_from([0.0, 1.0, SLOW, LIMIT, LIMIT * 5]))
    def let_time_pass(self, seconds: float) -> None:
        self.run(asyncio.sleep(seconds))

    @rule(turns=st.integers(1, 4))
    def let_others_go_on(self, turns: int) -> None:
        for _ in range(turns):
            self.run(asyncio.sleep(0))

    @rule(timeout=st.sampled_from([0.0, 1.0, LIMIT, LIMIT * 100]))
    def flush(self, timeout: float) -> None:
        self.run(self._flush(timeout))

    async def _flush(self, timeout: float) -> None:
        start, before = self.loop.time(), self.buffer.stats()
        report = await self.buffer.flush(timeout)

        assert self.loop.time() - start <= timeout
        assert report.complete or self.loop.time() - start == timeout
        assert not (report.complete and report.pending)
        lost = sum(report.dropped.values())
        assert lost == report.dropped.get("not_in_log", 0)
        assert report.delivered + report.failed + lost + report.pending == before.pending

    @rule()
    def cancel_the_consumer(self) -> None:
        for task in asyncio.all_tasks(self.loop):
            if task.get_name() == "trackside-buffer-x":
                task.cancel()

    @rule()
    def let_go_of_those_left_behind(self) -> None:
        released, self.observer.released = self.observer.released, asyncio.Event()
        released.set()

    @precondition(lambda self: len(self.pushed) > 5)
    @rule(timeout=st.sampled_from([0.0, LIMIT * 2]))
    def close(self, timeout: float) -> None:
        self.closed = True
        start = self.loop.time()
        self.run(self.buffer.aclose(timeout))

        assert self.loop.time() - start <= timeout
        assert self.buffer.stats().pending == 0

    @invariant()
    def accounts_add_up(self) -> None:
        stats = self.buffer.stats()
        assert stats.accepted == len(self.pushed)
        assert stats.accepted == stats.delivered + stats.failed + sum(stats.dropped.values()) + stats.pending
        held = self.capacity + self.reserve + (AT_ONCE if self.deferred_runs else 0)
        assert stats.pending - stats.deferred == len(self.waiting()) <= held
        assert stats.pending_bytes == sum(item.size for item in self.waiting())
        assert stats.pending_bytes < 2 * self.max_bytes + 2 * LARGEST or stats.reread_total
        assert stats.left_behind <= MAX_LEFT_BEHIND

    @invariant()
    def what_waits_in_the_log_is_known_and_bounded(self) -> None:
        places = self.deferred()
        spans = [run.last - run.first + 1 for place in places for run in place.runs.values()]
        assert self.buffer.stats().deferred == sum(place.count for place in places) == sum(spans)
        assert len(spans) <= self.deferred_runs
        assert self.buffer.stats().dropped.get("not_in_log", 0) <= len(self.log.lost)

    @invariant()
    def what_was_delivered_was_taken_in_order(self) -> None:
        for of_run in by_run(self.observer.taken).values():
            taken = [event.sequence for event in of_run]
            assert taken == sorted(set(taken))
        if not self.deferred_runs:
            ids = [event.event_id for event in self.observer.taken]
            assert ids == sorted(ids)
        stats = self.buffer.stats()
        taken = self.observer.taken
        assert stats.delivered <= len(taken) <= stats.delivered + stats.pending

    @invariant()
    def each_is_offered_in_its_place(self) -> None:
        for of_run in by_run(self.observer.offered).values():
            sequences = [event.sequence for event in of_run]
            assert sequences == sorted(sequences)
        if self.deferred_runs:
            return
        ids = [
            id_
            for it in self.observer.offered
            for id_ in ((it.first_event_id, it.last_event_id) if isinstance(it, EventGap) else (it.event_id,))
        ]
        assert ids == sorted(ids)

    def teardown(self) -> None:
        if not hasattr(self, "loop"):
            return
        try:
            self.end()
        finally:
            self.loop.close()

    def end(self) -> None:
        self.observer.mood = "well"
        self.observer.released.set()
        self.change_log("well")
        report = self.run(self.buffer.aclose(LIMIT * 100))
        stats = self.buffer.stats()
        gaps = [it for it in self.observer.offered if isinstance(it, EventGap)]

        assert report.complete
        assert stats.pending == 0
        assert stats.delivered == len(self.observer.taken)
        assert {event.event_id for event in self.dropped}.isdisjoint(event.event_id for event in self.observer.taken)
        assert sum(gap.count for gap in gaps) <= len(self.dropped) + stats.dropped.get("not_in_log", 0)
        missing = {event.event_id for event in self.pushed} - {
            it.event_id for it in self.observer.offered if isinstance(it, RunLifecycleEvent)
        }
        assert len(missing) <= sum(stats.dropped.values()) + stats.failed
        self.accounts_add_up()
        self.run(asyncio.sleep(LIMIT))
        assert self.buffer.stats().left_behind == 0
        assert not asyncio.all_tasks(self.loop)


BufferMachine.TestCase.settings = settings(stateful_step_count=30)
TestBuffer = BufferMachine.TestCase
