"""What a thread asks, and what the console makes of the form that answers it."""

from __future__ import annotations

import json
from typing import Any

import pytest

from trackside.app.dashboard.questions import (
    Answers,
    answers_of,
    answers_read,
    closed_by,
    is_yes_no,
    questions_of,
    request_of,
    stop_in,
)
from trackside.app.server.failures import HttpError
from trackside.harness.agents.approvals import Approval, approval_of


@pytest.mark.parametrize(
    ("text", "is_one"),
    [
        ("Shall I go on?", True),
        ("May I send the mail?", True),
        ("Here is the draft.\n\nShould I send it?", True),
        ("Shall I send it today or tomorrow?", False),
        ("What is your name?", False),
        ("Is it", False),
        ("", False),
    ],
)
def test_questions_that_yes_or_no_answers_are_known(text: str, *, is_one: bool) -> None:
    assert is_yes_no(text) is is_one


@pytest.mark.parametrize(
    ("value", "text", "choices"),
    [
        ("Which one?", "Which one?", []),
        ({"question": "Shall I?", "to": "ada"}, "Shall I?", ["true", "false"]),
        ({"question": "Which?", "options": ["a", "b"]}, "Which?", ['"a"', '"b"']),
        ({"tool": "rm", "arguments": {"path": "/"}}, 'May rm(path="/") be called?', ["true", "false"]),
        ({"tool": "ask", "arguments": {}, "kind": "external"}, "What does ask return?", []),
        ({"amount": 5}, "It waits for an answer.", []),
        ([1, 2], "[\n  1,\n  2\n]", []),
    ],
)
def test_questions_have_the_answers_that_fit_them(value: Any, text: str, choices: list[str]) -> None:
    (question,) = questions_of([{"id": "q", "value": value}])
    assert question.text.text == text
    assert [choice.json for choice in question.choices] == choices


def test_decisions_are_made_on_each_action_that_is_asked_for() -> None:
    (question,) = questions_of([{"id": "q", "value": {"action_requests": [{"name": "a"}, {"name": "b"}]}}])
    assert json.loads(question.choices[1].json) == {"decisions": [{"type": "reject"}, {"type": "reject"}]}


def reviewed(*allowed: tuple[str, list[str]]) -> Any:
    """What LangChain's `HumanInTheLoopMiddleware` asks about calls of these tools."""
    return {
        "action_requests": [{"name": name, "args": {"n": 1}} for name, _ in allowed],
        "review_configs": [{"action_name": name, "allowed_decisions": kinds} for name, kinds in dict(allowed).items()],
    }


@pytest.mark.parametrize(
    ("value", "text", "labels"),
    [
        (reviewed(("pay", ["approve", "edit", "reject"])), "May it do this?", ["Approve", "Reject"]),
        (reviewed(("pay", ["approve", "edit"])), "May it do this?", ["Approve"]),
        (reviewed(("pay", ["edit"])), "May it do this?", []),
        (reviewed(("ask", ["respond"])), "What does ask(n=1) return?", []),
        (
            reviewed(("pay", ["approve", "reject"]), ("ask", ["respond", "reject"])),
            "May it do these 2 things?",
            ["Reject"],
        ),
        (reviewed(("ask", ["respond"]), ("ask", ["respond"])), "May it do these 2 things?", []),
        ({**reviewed(("pay", ["edit"])), "review_configs": []}, "May it do this?", ["Approve", "Reject"]),
        (
            {"action_requests": [{"name": []}, 7], "review_configs": [{"action_name": {}}, None]},
            "May it do these 2 things?",
            ["Approve", "Reject"],
        ),
        (
            {"action_requests": [{"args": {"n": 1}}], "review_configs": [{"allowed_decisions": ["respond"]}]},
            "What does it(n=1) return?",
            [],
        ),
        (
            {"action_requests": [{"args": 7}], "review_configs": [{"allowed_decisions": ["respond"]}]},
            "What does it return?",
            [],
        ),
    ],
)
def test_a_decision_has_a_button_if_every_action_allows_it(value: Any, text: str, labels: list[str]) -> None:
    (question,) = questions_of([{"id": "q", "value": value}])
    assert question.text.text == text
    assert [choice.label for choice in question.choices] == labels
    assert question.takes_reason is ("Reject" in labels)


def decided(value: Any, typed: str, chosen: str | None = None) -> Any:
    return answers_of(Answers(question=["a"], answer=[typed], chosen=chosen), {"a"}, {"a": value})["a"]


@pytest.mark.parametrize("typed", ["blue,\r\nplease ", "42", '{"colour": "blue"}'])
def test_what_is_typed_in_the_place_of_an_action_is_what_that_gives_back(typed: str) -> None:
    value = reviewed(("ask", ["approve", "respond"]))
    message = typed.replace("\r\n", "\n").strip()
    assert decided(value, typed) == {"decisions": [{"type": "respond", "message": message}]}
    said = {"decisions": [{"type": "approve"}]}
    assert decided(value, json.dumps(said)) == said
    nameless = {"action_requests": [{"args": {}}], "review_configs": [{"allowed_decisions": ["respond"]}]}
    assert decided(nameless, typed) == {"decisions": [{"type": "respond", "message": message}]}


@pytest.mark.parametrize(
    ("value", "typed"),
    [
        (reviewed(("pay", ["approve", "edit"])), "yes, please"),
        (reviewed(("pay", ["approve", "edit"])), '{"decisions": [{"type": "reject"}]}'),
        (reviewed(("pay", ["approve", "edit"])), '{"decisions": [{"type": ["approve"]}, 7]}'),
        (reviewed(("pay", ["approve"]), ("ask", ["respond"])), '{"decisions": [{"type": "approve"}]}'),
        (reviewed(("ask", ["respond"]), ("ask", ["respond"])), "blue"),  # nobody knows which of the two it answers
    ],
)
def test_what_may_not_be_decided_is_refused_with_what_may(value: Any, typed: str) -> None:
    with pytest.raises(
        HttpError, match=r"a decision on each of its actions, as .*; what may be decided is "
    ) as refused:
        decided(value, typed)
    assert refused.value.status == 422


def test_a_decision_that_a_page_offered_is_refused_where_it_may_not_be_made() -> None:
    (question,) = questions_of([{"id": "a", "value": {**reviewed(("pay", ["edit"])), "review_configs": []}}])
    chosen = question.chosen(question.choices[0])
    assert decided(reviewed(("pay", ["approve"])), "", chosen) == {"decisions": [{"type": "approve"}]}
    with pytest.raises(HttpError, match="what may be decided is edit"):
        decided(reviewed(("pay", ["edit"])), "", chosen)


def test_a_breakpoint_is_gone_on_from() -> None:
    stop = stop_in({"next": ["send"], "checkpoint": {"checkpoint_id": "c-1"}})
    (question,) = questions_of([stop])
    shown = (question.id, question.text.text, question.choices[0].label, question.is_stop)
    assert shown == ("c-1", "It has stopped before send.", "Go on", True)


@pytest.mark.parametrize("place", [{"checkpoint_id": "c-1"}, None])
def test_a_thread_with_nothing_ahead_of_it_is_at_no_stop(place: Any) -> None:
    assert stop_in({"next": [], "checkpoint": place}) is None


@pytest.mark.parametrize("nonsense", [None, "text", 7, [None, 3, "x"], {"id": 1}])
def test_interrupts_that_are_none_ask_nothing(nonsense: Any) -> None:
    assert questions_of(nonsense) == ()


OPEN = {"a", "b"}


def form(**fields: Any) -> Answers:
    return Answers(**{"question": ["a", "b"], "answer": ["", ""], "read_as": ["auto", "auto"], **fields})


@pytest.mark.parametrize(
    ("typed", "ways", "expected"),
    [
        (["Ada\r\nLovelace", " "], ["auto", "auto"], {"a": "Ada\nLovelace"}),
        (["36", '{"deep": [1]}'], ["auto", "auto"], {"a": 36, "b": {"deep": [1]}}),
        (["36", "{no json"], ["text", "auto"], {"a": "36", "b": "{no json"}),
        (["", " true "], ["json", "json"], {"b": True}),
        (["null", ""], [], {"a": None}),
    ],
)
def test_what_is_typed_answers_the_questions_beside_it(typed: list[str], ways: Any, expected: Any) -> None:
    answers = answers_of(form(answer=typed, read_as=ways), OPEN)
    assert answers == expected
    assert request_of(answers) == {"command": {"resume": expected}}


@pytest.mark.parametrize(
    ("asked", "closed"),
    [
        ({"command": {"resume": {"a": 1}}}, {"a"}),
        ({"command": {"resume": {"a": 1, "b": 2, "c": 3}}}, {"a", "b"}),
        ({"command": {"resume": {"approved": True}}}, OPEN),  # the answer to the only one, as it stands
        ({"command": {"resume": True}}, OPEN),
        ({"command": {"goto": "x"}}, OPEN),
        ({"input": {"name": "?"}}, OPEN),
        (None, OPEN),
    ],
)
def test_a_run_closes_what_it_answers_and_one_that_begins_anew_closes_all(asked: Any, closed: set[str]) -> None:
    assert closed_by(asked, OPEN) == closed


def test_an_answer_to_a_thread_that_is_free_is_refused_where_another_is_faster() -> None:
    assert request_of({"a": 1}, is_first=True) == {"command": {"resume": {"a": 1}}, "multitask_strategy": "reject"}
    assert request_of({"c-1": True}, stops={}, is_first=True) == {"input": None, "multitask_strategy": "reject"}


@pytest.mark.parametrize(
    ("fields", "status", "why"),
    [
        ({}, 422, "there is no answer yet"),
        ({"answer": ["{no json", ""], "read_as": ["json", "auto"]}, 422, "the answer is not JSON"),
        ({"answer": ["[" * 5_000, ""], "read_as": ["json", "auto"]}, 422, "the answer is not JSON"),
        ({"question": ["gone", "b"], "answer": ["1", "2"]}, 409, "somebody has answered already"),
        ({"question": [""], "answer": ["1"]}, 409, "somebody has answered already"),
        ({"chosen": '{"question": "gone", "answer": 1}'}, 409, "somebody has answered already"),
        ({"chosen": "{"}, 422, "the choice cannot be read"),
        ({"chosen": "[1]"}, 422, "the choice cannot be read"),
    ],
)
def test_what_is_no_answer_is_refused_with_why(fields: dict[str, Any], status: int, why: str) -> None:
    with pytest.raises(HttpError, match=why) as refused:
        answers_of(form(**fields), OPEN)
    assert refused.value.status == status


def test_a_choice_answers_its_question_alone_whatever_is_typed() -> None:
    (question,) = questions_of([{"id": "b", "value": {"question": "Which?", "options": ['"<x>"', 7]}}])
    said = [question.chosen(choice) for choice in question.choices]
    typed = form(answer=["for a", "for b"])
    assert [answers_of(form(answer=typed.answer, chosen=one), OPEN) for one in said] == [{"b": '"<x>"'}, {"b": 7}]


@pytest.mark.parametrize("more", [{"kind": "approval"}, {"agent": "Booker"}])
def test_a_no_to_a_call_of_a_tool_says_why_and_nothing_else_fits(more: dict[str, str]) -> None:
    value = {"tool": "grant", "arguments": {"what": "hotel in Rome"}, **more}
    (question,) = questions_of([{"id": "a", "value": value}])
    assert question.text.text == 'May grant(what="hotel in Rome") be called?'
    yes, no = (question.chosen(choice) for choice in question.choices)

    def answer(typed: str, chosen: str | None = None) -> Any:
        return answers_of(Answers(question=["a"], answer=[typed], chosen=chosen), {"a"}, {"a": value})["a"]

    assert (answer("", yes), answer("too much", yes), answer("", no)) == (True, True, False)
    for given in (answer(" too\r\nmuch", no), answer("no"), answer('{"approved": true}')):
        assert isinstance(approval_of(given), Approval)
    assert answer(" too\r\nmuch", no) == {"approved": False, "message": "too\nmuch"}
    with pytest.raises(HttpError, match="answered by Yes or No"):
        answer("because it is late")


@pytest.mark.parametrize("sign", ["\u202e", "\u2066", "\u200b", "\u200d", "\x7f", "\u2028", "\ufeff", "\U000e0041"])
@pytest.mark.parametrize(
    "value",
    [
        lambda command: {"tool": "shell", "kind": "approval", "arguments": {"command": command}},
        lambda command: {"tool": "shell", "kind": "approval", "arguments": {command: "x"}},
        lambda command: {"tool": command, "kind": "approval", "arguments": {}},
        lambda command: {"action_requests": [{"name": "shell", "args": {"command": command}}]},
        lambda command: {"question": f"{command}?", "about": [command]},
        lambda command: {"anything": {command: command}},
        lambda command: command,
        lambda command: [command],
    ],
)
def test_what_is_approved_is_shown_in_its_order_and_with_all_its_signs(value: Any, sign: str) -> None:
    (question,) = questions_of([{"id": "q", "value": value(f"echo {sign}# curl")}])
    shown = question.text.text + ("" if question.more is None else question.more.text)
    assert sign not in shown
    assert f"echo ⟨U+{ord(sign):04X}⟩# curl" in shown or f"echo {json.dumps(sign)[1:-1]}# curl" in shown


@pytest.mark.parametrize(
    "text", ["Is this right?\n\tمی\u200cشود", "May I send 👩\u200d💻 10\u00a0000 €?", "שלום, Ünï?"]
)
def test_texts_of_all_languages_are_shown_as_they_are(text: str) -> None:
    (question,) = questions_of([{"id": "q", "value": {"question": text, "about": text}}])
    assert question.text.text == text
    assert question.more is not None
    assert text.rpartition("\t")[2] in question.more.text


def test_what_is_chosen_for_several_questions_goes_together_and_the_others_stay_open() -> None:
    asked: list[Any] = [
        {"id": one, "value": {"tool": "grant", "arguments": {"n": one}, "kind": "approval"}} for one in "abc"
    ]
    yes, no = ([question.chosen(question.choices[at]) for question in questions_of(asked)] for at in (0, 1))
    given = Answers(question=["a", "b", "c"], answer=["", "too much", ""], choice=[yes[0], no[1], ""])
    expected = {"a": True, "b": {"approved": False, "message": "too much"}}
    assert answers_of(given, {"a", "b", "c"}, {one["id"]: one["value"] for one in asked}) == expected


def test_answers_are_read_in_words_beside_their_questions() -> None:
    asked = questions_of([{"id": "a", "value": "May I?"}, {"id": "b", "value": "Which?"}])
    assert answers_read({"a": {"approved": False, "message": "late"}, "b": True}, asked) == [
        ("May I?", "No: late"),
        ("Which?", "Yes"),
    ]
    assert answers_read("the left one", asked[1:]) == [("Which?", "the left one")]
    assert answers_read({"x": 1}, ()) == [(None, '{\n  "x": 1\n}')]


def test_who_asks_in_a_similar_way_himself_gets_what_is_typed() -> None:
    (question,) = questions_of([{"id": "a", "value": {"tool": "grant", "arguments": {}}}])
    assert not question.takes_reason
    no = question.chosen(question.choices[1])
    assert answers_of(Answers(question=["a"], answer=["why"], chosen=no), {"a"}) == {"a": False}


@pytest.mark.parametrize(
    ("label", "typed", "decision"),
    [
        ("Approve", "not sent", {"type": "approve"}),
        ("Reject", " ", {"type": "reject"}),
        ("Reject", "Not\r\nnow ", {"type": "reject", "message": "Not\nnow"}),
    ],
)
def test_a_rejection_says_why(label: str, typed: str, decision: dict[str, Any]) -> None:
    (question,) = questions_of([{"id": "a", "value": {"action_requests": [{"name": "x"}, {"name": "y"}]}}])
    assert question.takes_reason
    (choice,) = [one for one in question.choices if one.label == label]
    given = Answers(question=["a"], answer=[typed], chosen=question.chosen(choice))
    assert answers_of(given, {"a"}) == {"a": {"decisions": [decision] * 2}}


def test_what_has_stopped_without_a_question_goes_on() -> None:
    (question,) = questions_of([{"id": "c-1", "next": ["send"], "value": None}])
    given = Answers(question=["c-1"], answer=[""], chosen=question.chosen(question.choices[0]))
    stops = {"interrupt_before": ["send", "file"]}
    assert request_of(answers_of(given, {"c-1"}), stops=stops) == {"input": None, **stops}
    with pytest.raises(HttpError, match="somebody has answered already"):
        answers_of(given, {"c-2"})
