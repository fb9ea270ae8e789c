"""Which answer belongs to which question, as far as a run that answers cannot show it."""

from trackside.harness.ports import PausedRun
from trackside.harness.questions import answers_of


def test_answers_come_in_the_order_of_their_questions_whoever_gave_them_in_which() -> None:
    paused = PausedRun(input="?", interrupts=[{"id": question, "value": "?"} for question in ("c", "a", "b")])

    answers = answers_of(paused, {"b": 2, "a": 1, "c": 3}, thread_id="t")

    assert [*answers.items()] == [("c", 3), ("a", 1), ("b", 2)]


def test_an_answer_by_the_id_of_its_question_is_that_also_where_a_framework_makes_the_ids() -> None:
    paused = PausedRun(input="?", interrupts=[{"id": "call_1", "value": "?"}])

    assert answers_of(paused, {"call_1": "yes"}, thread_id="t") == {"call_1": "yes"}
    assert answers_of(paused, {"mood": "good"}, thread_id="t") == {"call_1": {"mood": "good"}}
