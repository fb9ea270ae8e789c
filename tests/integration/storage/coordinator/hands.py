"""Workers led by hand: what they let in and start, where their runs stand, and how they are taken for dead."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from tests.property.queue_hands import AGENT, Hand, Held
from tests.property.queue_model import Run

from trackside.harness.ids import new_id
from trackside.harness.types import (
    MultitaskStrategy,
    RunRecord,
    RunSpec,
    RunStatus,
)

LATER = datetime(2100, 1, 1, tzinfo=UTC)


def run_of(thread_id: str, multitask: str = "enqueue", *, due_at: datetime | None = None) -> RunRecord:
    return RunRecord(
        run_id=new_id(),
        thread_id=thread_id,
        agent=AGENT,
        status=RunStatus.pending,
        created_at=datetime.now(UTC),
        multitask=MultitaskStrategy(multitask),
        due_at=due_at,
    )


async def admit(hand: Hand, thread_id: str = "t", multitask: str = "enqueue", *, due_at: datetime | None = None) -> str:
    record = run_of(thread_id, multitask, due_at=due_at)
    await hand.coordinator.admit(record, spec=RunSpec(AGENT, {}))
    return record.run_id


async def start(hand: Hand, run_id: str, thread_id: str = "t") -> None:
    """Claim a run and announce its start, both as this worker."""
    claim = await hand.coordinator.claim(run_id)
    assert claim is not None
    held = Held(Run(run_id, thread_id, hand.name, can_move=True), claim=claim)
    hand.store._workers.clear()
    hand.store._workers.add(hand.name)
    await hand.store.append(held.opening())


def take_for_dead(database: Any, hand: Hand) -> None:
    """End its lease, as after a while in which no sign of life came through."""
    hand.coordinator._enrolment._known_until = 0.0
    database.execute(f"UPDATE workers SET lease_until = 0 WHERE worker_id = '{hand.name}'")


def standing(database: Any, run_id: str) -> Any:
    """Where an active run stands, and who owns it."""
    return database.execute(f"SELECT state, owner FROM active_runs WHERE run_id = '{run_id}'").fetchone()
