"""The policies of a feed: what fits together, and what receivers say for themselves."""

import pytest

from trackside.app.delivery import Order
from trackside.app.storage.errors import InvalidSubscriptionError
from trackside.app.storage.feeding import FeedPolicy
from trackside.harness.observer import RunLifecycleEvent


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"concurrency": 2}, "concurrency=2: in the order of the log there is one call at a time"),
        ({"order": "none", "concurrency": 5_000}, "concurrency=5000: it is at most 1000"),
        ({"order": "none", "concurrency": 0}, "concurrency=0"),
        ({"order": "random"}, "order='random': it is one of log, run, none"),
        ({"window": 0}, "window=0"),
    ],
)
def test_a_policy_that_does_not_fit(options: dict[str, object], said: str) -> None:
    with pytest.raises(InvalidSubscriptionError, match=said):
        FeedPolicy(**options)  # type: ignore[arg-type]


def test_a_policy_takes_what_settings_say() -> None:
    assert FeedPolicy(order="none", concurrency=3).order is Order.none  # type: ignore[arg-type]


class Patient:
    order = Order.none
    concurrency = 8
    attempts = 12
    longest_pause = 20.0
    call_limit = 300.0

    async def on_event(self, event: RunLifecycleEvent) -> None: ...


class Counting:
    """Has something else under one of the policy's names."""

    def __init__(self) -> None:
        self.attempts: list[str] = []

    @property
    def longest_pause(self) -> str:
        return "a while"

    async def on_event(self, event: RunLifecycleEvent) -> None: ...


def test_a_policy_suits_what_a_class_says_unless_somebody_says_otherwise() -> None:
    patient = FeedPolicy(order=Order.none, concurrency=8, attempts=12, longest_pause=20.0, call_limit=300.0)
    assert FeedPolicy.suiting(Patient()) == patient
    assert FeedPolicy.suiting(Patient(), attempts=3, order=Order.log, call_limit=1.0) == FeedPolicy(
        attempts=3, longest_pause=20.0, call_limit=1.0
    )
    assert FeedPolicy.suiting(Counting()) == FeedPolicy()
