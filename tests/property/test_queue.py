"""I5–I7, I30: whatever workers do to runs, threads and each other, the queue's state is what a few lines of Python say.

The model (`queue_model`) knows who holds a thread and who waits, but nothing of rows, locks or caches. The schedules
include steps that meet in one transaction, commits whose reply is lost, workers that are taken for dead and come back,
and runs that change hands. In the end everybody does what he was told, and nothing may be left over.
"""

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test
from raw_postgres import RawConnection
from tests.property.queue_hands import AGENT, Held, Step
from tests.property.queue_model import Run
from tests.property.queue_steps import WORKERS, Databases, Play

from trackside.app.storage._checks import contents
from trackside.harness.types import RunStatus

pytestmark = pytest.mark.timeout(280)  # thousands of commits take long on a busy machine

SUBSCRIPTION = "mail"
ENDS = [RunStatus.success, RunStatus.success, RunStatus.error, RunStatus.interrupted, RunStatus.cancelled]
STRATEGIES = ["enqueue", "enqueue", "enqueue", "reject", "interrupt", "rollback"]
MOVES = ["claim", "claim", "open", "open", "close", "close", "withdraw", "release", "promote", "note stuck"]
LIVENESS_ROUNDS = 25

workers = st.integers(0, WORKERS - 1)
threads = st.sampled_from(["t0", "t0", "t1"])
rarely = st.integers(0, 5).map(lambda n: n == 0)
how_often = st.sampled_from([3, 2, 1])
losses = st.sampled_from([0, 0, 0, 0, 1, 2])
"""Which transaction loses its reply; 0: none."""


class Queueing(Play, RuleBasedStateMachine):
    @initialize()
    def open(self) -> None:
        self.set_up()
        self.cursor = 0
        subscriptions = self.databases.stores[0].subscriptions
        self.run(subscriptions.open(SUBSCRIPTION, start="beginning"))
        self.consumer = self.run(subscriptions.acquire(SUBSCRIPTION))

    def draw_one_who_has(self, data: Any, *phases: str) -> tuple[int, Held] | None:
        """A hand with a run in one of these phases, or in any, and that run. If no hand has one, one is let in."""
        found = [
            (number, run_id)
            for number, hand in enumerate(self.hands)
            for run_id in sorted(hand.held)
            if not phases or hand.held[run_id].phase in phases
        ]
        if not found:
            number, thread_id, attempts = data.draw(workers), data.draw(threads), data.draw(how_often)
            hand = self.hands[number]
            self.take(hand, self.admit(hand, thread_id, "enqueue", delayed=False, can_move=True, attempts=attempts))
            self.begin_all(number)
            return None
        number, run_id = data.draw(st.sampled_from(found))
        return number, self.hands[number].held[run_id]

    @rule(
        number=workers,
        thread_id=threads,
        multitask=st.sampled_from(STRATEGIES),
        delayed=rarely,
        can_move=st.integers(0, 3).map(bool),
        attempts=how_often,
        key=st.sampled_from([None, None, None, "k"]),
        body=st.sampled_from(["b", "b", "c"]),
        lost=rarely,
        begins=st.booleans(),
    )
    def admit_one(
        self,
        number: int,
        thread_id: str,
        multitask: str,
        delayed: bool,
        lost: bool,
        begins: bool,
        **asked: Any,
    ) -> None:
        hand = self.hands[number]
        self.take(hand, self.admit(hand, thread_id, multitask, delayed=delayed, **asked), lose_reply=lost)
        if begins:
            self.begin_all(number)

    @rule(data=st.data(), moves=st.lists(st.sampled_from(MOVES), min_size=1, max_size=3), lost=rarely)
    def move(self, data: Any, moves: list[str], lost: bool) -> None:
        """Hands do something with runs of their own, perhaps several things in turn."""
        for move in moves:
            if (drawn := self.draw_one_who_has(data)) is None:
                return
            number, held = drawn
            status, shut_down = data.draw(st.sampled_from(ENDS)), data.draw(rarely)
            step = self.step_with(self.hands[number], held, move, status, lost=lost, shut_down=shut_down)
            if step is not None:
                self.take(self.hands[number], step, lose_reply=lost)

    @rule(data=st.data())
    def begin(self, data: Any) -> None:
        """The code of a run begins, if the run can be claimed."""
        if (drawn := self.draw_one_who_has(data, "waiting", "claimed")) is not None:
            number, held = drawn
            self.go_on(self.hands[number], held, ["promote", "claim", "open"])

    @rule(data=st.data(), lost=rarely, by=st.none() | workers, lost_then=losses)
    def shut_down(self, data: Any, lost: bool, by: int | None, lost_then: int) -> None:
        """A process ends its runs and then itself; meanwhile somebody may ask for one of them to stop."""
        if (drawn := self.draw_one_who_has(data, "running")) is None:
            return
        number, _ = drawn
        hand = self.hands[number]
        for held in [*hand.held.values()]:
            for _ in range(2):
                if hand.held.get(held.run.run_id) is not held or held.phase != "running":
                    continue
                step = self.step_with(hand, held, "close", RunStatus.cancelled, lost=lost, shut_down=True)
                assert step is not None
                self.take(hand, step, lose_reply=lost)
                if held.phase == "running" and data.draw(rarely):
                    other = self.hands[data.draw(workers)]
                    self.take(other, self.cancel(other, held.run, "interrupt"))
        self.replace(number, leaves=True)
        if by is not None:
            self.take_over(by, lost_then)

    @rule(data=st.data(), by=workers, lost=losses)
    def die(self, data: Any, by: int, lost: int) -> None:
        """A process with runs in progress ends without a word, and somebody finds out."""
        if (drawn := self.draw_one_who_has(data, "claimed", "running")) is not None:
            self.replace(drawn[0], leaves=False)
            self.take_over(by, lost)

    def take_over(self, number: int, lost: int) -> None:
        """A hand sees to what others have left, and goes on with it."""
        self.clear_up_one(number, lost)
        self.begin_all(number)

    @rule(data=st.data(), number=workers, lost=rarely)
    def meet(self, data: Any, number: int, lost: bool) -> None:
        """Several steps of one process meet in one transaction."""
        hand = self.hands[number]
        steps: list[Step] = []
        touched: set[str] = set()
        for kind in data.draw(st.lists(st.sampled_from(["admit", "cancel", *MOVES]), min_size=2, max_size=5)):
            if kind == "admit":
                multitask, delayed = data.draw(st.sampled_from(STRATEGIES)), data.draw(rarely)
                thread_id, attempts = data.draw(threads), data.draw(how_often)
                step = self.admit(hand, thread_id, multitask, delayed=delayed, can_move=True, attempts=attempts)
                steps.append(step)
            elif kind == "cancel" and self.model.runs:
                run = self.model.runs[data.draw(st.sampled_from(sorted(self.model.runs)))]
                steps.append(self.cancel(hand, run, "interrupt"))
            elif hand.held and kind not in {"claim", "promote"}:
                held = hand.held[data.draw(st.sampled_from(sorted(hand.held)))]
                if held.run.run_id in touched:
                    continue
                touched.add(held.run.run_id)
                now = self.step_with(hand, held, kind, RunStatus.success, lost=lost, shut_down=data.draw(rarely))
                if now is not None:
                    steps.append(now)
        self.take(hand, *steps, lose_reply=lost)

    @rule(data=st.data(), number=workers, action=st.sampled_from(["interrupt", "rollback"]), lost=rarely)
    def cancel_one(self, data: Any, number: int, action: str, lost: bool) -> None:
        active = sorted(run.run_id for run in self.model.active)
        if runs := [*active, *active, *sorted(self.model.runs)]:  # ended runs are many
            run = self.model.runs[data.draw(st.sampled_from(runs))]
            self.take(self.hands[number], self.cancel(self.hands[number], run, action), lose_reply=lost)

    @rule(data=st.data(), number=workers)
    def claim_of_another(self, data: Any, number: int) -> None:
        hand = self.hands[number]
        others = sorted(self.model.runs.keys() - hand.held.keys())
        if others:
            run = self.model.runs[data.draw(st.sampled_from(others))]
            if run.waits or run.state == "gone":
                self.take(hand, self.claim(hand, run))

    def end_lease(self, number: int) -> None:
        name = self.hands[number].name
        self.look.execute(f"UPDATE workers SET lease_until = 0 WHERE worker_id = '{name}'")
        if name in self.model.workers:
            self.model.workers[name] = False

    def renew(self, number: int) -> None:
        coordinator = self.hands[number].coordinator
        self.run(coordinator._enrolment.enroll())
        self.enroll(self.hands[number])
        self.run(coordinator._writer.write(coordinator._enrolment._registration()))
        self.model.workers[coordinator.worker_id] = True

    @rule(number=workers, lost=losses)
    def clear_up_one(self, number: int, lost: int) -> None:
        hand = self.hands[number]
        self.run(hand.coordinator._enrolment.enroll())
        self.enroll(hand)
        self.take(hand, self.clear_up(hand), lose_reply=lost)

    def reap(self, number: int) -> None:
        """A hand that takes nothing over, or dies before that, finds out who is gone; and some of those are back."""
        hand = self.hands[number]
        hand.agents = ()
        self.clear_up_one(number, lost=0)
        hand.agents = (AGENT,)

    def look_around(self, number: int) -> None:
        self.run(self.hands[number].coordinator._upkeep.look())
        self.hear(self.hands[number])

    @rule(number=workers, what=st.sampled_from(["end_lease", "renew", "reap", "look_around", "look_around", "prune"]))
    def see_to(self, number: int, what: str) -> None:
        """What happens on its own or from time to time."""
        getattr(self, what)(number)

    @rule(number=workers, leaves=st.booleans())
    def replace(self, number: int, leaves: bool) -> None:
        """A process ends, properly or not, and another one takes its place."""
        hand = self.hands[number]
        if leaves:
            self.run(hand.leave())
            if hand.is_enrolled:
                self.model.leave(hand.name)
        else:
            self.end_lease(number)
            hand.die()
        self.hands[number] = self.hire(hand.store, hand.session)

    def prune(self, number: int) -> None:
        last = self.look.execute("SELECT run_id, max(position) FROM events GROUP BY run_id").fetchall()
        self.run(self.hands[number].store.prune(older_than=None))
        self.model.prune({run_id for run_id, position in last if position <= self.cursor})

    @rule(limit=st.integers(1, 20))
    def consume(self, limit: int) -> None:
        batch = self.run(self.consumer.read(limit))
        positions = [stored.position for stored in batch.events]
        there = self.look.execute(f"SELECT position FROM events WHERE position > {self.cursor} ORDER BY position")
        assert positions == [position for (position,) in there.fetchall()][:limit]
        if positions:
            self.run(self.consumer.acknowledge(positions[-1]))
            self.cursor = positions[-1]

    @invariant()
    def it_stands_as_the_model_says(self) -> None:
        if not hasattr(self, "model"):
            return
        model, self.is_sound = self.model, False
        columns = "run_id, thread_id, state, holds, owner, cancel_requested, stuck_since"
        rows = self.look.execute(f"SELECT {columns} FROM active_runs ORDER BY ordinal").fetchall()
        stored = {
            run_id: (state, bool(holds), owner, cancel, stuck_since is not None)
            for run_id, _, state, holds, owner, cancel, stuck_since in rows
        }
        expected = {
            run.run_id: (run.state, model.holds(run), run.owner, run.cancel, run.is_stuck) for run in model.active
        }
        assert stored == expected, (stored, expected)
        for thread_id, thread in model.threads.items():
            line = [row[0] for row in rows if row[1] == thread_id and row[2] == "pending" and not row[3]]
            assert line == [run.run_id for run in thread.line]
            assert thread.holder is not None or not line
            assert thread.holder is not None or thread.status != "busy"
        found = self.look.execute("SELECT run_id, status, last_sequence, attempt, retry_of FROM runs").fetchall()
        known = {r.run_id: (r.status, r.sequence, r.attempt, r.retry_of) for r in model.runs.values()}
        assert {row[0]: (*row[1:],) for row in found} == known
        found = self.look.execute("SELECT thread_id, status FROM threads").fetchall()
        assert dict(found) == {thread_id: thread.status for thread_id, thread in model.threads.items()}
        ((count, last),) = self.look.execute("SELECT count(*), max(position) FROM events").fetchall()
        assert count == model.events - model.pruned
        assert last is None or last <= model.events
        self.is_sound = True

    def teardown(self) -> None:
        if not hasattr(self, "model"):
            return
        try:
            if not self.is_sound:  # something has failed already
                return
            self.everybody_does_what_he_was_told()
            self.it_stands_as_the_model_says()
            readers = self.databases.stores[0]._readers
            assert self.run(readers.run(lambda connection: [*contents(connection, None)])) == []
        finally:
            self.run(self.consumer.release())
            for hand in self.hands:
                self.run(hand.leave())

    def is_nobodys(self, run: Run) -> bool:
        """Whether it is an attempt at what was cancelled meanwhile: it ends with its owner, which was about to go."""
        is_known = any(run.run_id in hand.held for hand in self.hands)
        return run.retry_of is not None and run.cancel is not None and not is_known

    def everybody_does_what_he_was_told(self) -> None:
        """After a while nobody holds a thread, and nobody waits: nothing was forgotten (I7)."""
        for _ in range(LIVENESS_ROUNDS):
            if not self.model.active:
                return
            for number, hand in enumerate(self.hands):
                self.renew(number)
                self.clear_up_one(number, lost=0)
                self.look_around(number)
                for held in [*hand.held.values()]:
                    moves = ["withdraw"] if held.cancelled else []
                    moves += ["promote", "claim", "open", "close", "close", "release", "close", "release"]
                    self.go_on(hand, held, moves)
                if any(run.owner == hand.name and self.is_nobodys(run) for run in self.model.active):
                    self.replace(number, leaves=True)
        raise AssertionError(f"these are stuck: {self.model.active}; known are {[hand.held for hand in self.hands]}")


def play(databases: Databases, *, examples: int) -> None:
    """The same examples each time; a long run takes thousands of others, by chance."""
    usual = settings()
    is_long = usual.max_examples > 1_000
    machine = type("Queueing", (Queueing,), {"databases": databases})
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=usual.max_examples if is_long else examples,
            stateful_step_count=30,
            derandomize=not is_long,
            suppress_health_check=[*HealthCheck],
        ),
    )


@pytest.fixture
def sqlite(tmp_path: Path) -> Iterator[Databases]:
    path = tmp_path / "runs.db"
    with closing(sqlite3.connect(path, isolation_level=None, timeout=60)) as look:
        look.execute("PRAGMA synchronous = OFF")
        with closing(Databases(f"sqlite:///{path}", look)) as databases:
            yield databases


@pytest.fixture
def postgres(postgres_url: str) -> Iterator[Databases]:
    with closing(RawConnection(postgres_url)) as look, closing(Databases(postgres_url, look)) as databases:
        yield databases


def test_the_queue_stands_as_the_model_says(sqlite: Databases) -> None:
    play(sqlite, examples=50)


def test_the_queue_stands_as_the_model_says_on_postgres(postgres: Databases) -> None:
    play(postgres, examples=15)
