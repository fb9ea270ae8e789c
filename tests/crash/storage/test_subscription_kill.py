"""SIGKILL of a consumer at each of its steps: every event is handled at least once or parked, and none is passed (I25)."""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from dialects import BOTH
from left_processes import is_there
from sqlalchemy import update
from tests.crash.storage.forker import Forker

from trackside.app.storage import Store
from trackside.app.storage._rows.tables import subscriptions as table
from trackside.app.storage._writing.work import UnitOfWork, Work
from trackside.testing import make_event

EVENTS = 40
STEPS = [
    "before read",
    "after read",
    "handling",
    "handled",
    "failing",
    "before note_failure",
    "after note_failure",
    "before park",
    "after park",
    "before acknowledge",
    "after acknowledge",
    "before release",
]


STEPS_SIDE_BY_SIDE = ["handled", "after park", "before acknowledge", "after acknowledge"]
# PostgreSQL can differ from SQLite only in keeping, or not keeping, what a transaction has written.
ON_POSTGRES = {("log", "after park"), ("log", "before acknowledge"), ("none", "after acknowledge")}
LIVES = [("log", step) for step in STEPS] + [("none", step) for step in STEPS_SIDE_BY_SIDE]
CASES = [
    pytest.param(*life, url, marks=[pytest.mark.long] if url == "postgres" and life not in ON_POSTGRES else [])
    for life in LIVES
    for url in BOTH
]


class EndLeases(Work):
    """Act as if the time of all leases were up."""

    @property
    def size(self) -> int:
        return 1

    def apply(self, unit: UnitOfWork) -> None:
        unit.session.execute(update(table).values(lease_until=0.0))


class Consumer(Forker):
    """The process next to this one that consumes, and what it said."""

    def __init__(self) -> None:
        super().__init__("subscriber.py")

    def live(self, url: str, step: str, number: int = 1, *, order: str = "log") -> tuple[list[tuple[int, str]], int]:
        """Play a consumer's life to its end or to a step; returns what it handled (position, id) and its exit code."""
        handled = []
        for word, rest in self.life(f"{url} {number} {order} {step}"):
            if word == "handled":
                position, event_id = rest.split()
                handled.append((int(position), event_id))
        return handled, self.exit_code


@pytest.fixture(scope="module")
def consumer() -> Iterator[Consumer]:
    with closing(Consumer()) as consumer:
        yield consumer


def in_store[T](url: str, do: Callable[[Store], Awaitable[T]]) -> T:
    async def main() -> T:
        async with Store.open(url) as store:
            return await do(store)

    return asyncio.run(main())


def make_log(url: str, **subscription: Any) -> dict[int, str]:
    """Log a run of `EVENTS` events, and subscribe; returns their ids by position, which is their sequence, too."""

    async def make(store: Store) -> dict[int, str]:
        kinds = ["run_started", *["human_message"] * (EVENTS - 1)]
        events = [make_event(kind, sequence=n) for n, kind in enumerate(kinds, 1)]
        if subscription:
            await store.subscriptions.open("mail", **subscription)
        return {stored.position: stored.event.event_id for stored in await store.append(events)}

    return in_store(url, make)


def after_a_death(url: str, handled: set[int]) -> tuple[int, set[int]]:
    """Check that nothing was passed, and let anybody take over; returns cursor and parked positions."""

    async def look(store: Store) -> tuple[int, set[int]]:
        standing = await store.subscriptions.get("mail")
        parked = {event.stored.position for event in await store.subscriptions.parked("mail")}
        await store._writer.write(EndLeases())
        return standing.cursor, parked

    cursor, parked = in_store(url, look)
    assert set(range(1, cursor + 1)) <= handled | parked
    return cursor, parked


@pytest.mark.parametrize(("order", "step", "url"), CASES, indirect=["url"])
def test_killed_at_a_step_again_and_again(consumer: Consumer, url: str, order: str, step: str) -> None:
    ids = make_log(url, start="beginning")
    handled: dict[int, str] = {}
    deaths = 0
    for number in (1, 2, 3, 2):
        said, code = consumer.live(url, step, number, order=order)
        assert len(said) == len(dict(said))
        assert order == "none" or said == sorted(said)
        assert {position: ids[position] for position, _ in said} == dict(said)
        handled |= dict(said)
        deaths += code == -signal.SIGKILL
        after_a_death(url, {*handled})
    assert deaths >= 1  # `release` comes once in a life that goes on to the end

    said, code = consumer.live(url, "end", order=order)

    handled |= dict(said)
    cursor, parked = after_a_death(url, {*handled})
    assert (code, cursor) == (0, EVENTS)
    assert parked == {position for position in ids if position % 5 == 0}
    assert handled == {position: event_id for position, event_id in ids.items() if position not in parked}


def test_killed_between_from_now_and_the_first_read(consumer: Consumer, url: str) -> None:
    in_store(url, lambda store: store.append([make_event("run_started", run_id="before")]))

    _, code = consumer.live(url, "opened")
    ids = make_log(url)
    said, _ = consumer.live(url, "end")

    assert code == -signal.SIGKILL
    # Positions are one ahead of the sequence numbers by which the consumer names what it has handled.
    assert [position for position, _ in said] == [n for n in range(1, EVENTS + 1) if n % 5]
    assert ids.keys() == {*range(2, EVENTS + 2)}


COMPETE = """
import asyncio, os, signal, sys
from trackside.app.storage import Store, feeding
from trackside.app.storage.feeding import FeedPolicy, SubscriptionFeed

feeding.LOOK_EVERY = 0.05
signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # so that nothing is left of who is killed

async def main(url):
    async def handle(event):
        os.write(1, f"{event.sequence}\\n".encode())

    async with Store.open(url) as store:
        # Here no lease ends by itself, but by `EndLeases`: see test_storage_subscriptions_leases.py.
        policy = FeedPolicy(lease_seconds=600, batch=5)
        async with SubscriptionFeed(store.subscriptions, "mail", handle, policy=policy, consumer=str(os.getpid())):
            await asyncio.Event().wait()

url, *places = sys.argv[1:]
for place in places:
    if not os.fork():
        os.dup2(os.open(place, os.O_WRONLY | os.O_CREAT), 1)
        asyncio.run(main(url))
signal.pause()
"""
LOOKS_EVERY = 0.05  # seconds


def test_of_three_processes_one_consumes_and_when_it_dies_another_does(url: str, tmp_path: Path) -> None:
    said = [tmp_path / f"said-{number}" for number in range(3)]

    async def compete(store: Store) -> list[int]:
        subs = store.subscriptions
        killed: list[int] = []
        for n in range(1, 31):
            await store.append([make_event("human_message" if n > 1 else "run_started", sequence=n)])
            if n not in {10, 20}:
                continue
            while (standing := await subs.get("mail")).behind or standing.consumer is None:
                await asyncio.sleep(LOOKS_EVERY)
            killed.append(int(standing.consumer))
            os.kill(killed[-1], signal.SIGKILL)
            while is_there(killed[-1]):
                await asyncio.sleep(LOOKS_EVERY)
            await store._writer.write(EndLeases())
        while (await subs.get("mail")).behind:
            await asyncio.sleep(LOOKS_EVERY)
        return killed

    in_store(url, lambda store: store.subscriptions.open("mail"))
    competitors = subprocess.Popen([sys.executable, "-c", COMPETE, url, *said], start_new_session=True)
    try:
        killed = in_store(url, compete)
    finally:
        os.killpg(competitors.pid, signal.SIGKILL)
        competitors.wait()

    shares = sorted(([int(line) for line in path.read_text().split()] for path in said), key=lambda share: share[-1])
    assert len(set(killed)) == 2
    assert shares == [[*range(1, 11)], [*range(11, 21)], [*range(21, 31)]]
