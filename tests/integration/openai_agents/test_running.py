"""An agent of the SDK as an agent: what it gets, what it returns, what its thread remembers."""

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from agents import Agent, ModelSettings, RunContextWrapper, RunHooks, SQLiteSession, Tool, function_tool, handoff
from agents.extensions import handoff_filters
from agents.tracing import Span, Trace, TracingProcessor, set_trace_processors
from pydantic import BaseModel
from tests.integration.openai_agents.scripted_model import Calls, ScriptedModel

from trackside import InvalidSpecError, RunStatus, TracksideError, as_agent, current_run, run_agent
from trackside.harness.adapters.openai_agents import OpenAIAgent, adapt


def saying(*turns: Any, **options: Any) -> Agent[Any]:
    return Agent("talker", model=ScriptedModel(*turns), **options)


async def test_an_agent_runs_in_a_script() -> None:
    seen = []

    async def watch(event: Any) -> None:
        seen.append(str(event.event_type))

    result = await run_agent(saying("good morning"), "hello", observer=watch)
    assert result.status is RunStatus.success
    assert result.completion_data["last_ai_message"] == "good morning"
    assert seen == ["run_started", "thread_status_updated", "human_message", "run_completed", "thread_status_updated"]


async def test_agents_and_their_subclasses_are_adapted_and_other_things_left_to_others() -> None:
    class Mine(Agent[Any]):
        pass

    assert isinstance(adapt(Mine("mine")), OpenAIAgent)
    assert as_agent(saying("x")).name == "talker"
    assert as_agent(saying("x"), name="another").name == "another"
    assert adapt(function_tool(lambda: "x", name_override="x")) is None


@pytest.mark.parametrize("command", ["import agents", "import sys; sys.modules['agents.sub'] = None; import agents"])
def test_a_module_of_ones_own_that_is_called_agents_is_not_taken_for_the_sdk(tmp_path: Path, command: str) -> None:
    (tmp_path / "agents.py").write_text("class Mine:\n    def __call__(self, text):\n        return text.upper()\n")
    code = f"{command}\nfrom trackside import as_agent\nprint(type(as_agent(agents.Mine())).__name__)"
    shown = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert shown.stdout == "CallableAgent\n"


@pytest.mark.parametrize(
    "input",
    [
        "hello",
        {"type": "human", "content": "hello"},
        {"role": "user", "content": "hello"},
        ["hello"],
        [{"type": "message", "role": "user", "content": "hello"}],
        {"messages": "hello"},
        {"messages": [{"type": "human", "content": "hello", "id": "an id of somebody else's"}]},
        [{"type": "human", "content": [{"type": "text", "text": "hello"}]}],
        [{"role": "user", "content": [{"type": "input_text", "text": "hello"}]}],
    ],
    ids=repr,
)
async def test_every_form_of_a_message_reaches_the_model_in_openais(stage: Any, input: Any) -> None:
    model = ScriptedModel("well")
    outcome = await stage.play(Agent("talker", model=model), input)
    assert outcome.status is RunStatus.success
    (heard,) = model.heard[0]
    assert heard["role"] == "user"
    assert heard["content"] in ("hello", [{"type": "input_text", "text": "hello"}])
    assert len(outcome.humans) == 1
    assert outcome.usage["first_human_message"] == "hello"
    assert outcome.usage["message_count"] == 2


@pytest.mark.parametrize("kind", [{"type": "human"}, {"role": "user"}], ids=repr)
async def test_a_message_keeps_the_id_that_it_was_given(stage: Any, kind: dict[str, str]) -> None:
    given = [{**kind, "content": "one", "id": "m-1"}, {**kind, "content": "two", "id": 2}, {**kind, "content": "three"}]
    outcome = await stage.play(saying("well"), given)
    first, second, third = (message["id"] for message in outcome.humans)
    assert (first, second) == ("m-1", "2")
    assert third not in (first, second)


async def test_other_roles_and_items_are_passed_on_and_announced_as_nobodys(stage: Any) -> None:
    model = ScriptedModel("well")
    call = {"type": "function_call", "call_id": "c", "name": "look", "arguments": "{}"}
    output = {"type": "function_call_output", "call_id": "c", "output": "a cat"}
    said = [{"type": "system", "content": "be brief"}, {"type": "ai", "content": "yes?"}, call, output, "and now?"]
    outcome = await stage.play(Agent("talker", model=model), {"messages": said})
    assert [item.get("role") for item in model.heard[0]] == ["system", "assistant", None, None, "user"]
    assert [human["content"] for human in outcome.humans] == ["and now?"]
    assert outcome.usage["message_count"] == 4


@pytest.mark.parametrize(
    "input",
    [
        *[
            None,
            [],
            5,
            {"question": "hello"},
            {"type": "tool", "content": "x"},
            {"messages": ["hello"], "more": 1},
            [None],
        ],
        *[
            {"type": "human", "text": "hi"},
            {"type": "human", "role": "user", "text": "hi"},
            {"type": "x", "role": "user"},
        ],
        *[{"type": "ai", "role": "assistant"}, {"role": "user"}],
    ],
    ids=repr,
)
async def test_an_input_that_is_no_message_is_refused_by_name(stage: Any, input: Any) -> None:
    outcome = await stage.play(saying("well"), input)
    assert outcome.status is RunStatus.error
    assert outcome.end["error_type"] == "InvalidSpecError"
    assert outcome.end["error"].startswith("input = ")
    assert outcome.usage["llm_call_count"] == 0


async def test_a_thread_is_the_conversation(stage: Any) -> None:
    model = ScriptedModel("a cat", "black")
    agent = Agent("talker", model=model)
    first = await stage.play(agent, "what is it?", thread_id="thread")
    second = await stage.play(agent, "which colour?", thread_id="thread")
    assert first.values["output"] == "a cat"
    assert [item["role"] for item in model.heard[1]] == ["user", "assistant", "user"]
    assert [item["role"] for item in second.values["items"]] == ["user", "assistant", "user", "assistant"]
    assert [human["content"] for human in second.humans] == ["which colour?"]
    assert second.usage["message_count"] == 2


async def test_a_failed_run_leaves_what_it_was_asked_in_the_conversation(stage: Any) -> None:
    model = ScriptedModel("a cat", RuntimeError("no route"), "black")
    agent = Agent("talker", model=model)
    await stage.play(agent, "what is it?", thread_id="thread")
    failed = await stage.play(agent, "lost", thread_id="thread")
    assert failed.status is RunStatus.error
    outcome = await stage.play(agent, "which colour?", thread_id="thread")
    contents = [item["content"] for item in outcome.values["items"] if item["role"] == "user"]
    assert contents == ["what is it?", "lost", "which colour?"]


async def test_another_try_at_a_failed_run_does_not_ask_twice(stage: Any) -> None:
    model = ScriptedModel("a cat", RuntimeError("no route"), RuntimeError("no route"), "black")
    agent = Agent("talker", model=model)
    await stage.play(agent, "what is it?", thread_id="thread")
    failed = await stage.play(agent, "which colour?", thread_id="thread")
    again = await stage.play(agent, "which colour?", thread_id="thread", retry_of=failed.result.run_id, attempt=2)
    await stage.play(agent, "which colour?", thread_id="thread", retry_of=again.result.run_id, attempt=3)
    contents = [item["content"] for item in model.heard[-1] if item["role"] == "user"]
    assert contents == ["what is it?", "which colour?"]


@pytest.mark.parametrize(
    "input_filter",
    [
        None,
        handoff_filters.remove_all_tools,
        handoff_filters.nest_handoff_history,
        lambda data: data.clone(input_history=data.input_history[-3:]),
    ],
    ids=["none", "without tools", "nested", "the last three"],
)
async def test_another_try_begins_where_the_first_one_began_whatever_a_handoff_has_left_of_it(
    stage: Any, input_filter: Any
) -> None:
    lead = ScriptedModel(Calls("look"), "on its way", Calls("transfer_to_billing"))
    billing = Agent("billing", model=ScriptedModel(RuntimeError("no route"), RuntimeError("no route"), "refunded"))
    look = function_tool(lambda: "parcel 7", name_override="look", description_override="Look.")
    agent = Agent("desk", model=lead, tools=[look], handoffs=[handoff(billing, input_filter=input_filter)])
    await stage.play(agent, "where is it?", thread_id="thread")
    failed = await stage.play(agent, "refund it", thread_id="thread")
    again = await stage.play(agent, "refund it", thread_id="thread", retry_of=failed.result.run_id, attempt=2)
    outcome = await stage.play(agent, "refund it", thread_id="thread", retry_of=again.result.run_id, attempt=3)
    assert outcome.values["output"] == "refunded"
    whole = ["where is it?", "function_call", "function_call_output", "message", "refund it"]
    for items in lead.heard[2:]:
        assert [item["content"] if item.get("role") == "user" else item["type"] for item in items] == whole


async def test_without_an_input_a_thread_goes_on_from_where_it_is(stage: Any) -> None:
    model = ScriptedModel("a cat", "and a dog")
    agent = Agent("talker", model=model)
    await stage.play(agent, "what is it?", thread_id="thread")
    outcome = await stage.play(agent, None, thread_id="thread")
    assert outcome.values["output"] == "and a dog"
    assert outcome.humans == []


async def test_the_next_run_begins_with_the_agent_again_after_a_handoff(stage: Any) -> None:
    specialist = Agent("specialist", model=ScriptedModel("I know"))
    lead = ScriptedModel(Calls("transfer_to_specialist"), "me again")
    agent = Agent("lead", model=lead, handoffs=[specialist])
    first = await stage.play(agent, "who knows?", thread_id="thread")
    second = await stage.play(agent, "and now?", thread_id="thread")
    assert (first.values["output"], second.values["output"]) == ("I know", "me again")


async def test_an_output_of_a_type_is_json(stage: Any) -> None:
    class Weather(BaseModel):
        place: str
        degrees: int

    outcome = await stage.play(saying('{"place": "Oslo", "degrees": -3}', output_type=Weather), "how cold?")
    assert outcome.values["output"] == {"place": "Oslo", "degrees": -3}


async def test_a_tool_sees_its_run_and_the_context(stage: Any) -> None:
    @dataclass
    class Who:
        name: str

    seen = []

    @function_tool
    async def look(context: RunContextWrapper[Who]) -> str:
        run = current_run()
        assert run is not None
        run.send({"looked": True})
        seen.append((run.run_id, context.context.name))
        return "a cat"

    agent = saying(Calls("look"), "a cat it is", tools=[look])
    outcome = await stage.play(agent, "look", context=Who("Ada"), stream_mode=["values", "custom"])
    assert seen == [(outcome.result.run_id, "Ada")]
    assert outcome.streamed("custom") == [{"looked": True}]


async def test_config_is_the_sdks(stage: Any) -> None:
    called = []

    class Hooks(RunHooks[Any]):
        async def on_tool_start(self, context: Any, agent: Any, tool: Tool) -> None:
            called.append(("tool", tool.name))

        async def on_llm_end(self, context: Any, agent: Any, response: Any) -> None:
            called.append(("model", agent.name))

    other = ScriptedModel(Calls("look"), "well", name="another")
    agent = saying("never asked", tools=[function_tool(lambda: "a cat", name_override="look")])
    config = {"model": other, "hooks": Hooks(), "model_settings": {"temperature": 0.5}, "max_turns": None}
    outcome = await stage.play(agent, "hello", config=config)
    assert outcome.values["output"] == "well"
    assert list(outcome.usage["token_usage_by_model"]) == ["another"]
    assert called == [("model", "talker"), ("tool", "look"), ("model", "talker")]


@pytest.mark.parametrize(
    ("config", "named"),
    [
        ({"max_turn": 3}, "config.max_turn = 3.* max_turns"),
        ({"max_turns": 0}, "config.max_turns = 0.* from 1 up"),
        ({"max_turns": True}, "config.max_turns = True"),
        ({"session": SQLiteSession("x")}, "config.session = .*thread_id"),
        ({"conversation_id": "conv_1"}, "config.conversation_id = 'conv_1'.*the thread keeps"),
        ({"hooks": ModelSettings()}, "config.hooks = .*RunHooks"),
        ({"error_handlers": {"max_turn": print}}, "config.error_handlers = .*max_turns, model_refusal to functions"),
        ({"error_handlers": {"max_turns": "I gave up"}}, "config.error_handlers = .*functions"),
        ({"model": 5}, "config.model = 5 .*name of a model"),
        ({"tracing_disabled": "no"}, "config.tracing_disabled = 'no' .*true or false"),
        ({"workflow_name": None}, "config.workflow_name = None .*a text"),
        ({"model_settings": {"warmth": 1}}, "config = {'model_settings': .*warmth"),
        ({"tool_name_collision_policy": "quietly"}, "config = {.*tool_name_collision_policy"),
    ],
)
async def test_a_config_that_the_sdk_does_not_know_is_refused_by_name(
    run_context: Any, config: dict[str, Any], named: str
) -> None:
    with pytest.raises(InvalidSpecError, match=named):
        await OpenAIAgent(saying("well")).human_messages(run_context("hello", config=config))


@pytest.mark.parametrize(
    "asked",
    [
        {"interrupt_before": ["look"]},
        {"interrupt_after": "*"},
        {"durability": "sync"},
        {"command": {"goto": "look"}},
        {"command": {"update": {"messages": []}}},
    ],
    ids=repr,
)
async def test_what_only_graphs_have_is_refused(run_context: Any, asked: dict[str, Any]) -> None:
    with pytest.raises(InvalidSpecError, match="it is for LangGraph graphs"):
        await OpenAIAgent(saying("well")).human_messages(run_context("hello", **asked))


class Traces(TracingProcessor):
    def __init__(self) -> None:
        self.names: list[str] = []

    def on_trace_start(self, trace: Trace) -> None:
        self.names.append(trace.name)

    def on_trace_end(self, trace: Trace) -> None: ...
    def on_span_start(self, span: Span[Any]) -> None: ...
    def on_span_end(self, span: Span[Any]) -> None: ...
    def shutdown(self) -> None: ...
    def force_flush(self) -> None: ...


async def test_nothing_is_traced_unless_the_config_says_so(stage: Any) -> None:
    traces = Traces()
    set_trace_processors([traces])
    try:
        await stage.play(saying("well"), "hello")
        assert traces.names == []
        await stage.play(saying("well"), "hello", config={"tracing_disabled": False, "workflow_name": "chat"})
        assert traces.names == ["chat"]
    finally:
        set_trace_processors([])


async def test_an_agent_in_a_run_of_a_tool_is_a_run_of_its_own(stage: Any) -> None:
    inner = Agent("inner", model=ScriptedModel("deep", name="small"))

    @function_tool
    async def ask() -> str:
        return str((await run_agent(inner, "how deep?")).completion_data["token_usage_by_caller"])

    outcome = await stage.play(saying(Calls("ask"), "well", tools=[ask]), "hello")
    (output,) = [item["output"] for item in outcome.values["items"] if item.get("type") == "function_call_output"]
    assert "lead_agent" in output
    assert list(outcome.usage["token_usage_by_model"]) == ["scripted-1"]


async def test_a_tool_that_pauses_as_functions_do_is_told_what_to_use(stage: Any) -> None:
    @function_tool
    async def ask() -> str:
        run = current_run()
        assert run is not None
        return str(run.interrupt("May I?"))

    outcome = await stage.play(saying(Calls("ask"), "well", tools=[ask]), "hello")
    assert outcome.status is RunStatus.error
    assert outcome.end["error_type"] == "ToolPauseError"
    assert "needs_approval" in outcome.end["error"]


def test_errors_of_the_adapter_are_tracksides() -> None:
    from trackside.harness.adapters.openai_agents._errors import StoppingError, ToolPauseError

    assert issubclass(StoppingError, TracksideError)
    assert "needs_approval" in str(ToolPauseError(agent="talker"))


async def test_a_handoff_with_an_input_filter_is_remembered_as_the_model_saw_it(stage: Any) -> None:
    specialist = Agent("specialist", model=ScriptedModel("I know"))
    forgetful = handoff(
        specialist, input_filter=lambda data: data.clone(input_history="(forgotten)", pre_handoff_items=())
    )
    agent = Agent("lead", model=ScriptedModel(Calls("transfer_to_specialist")), handoffs=[forgetful])
    outcome = await stage.play(agent, "who knows?")
    assert outcome.status is RunStatus.success
    assert outcome.values["output"] == "I know"
