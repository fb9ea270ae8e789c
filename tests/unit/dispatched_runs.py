"""A run's events as a worker dispatches them to a set of observers, how long they are tried, and what one missed."""

from trackside.harness import DispatchPolicy, RunLifecycleEvent
from trackside.harness.dispatch import ObserverSet
from trackside.testing import make_run

POLICY = DispatchPolicy(call_limit=10.0, retry_for=2.0, first_pause=0.1, longest_pause=0.5)
NO_RETRIES = DispatchPolicy(call_limit=10.0, retry_for=0.0)


async def deliver_run(observers: ObserverSet, run_id: str = "run-1") -> list[RunLifecycleEvent]:
    """Deliver a run's events in two dispatches, as a worker makes them, and return them."""
    events = make_run(run_id)
    for batch in (events[:3], events[3:]):
        await observers.deliver(batch)
    return events


async def missed(observers: ObserverSet, run_id: str = "run-1") -> list[RunLifecycleEvent]:
    """What the only observer that did not take everything never took, and did not keep either."""
    (missed,) = await observers.finish(run_id)
    assert (missed.kept_in, missed.not_kept) == (None, None)
    return list(missed.events)
