"""Tools that a human has to approve before they are called."""

from dataclasses import dataclass
from typing import Any

import pytest
from agents import Agent, ApplyPatchTool, FunctionTool, RunContextWrapper, ShellTool, Tool, function_tool
from openai.types.responses import ResponseApplyPatchToolCall, ResponseFunctionShellToolCall, ResponseOutputItem
from openai.types.responses.response_apply_patch_tool_call import OperationDeleteFile
from openai.types.responses.response_function_shell_tool_call import Action
from tests.integration.openai_agents.scripted_model import Calls, ScriptedModel

from trackside import RunStatus


class Shop:
    """An agent that refunds orders, each of which a human has to approve."""

    def __init__(self, *orders: int) -> None:
        calls = [Calls("refund", {"order": order}, id=f"call-{order}") for order in orders]
        self.refunded: list[int] = []
        self.model = ScriptedModel(calls, "done")
        self.agent = Agent("shop", model=self.model, tools=[self.tool()])

    def tool(self) -> FunctionTool:
        @function_tool(needs_approval=True)
        async def refund(order: int) -> str:
            self.refunded.append(order)
            return f"refunded {order}"

        return refund

    @property
    def outputs(self) -> list[Any]:
        """The outputs of its calls, as the model last heard them."""
        return [item["output"] for item in self.model.heard[-1] if item.get("type") == "function_call_output"]


async def answer(stage: Any, agent: Any, resume: Any, **spec: Any) -> Any:
    return await stage.play(agent, thread_id="thread", command={"resume": resume}, **spec)


async def test_a_call_that_needs_an_approval_asks_and_is_made_when_approved(stage: Any) -> None:
    shop = Shop(7)
    asked = await stage.play(shop.agent, "refund 7", thread_id="thread")
    assert asked.status is RunStatus.interrupted
    assert asked.interrupts == [
        {"id": "call-7", "value": {"tool": "refund", "arguments": {"order": 7}, "agent": "shop"}},
    ]
    assert shop.refunded == []
    assert asked.usage["tool_call_count"] == 0
    done = await answer(stage, shop.agent, "yes")
    assert done.status is RunStatus.success
    assert (shop.refunded, shop.outputs) == ([7], ["refunded 7"])
    assert [human["content"] for human in done.humans] == ["yes"]
    assert (done.usage["llm_call_count"], done.usage["tool_call_count"]) == (1, 1)
    kinds = [item.get("role") or item["type"] for item in done.values["items"]]
    assert kinds == ["user", "function_call", "function_call_output", "assistant"]


class Editor:
    """An editor that changes no file."""

    def create_file(self, operation: Any) -> str:
        return "created"

    update_file = delete_file = create_file


@pytest.mark.parametrize(
    ("tool", "call", "name", "arguments"),
    [
        (
            ShellTool(executor=lambda request: "executed", needs_approval=True),
            ResponseFunctionShellToolCall.model_validate(
                {
                    "id": "sh-1",
                    "call_id": "call-1",
                    "type": "shell_call",
                    "status": "completed",
                    "action": Action.model_validate({"commands": ["rm -rf data"]}),
                }
            ),
            "shell",
            {"commands": ["rm -rf data"]},
        ),
        (
            ApplyPatchTool(editor=Editor(), needs_approval=True),
            ResponseApplyPatchToolCall(
                id="ap-1",
                call_id="call-1",
                type="apply_patch_call",
                status="completed",
                operation=OperationDeleteFile(path="orders.db", type="delete_file"),
            ),
            "apply_patch",
            {"path": "orders.db", "type": "delete_file"},
        ),
    ],
    ids=["shell", "patch"],
)
async def test_who_approves_of_a_command_or_a_patch_is_told_which(
    stage: Any, tool: Tool, call: ResponseOutputItem, name: str, arguments: Any
) -> None:
    class Model(ScriptedModel):
        async def _take_turn(self, input: Any) -> list[ResponseOutputItem]:
            said = await super()._take_turn(input)
            return said if len(self.heard) > 1 else [call]

    agent = Agent("admin", model=Model("done"), tools=[tool])
    asked = await stage.play(agent, "clear up", thread_id="thread", stream_mode="messages")
    assert asked.interrupts == [
        {"id": "call-1", "value": {"tool": name, "arguments": arguments, "agent": "admin"}},
    ]
    assert [message["tool_calls"] for message, _ in asked.streamed("messages")] == [
        [{"name": name, "args": arguments, "id": "call-1"}]
    ]
    done = await answer(stage, agent, "yes")
    assert (done.status, done.values["output"]) == (RunStatus.success, "done")
    assert [called["name"] for called in done.usage["calls"] if called["kind"] == "execute_tool"] == [name]


@pytest.mark.parametrize("names", [["a"], ["a", "b"]], ids=len)
@pytest.mark.parametrize("streams", [False, True])
async def test_agents_below_that_wait_for_an_approval_have_come_back(
    stage: Any, names: list[str], streams: bool
) -> None:
    listen = (lambda _: None) if streams else None
    below = [Shop(nth).agent.as_tool(name, "Refunds.", on_stream=listen) for nth, name in enumerate(names)]
    lead = Agent("lead", model=ScriptedModel([Calls(name, {"input": "x"}) for name in names], "done"), tools=below)
    asked = await stage.play(lead, "go", thread_id="thread")
    assert asked.status is RunStatus.interrupted
    called = [(call["name"], call.get("error_type")) for call in asked.usage["calls"] if call["kind"] == "execute_tool"]
    assert called == [(name, None) for name in names]


async def test_the_state_goes_through_json_and_another_object_of_the_same_agent_goes_on(stage: Any) -> None:
    asking, answering = Shop(7), Shop()
    await stage.play(asking.agent, "refund 7", thread_id="thread")
    answering.model._turns = ["done"]
    done = await answer(stage, answering.agent, True)
    assert done.status is RunStatus.success
    assert (asking.refunded, answering.refunded) == ([], [7])


@pytest.mark.parametrize(
    ("said", "heard"),
    [("no", "not approved"), ({"approved": False, "message": "too much"}, "too much")],
    ids=["word", "message"],
)
async def test_a_call_that_is_rejected_is_not_made_and_the_model_hears_why(stage: Any, said: Any, heard: str) -> None:
    shop = Shop(7)
    await stage.play(shop.agent, "refund 7", thread_id="thread")
    done = await answer(stage, shop.agent, said)
    assert done.status is RunStatus.success
    assert shop.refunded == []
    assert heard in shop.outputs[0]
    assert done.usage["tool_call_count"] == 0


async def test_several_are_asked_at_once_and_answered_in_parts_and_each_is_called_once(stage: Any) -> None:
    shop = Shop(1, 2, 3)
    asked = await stage.play(shop.agent, "refund all", thread_id="thread")
    assert [question["id"] for question in asked.interrupts] == ["call-1", "call-2", "call-3"]
    part = await answer(stage, shop.agent, {"call-2": True})
    assert part.status is RunStatus.interrupted
    assert [question["id"] for question in part.interrupts] == ["call-1", "call-3"]
    assert shop.refunded == [2]
    done = await answer(stage, shop.agent, {"call-3": {"approved": False, "message": "never"}, "call-1": "ok"})
    assert done.status is RunStatus.success
    assert shop.refunded == [2, 1]
    assert sorted(shop.outputs) == ["never", "refunded 1", "refunded 2"]
    assert [human["content"] for human in done.humans] == ["ok", '{"approved": false, "message": "never"}']


@pytest.mark.parametrize(
    "said",
    ["perhaps", None, {"approved": "yes"}, {"call-8": True}, {"approved": True, "arguments": {"order": 8}}],
    ids=repr,
)
async def test_an_answer_that_says_neither_yes_nor_no_is_refused_and_the_question_stays(stage: Any, said: Any) -> None:
    shop = Shop(7)
    await stage.play(shop.agent, "refund 7", thread_id="thread")
    refused = await answer(stage, shop.agent, said)
    assert refused.status is RunStatus.error
    assert refused.end["error_type"] == "InvalidSpecError"
    assert refused.end["error"].startswith("command.resume = ")
    assert refused.humans == []
    assert shop.refunded == []
    assert (await answer(stage, shop.agent, "yes")).status is RunStatus.success


async def test_an_answer_to_a_question_that_is_not_open_is_refused(stage: Any) -> None:
    shop = Shop(1, 2)
    await stage.play(shop.agent, "refund both", thread_id="thread")
    refused = await answer(stage, shop.agent, {"call-1": True, "call-9": True})
    assert refused.end["error_type"] == "UnknownQuestionError"
    assert shop.refunded == []


async def test_a_new_input_leaves_the_question_unanswered_and_its_call_unmade(stage: Any) -> None:
    shop = Shop(7)
    await stage.play(shop.agent, "refund 7", thread_id="thread")
    other = await stage.play(shop.agent, "never mind", thread_id="thread")
    assert other.status is RunStatus.success
    assert [item["content"] for item in shop.model.heard[-1]] == ["never mind"]
    assert shop.refunded == []
    assert (await answer(stage, shop.agent, "yes")).end["error_type"] == "NotPausedError"


async def test_a_thread_that_had_a_conversation_goes_on_with_it_after_the_answer(stage: Any) -> None:
    shop = Shop(7)
    shop.model._turns.insert(0, "hello")
    await stage.play(shop.agent, "hi", thread_id="thread")
    await stage.play(shop.agent, "refund 7", thread_id="thread")
    done = await answer(stage, shop.agent, "yes")
    said = [item["content"] for item in done.values["items"] if item.get("role") == "user"]
    assert said == ["hi", "refund 7"]


async def test_a_call_of_an_agent_below_asks_in_its_name_and_goes_on_there(stage: Any) -> None:
    shop = Shop(7)
    tool = shop.agent.as_tool(tool_name="shop", tool_description="Refunds.")
    lead = Agent(
        "lead", model=ScriptedModel(Calls("shop", {"input": "refund 7"}, id="outer"), "all done"), tools=[tool]
    )
    asked = await stage.play(lead, "refund 7", thread_id="thread")
    assert [question["value"]["agent"] for question in asked.interrupts] == ["shop"]
    assert asked.usage["token_usage_by_caller"].keys() == {"lead_agent", "shop"}
    done = await answer(stage, lead, True)
    assert done.status is RunStatus.success
    assert done.values["output"] == "all done"
    assert shop.refunded == [7]
    assert done.usage["token_usage_by_caller"].keys() == {"lead_agent", "shop"}


async def test_a_handoffs_target_asks_and_goes_on(stage: Any) -> None:
    shop = Shop(7)
    lead = Agent("lead", model=ScriptedModel(Calls("transfer_to_shop")), handoffs=[shop.agent])
    asked = await stage.play(lead, "refund 7", thread_id="thread")
    assert asked.interrupts[0]["value"]["agent"] == "shop"
    done = await answer(stage, lead, "yes")
    assert done.values["output"] == "done"
    assert done.usage["token_usage_by_caller"].keys() == {"shop"}


@dataclass
class Till:
    money: int


def paying(*turns: Any) -> Agent[Any]:
    @function_tool(needs_approval=True)
    async def pay(context: RunContextWrapper[Any]) -> str:
        return str(context.context["money"] if isinstance(context.context, dict) else context.context.money)

    return Agent(
        "payer", model=ScriptedModel(Calls("pay"), "done"), tools=[pay], tool_use_behavior="stop_on_first_tool"
    )


async def test_a_context_that_is_json_is_kept_until_the_answer_or_given_anew(stage: Any) -> None:
    agent = paying()
    await stage.play(agent, "pay", thread_id="thread", context={"money": 5})
    assert (await answer(stage, agent, "yes")).values["output"] == "5"
    agent = paying()
    await stage.play(agent, "pay", thread_id="thread", context={"money": 5})
    assert (await answer(stage, agent, "yes", context={"money": 9})).values["output"] == "9"


@pytest.mark.parametrize("context", [Till(5), {"money": 5, "till": Till(5)}], ids=["object", "object in a mapping"])
async def test_a_context_that_is_no_json_has_to_be_given_again(stage: Any, context: Any) -> None:
    agent = paying()
    await stage.play(agent, "pay", thread_id="thread", context=context)
    refused = await answer(stage, agent, "yes")
    assert refused.end["error"].startswith("context = None")
    assert (await answer(stage, agent, "yes", context=Till(9))).values["output"] == "9"


async def test_a_limit_of_turns_counts_for_both_runs_and_may_be_raised_with_the_answer(stage: Any) -> None:
    shop = Shop(7)
    await stage.play(shop.agent, "refund 7", thread_id="thread", config={"max_turns": 1})
    stopped = await answer(stage, shop.agent, "yes")
    assert stopped.end["error_type"] == "MaxTurnsExceeded"
    shop = Shop(7)
    await stage.play(shop.agent, "refund 7", thread_id="other", config={"max_turns": 1})
    done = await stage.play(shop.agent, thread_id="other", command={"resume": "yes"}, config={"max_turns": 5})
    assert done.status is RunStatus.success


async def test_what_is_streamed_after_the_answer_is_new(stage: Any) -> None:
    shop = Shop(7)
    await stage.play(shop.agent, "refund 7", thread_id="thread")
    done = await answer(stage, shop.agent, "yes", stream_mode="updates")
    assert [update["event"] for update in done.streamed("updates")] == ["tool_output", "message_output_created"]
    assert done.usage["message_count"] == 3
