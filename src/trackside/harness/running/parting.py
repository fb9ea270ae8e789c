"""What the end of a run means for its thread: the coordinator is asked, whose failure does not fail the end (I18)."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from trackside.harness.admission import seconds_before
from trackside.harness.ids import new_id
from trackside.harness.lifecycle import thread_status_after
from trackside.harness.observing.bounding import MissedEvents
from trackside.harness.ports import RunCoordinator, Settlement
from trackside.harness.running.ending import End
from trackside.harness.types import CancelMode, JsonObject, RunRecord, RunSpec, ThreadStatus


async def settle_with(
    coordinator: RunCoordinator, record: RunRecord, end: End, says: JsonObject, *, at_rest: ThreadStatus | None
) -> Settlement:
    """Ask the coordinator what the end means.

    Args:
        coordinator: a `steady` one.
        record: the run.
        end: how it ends.
        says: what its last event says.
        at_rest: what the thread's status is when nobody waits, if that does not follow from the end.
    """
    return await coordinator.settle(
        record.run_id,
        end.status,
        at_rest=at_rest,
        error=says.get("error"),
        title=says.get("title"),
        completion_data=says["completion_data"],
        shut_down=says.get("cancel_mode") == CancelMode.shutdown.value,
    )


def unsettled(record: RunRecord, spec: RunSpec, end: End, *, at_rest: ThreadStatus | None, claimed: bool) -> Settlement:
    """What the end of a run, `claimed` or not, means where the coordinator cannot say: as if nobody else waits.

    A run that is shut down goes on as another if it has attempts left; whoever lets that one in checks whether it may.
    """
    goes_on = end.says.get("cancel_mode") == CancelMode.shutdown and record.attempt < (spec.max_attempts or 1)
    before = after = ThreadStatus.busy if claimed else ThreadStatus.idle
    if claimed and not (goes_on and seconds_before(record.attempt + 1) == 0):  # else that one has the thread at once
        after = at_rest or thread_status_after(end.status, another_waits=False)
    return Settlement(previous=before, status=after, retried_as=new_id() if goes_on else None)


def is_kept_nowhere(missed: Sequence[MissedEvents]) -> bool:
    """Whether required observers never took how a run ended, and none of them keeps it for later either."""
    untold = [miss for miss in missed if miss.has_end]
    return bool(untold) and all(miss.kept_in is None for miss in untold)


def say_lost(coordinator: RunCoordinator, run_id: str) -> None:
    """Tell the coordinator of a run whose end is kept nowhere: else it would be taken for one that goes on."""
    lose: Callable[[str], None] | None = getattr(coordinator, "lose", None)
    if lose is not None:
        lose(run_id)


def say_taken_over(coordinator: RunCoordinator, run_id: str) -> None:
    """Tell the coordinator of a run that it gave us to execute, and that the log says is another process's."""
    give_up: Callable[[str], None] | None = getattr(coordinator, "give_up", None)
    if give_up is not None:
        give_up(run_id)
