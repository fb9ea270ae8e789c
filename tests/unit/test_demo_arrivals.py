"""How the demo of observers judges what arrived: it is not complete if something is missing, or if there is more."""

from demo.observers.record import Arrival


def test_all_that_was_wanted_is_complete() -> None:
    arrival = Arrival.of("crm", "events", ["a", "b"], ["b", "a"])
    assert arrival.complete
    assert arrival.counted == "2 of 2"


def test_what_is_missing_is_not_made_up_for_by_something_else() -> None:
    arrival = Arrival.of("crm", "events", ["a", "b"], ["a", "c"])
    assert not arrival.complete
    assert arrival.counted == "1 of 2 and 1 more"


def test_what_came_twice_is_said() -> None:
    arrival = Arrival.of("crm", "events", ["a"], ["a", "a"])
    assert not arrival.complete
    assert arrival.counted == "1 of 1 and 1 more"
