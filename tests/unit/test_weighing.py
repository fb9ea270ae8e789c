"""Events are weighed once, however many ask, and one's weight is never taken for another's."""

import gc
import weakref
from collections.abc import Iterator
from typing import Any

from trackside.harness.observing.weighing import size_of, weight_of
from trackside.testing import make_event


class Counting(dict[str, Any]):
    """A payload that counts how often somebody looks at it."""

    looks = 0

    def values(self) -> Any:
        self.looks += 1
        return super().values()


def test_event_is_looked_at_once_whoever_asks_for_its_weight() -> None:
    payload = Counting(content="x" * 1_000)
    event = make_event(payload=payload)
    weights = {weight_of(event) for _ in range(4)}
    assert weights == {size_of({"content": "x" * 1_000})}
    assert payload.looks == 1


def test_event_in_the_place_of_one_that_is_gone_has_its_own_weight() -> None:
    places: set[int] = set()

    def weights() -> Iterator[tuple[int, int]]:
        for count in range(1_000):
            event = make_event(payload={"content": "x" * count})
            places.add(id(event))
            yield weight_of(event), size_of(event.payload)

    assert all(weight == size for weight, size in weights())
    assert len(places) < 1_000, "some had the place of another, or this tests nothing"


def test_no_event_is_kept_alive_by_its_weight() -> None:
    event = make_event()
    weight_of(event)
    gone = weakref.ref(event)
    del event
    gc.collect()
    assert gone() is None
