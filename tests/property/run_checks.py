"""What has to hold in a world of runs: after every step, and when nothing is going on any more."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.property.run_agents import Working
from tests.property.run_watchers import id_of

from trackside.harness.observing.buffered import BufferedObserver
from trackside.testing import assert_run_order
from trackside.testing.loop import EPOCH

if TYPE_CHECKING:
    from tests.property.run_schedules import World

WAIT = 0.25
"""Seconds that a slow port takes before it acts, and before it answers."""

STUCK_AFTER = 4.0
TELLING = 120.0
"""Seconds that a closing manager waits for required observers that are being told of ends (I14)."""


def check_step(world: World) -> None:
    """What has to hold after every step."""
    for _, observer in world.manager.observers._wrapped.values():
        if isinstance(observer, BufferedObserver):
            stats = observer.stats()
            accounted = stats.delivered + stats.failed + sum(stats.dropped.values()) + stats.pending
            world.check(stats.accepted == accounted, f"I22: {observer.name}: {stats}")
    at_work = [working for working in world.working.values() if working.managed]
    in_places = [working for working in at_work if not working.run.depth]
    taken = world.manager._runs._places.taken
    world.check(len(in_places) <= taken <= world.max_running, f"{len(in_places)} agents work in {taken} places")
    for working in at_work:
        if working.run.run_id not in world.others.ended:
            _check_held(world, working)
            _check_stuck(world, working)
    closed_by = world.closed_by + (TELLING if any(observer.has_hung for observer in world.moody[:2]) else 0)
    if world.loop.time() > closed_by:
        slow = [task for task in world.callers if task.get_name() == "closes" and not task.done()]
        world.check(not slow, f"the manager is not closed at {world.loop.time()}, but should be at {closed_by}")
    assert not world.wrong, "\n".join(world.wrong)


def _check_held(world: World, working: Working) -> None:
    """A run has its thread as long as its agent works, stuck or not."""
    head = world.others.coordinator._threads[working.run.thread_id].head
    world.check(
        head and head.record.run_id == working.run.run_id, f"{working.run.run_id} works, and {head} has its thread"
    )


def _check_stuck(world: World, working: Working) -> None:
    """A run is reported as stuck once its agent has gone on for `STUCK_AFTER` seconds after a cancel, not before."""
    known = world.others.coordinator._runs[working.run.run_id]
    due = working.cancels[0] + STUCK_AFTER if working.cancels else None
    if known.stuck_since is not None:
        since = (known.stuck_since - EPOCH).total_seconds()
        world.check(due is not None and abs(since - due) < 0.001, f"reported as stuck at {since}, and it is at {due}")
    elif due is not None:
        late = world.loop.time() > due + 2 * WAIT * world.slow + 0.001
        world.check(not late, f"not reported as stuck at {world.loop.time()}, although it is since {due}")


def check_quiet(world: World) -> None:
    """What has to hold when nothing is going on any more."""
    inner = world.others.coordinator
    leaves = world.closed and inner.durable  # leaves to others what has not begun
    left = inner._threads if leaves else {}
    for witness in (world.witness, world.embedded_witness):
        assert_run_order(witness.taken)
        for thread_id, thread in witness.threads.items():
            if thread_id in left:
                continue
            world.check(thread.status != "busy", f"thread {thread_id} stays busy")
            world.check(thread.active is None, f"thread {thread_id} is held by {thread.active}")
        for run_id, result in world.results.items():
            if run_id in witness.runs:
                witness.check_result(run_id, result)
    taken = [set(map(id_of, observer.taken)) for observer in world.required]
    late = [e for e in world.last.taken if not all(e.event_id in ids for ids in taken)]
    world.check(not late, f"I11: after the stores, but not in them: {late}")
    world.store.check_all_kept(world.witness.taken)
    world.check(inner._threads == left, "the coordinator still holds threads")
    begun = [run_id for run_id in inner._runs if run_id in world.witness.runs or not leaves]
    world.check(not begun, f"the coordinator still holds {begun}")
    places = world.manager._runs._places
    world.check(places.taken == places.waiting == 0, "places are still taken")
    world.check(not world.manager._runs._tasks, f"tasks: {world.manager._runs._tasks}")
    assert not world.wrong, "\n".join(world.wrong)
