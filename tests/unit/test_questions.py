"""Which answer belongs to which question, as far as a run that answers cannot show it."""

from trackside.harness.ports import PausedRun
from trackside.harness.questions import answers_of


def test_answers_come_in_the_order_of_their_questions_whoever_gave_them_in_which() -> None:
    paused = PausedRun(input="?", interrupts=[{"id": question, "value": "?"} for question in ("c", "a", "b")])

    answers = answers_of(paused, {"b": 2, "a": 1, "c": 3}, thread_id="t")

    assert [*answers.items()] == [("c", 3), ("a", 1), ("b", 2)]
