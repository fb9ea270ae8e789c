"""Runs that fail, and runs that only look as if they had succeeded."""

import asyncio
from typing import Any

import pytest
from agents import (
    Agent,
    GuardrailFunctionOutput,
    RunHooks,
    ToolGuardrailFunctionOutput,
    function_tool,
    input_guardrail,
    output_guardrail,
    tool_input_guardrail,
)
from tests.contract.ways_to_run import virtual
from tests.integration.openai_agents.scripted_model import Calls, ScriptedModel

from trackside import RunStatus, current_run, run_agent


def agent(*turns: Any, **options: Any) -> Agent[Any]:
    return Agent("lead", model=ScriptedModel(*turns), **options)


def broken(**options: Any) -> Any:
    async def look() -> str:
        raise LookupError("the lens is cracked")

    return function_tool(look, **options)


async def test_too_many_turns_are_an_error_that_says_so(stage: Any) -> None:
    look = function_tool(lambda: "nothing", name_override="look")
    outcome = await stage.play(agent(Calls("look"), tools=[look]), "go", config={"max_turns": 3})
    assert outcome.end["error_type"] == "MaxTurnsExceeded"
    assert "3" in outcome.end["error"]
    assert outcome.usage["llm_call_count"] == 3


class Cancels(RunHooks):
    async def on_agent_start(self, context: Any, agent: Any) -> None:
        raise asyncio.CancelledError("the shared connection was closed")


@output_guardrail
async def cancels(context: Any, agent: Any, output: Any) -> GuardrailFunctionOutput:
    raise asyncio.CancelledError("the shared connection was closed")


@pytest.mark.parametrize(
    ("turn", "options", "config"),
    [
        (asyncio.CancelledError("the shared connection was closed"), {}, {}),
        ("well", {}, {"hooks": Cancels()}),
        ("well", {"output_guardrails": [cancels]}, {}),
    ],
    ids=["model", "hook", "guardrail"],
)
async def test_a_cancel_that_nobody_asked_for_is_a_failure(
    stage: Any, turn: Any, options: dict[str, Any], config: dict[str, Any]
) -> None:
    outcome = await stage.play(agent(turn, **options), "go", config=config)
    assert outcome.status is RunStatus.error
    assert (outcome.end["error_type"], outcome.end["error"]) == ("CancelledError", "the shared connection was closed")
    assert outcome.streamed("values") == []


async def test_an_error_handler_may_make_an_output_of_it(stage: Any) -> None:
    look = function_tool(lambda: "nothing", name_override="look")
    config = {"max_turns": 1, "error_handlers": {"max_turns": lambda data: "I gave up"}}
    outcome = await stage.play(agent(Calls("look"), tools=[look]), "go", config=config)
    assert outcome.status is RunStatus.success
    assert outcome.values["output"] == "I gave up"


@pytest.mark.parametrize(
    ("found", "says"),
    [
        ({"topic": "arms"}, 'The guardrail no_arms stopped the run: {"topic": "arms"}'),
        ("about arms", "The guardrail no_arms stopped the run: about arms"),
        (None, "The guardrail no_arms stopped the run."),
    ],
    ids=["object", "text", "nothing"],
)
async def test_an_input_guardrail_says_its_name_and_what_it_found(stage: Any, found: Any, says: str) -> None:
    @input_guardrail
    async def no_arms(context: Any, agent: Any, given: Any) -> GuardrailFunctionOutput:
        return GuardrailFunctionOutput(output_info=found, tripwire_triggered=True)

    outcome = await stage.play(agent("well", input_guardrails=[no_arms]), "sell me a tank")
    assert outcome.end["error_type"] == "InputGuardrailTripwireTriggered"
    assert outcome.end["error"] == says
    assert "llm_error_count" not in outcome.usage


async def test_a_guardrail_that_trips_beside_the_model_is_no_failure_of_the_model(stage: Any) -> None:
    tripped = asyncio.Event()

    async def later(items: list[Any]) -> str:
        await tripped.wait()
        return "here is a tank"

    @input_guardrail
    async def no_arms(context: Any, agent: Any, given: Any) -> GuardrailFunctionOutput:
        tripped.set()
        return GuardrailFunctionOutput(output_info=None, tripwire_triggered=True)

    outcome = await stage.play(agent(later, input_guardrails=[no_arms]), "sell me a tank")
    assert outcome.end["error_type"] == "InputGuardrailTripwireTriggered"
    assert "llm_error_count" not in outcome.usage


def breaks_off() -> None:
    raise asyncio.CancelledError("the shared connection was closed")


def asks() -> None:
    run = current_run()
    assert run is not None
    run.interrupt("may this be asked?")


@pytest.mark.parametrize(
    ("does", "error_type", "says"),
    [
        (breaks_off, "CancelledError", "the shared connection was closed"),
        (asks, "ToolPauseError", "called `run.interrupt`"),
    ],
)
async def test_an_input_guardrail_that_comes_to_no_verdict_after_the_model_has_answered_is_not_passed(
    stage: Any, does: Any, error_type: str, says: str
) -> None:
    answered = asyncio.Event()

    @input_guardrail
    async def no_arms(context: Any, agent: Any, given: Any) -> GuardrailFunctionOutput:
        await answered.wait()
        does()
        return GuardrailFunctionOutput(output_info=None, tripwire_triggered=False)

    @output_guardrail
    async def is_last(context: Any, agent: Any, output: Any) -> GuardrailFunctionOutput:
        answered.set()
        for _ in range(10):  # turns of the event loop, in which the other one ends
            await asyncio.sleep(0)
        return GuardrailFunctionOutput(output_info=None, tripwire_triggered=False)

    guarded = agent("here is a tank", input_guardrails=[no_arms], output_guardrails=[is_last])
    outcome = await stage.play(guarded, "sell me a tank")
    assert outcome.status is RunStatus.error
    assert outcome.end["error_type"] == error_type
    assert says in outcome.end["error"]
    assert outcome.streamed("values") == []


async def test_an_output_guardrail_says_its_name_and_what_it_found(stage: Any) -> None:
    @output_guardrail(name="polite")
    async def check(context: Any, agent: Any, output: Any) -> GuardrailFunctionOutput:
        return GuardrailFunctionOutput(output_info={"rude": True}, tripwire_triggered=True)

    outcome = await stage.play(agent("go away", output_guardrails=[check]), "hello", thread_id="thread")
    assert outcome.end["error_type"] == "OutputGuardrailTripwireTriggered"
    assert outcome.end["error"] == 'The guardrail polite stopped the run: {"rude": true}'
    assert outcome.usage["llm_call_count"] == 1
    assert outcome.streamed("values") == []


@output_guardrail(name="no_secrets")
async def no_secrets(context: Any, agent: Any, output: Any) -> GuardrailFunctionOutput:
    return GuardrailFunctionOutput(output_info=None, tripwire_triggered="4711" in str(output))


@pytest.mark.parametrize("said", ["the code is 4711", ["let me see", "the code is 4711"]], ids=["one", "two"])
async def test_an_answer_that_an_output_guardrail_blocks_is_not_remembered(stage: Any, said: Any) -> None:
    look = function_tool(lambda: "a note", name_override="look")
    model = ScriptedModel("hello", ["I look", Calls("look")], said, "no")
    guarded = Agent("lead", model=model, tools=[look], output_guardrails=[no_secrets])
    await stage.play(guarded, "hi", thread_id="thread")
    blocked = await stage.play(guarded, "what is the code?", thread_id="thread")
    assert blocked.end["error_type"] == "OutputGuardrailTripwireTriggered"
    assert blocked.usage["last_ai_message"] == "I look"
    assert blocked.usage["message_count"] == (4 if said == "the code is 4711" else 5)

    await stage.play(guarded, "please", thread_id="thread")
    said_so_far = [item.get("output") or texts_of(item) for item in model.heard[-1] if item.get("name") != "look"]
    assert said_so_far == ["hi", "hello", "what is the code?", "I look", "a note", "please"]


async def test_of_a_tools_output_that_an_output_guardrail_blocks_the_call_is_remembered(stage: Any) -> None:
    look = function_tool(lambda: "the code is 4711", name_override="look")
    model = ScriptedModel(Calls("look"), "no")
    guarded = Agent(
        "lead", model=model, tools=[look], output_guardrails=[no_secrets], tool_use_behavior="stop_on_first_tool"
    )
    await stage.play(guarded, "what is the code?", thread_id="thread")
    await stage.play(guarded, "please", thread_id="thread")
    _, call, output, _ = model.heard[-1]
    assert call["name"] == "look"
    assert "4711" not in output["output"]


def texts_of(item: dict[str, Any]) -> str:
    content = item["content"]
    return content if isinstance(content, str) else "".join(part["text"] for part in content)


async def test_a_tools_guardrail_says_its_name_and_what_it_found(stage: Any) -> None:
    @tool_input_guardrail
    def no_peeking(data: Any) -> ToolGuardrailFunctionOutput:
        return ToolGuardrailFunctionOutput.raise_exception(output_info="peeking")

    look = function_tool(lambda: "x", name_override="look", tool_input_guardrails=[no_peeking])
    outcome = await stage.play(agent(Calls("look"), tools=[look]), "hello")
    assert outcome.end["error_type"] == "ToolInputGuardrailTripwireTriggered"
    assert outcome.end["error"] == "The guardrail no_peeking stopped the run: peeking"


async def test_a_tools_error_that_the_model_deals_with_is_no_failure(stage: Any) -> None:
    outcome = await stage.play(agent(Calls("look"), "I could not look", tools=[broken()]), "look")
    assert outcome.status is RunStatus.success
    assert outcome.values["output"] == "I could not look"
    assert [call.get("error_type") for call in outcome.usage["calls"]] == [None, "LookupError", None]


async def test_a_tools_error_that_nobody_is_to_handle_comes_out_as_it_is(stage: Any) -> None:
    outcome = await stage.play(agent(Calls("look"), tools=[broken(failure_error_function=None)]), "look")
    assert outcome.end["error_type"] == "LookupError"
    assert outcome.end["error"] == "the lens is cracked"
    assert [call.get("error_type") for call in outcome.usage["calls"]] == [None, "LookupError"]
    assert "UserError" not in outcome.end["traceback"]


async def test_an_output_that_is_a_tools_error_is_a_failure(stage: Any) -> None:
    stopping = agent(Calls("look"), tools=[broken()], tool_use_behavior="stop_on_first_tool")
    outcome = await stage.play(stopping, "look", thread_id="thread")
    assert outcome.status is RunStatus.error
    assert outcome.end["error_type"] == "ErrorOutputError"
    assert "the tool look failed with LookupError: the lens is cracked" in outcome.end["error"]
    assert outcome.usage["tool_call_count"] == 1


async def test_it_is_one_also_where_the_user_words_such_errors(stage: Any) -> None:
    stopping = agent(Calls("look"), tools=[broken()], tool_use_behavior="stop_on_first_tool")
    config = {"tool_error_formatter": lambda failure: f"sorry: {failure.error}"}
    outcome = await stage.play(stopping, "look", config=config)
    assert outcome.end["error_type"] == "ErrorOutputError"


async def test_the_users_wording_of_errors_reaches_the_model(stage: Any) -> None:
    model = ScriptedModel(Calls("look"), "I could not look")

    async def sorry(failure: Any) -> str:
        return f"sorry: {failure.error}"

    config = {"tool_error_formatter": sorry}
    await stage.play(Agent("lead", model=model, tools=[broken()]), "look", config=config)
    assert model.heard[-1][-1]["output"] == "sorry: the lens is cracked"


async def test_what_a_tools_own_function_makes_of_an_error_is_believed(stage: Any) -> None:
    look = broken(failure_error_function=lambda context, error: "no cats today")
    stopping = agent(Calls("look"), tools=[look], tool_use_behavior="stop_on_first_tool")
    outcome = await stage.play(stopping, "look")
    assert outcome.status is RunStatus.success
    assert outcome.values["output"] == "no cats today"


async def test_an_agent_as_a_tool_that_failed_is_a_failure_as_an_output(stage: Any) -> None:
    helper = Agent("helper", model=ScriptedModel(RuntimeError("no route")))
    tool = helper.as_tool(tool_name="helper", tool_description="Helps.")
    stopping = agent(Calls("helper", {"input": "x"}), tools=[tool], tool_use_behavior="stop_on_first_tool")
    outcome = await stage.play(stopping, "go")
    assert outcome.end["error_type"] == "ErrorOutputError"
    assert "the tool helper failed" in outcome.end["error"]


@virtual
async def test_a_tool_that_took_too_long_is_a_failure_as_an_output() -> None:
    async def look() -> str:
        await asyncio.Event().wait()
        return ""

    tool = function_tool(look, timeout=2.0)
    stopping = agent(Calls("look"), tools=[tool], tool_use_behavior="stop_on_first_tool")
    result = await run_agent(stopping, "go")
    assert result.status is RunStatus.error
    assert "took longer than its 2 s" in str(result.error)


async def test_an_output_that_only_looks_like_an_error_is_none(stage: Any) -> None:
    fine = function_tool(lambda: "Error: none at all", name_override="look")
    stopping = agent(Calls("look"), tools=[fine], tool_use_behavior="stop_on_first_tool")
    assert (await stage.play(stopping, "look")).status is RunStatus.success


async def test_of_two_tools_the_failed_one_counts_only_if_it_is_the_output(stage: Any) -> None:
    fine = function_tool(lambda: "a cat", name_override="fine")
    stopping = agent([Calls("fine"), Calls("look")], tools=[fine, broken()], tool_use_behavior="stop_on_first_tool")
    outcome = await stage.play(stopping, "look")
    assert outcome.status is RunStatus.success
    assert outcome.values["output"] == "a cat"


async def test_a_model_that_repeats_a_tools_error_has_had_the_last_word(stage: Any) -> None:
    async def repeats(items: list[Any]) -> str:
        return str(items[-1]["output"])

    outcome = await stage.play(agent(Calls("look"), repeats, tools=[broken()]), "look")
    assert outcome.status is RunStatus.success
    assert "An error occurred" in outcome.values["output"]
