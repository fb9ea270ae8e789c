"""Whatever the processes of a fleet do at the same time, at most one worker has each run, and none is left over.

The checks read the database without any of our code: who holds a thread, what the log says of each run. In the end
everybody does what has to be done, and then nothing may be active any more.
"""

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from dialects import BOTH
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from raw_postgres import RawConnection
from tests.property.fleet_hands import FleetHand, together
from tests.property.queue_steps import WORKERS, Databases

from trackside.app.storage._checks import contents
from trackside.harness.types import RunStatus

pytestmark = pytest.mark.timeout(280)  # thousands of commits take long on a busy machine

ENDS = [RunStatus.success, RunStatus.error, RunStatus.interrupted]
STRATEGIES = ["enqueue", "enqueue", "enqueue", "reject", "interrupt", "rollback"]
EXAMPLES = {"sqlite": 60, "postgres": 25}
ROUNDS = 60
"""The number of rounds in which everything left has to end."""

hands = st.integers(0, WORKERS - 1)
admissions = st.tuples(
    st.just("admit"), hands, st.sampled_from(["t0", "t0", "t1"]), st.sampled_from(STRATEGIES), st.integers(0, 7)
)
takings = st.tuples(st.sampled_from(["take", "take any"]), hands, st.integers(0, 5))
steps = st.tuples(st.just("go on"), hands, st.sampled_from(ENDS))
others = st.tuples(
    st.sampled_from(["cancel", "look", "reap", "promote", "due", "die", "lose reply"]), hands, st.integers(0, 9)
)
plays = st.lists(
    st.lists(st.one_of(admissions, takings, steps, steps, takings, others), min_size=1, max_size=4), max_size=25
)

HOLDERS = "SELECT count(*) FROM active_runs WHERE holds GROUP BY thread_id HAVING count(*) > 1"
GAPS = "SELECT run_id FROM events GROUP BY run_id HAVING max(sequence) <> count(*) OR min(sequence) <> 1"
ENDED_TWICE = """
    SELECT run_id FROM events WHERE event_type IN ('run_completed', 'run_failed', 'run_cancelled')
    GROUP BY run_id HAVING count(*) > 1"""
UNHELD = """
    SELECT thread_id FROM active_runs a WHERE state = 'pending' AND NOT EXISTS (
        SELECT 1 FROM active_runs b WHERE b.thread_id = a.thread_id AND b.holds)"""
READY = "SELECT run_id FROM active_runs WHERE owner IS NULL AND state = 'pending' AND holds"


class FleetPlay:
    """Hands on one database."""

    def __init__(self, databases: Databases) -> None:
        self.databases = databases
        self.look = databases.look
        databases.empty()
        self.hands = [FleetHand(store) for store in databases.stores]
        self.dead: list[FleetHand] = []
        self.admitted: list[str] = []

    def close(self) -> None:
        for hand in self.hands:
            hand.die()

    def ids(self, query: str) -> list[str]:
        return [row[0] for row in self.look.execute(query).fetchall()]

    def play(self, moves: list[Any]) -> None:
        """Let hands do all of this at the same time."""
        self.databases.run(together(*(self.step(*move) for move in moves)))
        for query in (HOLDERS, GAPS, ENDED_TWICE, UNHELD):
            assert self.ids(query) == []
        had = [run_id for hand in self.hands for run_id in hand.has]
        assert len(had) == len({*had})  # no two living hands ever have the same run
        if not any(hand.lost_replies for hand in [*self.hands, *self.dead]):
            announced = set().union(*(hand.announced for hand in [*self.hands, *self.dead]))
            assert {*self.ids(READY)} <= announced

    async def step(self, what: str, number: int, *how: Any) -> None:
        hand = self.hands[number]
        match what:
            case "admit":
                thread_id, multitask, odd = how
                run_id = await hand.admit(thread_id, multitask, delayed=odd == 0, attempts=3 if odd > 4 else 1)
                self.admitted.append(run_id)
            case "take" if self.admitted:
                await hand.coordinator.take([*dict.fromkeys(self.admitted[-1 - how[0] :])])
            case "take any":
                await hand.coordinator.take_any(how[0])
            case "go on":
                await hand.go_on(how[0])
            case "cancel" if self.admitted:
                await hand.cancel(self.admitted[how[0] % len(self.admitted)])
            case "look":
                await hand.look()
            case "reap":
                await hand.store.fleet.reap(hand.coordinator.worker_id)
            case "promote":
                await hand.store.fleet.promote_due()
            case "due":
                self.make_due()
            case "lose reply":
                hand.lose_reply()
            case "die" if how[0] < 3:
                self.replace(number)

    def make_due(self) -> None:
        self.look.execute("UPDATE active_runs SET due_at = '2026-01-01T00:00:00.000000Z' WHERE state = 'delayed'")

    def replace(self, number: int) -> None:
        """A process goes without a word and is found out; another one comes."""
        hand = self.hands[number]
        hand.die()
        self.dead.append(hand)
        self.end_lease(hand)
        self.hands[number] = FleetHand(hand.store)

    def end_lease(self, hand: FleetHand) -> None:
        self.look.execute(f"UPDATE workers SET lease_until = 0 WHERE worker_id = '{hand.coordinator.worker_id}'")

    def finish(self) -> None:
        """Everybody does what has to be done."""
        for hand in self.hands:
            hand.session.loses_in = 0
        for hand in self.dead:  # their last words may have come after they had gone
            self.end_lease(hand)
        for _ in range(ROUNDS):
            if not self.ids("SELECT run_id FROM active_runs"):
                break
            self.make_due()
            for number in range(WORKERS):
                for what in (("promote",), ("reap",), ("look",), ("take any", 5), *[("go on", RunStatus.success)] * 6):
                    self.databases.run(together(self.step(what[0], number, *what[1:])))
        assert self.ids("SELECT run_id FROM active_runs") == []
        assert self.ids("SELECT thread_id FROM threads WHERE status = 'busy'") == []
        assert self.ids("SELECT run_id FROM runs WHERE ended_at IS NULL") == []
        found = self.databases.run(self.databases.stores[0]._readers.run(lambda c: [*contents(c, None)]))
        assert found == []


@pytest.fixture(params=BOTH)
def databases(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Databases]:
    if request.param == "sqlite":
        path = tmp_path / "runs.db"
        opened: Any = Databases(f"sqlite:///{path}", look := sqlite3.connect(path, isolation_level=None, timeout=60))
    else:
        url = request.getfixturevalue("postgres_url")
        opened = Databases(url, look := RawConnection(url))
    with closing(look), closing(opened):
        yield opened


def test_no_run_has_two_owners_and_none_is_left_over(databases: Databases, request: pytest.FixtureRequest) -> None:
    kind = request.node.callspec.params["databases"]

    @settings(
        max_examples=EXAMPLES[kind],
        deadline=None,
        derandomize=settings().max_examples <= 1_000,  # a long run takes others each time
        database=None,
        suppress_health_check=[*HealthCheck],
    )
    @given(plays)
    def check(moves: list[list[Any]]) -> None:
        play = FleetPlay(databases)
        try:
            for each in moves:
                play.play(each)
            play.finish()
        finally:
            play.close()

    check()
