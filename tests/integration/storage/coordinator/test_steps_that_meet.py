"""Steps of several workers that meet in one transaction: one of the workers ends or withdraws the run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from msgspec.structs import replace
from tests.integration.storage.coordinator.hands import admit, run_of, standing, start, take_for_dead
from tests.property.queue_hands import Hand, Step, take

from trackside.app.storage._coordination.recovery import Reap, Reaped
from trackside.app.storage._coordination.steps import Claim
from trackside.app.storage.errors import StorageError


async def together(hand: Hand, *acts: Callable[[], Any]) -> list[Any]:
    """Do several things that meet in one transaction."""
    return await take(hand, [Step(act, expect=lambda outcome: None) for act in acts], lose_reply=False)


async def test_a_run_that_was_claimed_in_the_same_transaction_is_not_ended_for_its_dead_worker(
    hand: Any, database: Any
) -> None:
    a, b = hand(), hand()
    record = run_of("t")
    await a.coordinator.admit(record)  # nobody else could begin it anew
    await b.coordinator._enrolment.enroll()
    take_for_dead(database, a)

    claim = Claim(run_id=record.run_id, thread_id="t", owner=b.name, fates={})
    _, reaped = await together(b, lambda: b.store._writer.write(claim), lambda: b.store._writer.write(Reap(reaper="c")))

    assert reaped == Reaped([], [])
    assert standing(database, record.run_id) == ("pending", b.name)


async def test_a_run_that_has_to_leave_is_withdrawn_by_one_of_two_who_meet(hand: Any) -> None:
    a, b = hand(), hand()
    running = await admit(b)
    await start(b, running)
    waiting = await admit(a)

    admission, withdrawn = await together(
        a, lambda: a.coordinator.admit(run_of("t", "interrupt")), lambda: a.coordinator.withdraw(waiting)
    )

    assert [(run.run_id, run.status) for run in admission.displaced] == [(running, "running"), (waiting, "pending")]
    assert withdrawn is False


async def test_a_run_that_left_for_another_is_not_to_be_had_because_a_third_could_not_be_let_in(hand: Any) -> None:
    a = hand()
    waiting = await admit(a)
    fit = run_of("t", "interrupt")
    misfit = replace(run_of("t", "interrupt"), trigger="\ud800")

    refused, admission = await together(a, *(lambda run=run: a.coordinator.admit(run) for run in (misfit, fit)))

    assert isinstance(refused, StorageError)
    assert [(run.run_id, run.status) for run in admission.displaced] == [(waiting, "pending")]
    assert a.coordinator._runs.fates == {waiting: "withdrawn"}
    assert await a.coordinator.claim(waiting) is None
