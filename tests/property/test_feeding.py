"""I25, I26: whatever fails, in whatever order, and whenever processes die, no event is passed undelivered.

A feed delivers a log in each of the orders, with several calls at once. Observers fail in every way they may, the store
fails before and after a step, processes are killed midway and others take over. Time is virtual, and the seed decides
what happens first.
"""

import asyncio
from collections import defaultdict
from contextlib import suppress
from dataclasses import dataclass, field

from hypothesis import given, settings
from hypothesis import strategies as st
from tests.property.feeding_model import LogInMemory

from trackside.app.delivery import DeliveryError, Order
from trackside.app.storage.errors import DatabaseBusyError
from trackside.app.storage.feeding import FeedPolicy, SubscriptionFeed
from trackside.app.storage.subscriptions import OnFailure
from trackside.harness.observer import PartlyTaken, RunLifecycleEvent
from trackside.testing import make_event, run_virtual

COUNTED = {"fails", "fails late", "hangs", "cancelled"}
OUTCOMES = ["taken", "taken late", "fails", "fails late", "refused", "away", "held back", "hangs", "cancelled"]
UNWANTED = "human_message"
LANES = {
    Order.log: lambda event: "",
    Order.run: lambda event: event.run_id,
    Order.none: lambda event: event.event_id,
}


@dataclass(frozen=True)
class Story:
    """What happens."""

    order: Order
    concurrency: int
    batch: int
    window: int
    max_bytes: int
    runs: list[int]  # of each event, in the order of the log
    unwanted: set[int]
    outcomes: dict[int, list[str]]  # of the calls with the event at a position; after these it is taken
    store_fails_at: set[int]  # which of its steps
    killed_at: list[float]
    on_failure: OnFailure
    takes_batches: bool
    says_at_which: bool  # of its events a batch has failed

    @property
    def policy(self) -> FeedPolicy:
        return FeedPolicy(
            order=self.order,
            concurrency=1 if self.order is Order.log else self.concurrency,
            batch=self.batch,
            window=self.window,
            max_bytes=self.max_bytes,
            attempts=2,
            first_pause=0.2,
            longest_pause=1.0,
            call_limit=1.0,
            lease_seconds=2.0,
            grace=5.0,
        )


@st.composite
def stories(draw: st.DrawFn) -> Story:
    number = draw(st.integers(1, 25))
    places = st.integers(1, number)
    few_places = st.sets(places, max_size=4)
    return Story(
        order=draw(st.sampled_from(Order)),
        concurrency=draw(st.integers(1, 4)),
        batch=draw(st.integers(1, 6)),
        window=draw(st.integers(1, 10)),
        max_bytes=draw(st.sampled_from([1, 150, 10_000])),  # room for one event, for three, and for all
        runs=draw(st.lists(st.integers(1, 4), min_size=number, max_size=number)),
        unwanted=draw(few_places),
        outcomes=draw(st.dictionaries(places, st.lists(st.sampled_from(OUTCOMES), max_size=4), max_size=8)),
        store_fails_at=draw(st.sets(st.integers(0, 60), max_size=4)),
        killed_at=sorted(draw(st.lists(st.floats(0.0, 3.0), max_size=3))),
        on_failure=draw(st.sampled_from(OnFailure)),
        takes_batches=draw(st.booleans()),
        says_at_which=draw(st.booleans()),
    )


@dataclass
class Receiving:
    """An observer that does as the story says, and checks whether it is called as the order says."""

    story: Story
    log: LogInMemory
    calls: dict[int, int] = field(default_factory=lambda: defaultdict(int))
    under_way: list[RunLifecycleEvent] = field(default_factory=list)

    async def on_event(self, event: RunLifecycleEvent) -> None:
        position = self.log.position_of(event)
        number = self.calls[position]
        self.calls[position] += 1
        outcomes = self.story.outcomes.get(position, [])
        self._check(event, position)
        self.under_way.append(event)
        try:
            await self._do(outcomes[number] if number < len(outcomes) else "taken")
        finally:
            self.under_way.remove(event)
        self.log.handled.add(position)

    def _check(self, event: RunLifecycleEvent, position: int) -> None:
        lane_of = LANES[self.story.order]
        lane = lane_of(event)
        if any(lane_of(other) == lane for other in self.under_way):
            self.log.wrong.append(f"{position} was delivered beside another one of {lane!r}")
        if len(self.under_way) >= self.story.policy.concurrency:
            self.log.wrong.append(f"{position} was one call too many")
        for earlier in self.log.events[: position - 1]:
            if lane_of(earlier.event) != lane or not self.log.wants(earlier.event):
                continue
            if earlier.position not in self.log.handled | self.log.ever_parked:
                self.log.wrong.append(f"{position} was delivered before {earlier.position}")

    async def _do(self, outcome: str) -> None:
        if outcome.endswith("late"):
            await asyncio.sleep(0.3)
        match outcome.removesuffix(" late"):
            case "fails":
                raise OSError("no")
            case "refused":
                raise DeliveryError(receiver="it", what="this", why="it is malformed", retryable=False)
            case "away":
                raise DeliveryError(receiver="it", what="this", why="it is down", away=True, retry_after=0.5)
            case "held back":
                raise DeliveryError(receiver="it", what="this", why="later", held_back=True, retry_after=0.5)
            case "hangs":
                await asyncio.Event().wait()
            case "cancelled":
                raise asyncio.CancelledError


class ReceivingBatches(Receiving):
    async def on_events(self, events: list[RunLifecycleEvent]) -> None:
        for taken, event in enumerate(events):
            try:
                await self.on_event(event)
            except Exception as exc:
                if not self.story.says_at_which:
                    raise
                raise PartlyTaken(taken, exc) from exc


async def tell(story: Story) -> tuple[LogInMemory, SubscriptionFeed]:
    """Feed, killed as often as the story says, and then to the end."""
    steps = 0

    def fails(step: str) -> BaseException | None:
        nonlocal steps
        steps += 1
        return DatabaseBusyError(database="this", seconds=1.0) if steps in story.store_fails_at else None

    log = LogInMemory(story.on_failure, wants=lambda event: event.event_type != UNWANTED, fails=fails)
    log.append(
        make_event(
            UNWANTED if position in story.unwanted else "run_started",  # type: ignore[arg-type]
            run_id=f"run-{run}",
            sequence=position,
        )
        for position, run in enumerate(story.runs, 1)
    )
    observer = (ReceivingBatches if story.takes_batches else Receiving)(story, log)
    for seconds in story.killed_at:
        async with SubscriptionFeed(log.subscriptions, "mail", observer, policy=story.policy) as feed:
            with suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await feed.reach(log.end)
            log.kill_holder()
            assert feed._task is not None
            feed._task.cancel()
    async with SubscriptionFeed(log.subscriptions, "mail", observer, policy=story.policy) as feed:
        while not await feed.reach(log.end):
            await asyncio.sleep(1.0)  # it is not this feed's turn yet
    return log, feed


@given(stories(), st.integers(0, 2**32))
@settings(max_examples=max(150, settings().max_examples))
def test_every_event_is_delivered_or_parked_and_none_is_passed(story: Story, seed: int) -> None:
    log, feed = run_virtual(tell(story), seed=seed)

    wanted = {stored.position for stored in log.events if log.wants(stored.event)}
    counts = feed.counts
    assert not log.wrong
    assert log.cursor >= max(wanted, default=0)
    assert log.handled | {*log.parked} >= wanted
    assert story.on_failure is OnFailure.park or not log.ever_parked
    for outcomes in (story.outcomes.get(position, []) for position in log.ever_parked):
        assert "refused" in outcomes or sum(outcome in COUNTED for outcome in outcomes) >= story.policy.attempts
    assert (counts.pending, counts.read) == (0, counts.handled + counts.parked + counts.returned)
