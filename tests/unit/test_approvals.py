"""A human's answer about a tool call, in the forms that people and programs give it."""

from typing import Any

import pytest

from trackside import InvalidSpecError
from trackside.harness.agents.approvals import Approval, approval_of


@pytest.mark.parametrize("answer", [True, "yes", "Yes.", " OK ", "approve", "approved", "true", {"approved": True}])
def test_yes_in_every_form(answer: Any) -> None:
    assert approval_of(answer) == Approval(approved=True)


@pytest.mark.parametrize("answer", [False, "no", "No!", "REJECT", "rejected", "deny", "false", {"approved": False}])
def test_no_in_every_form(answer: Any) -> None:
    assert approval_of(answer) == Approval(approved=False)


def test_a_no_may_say_why_and_a_yes_may_change_the_arguments() -> None:
    assert approval_of({"approved": False, "message": "too much"}) == Approval(False, "too much")
    assert approval_of({"approved": True, "arguments": {"amount": 5}}) == Approval(True, None, {"amount": 5})
    assert approval_of({"approved": True, "message": None, "arguments": None}) == Approval(True)


@pytest.mark.parametrize(
    "answer",
    [
        None,
        1,
        "",
        "perhaps",
        "yes, but less",
        [],
        {},
        {"approved": "yes"},
        {"approved": None},
        {"message": "why not"},
        {"approved": True, "reason": "a field that would be ignored"},
        {"approved": False, "message": 5},
        {"approved": True, "arguments": [5]},
        {"approved": True, "message": "the model never hears of a yes"},
        {"approved": False, "arguments": {"amount": 5}},
    ],
    ids=repr,
)
def test_anything_else_is_refused_and_the_error_says_what_is_accepted(answer: Any) -> None:
    with pytest.raises(InvalidSpecError, match=r'true or false.*"approve".*\{"approved": true or false\}'):
        approval_of(answer)
