"""How a run's model calls are counted, whoever makes them and however they end."""

import asyncio
import json
from itertools import product
from typing import Any

import httpx
import pytest
from agents import (
    Agent,
    FunctionTool,
    GuardrailFunctionOutput,
    OpenAIResponsesModel,
    RunConfig,
    RunHooks,
    Runner,
    ShellTool,
    function_tool,
    input_guardrail,
)
from agents.run import AgentRunner, get_default_agent_runner, set_default_agent_runner
from openai import AsyncOpenAI
from openai.types.responses import (
    ResponseFunctionShellToolCall,
    ResponseFunctionShellToolCallOutput,
    ResponseFunctionWebSearch,
)
from openai.types.responses.response_function_shell_tool_call import Action
from openai.types.responses.response_function_shell_tool_call_output import Output, OutputOutcomeExit
from openai.types.responses.response_function_web_search import ActionSearch
from tests.contract.ways_to_run import virtual
from tests.integration.openai_agents.scripted_model import Calls, ScriptedModel

from trackside import RunStatus, as_agent, run_agent

USED = {"input_tokens": 10, "output_tokens": 5, "total_tokens": 15}


def agent(*turns: Any, name: str = "lead", model: str = "scripted-1", **options: Any) -> Agent[Any]:
    return Agent(name, model=ScriptedModel(*turns, name=model), **options)


def as_tool(helper: Agent[Any], **options: Any) -> FunctionTool:
    return helper.as_tool(tool_name=helper.name, tool_description="Helps.", **options)


def nothing(name: str = "look") -> FunctionTool:
    return function_tool(lambda: "nothing", name_override=name)


async def waiting(items: list[Any]) -> str:
    await asyncio.Event().wait()
    return ""


def calls(outcome: Any) -> list[tuple[str, str, str]]:
    """The calls, as kind, name and caller, in the order in which they started; each has returned without an error."""
    listed = outcome.usage["calls"]
    assert [call for call in listed if "error_type" in call] == []
    return [(call["kind"], call["name"], call["caller"]) for call in listed]


@pytest.mark.parametrize("tokens", [-1, 2**64 - 1])
async def test_counts_that_make_no_sense_are_left_out_and_the_run_goes_on(stage: Any, tokens: int) -> None:
    outcome = await stage.play(Agent("lead", model=ScriptedModel("well", usage=(tokens, 20, tokens, tokens))), "hello")
    assert (outcome.status, outcome.usage["llm_call_count"]) == (RunStatus.success, 1)
    assert outcome.usage["total_tokens"] == 20


async def test_tokens_are_counted_with_those_cached_and_those_of_reasoning(stage: Any) -> None:
    model = ScriptedModel("well", usage=(100, 20, 60, 7))
    outcome = await stage.play(Agent("lead", model=model), "hello")
    assert outcome.usage["token_usage_by_model"] == {
        "scripted-1": {
            "input_tokens": 100,
            "output_tokens": 20,
            "total_tokens": 120,
            "cache_read_tokens": 60,
            "reasoning_tokens": 7,
        }
    }


async def test_a_handoffs_target_is_credited_by_name(stage: Any) -> None:
    specialist = agent("I know", name="specialist", model="large")
    outcome = await stage.play(agent(Calls("transfer_to_specialist"), handoffs=[specialist]), "who knows?")
    assert outcome.usage["token_usage_by_caller"] == {"lead_agent": USED, "specialist": USED}
    assert outcome.usage["token_usage_by_model"] == {"scripted-1": USED, "large": USED}
    assert outcome.usage["tool_call_count"] == 0
    assert calls(outcome) == [
        ("chat", "scripted-1", "lead_agent"),
        ("invoke_agent", "specialist", "lead_agent"),
        ("chat", "large", "specialist"),
    ]


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"run_config": RunConfig(tracing_disabled=True)},
        {"hooks": RunHooks()},
        {"on_stream": lambda event: None},
    ],
    ids=["plain", "own config", "own hooks", "streamed"],
)
async def test_agents_as_tools_are_credited_by_name_however_deep(stage: Any, options: dict[str, Any]) -> None:
    deepest = agent("42", name="deepest")
    helper = agent(Calls("deepest", {"input": "how deep?"}), "very", name="helper", tools=[as_tool(deepest, **options)])
    lead = agent(Calls("helper", {"input": "ask"}), "done", tools=[as_tool(helper, **options)])
    outcome = await stage.play(lead, "how deep?")
    twice = {name: 2 * count for name, count in USED.items()}
    assert outcome.usage["token_usage_by_caller"] == {"lead_agent": twice, "helper": twice, "deepest": USED}
    assert outcome.usage["tool_call_count"] == 2
    assert calls(outcome) == [
        ("chat", "scripted-1", "lead_agent"),
        ("execute_tool", "helper", "lead_agent"),
        ("invoke_agent", "helper", "lead_agent"),
        ("chat", "scripted-1", "helper"),
        ("execute_tool", "deepest", "helper"),
        ("invoke_agent", "deepest", "helper"),
        ("chat", "scripted-1", "deepest"),
        ("chat", "scripted-1", "helper"),
        ("chat", "scripted-1", "lead_agent"),
    ]
    assert (
        outcome.usage["message_count"] == 4
    )  # those of the conversation itself: the question, the call, its result, the answer


def in_a_thread(helper: Agent[Any]) -> Any:
    loop = asyncio.new_event_loop()  # `run_sync` would make one too, and leave it open
    asyncio.set_event_loop(loop)
    try:
        return Runner.run_sync(helper, "do it").final_output
    finally:
        loop.close()


@pytest.mark.parametrize("way", ["run", "run_sync", "run_streamed"])
async def test_a_run_of_the_sdks_that_a_tool_starts_is_credited_to_its_agent(stage: Any, way: str) -> None:
    helper = agent("it is done", name="helper")

    async def ask() -> str:
        if way == "run":
            return str((await Runner.run(helper, "do it")).final_output)
        if way == "run_sync":
            return str(await asyncio.to_thread(in_a_thread, helper))
        result = Runner.run_streamed(helper, "do it")
        return str([event async for event in result.stream_events()] and result.final_output)

    lead = agent(Calls("ask"), "done", tools=[function_tool(ask)])
    outcome = await stage.play(lead, "go")
    assert outcome.status is RunStatus.success
    assert outcome.usage["token_usage_by_caller"]["helper"] == USED
    assert ("invoke_agent", "helper", "lead_agent") in calls(outcome)


async def test_the_hooks_of_others_go_on_working_below(stage: Any) -> None:
    heard = []

    class Hooks(RunHooks[Any]):
        async def on_agent_start(self, context: Any, agent: Any) -> None:
            heard.append(f"{agent.name} starts")

        async def on_llm_start(self, *arguments: Any) -> None:
            heard.append("model")

        async def on_tool_end(self, context: Any, agent: Any, tool: Any, result: Any) -> None:
            heard.append(f"{tool.name} gave {result}")

        async def on_agent_end(self, context: Any, agent: Any, output: Any) -> None:
            heard.append(f"{agent.name} ends")

    helper = agent(Calls("look"), "well", name="helper", tools=[nothing()])
    await stage.play(agent(Calls("helper", {"input": "x"}), "done", tools=[as_tool(helper, hooks=Hooks())]), "go")
    assert heard == ["helper starts", "model", "look gave nothing", "model", "helper ends"]


async def test_runs_outside_ours_are_left_alone_and_another_runner_is_kept(stage: Any) -> None:
    ran = []

    class Mine(AgentRunner):
        def run_streamed(self, starting_agent: Any, input: Any, **options: Any) -> Any:
            ran.append((starting_agent.name, options.get("hooks")))
            return super().run_streamed(starting_agent, input, **options)

    before = get_default_agent_runner()
    set_default_agent_runner(Mine())
    try:
        await stage.play(agent("well"), "hello")
        result = Runner.run_streamed(agent("well", name="another"), "hello")
        assert [event.type async for event in result.stream_events()]
    finally:
        set_default_agent_runner(before)
    (ours, hooks), (theirs, none) = ran
    assert (ours, theirs) == ("lead", "another")
    assert hooks is not None
    assert none is None


async def test_what_a_function_runs_by_the_sdk_is_not_credited_to_the_run_around_it(stage: Any) -> None:
    helper = agent("done", name="helper", model="large")

    async def plain(text: str) -> str:
        return str((await Runner.run(helper, text)).final_output)

    @function_tool
    async def ask() -> str:
        return (await run_agent(plain, "go")).status

    outcome = await stage.play(agent(Calls("ask"), "done", tools=[ask]), "go")
    assert list(outcome.usage["token_usage_by_model"]) == ["scripted-1"]


async def test_a_run_that_fails_counts_what_was_used(stage: Any) -> None:
    outcome = await stage.play(agent(Calls("look"), RuntimeError("no route"), tools=[nothing()]), "go")
    assert outcome.status is RunStatus.error
    assert outcome.end["error_type"] == "RuntimeError"
    assert outcome.usage["token_usage_by_caller"] == {"lead_agent": USED}
    assert outcome.usage["llm_error_count"] == 1


@pytest.mark.parametrize("options", [{}, {"on_stream": lambda event: None}], ids=["plain", "streamed"])
async def test_a_model_behind_a_tool_that_fails_is_counted_though_the_sdk_makes_a_text_of_it(
    stage: Any, options: dict[str, Any]
) -> None:
    helper = agent(RuntimeError("no route"), name="helper")
    tools = [as_tool(helper, **options)]
    outcome = await stage.play(agent(Calls("helper", {"input": "x"}), "sorry", tools=tools), "go")
    assert outcome.status is RunStatus.success
    assert outcome.usage["llm_error_count"] == 1
    assert outcome.usage["token_usage_by_caller"].keys() == {"lead_agent"}


async def test_a_guardrail_that_breaks_a_model_off_is_no_failure_of_the_model(stage: Any) -> None:
    called = asyncio.Event()

    async def never(items: list[Any]) -> str:
        called.set()
        return await waiting(items)

    @input_guardrail
    async def trip(context: Any, agent: Any, given: Any) -> GuardrailFunctionOutput:
        await called.wait()
        return GuardrailFunctionOutput(None, tripwire_triggered=True)

    helper = agent(never, name="helper", input_guardrails=[trip])
    outcome = await stage.play(agent(Calls("helper", {"input": "x"}), "sorry", tools=[as_tool(helper)]), "go")
    assert outcome.status is RunStatus.success
    assert "llm_error_count" not in outcome.usage


async def test_tools_that_the_provider_calls_are_counted_by_what_the_response_says(stage: Any) -> None:
    class Searching(ScriptedModel):
        async def _take_turn(self, input: Any) -> Any:
            search = ActionSearch(query="cats", type="search")
            found = ResponseFunctionWebSearch(id="ws", action=search, status="completed", type="web_search_call")
            return [found, *await super()._take_turn(input)]

    outcome = await stage.play(Agent("lead", model=Searching("cats", name="x")), "go", max_tool_calls=1)
    assert outcome.status is RunStatus.success
    assert outcome.usage["tool_call_count"] == 1


class Shelling(ScriptedModel):
    """A model that has two commands run in a shell; if the shell is `hosted`, the model knows their outcome at once."""

    hosted = True

    async def _take_turn(self, input: Any) -> Any:
        said = await super()._take_turn(input)
        if self.hosted:
            return [ls("s1"), listed("s1"), ls("s2"), listed("s2"), *said]
        return [ls("s1"), ls("s2")] if len(self.heard) == 1 else said


def ls(call_id: str) -> ResponseFunctionShellToolCall:
    action = Action(commands=["ls"])
    return ResponseFunctionShellToolCall(
        id=f"call_{call_id}", call_id=call_id, status="completed", type="shell_call", action=action
    )


def listed(call_id: str) -> ResponseFunctionShellToolCallOutput:
    seen = Output(outcome=OutputOutcomeExit(exit_code=0, type="exit"), stderr="", stdout="a.txt")
    return ResponseFunctionShellToolCallOutput(
        id=f"output_{call_id}", call_id=call_id, status="completed", type="shell_call_output", output=[seen]
    )


@pytest.mark.parametrize("hosted", [True, False])
async def test_a_shell_counts_wherever_it_is(stage: Any, hosted: bool) -> None:
    def lead() -> Agent[Any]:
        model = Shelling("done")
        model.hosted = hosted
        tool = ShellTool(environment={"type": "container_auto"}) if hosted else ShellTool(executor=lambda _: "a.txt")
        return Agent("lead", model=model, tools=[tool])

    outcome = await stage.play(lead(), "go", max_tool_calls=2)
    assert outcome.status is RunStatus.success
    assert [call["name"] for call in outcome.usage["calls"] if call["kind"] == "execute_tool"] == ["shell"] * 2
    assert outcome.usage["tool_call_count"] == 2
    outcome = await stage.play(lead(), "go", max_tool_calls=1)
    assert outcome.end["error_type"] == "budget_exceeded"


async def test_an_answer_that_makes_no_sense_counts_as_an_answer(stage: Any) -> None:
    outcome = await stage.play(agent(Calls("nobody knows this tool")), "go")
    assert outcome.end["error_type"] == "ModelBehaviorError"
    assert outcome.usage["token_usage_by_caller"] == {"lead_agent": USED}
    assert "llm_error_count" not in outcome.usage


async def test_an_answer_with_a_call_that_is_like_another_counts_as_an_answer(stage: Any) -> None:
    turns = Calls("look", {"place": "here"}, id="c1"), Calls("look", {"place": "there"}, id="c1")
    outcome = await stage.play(
        agent(*turns, tools=[function_tool(lambda place: "nothing", name_override="look")]), "go"
    )
    assert outcome.end["error_type"] == "ModelBehaviorError"
    assert (outcome.usage["llm_call_count"], outcome.usage["total_tokens"]) == (2, 30)
    assert "llm_error_count" not in outcome.usage
    assert [call for call in outcome.usage["calls"] if call["kind"] == "chat" and "error_type" in call] == []


@pytest.mark.parametrize("streams", [False, True])
async def test_an_answer_below_that_is_refused_counts_once_beside_others(stage: Any, streams: bool) -> None:
    """Agents used as tools share the SDK's counts with the agent above, and with each other."""
    refused = agent(
        Calls("look", {"place": "here"}, id="c1"), Calls("look", {"place": "there"}, id="c1"), name="clumsy"
    )
    refused.tools = [function_tool(lambda place: "nothing", name_override="look")]
    fails = agent(ConnectionError("no model"), name="away")
    well = agent(Calls("look"), "well", tools=[nothing()], name="well")
    below = [as_tool(each, on_stream=(lambda _: None) if streams else None) for each in (refused, fails, well)]
    outcome = await stage.play(agent([Calls(tool.name, {"input": "go"}) for tool in below], "done", tools=below), "go")
    assert outcome.status is RunStatus.success
    twice = {name: 2 * tokens for name, tokens in USED.items()}
    assert outcome.usage["token_usage_by_caller"] == {"lead_agent": twice, "clumsy": twice, "well": twice}
    assert (outcome.usage["llm_call_count"], outcome.usage["llm_error_count"]) == (6, 1)


def meeting(turns: int) -> Any:
    """Make turns that wait until so many models are called, and then go on so many turns of the event loop later."""
    gate = asyncio.Barrier(turns)

    def turn(said: Any, later: int) -> Any:
        async def take(items: list[Any]) -> Any:
            await gate.wait()
            for _ in range(later):
                await asyncio.sleep(0)
            if isinstance(said, Exception):
                raise said
            return said

        return take

    return turn


async def used_by(*below: Agent[Any]) -> dict[str, int]:
    """How many tokens are credited to agents that are tools, side by side, when the agent above has asked twice."""
    tools = [as_tool(each) for each in below]
    result = await run_agent(agent([Calls(tool.name, {"input": "go"}) for tool in tools], "done", tools=tools), "go")
    assert result.status is RunStatus.success, result.error
    used = {name: each["total_tokens"] for name, each in result.completion_data["token_usage_by_caller"].items()}
    assert result.completion_data["total_tokens"] == sum(used.values())
    return used


@pytest.mark.parametrize("first", [True, False], ids=["first", "last"])
async def test_an_answer_is_not_counted_for_a_model_that_fails_in_the_very_moment(first: bool) -> None:
    for well, away in product(range(4), range(8)):
        turn = meeting(2)
        below = [agent(turn("well", well), name="well"), agent(turn(ConnectionError("no model"), away), name="away")]
        used = await used_by(*(below if first else reversed(below)))
        assert used == {"lead_agent": 30, "well": 15}, (well, away)


@pytest.mark.parametrize("first", [True, False], ids=["first", "last"])
async def test_an_answer_that_is_refused_is_counted_where_another_is_told_of_in_the_very_moment(first: bool) -> None:
    twice = [Calls("look", {"place": "here"}, id="c1"), Calls("look", {"place": "there"}, id="c1")]
    for clumsy, well in product(range(6), range(10)):
        turn = meeting(2)
        look = function_tool(lambda place: "nothing", name_override="look")
        below = [agent(turn(twice, clumsy), name="clumsy", tools=[look]), Agent("well")]
        below[1].model = ScriptedModel(turn("well", well), usage=(20, 10, 0, 0))
        used = await used_by(*(below if first else reversed(below)))
        assert used == {"lead_agent": 30, "clumsy": 15, "well": 30}, (clumsy, well)


async def test_a_stream_that_breaks_off_counts_what_it_had_reported(stage: Any) -> None:
    async def breaks(items: list[Any]) -> str:
        await asyncio.sleep(0)
        raise ConnectionError("reset by peer")

    model = ScriptedModel(breaks, early=(7, 1, 0, 0))
    outcome = await stage.play(Agent("lead", model=model), "go")
    assert outcome.end["error_type"] == "ConnectionError"
    assert outcome.usage["total_tokens"] == 8
    assert outcome.usage["llm_error_count"] == 1


@pytest.mark.parametrize("read", [7, None])
async def test_a_count_that_a_server_reports_as_null_of_an_answer_cut_off_is_none(stage: Any, read: int | None) -> None:
    cut: dict[str, Any] = {"id": "resp_1", "object": "response", "created_at": 0, "model": "gpt-5", "output": []}
    used = {"input_tokens": read, "output_tokens": 3, "total_tokens": 3}
    events = [
        {"type": "response.created", "response": {**cut, "status": "in_progress"}},
        {"type": "response.incomplete", "response": {**cut, "status": "incomplete", "usage": used}},
    ]
    text = "".join(
        f"event: {event['type']}\ndata: {json.dumps({**event, 'sequence_number': number})}\n\n"
        for number, event in enumerate(events)
    )
    served = httpx.Response(200, headers={"content-type": "text/event-stream"}, text=text)
    async with httpx.AsyncClient(transport=httpx.MockTransport(lambda _: served)) as http:
        model = OpenAIResponsesModel(
            "gpt-5", AsyncOpenAI(base_url="http://provider/v1", api_key="key", http_client=http)
        )
        outcome = await stage.play(Agent("cut", model=model), "go")
    assert (outcome.status, outcome.end["error_type"]) == (RunStatus.error, "ModelBehaviorError")
    assert outcome.usage["total_tokens"] == 3 + (read or 0)


@virtual
async def test_a_timed_out_run_counts_what_was_used_and_reported() -> None:
    model = ScriptedModel(Calls("look"), waiting, early=(7, 1, 0, 0))
    result = await run_agent(Agent("lead", model=model, tools=[nothing()]), "go", timeout=5.0)
    assert result.status is RunStatus.timeout
    assert result.completion_data["total_tokens"] == 15 + 8
    assert result.completion_data["llm_call_count"] == 2
    assert "llm_error_count" not in result.completion_data


@virtual
async def test_a_cancelled_run_counts_what_an_agent_below_had_used() -> None:
    helper = agent(Calls("look"), waiting, name="helper", tools=[nothing()])
    lead = agent(Calls("helper", {"input": "x"}), tools=[as_tool(helper)])
    result = await run_agent(lead, "go", timeout=5.0)
    assert result.completion_data["token_usage_by_caller"] == {"lead_agent": USED, "helper": USED}


async def test_a_budget_bites_before_the_tool_that_is_one_too_many(stage: Any) -> None:
    looked = []
    look = function_tool(lambda: looked.append(1) or "nothing", name_override="look")
    outcome = await stage.play(agent(Calls("look"), tools=[look]), "go", max_tool_calls=2)
    assert outcome.end["error_type"] == "budget_exceeded"
    assert len(looked) == 2


async def test_a_budget_is_for_all_and_bites_below_too(stage: Any) -> None:
    looked = []
    look = function_tool(lambda: looked.append(1) or "nothing", name_override="look")
    helper = agent(Calls("look"), name="helper", tools=[look])
    lead = agent(Calls("helper", {"input": "x"}), tools=[as_tool(helper)])
    outcome = await stage.play(lead, "go", max_llm_calls=3)
    assert outcome.end["error_type"] == "budget_exceeded"
    assert outcome.usage["llm_call_count"] == 4
    assert len(looked) == 2


async def test_a_model_is_called_what_agent_or_config_call_it(stage: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from agents import ModelProvider

    monkeypatch.setenv("OPENAI_DEFAULT_MODEL", "gpt-default")

    class Provider(ModelProvider):
        def get_model(self, model_name: str | None) -> Any:
            return ScriptedModel("well")

    class Nameless(ScriptedModel):
        model = property(lambda self: "", lambda self, name: None)  # type: ignore[assignment]  # a class without a name

    async def model_of(asked: Any, **config: Any) -> str:
        given = {"model_provider": Provider(), **config}
        return next(iter((await stage.play(Agent("x", model=asked), "x", config=given)).usage["token_usage_by_model"]))

    assert await model_of("gpt-mine") == "gpt-mine"
    assert await model_of(None) == "gpt-default"
    assert await model_of("gpt-mine", model="gpt-other") == "gpt-other"
    assert await model_of(Nameless("well")) == "Nameless"


async def test_two_adapters_of_one_agent_keep_apart(stage: Any) -> None:
    async def answer(items: list[Any]) -> str:
        await asyncio.sleep(0)
        return "well"

    one = agent(answer)
    results = await asyncio.gather(*(run_agent(as_agent(one, name=f"n{n}"), "hello") for n in range(4)))
    assert [result.completion_data["llm_call_count"] for result in results] == [1, 1, 1, 1]
