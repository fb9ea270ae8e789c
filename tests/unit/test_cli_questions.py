"""What the command line sends as the answer to questions that it has looked at."""

from typing import Any

import pytest

from trackside.app.cli.records.questions import answer_to
from trackside.harness.errors import UnansweredError, UnknownQuestionError
from trackside.harness.questions import by_their_ids

STOP = {"id": "0199f3c2-0000-7000-8000-000000000000", "value": None, "next": ["think"]}


@pytest.mark.parametrize(
    ("asked", "answer", "sent"),
    [
        ([{"id": "q-1", "value": "May I?"}], "yes", {"q-1": "yes"}),
        ([{"id": "q-1", "value": "May I?"}], {}, {"q-1": {}}),
        ([{"id": "q-1", "value": "May I?"}], {"approved": True}, {"q-1": {"approved": True}}),
        ([{"id": "q-1", "value": "May I?"}], {"q-1": None}, {"q-1": None}),
        ([{"id": "q-1", "value": 1}, {"id": "q-2", "value": 2}], {"q-2": "b", "q-1": "a"}, {"q-1": "a", "q-2": "b"}),
        ([{"id": "q-1", "value": 1}, {"id": "q-2", "value": 2}], {"q-2": "b"}, {"q-2": "b"}),
        ([STOP], "go on", {STOP["id"]: "go on"}),
        ([{"value": "of another program"}], "yes", "yes"),
    ],
    ids=["text", "empty", "object", "by its id", "several", "one of several", "a stop", "no id"],
)
def test_an_answer_goes_by_the_id_of_its_question(asked: list[dict[str, Any]], answer: Any, sent: Any) -> None:
    expected = by_their_ids(sent) if isinstance(sent, dict) else sent
    assert answer_to(asked, answer, thread_id="t") == expected


def test_what_answers_one_call_of_a_tool_answers_no_other_that_is_asked_before_it_comes() -> None:
    seen, asked = ([{"id": call, "value": "?"}] for call in ("call_1", "call_2"))
    brought = answer_to(seen, "yes", thread_id="t")

    assert answer_to(seen, brought, thread_id="t") == brought
    with pytest.raises(UnknownQuestionError, match="call_1"):
        answer_to(asked, brought, thread_id="t")


def test_what_answers_no_question_that_was_looked_at_is_refused() -> None:
    asked = [{"id": "q-1", "value": 1}, {"id": "q-2", "value": 2}]

    with pytest.raises(UnansweredError):
        answer_to(asked, "yes", thread_id="t")
    with pytest.raises(UnknownQuestionError):
        answer_to(asked, {"q-1": 1, "q-3": 3}, thread_id="t")
