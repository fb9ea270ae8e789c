"""Which answer belongs to which question, as far as an answering run cannot show it."""

import pytest

from trackside.app.dashboard.questions import answers_read, closed_by, only_answer, questions_of
from trackside.app.streams.live_messages import answers_in, names_questions
from trackside.harness.errors import UnansweredError, UnknownQuestionError
from trackside.harness.ids import new_id
from trackside.harness.ports import PausedRun
from trackside.harness.questions import NO_QUESTION, answers_of, answers_said, by_their_ids


def test_answers_come_in_the_order_of_their_questions_whoever_gave_them_in_which() -> None:
    paused = PausedRun(input="?", interrupts=[{"id": question, "value": "?"} for question in ("c", "a", "b")])

    answers = answers_of(paused, {"b": 2, "a": 1, "c": 3}, thread_id="t")

    assert [*answers.items()] == [("c", 3), ("a", 1), ("b", 2)]


def test_an_answer_by_the_id_of_its_question_is_that_also_where_a_framework_makes_the_ids() -> None:
    paused = PausedRun(input="?", interrupts=[{"id": "call_1", "value": "?"}])

    assert answers_of(paused, {"call_1": "yes"}, thread_id="t") == {"call_1": "yes"}
    assert answers_of(paused, {"mood": "good"}, thread_id="t") == {"call_1": {"mood": "good"}}


def test_an_answer_that_waited_is_by_the_id_of_its_question_whatever_that_looks_like() -> None:
    paused = PausedRun(input="?", interrupts=[{"id": "call_2", "value": "?"}])

    assert answers_of(paused, {"call_2": "yes", NO_QUESTION: None}, thread_id="t") == {"call_2": "yes"}
    with pytest.raises(UnknownQuestionError, match="call_1"):
        answers_of(paused, {"call_1": "yes", NO_QUESTION: None}, thread_id="t")
    with pytest.raises(UnknownQuestionError, match="what was open when it came, if anything was"):
        answers_of(paused, {NO_QUESTION: "yes"}, thread_id="t")


def test_an_answer_that_is_to_nothing_hears_of_several_questions_that_it_has_to_name_one() -> None:
    paused = PausedRun(input="?", interrupts=[{"id": "call_1", "value": "?"}, {"id": "call_2", "value": "?"}])

    with pytest.raises(UnansweredError, match="call_1, call_2"):
        answers_of(paused, {NO_QUESTION: "yes"}, thread_id="t")


def test_answers_say_that_they_are_by_ids_where_these_look_like_none() -> None:
    one, of_graph = new_id(), "0" * 32
    assert by_their_ids({one: 1, of_graph: 2}) == {one: 1, of_graph: 2}
    assert by_their_ids({one: 1, "call_1": 2}) == {one: 1, "call_1": 2, NO_QUESTION: None}


def test_people_read_what_was_answered_and_not_how_it_was_addressed() -> None:
    one, asked = new_id(), questions_of([{"id": "call_1", "value": "Which?"}])
    assert answers_said("yes") == "yes"
    assert answers_said({NO_QUESTION: "yes"}) == "yes"
    assert answers_said({"call_1": "yes", NO_QUESTION: None}) == {"call_1": "yes"}
    assert answers_read({"call_1": "yes", NO_QUESTION: None}, asked) == [("Which?", "yes")]
    stop = questions_of([{"id": one, "value": None, "next": ["pay"]}])
    assert answers_read({one: True}, stop) == [(None, "Yes")]
    assert closed_by({"command": {"resume": {"call_1": 1, NO_QUESTION: None}}}, ["call_1", "call_2"]) == {"call_1"}
    assert only_answer({one: {"approved": True}}) == {"approved": True}
    assert only_answer({"mood": "good"}) == {"mood": "good"}
    assert only_answer({one: 1, "other": 2}) == {one: 1, "other": 2}


@pytest.mark.parametrize(
    ("resume", "is_by_id"),
    [
        ({"call_1": "yes", NO_QUESTION: None}, True),
        ({NO_QUESTION: "yes"}, True),
        ({new_id(): "yes"}, True),
        ({"call_1": "yes"}, False),
        ("yes", False),
        ({}, False),
    ],
)
def test_an_answer_by_ids_is_told_from_a_mapping_that_is_one(resume: object, is_by_id: bool) -> None:
    answers = answers_in(resume)

    assert answers == (tuple(resume) if isinstance(resume, dict) else ())
    assert names_questions(answers) is is_by_id
    assert answers_in(None) is None
