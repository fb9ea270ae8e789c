"""Agents that wait for a human: tools that need an approval, or that somebody else executes."""

from dataclasses import dataclass
from typing import Any

import pytest
from pydantic import BaseModel
from pydantic_ai import Agent, ApprovalRequired, CallDeferred, DeferredToolRequests, RunContext, ToolReturn
from pydantic_ai.agent import WrapperAgent
from pydantic_ai.tools import Tool
from tests.integration.pydantic_ai.models import answers, call, texts

from trackside import RunStatus


class Cashier:
    """An agent that pays what it is asked to, as often as its model says, once a human has approved."""

    def __init__(self, *calls: Any, **options: Any) -> None:
        self.paid: list[tuple[str, int]] = []
        self.heard: list[Any] = []
        model = answers([*calls], "done", heard=self.heard)
        self.agent: Agent[None, Any] = Agent(model, tools=[Tool(self.pay, requires_approval=True)], **options)
        self.agent.tool_plain(self.look_up)

    async def pay(self, to: str, amount: int) -> str:
        self.paid.append((to, amount))
        return f"paid {to}"

    async def look_up(self, ticket: str) -> str:
        raise CallDeferred(metadata={"queue": "tickets"})

    @property
    def told(self) -> list[str]:
        """What the model was last told."""
        return texts(self.heard[-1])


ANN = call("pay", "ann", to="Ann", amount=3)
BOB = call("pay", "bob", to="Bob", amount=4)
TICKET = call("look_up", "ticket", ticket="T1")


async def answered(stage: Any, cashier: Cashier, answer: Any) -> Any:
    return await stage.play(cashier.agent, thread_id="t", command={"resume": answer})


async def test_a_tool_that_needs_approval_is_a_question(stage: Any) -> None:
    cashier = Cashier(ANN)
    outcome = await stage.play(cashier.agent, "pay Ann", thread_id="t")
    assert outcome.status is RunStatus.interrupted
    question = {"tool": "pay", "arguments": {"to": "Ann", "amount": 3}, "kind": "approval"}
    assert outcome.interrupts == [{"id": "ann", "value": question}]
    assert cashier.paid == []
    assert outcome.usage["tool_call_count"] == 0


async def test_what_is_approved_is_called_and_the_thread_goes_on(stage: Any) -> None:
    cashier = Cashier(ANN)
    await stage.play(cashier.agent, "pay Ann", thread_id="t")
    outcome = await answered(stage, cashier, answer=True)
    assert outcome.values["output"] == "done"
    assert cashier.paid == [("Ann", 3)]
    assert [message["content"] for message in outcome.humans] == ["true"]
    assert (outcome.usage["tool_call_count"], outcome.usage["llm_call_count"]) == (1, 1)
    kinds = [part["part_kind"] for message in outcome.values["message_history"] for part in message["parts"]]
    assert kinds == ["user-prompt", "tool-call", "tool-return", "text"]


async def test_what_is_approved_may_be_called_with_other_arguments(stage: Any) -> None:
    cashier = Cashier(ANN)
    await stage.play(cashier.agent, "pay Ann", thread_id="t")
    await answered(stage, cashier, {"approved": True, "arguments": {"to": "Ann", "amount": 1}})
    assert cashier.paid == [("Ann", 1)]


@pytest.mark.parametrize(
    ("answer", "told"),
    [("no", "The tool call was denied."), ({"approved": False, "message": "too much"}, "too much")],
    ids=["plain", "message"],
)
async def test_what_is_denied_is_not_called_and_the_model_hears_why(stage: Any, answer: Any, told: str) -> None:
    cashier = Cashier(ANN)
    await stage.play(cashier.agent, "pay Ann", thread_id="t")
    outcome = await answered(stage, cashier, answer)
    assert outcome.status is RunStatus.success
    assert cashier.paid == []
    assert cashier.told[-1] == told


async def test_a_tool_that_is_executed_elsewhere_gets_its_result_as_the_answer(stage: Any) -> None:
    cashier = Cashier(TICKET)
    outcome = await stage.play(cashier.agent, "look", thread_id="t")
    question = {"tool": "look_up", "arguments": {"ticket": "T1"}, "kind": "external", "metadata": {"queue": "tickets"}}
    assert outcome.interrupts == [{"id": "ticket", "value": question}]
    outcome = await answered(stage, cashier, {"seat": 17})
    assert cashier.told[-1] == "{'seat': 17}"
    assert [message["content"] for message in outcome.humans] == ['{"seat": 17}']


async def test_several_questions_are_answered_by_id(stage: Any) -> None:
    cashier = Cashier(ANN, TICKET, BOB)
    outcome = await stage.play(cashier.agent, "pay both", thread_id="t")
    assert [question["id"] for question in outcome.interrupts] == ["ann", "bob", "ticket"]
    outcome = await answered(stage, cashier, {"bob": "no", "ann": "yes", "ticket": "seat 17"})
    assert outcome.status is RunStatus.success
    assert cashier.paid == [("Ann", 3)]
    assert len(outcome.humans) == 3
    assert cashier.told[-3:] == ["paid Ann", "seat 17", "The tool call was denied."]


async def test_answers_to_some_questions_are_kept_and_the_rest_is_asked_again(stage: Any) -> None:
    cashier = Cashier(ANN, BOB)
    await stage.play(cashier.agent, "pay both", thread_id="t")
    outcome = await answered(stage, cashier, {"bob": "yes"})
    assert outcome.status is RunStatus.interrupted
    assert [question["id"] for question in outcome.interrupts] == ["ann"]
    assert (outcome.usage["llm_call_count"], cashier.paid) == (0, [])
    outcome = await answered(stage, cashier, "no")
    assert outcome.status is RunStatus.success
    assert cashier.paid == [("Bob", 4)]


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        ({"carl": "yes", "ann": "no"}, "UnknownQuestionError"),
        ("yes", "UnansweredError"),
        ({"ann": "perhaps"}, "InvalidSpecError"),
        ({"ann": {"approved": "yes"}}, "InvalidSpecError"),
    ],
    ids=["unknown", "which", "nonsense", "no answer"],
)
async def test_an_answer_that_does_not_fit_leaves_the_questions_open(stage: Any, answer: Any, error: str) -> None:
    cashier = Cashier(ANN, BOB)
    await stage.play(cashier.agent, "pay both", thread_id="t")
    outcome = await answered(stage, cashier, answer)
    assert outcome.end["error_type"] == error
    assert outcome.humans == []
    outcome = await answered(stage, cashier, {"ann": "yes", "bob": "yes"})
    assert outcome.status is RunStatus.success
    assert cashier.paid == [("Ann", 3), ("Bob", 4)]


async def test_there_is_nothing_to_answer_where_nobody_asked(stage: Any) -> None:
    outcome = await answered(stage, Cashier(ANN), "yes")
    assert outcome.end["error_type"] == "NotPausedError"


async def test_a_tool_may_ask_again_after_it_was_answered(stage: Any) -> None:
    rounds: list[bool] = []

    async def launch(ctx: RunContext[None]) -> str:
        rounds.append(ctx.tool_call_approved)
        if not ctx.tool_call_approved:
            raise ApprovalRequired(metadata={"round": 1})
        return "launched"

    model = answers([call("launch", "a")], [call("launch", "b")], "done")
    agent = Agent(model, tools=[launch])
    first = await stage.play(agent, "launch", thread_id="t")
    second = await stage.play(agent, thread_id="t", command={"resume": "yes"})
    third = await stage.play(agent, thread_id="t", command={"resume": "yes"})
    assert [first.interrupts[0]["id"], second.interrupts[0]["id"]] == ["a", "b"]
    assert third.status is RunStatus.success
    assert rounds == [False, True, False, True]


async def test_tools_beside_the_one_that_waits_run_once(stage: Any) -> None:
    ran: list[str] = []

    async def note() -> str:
        ran.append("note")
        return "noted"

    cashier = Cashier(ANN, call("note", "n"))
    cashier.agent.tool_plain(note)
    first = await stage.play(cashier.agent, "pay Ann", thread_id="t")
    second = await answered(stage, cashier, "yes")
    assert ran == ["note"]
    assert (first.usage["tool_call_count"], second.usage["tool_call_count"]) == (1, 1)
    assert sorted(cashier.told[-2:]) == ["noted", "paid Ann"]


async def test_what_a_tool_leaves_for_the_program_may_be_anything_where_another_one_asks(stage: Any) -> None:
    cashier = Cashier(call("query", "query"), ANN)
    cashier.agent.tool_plain(lambda: ToolReturn("412 rows", metadata=object()), name="query")
    assert (await stage.play(cashier.agent, "pay Ann", thread_id="t")).status is RunStatus.interrupted
    assert (await answered(stage, cashier, True)).status is RunStatus.success
    assert cashier.paid == [("Ann", 3)]


async def test_a_run_that_answers_and_is_cancelled_leaves_no_question_answered(stage: Any) -> None:
    cashier = Cashier(ANN)
    await stage.play(cashier.agent, "pay Ann", thread_id="t")
    outcome = await stage.play(cashier.agent, thread_id="t", command={"resume": "yes"}, timeout=1e-9)
    assert outcome.status is RunStatus.timeout
    assert cashier.paid == []


async def test_a_new_input_leaves_the_question_behind(stage: Any) -> None:
    cashier = Cashier(ANN)
    await stage.play(cashier.agent, "pay Ann", thread_id="t")
    outcome = await stage.play(cashier.agent, "never mind", thread_id="t")
    assert outcome.status is RunStatus.success
    assert cashier.told == ["never mind"]
    assert cashier.paid == []


class Receipt(BaseModel):
    number: int


@pytest.mark.parametrize("output_type", [[str, DeferredToolRequests], [Receipt, str], Receipt | str])
async def test_any_output_type_can_wait(stage: Any, output_type: Any) -> None:
    cashier = Cashier(ANN, output_type=output_type)
    outcome = await stage.play(cashier.agent, "pay Ann", thread_id="t")
    assert outcome.status is RunStatus.interrupted
    assert (await answered(stage, cashier, "yes")).values["output"] == "done"


@pytest.mark.parametrize("wrapped", [False, True])
async def test_an_agent_with_output_validators_says_itself_that_it_may_wait(stage: Any, wrapped: bool) -> None:
    def validated(output_type: Any) -> Any:
        agent = Cashier(ANN, output_type=output_type).agent

        @agent.output_validator
        async def validate(output: str) -> str:
            return output

        return WrapperAgent(agent) if wrapped else agent

    outcome = await stage.play(validated([str, DeferredToolRequests]), "pay Ann")
    assert outcome.status is RunStatus.interrupted
    outcome = await stage.play(validated(str), "pay Ann")
    assert outcome.end["error_type"] == "UserError"
    assert "DeferredToolRequests" in outcome.end["error"]


async def test_a_question_of_the_agents_own_gets_its_answer(stage: Any) -> None:
    async def ask(question: str) -> str:
        raise CallDeferred(kind="question")

    heard: list[Any] = []
    agent = Agent(answers([call("ask", question="Which city?")], "done", heard=heard), tools=[ask])
    outcome = await stage.play(agent, "go", thread_id="t")
    assert outcome.interrupts[0]["value"] == {
        "tool": "ask",
        "arguments": {"question": "Which city?"},
        "kind": "question",
    }
    await stage.play(agent, thread_id="t", command={"resume": "Rome"})
    assert texts(heard[-1])[-1] == "Rome"


async def test_an_answer_by_the_id_of_a_call_that_has_its_own_is_none_to_the_next_call(stage: Any) -> None:
    async def ask(question: str) -> str:
        raise CallDeferred(kind="question")

    heard: list[Any] = []
    size, place = call("ask", "call_1", question="Which size?"), call("ask", "call_2", question="Which address?")
    agent = Agent(answers([size], [place], "done", heard=heard), tools=[ask])
    by_id = {"resume": {"call_1": "M"}}
    await stage.play(agent, "go", thread_id="t")
    await stage.play(agent, thread_id="t", command=by_id)
    again = await stage.play(agent, thread_id="t", command=by_id)
    assert (again.end["error_type"], again.humans) == ("UnknownQuestionError", [])
    await stage.play(agent, thread_id="t", command={"resume": {"street": "High Street 7"}})
    assert texts(heard[-1])[-2:] == ["M", "{'street': 'High Street 7'}"]


@dataclass
class Till:
    money: int


def paying() -> Agent[Till, str]:
    async def pay(ctx: RunContext[Till], to: str) -> str:
        return f"{ctx.deps.money} to {to}"

    model = answers([call("pay", "ann", to="Ann"), call("pay", "bob", to="Bob")], "done")
    return Agent(model, deps_type=Till, tools=[Tool(pay, requires_approval=True)])


def paid(outcome: Any) -> list[str]:
    """What the tools returned."""
    return [part["content"] for part in outcome.values["message_history"][2]["parts"]]


async def test_dependencies_are_kept_until_all_is_answered_or_given_anew(stage: Any) -> None:
    for given, money in ({}, 5), ({"context": {"money": 9}}, 9):
        agent, thread = paying(), f"thread {money}"
        await stage.play(agent, "pay", thread_id=thread, context={"money": 5})
        await stage.play(agent, thread_id=thread, command={"resume": {"ann": True}}, **given)
        outcome = await stage.play(agent, thread_id=thread, command={"resume": {"bob": True}})
        assert paid(outcome) == [f"{money} to Ann", f"{money} to Bob"]


async def test_dependencies_that_are_no_json_have_to_be_given_again(stage: Any) -> None:
    agent, both = paying(), {"resume": {"ann": True, "bob": True}}
    await stage.play(agent, "pay", thread_id="t", context=Till(5))
    refused = await stage.play(agent, thread_id="t", command=both)
    outcome = await stage.play(agent, thread_id="t", command=both, context=Till(9))
    assert refused.end["error"].startswith("context = None")
    assert paid(outcome) == ["9 to Ann", "9 to Bob"]
