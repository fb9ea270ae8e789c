"""I25, I27, I28, I29: whatever consumers and operators do to a subscription, its state is what a little Python says.

The model knows positions and sets of them, but nothing of leases in SQL, of rows or transactions. The schedules include
two consumers at once, lost replies, lost leases and processes that end.
"""

import asyncio
import tempfile
from collections.abc import Awaitable, Coroutine
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, rule
from sqlalchemy import update

from trackside.app.storage import Store
from trackside.app.storage._rows.tables import subscriptions as table
from trackside.app.storage._subscriptions import reads
from trackside.app.storage._writing.work import UnitOfWork, Work
from trackside.app.storage.errors import (
    InvalidSubscriptionError,
    NotParkedError,
    StorageError,
    SubscriptionBusyError,
    SubscriptionLostError,
    SubscriptionPausedError,
)
from trackside.app.storage.subscriptions import SubscriptionConsumer, SubscriptionFilter
from trackside.testing import make_event

NAME = "mail"
KINDS = ["run_started", "human_message", "thread_status_updated"]
STRETCH = 4
OPERATIONS = ["end lease", "seek", "pause", "lose replies", "update", "restart", "delete"]
filters = st.sampled_from([None, ("human_message",), ("human_message", "thread_status_updated"), ("run_failed",)])
small = st.integers(0, 12)


@dataclass
class Model:
    """A subscription, as anybody would describe it."""

    wanted: tuple[str, ...] | None
    cursor: int
    on_failure: str
    paused: bool = False
    holder: "Reader | None" = None
    lease_goes_on: bool = False
    parked: dict[int, str] = field(default_factory=dict)
    failures: int = 0


@dataclass(eq=False)
class Reader:
    """What a consumer knows of what it has read."""

    real: SubscriptionConsumer
    passed: int
    through: int
    wanted: tuple[str, ...] | None
    unhandled: list[int] = field(default_factory=list)
    parked_ahead: set[int] = field(default_factory=set)
    retrying: set[int] = field(default_factory=set)


class OnSession(Work):
    def __init__(self, do: Any) -> None:
        self._do = do

    @property
    def size(self) -> int:
        return 1

    def apply(self, unit: UnitOfWork) -> Any:
        return self._do(unit.session)


class RepeatingWriter:
    """Writes everything twice, as a writer does that does not know whether its commit succeeded."""

    def __init__(self, writer: Any) -> None:
        self._writer = writer

    async def write(self, work: Work) -> Any:
        first = await self._writer.write(work)
        second = await self._writer.write(work)
        assert first == second
        return second


class Subscribing(RuleBasedStateMachine):
    readers = Bundle("readers")

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.folder = tempfile.TemporaryDirectory()
        self.url = f"sqlite:///{Path(self.folder.name) / 'runs.db'}"
        self.kinds: list[str] = []  # of the events at positions 1, 2, 3 …
        self.repeats = False
        self.stretch, reads.STRETCH = reads.STRETCH, STRETCH
        self.open_store()

    def open_store(self) -> None:
        self.stack = AsyncExitStack()
        self.store: Store = self.run(self.stack.enter_async_context(Store.open(self.url, synchronous="NORMAL")))
        self.subs = self.store.subscriptions
        self.writer = self.subs._writer

    def run(self, coroutine: Awaitable[Any]) -> Any:
        async def main() -> Any:
            return await coroutine

        return self.runner.run(main())

    def step(self, coroutine: Coroutine[Any, Any, Any], error: type[StorageError] | None = None) -> Any:
        """Take a step that has to succeed, or to fail with exactly this error."""
        writer = RepeatingWriter(self.writer) if self.repeats else self.writer
        self.subs._writer = writer
        if error is None:
            return self.run(coroutine)
        with pytest.raises(error) as refused:
            self.run(coroutine)
        assert refused.type is error
        return None

    def real(self, reader: Reader) -> SubscriptionConsumer:
        reader.real._writer = RepeatingWriter(self.writer) if self.repeats else self.writer
        return reader.real

    @property
    def end(self) -> int:
        return len(self.kinds)

    def fits(self, position: int, wanted: tuple[str, ...] | None) -> bool:
        return wanted is None or self.kinds[position - 1] in wanted

    def lost(self, reader: Reader) -> type[StorageError] | None:
        return None if self.model.holder is reader else SubscriptionLostError

    def move(self, reader: Reader, cursor: int) -> None:
        for position in range(self.model.cursor + 1, cursor + 1):
            if position not in reader.parked_ahead:
                self.model.parked.pop(position, None)
        self.model.cursor = max(self.model.cursor, cursor)

    def dismiss(self) -> None:
        self.model.holder, self.model.lease_goes_on = None, False

    @initialize(kinds=st.lists(st.sampled_from(KINDS), max_size=6), start=st.sampled_from(["beginning", "now"]))
    def begin(self, kinds: list[str], start: str) -> None:
        self.run_id = "run"
        self.append(kinds)
        self.make(None, start, "park")

    def make(self, wanted: tuple[str, ...] | None, start: str, on_failure: str) -> None:
        opened = self.step(self.subs.open(NAME, types=wanted, start=start, on_failure=on_failure))
        self.model = Model(wanted, 0 if start == "beginning" else self.end, on_failure)
        assert opened.cursor == self.model.cursor

    @rule(kinds=st.lists(st.sampled_from(KINDS), min_size=1, max_size=6))
    def append(self, kinds: list[str]) -> None:
        if not self.kinds and kinds:
            kinds = ["run_started", *kinds]
        kinds = [
            kind if kind != "run_started" or not (self.kinds or n) else "human_message" for n, kind in enumerate(kinds)
        ]
        events = [
            make_event(kind, run_id=self.run_id, thread_id="thread", sequence=n)
            for n, kind in enumerate(kinds, self.end + 1)
        ]
        self.run(self.store.append(events))
        self.kinds += kinds

    def lose_replies(self, repeats: bool) -> None:
        self.repeats = repeats

    def end_lease(self) -> None:
        ended = update(table).values(lease_until=0.0)
        self.run(self.writer.write(OnSession(lambda session: session.execute(ended))))
        self.model.lease_goes_on = False

    def restart(self) -> None:
        """The process ends without giving anything back; its consumers' knowledge is gone, but their leases are not."""
        self.run(self.stack.aclose())
        self.open_store()
        if self.model.holder is not None:
            self.model.holder = Reader(None, 0, 0, None)  # type: ignore[arg-type]

    @rule(target=readers, name=st.sampled_from(["one", "two"]))
    def acquire(self, name: str) -> Any:
        error: type[StorageError] | None = None
        if self.model.paused:
            error = SubscriptionPausedError
        elif self.model.lease_goes_on:
            error = SubscriptionBusyError
        consumer = self.step(self.subs.acquire(NAME, consumer=name), error)
        if consumer is None:
            return None
        reader = Reader(consumer, self.model.cursor, self.model.cursor, self.model.wanted)
        self.model.holder, self.model.lease_goes_on = reader, True
        return reader

    def usable(self, reader: Reader | None) -> bool:
        return reader is not None and reader.real._readers is self.subs._readers

    @rule(
        reader=readers,
        limit=st.integers(1, 4),
        then=st.sampled_from(["handle", "handle one", "park", "park last", "nothing"]),
        ahead=st.booleans(),
    )
    def work(self, reader: Reader | None, limit: int, then: str, ahead: bool) -> None:
        """What consumers do most of the time."""
        self.read(reader, limit, ahead)
        if reader is None or self.model.holder is not reader or not reader.unhandled:
            return
        match then:
            case "handle":
                self.acknowledge(reader, reader.through)
            case "handle one":
                self.acknowledge(reader, reader.unhandled[0])
            case "park":
                self.park(reader, 0, next_one=True)
            case "park last":
                self.park(reader, reader.unhandled[-1], next_one=False)

    @rule(reader=readers, limit=st.integers(1, 4), ahead=st.booleans())
    def read(self, reader: Reader | None, limit: int, ahead: bool) -> None:
        if reader is None or not self.usable(reader):
            return
        error = self.lost(reader) or (SubscriptionPausedError if self.model.paused else None)
        batch = self.step(self.real(reader).read(limit, ahead=ahead), error)
        if batch is None:
            return
        after = reader.through if ahead else reader.passed
        through = max(min(self.end, after + STRETCH), after)
        fitting = [position for position in range(after + 1, through + 1) if self.fits(position, reader.wanted)]
        if len(fitting) >= limit:
            fitting = fitting[:limit]
            through = fitting[-1]
        assert [stored.position for stored in batch.events] == fitting
        assert (batch.through, batch.at_end) == (through, through >= self.end)
        if not ahead:
            reader.unhandled, reader.parked_ahead = [], set()
        reader.unhandled, reader.through = reader.unhandled + fitting, through
        if not reader.unhandled:
            reader.passed = through

    @rule(reader=readers, position=small)
    def acknowledge(self, reader: Reader | None, position: int) -> None:
        if reader is None or not self.usable(reader):
            return
        error = InvalidSubscriptionError if position > reader.through else self.lost(reader)
        self.step(self.real(reader).acknowledge(position), error)
        if error is None:
            if position > self.model.cursor:
                self.model.failures = 0
            self.move(reader, position)
            self.went_past(reader, position)

    def went_past(self, reader: Reader, position: int) -> None:
        reader.passed = max(reader.passed, position)
        reader.unhandled = [left for left in reader.unhandled if left > position]
        reader.parked_ahead = {left for left in reader.parked_ahead if left > position}

    @rule(reader=readers, other=small, next_one=st.booleans())
    def park(self, reader: Reader | None, other: int, next_one: bool) -> None:
        if reader is None or not self.usable(reader):
            return
        position = reader.unhandled[0] if next_one and reader.unhandled else other
        allowed = position in reader.unhandled or position in reader.retrying
        error = self.lost(reader) if allowed else InvalidSubscriptionError
        self.step(self.real(reader).park(position, "no"), error)
        if error is None:
            is_next = reader.unhandled[:1] == [position]
            if position > self.model.cursor:
                self.model.failures = 0
                self.move(reader, position if is_next else self.model.cursor)
                self.model.parked[position] = "parked"
            elif position in self.model.parked:
                self.model.parked[position] = "parked"
            reader.retrying.discard(position)
            if is_next:
                self.went_past(reader, position)
            elif position in reader.unhandled:
                reader.unhandled.remove(position)
                reader.parked_ahead.add(position)

    @rule(reader=readers)
    def fail(self, reader: Reader | None) -> None:
        if reader is None or not self.usable(reader):
            return
        error = self.lost(reader)
        self.step(self.real(reader).note_failure("no", attempts=3), error)
        if error is None:
            self.model.failures = 3

    @rule(reader=readers)
    def read_retries(self, reader: Reader | None) -> None:
        if reader is None or not self.usable(reader):
            return
        error = self.lost(reader) or (SubscriptionPausedError if self.model.paused else None)
        found = self.step(self.real(reader).read_retries(), error)
        if error is None:
            retried = {
                position
                for position, state in self.model.parked.items()
                if state == "retry" and position <= self.model.cursor
            }
            assert {parked.stored.position for parked in found} == retried
            reader.retrying |= retried

    @rule(reader=readers, position=small)
    def settle(self, reader: Reader | None, position: int) -> None:
        if reader is None or not self.usable(reader):
            return
        error = self.lost(reader) if position in reader.retrying else InvalidSubscriptionError
        self.step(self.real(reader).settle_retry(position), error)
        if error is None:
            self.model.parked.pop(position, None)
            reader.retrying.discard(position)

    @rule(reader=readers)
    def renew(self, reader: Reader | None) -> None:
        if reader is None or not self.usable(reader):
            return
        error = self.lost(reader)
        paused = self.step(self.real(reader).renew(), error)
        if error is None:
            assert paused == self.model.paused
            self.move(reader, reader.passed)
            self.model.lease_goes_on = True

    @rule(reader=consumes(readers))
    def release(self, reader: Reader | None) -> None:
        if reader is None or not self.usable(reader):
            return
        self.step(self.real(reader).release())
        if self.model.holder is reader:
            self.move(reader, reader.passed)
            self.dismiss()

    def pause(self, pause: bool) -> None:
        self.step((self.subs.pause if pause else self.subs.resume)(NAME))
        self.model.paused = pause

    def seek(self, to: Any) -> None:
        position = {"beginning": 0, "now": self.end}.get(to, to)
        error = InvalidSubscriptionError if position > self.end else None
        self.step(self.subs.seek(NAME, to), error)
        if error is None:
            self.model.cursor = position
            self.model.failures = 0
            self.dismiss()

    def update(self, wanted: tuple[str, ...] | None, on_failure: str) -> None:
        self.step(self.subs.update(NAME, filter=SubscriptionFilter.of(types=wanted), on_failure=on_failure))
        self.model.wanted, self.model.on_failure = wanted, on_failure
        self.dismiss()

    @rule(position=st.one_of(st.none(), small), retry=st.booleans())
    def decide(self, position: int | None, retry: bool) -> None:
        chosen = [parked for parked in self.model.parked if position in {None, parked}]
        error = NotParkedError if position is not None and not chosen else None
        number = self.step((self.subs.retry_parked if retry else self.subs.drop_parked)(NAME, position), error)
        assert number == (None if error else len(chosen))
        for parked in chosen:
            if retry:
                self.model.parked[parked] = "retry"
            else:
                del self.model.parked[parked]

    def delete_and_make_anew(self, wanted: tuple[str, ...] | None, start: str, on_failure: str) -> None:
        self.step(self.subs.delete(NAME))
        self.make(wanted, start, on_failure)

    @rule(data=st.data())
    def operate(self, data: Any) -> None:
        """Somebody changes the subscription, or something happens to its consumer; one rule, so that it stays rare."""
        starts, policies = st.sampled_from(["beginning", "now"]), st.sampled_from(["park", "block"])
        match data.draw(st.sampled_from(OPERATIONS)):
            case "end lease":
                self.end_lease()
            case "restart":
                self.restart()
            case "lose replies":
                self.lose_replies(data.draw(st.booleans()))
            case "pause":
                self.pause(data.draw(st.integers(0, 3)) == 0)
            case "seek":
                self.seek(data.draw(st.one_of(starts, small)))
            case "update":
                self.update(data.draw(filters), data.draw(policies))
            case "delete":
                self.delete_and_make_anew(data.draw(filters), data.draw(starts), data.draw(policies))

    @invariant()
    def it_stands_as_the_model_says(self) -> None:
        if not hasattr(self, "model"):
            return
        model = self.model
        standing = self.run(self.subs.get(NAME))
        parked = self.run(self.subs.parked(NAME))
        assert standing.cursor == model.cursor
        assert standing.behind == self.end - model.cursor
        assert standing.state == ("paused" if model.paused else "active")
        assert standing.filter.types == (model.wanted and tuple(sorted(model.wanted)))
        assert (standing.on_failure, standing.failures) == (model.on_failure, model.failures)
        assert (standing.consumer is not None) == model.lease_goes_on
        assert {event.stored.position: event.state for event in parked} == model.parked
        assert standing.parked == len(model.parked)

    def teardown(self) -> None:
        reads.STRETCH = self.stretch
        self.run(self.stack.aclose())
        self.runner.close()
        self.folder.cleanup()


class TestSubscribing(Subscribing.TestCase):
    settings = settings(max_examples=max(30, settings().max_examples // 5), stateful_step_count=40)
