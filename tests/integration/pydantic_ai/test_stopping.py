"""Runs that fail, are cancelled, or come to an end that is no real one."""

import asyncio
import threading
from typing import Any

import pytest
from pydantic_ai import Agent, ModelHTTPError, ModelResponse, ModelRetry, TextPart, ToolFailed
from pydantic_ai.capabilities import Hooks
from tests.integration.pydantic_ai.models import USAGE, answers, call, streams, texts

from trackside import RunStatus, StopPolicy, current_run, run_agent
from trackside.harness.adapters.pydantic_ai import PydanticAIAgent
from trackside.testing import RecordingObserver, assert_run_order


class Broken(Exception):
    pass


def failing(error: BaseException) -> Any:
    async def fail() -> str:
        raise error

    return fail


@pytest.mark.parametrize("error", [Broken("at the third tooth"), BaseException("worse")], ids=["exception", "base"])
async def test_what_a_tool_raises_comes_out_as_it_is(stage: Any, run_context: Any, error: BaseException) -> None:
    def agent() -> Agent[None, str]:
        return Agent(answers([call("fail")]), tools=[failing(error)])

    with pytest.raises(type(error)) as caught:
        await PydanticAIAgent(agent()).run(run_context("go"))
    assert caught.value is error
    outcome = await stage.play(agent(), "go")
    assert outcome.status is RunStatus.error
    assert (outcome.end["error_type"], outcome.end["error"]) == (type(error).__name__, str(error))


async def test_what_a_model_raises_comes_out_as_it_is(stage: Any) -> None:
    outcome = await stage.play(Agent(answers(ModelHTTPError(529, "small", "overloaded"))), "go")
    assert outcome.end["error_type"] == "ModelHTTPError"
    assert "overloaded" in outcome.end["error"]


@pytest.mark.parametrize("where", ["tool", "model", "stream"])
def test_an_agent_that_leaves_the_process_leaves_its_run_ended(where: str) -> None:
    recorder = RecordingObserver()
    agents = {
        "tool": Agent(answers([call("fail")]), tools=[failing(SystemExit(3))]),
        "model": Agent(answers(SystemExit(3))),
        "stream": Agent(streams(["half", SystemExit(3)])),
    }
    result = asyncio.run(run_agent(agents[where], "go", observer=recorder))
    assert result.status is RunStatus.error
    assert result.error == "SystemExit: 3"
    assert_run_order(recorder.events)


def test_ctrl_c_in_a_tool_ends_the_run_before_it_is_raised() -> None:
    recorder = RecordingObserver()
    agent = Agent(answers([call("fail")]), tools=[failing(KeyboardInterrupt())])
    with pytest.raises(KeyboardInterrupt):
        asyncio.run(run_agent(agent, "go", observer=recorder))
    assert_run_order(recorder.events)
    assert recorder.events[-2].event_type == "run_failed"


async def test_a_model_that_keeps_answering_badly_is_an_error(stage: Any) -> None:
    agent = Agent(answers(*["not a number"] * 3), output_type=int, retries=1)
    outcome = await stage.play(agent, "go")
    assert outcome.status is RunStatus.error
    assert outcome.end["error_type"] == "UnexpectedModelBehavior"
    assert outcome.usage["llm_call_count"] == 2


async def test_a_tool_that_keeps_asking_for_another_try_is_an_error(stage: Any) -> None:
    agent = Agent(answers(*[[call("fail")]] * 3), tools=[failing(ModelRetry("again"))], retries=1)
    outcome = await stage.play(agent, "go")
    assert outcome.status is RunStatus.error
    assert outcome.usage["tool_call_count"] == 2


@pytest.mark.parametrize("error", [ModelRetry("another city"), ToolFailed("no such city")], ids=["retry", "failed"])
async def test_what_the_model_gets_to_see_and_answers_is_no_failure(stage: Any, error: Exception) -> None:
    agent = Agent(answers([call("fail")], "Sorry, I do not know."), tools=[failing(error)])
    outcome = await stage.play(agent, "go", stream_mode=["values", "updates"])
    assert outcome.status is RunStatus.success
    (result,) = outcome.streamed("updates")[1]["tools"]["messages"]
    assert result["status"] == "error"
    assert str(error) in result["content"]


@pytest.mark.parametrize("mode", ["values", "messages"])
async def test_an_answer_that_a_capability_made_of_lost_models_is_an_error(stage: Any, mode: str) -> None:
    hooks: Hooks[None] = Hooks()

    @hooks.on.model_request_error
    async def make_do(ctx: Any, *, request_context: Any, error: Exception) -> ModelResponse:
        return ModelResponse(parts=[TextPart("Sorry, something went wrong.")])

    agent = Agent(answers(Broken("no model")), capabilities=[hooks])
    outcome = await stage.play(agent, "go", thread_id="t", stream_mode=mode)
    assert outcome.status is RunStatus.error
    assert outcome.end["error_type"] == "Broken"
    after = await stage.play(Agent(answers("here again")), "go", thread_id="t")
    assert len(after.values["message_history"]) == 4  # the hook's answer was a step all the same


@pytest.mark.parametrize("refuses", [False, True], ids=["the model fails", "the guard refuses"])
async def test_a_failed_run_leaves_nothing_of_what_a_guard_has_asked_another_agent(stage: Any, refuses: bool) -> None:
    hooks: Hooks[None] = Hooks()

    @hooks.on.before_run
    async def guard(ctx: Any) -> None:
        await Agent(answers("yes")).run("is it harmless?")
        if refuses:
            raise Broken("refused")

    await stage.play(Agent(answers("at your service")), "hello", thread_id="t")
    outcome = await stage.play(Agent(answers(Broken("no model")), capabilities=[hooks]), "go", thread_id="t")
    assert outcome.end["error_type"] == "Broken"
    after = await stage.play(Agent(answers("done")), "go on", thread_id="t")
    said = [part["content"] for message in after.values["message_history"] for part in message["parts"]]
    assert said == ["hello", "at your service", *([] if refuses else ["go"]), "go on", "done"]


async def test_an_answer_that_its_provider_ended_with_an_error_is_an_error(stage: Any) -> None:
    half = ModelResponse(parts=[TextPart("It is")], usage=USAGE, finish_reason="error")
    outcome = await stage.play(Agent(answers(half)), "go")
    assert outcome.end["error_type"] == "ErrorOutputError"


async def test_an_output_that_is_an_exception_is_an_error(stage: Any) -> None:
    def give_up(reason: str) -> Any:
        return Broken(reason)

    agent = Agent(answers([call("final_result", reason="no idea")]), output_type=give_up)
    outcome = await stage.play(agent, "go")
    assert outcome.end["error_type"] == "ErrorOutputError"
    assert "no idea" in outcome.end["error"]


async def test_run_interrupt_is_not_for_tools(stage: Any) -> None:
    async def ask() -> str:
        run = current_run()
        assert run is not None
        return str(run.interrupt("really?"))

    outcome = await stage.play(Agent(answers([call("ask")]), tools=[ask], name="guide"), "go")
    assert outcome.end["error_type"] == "AgentPauseError"
    assert "ApprovalRequired" in outcome.end["error"]


def others() -> set[asyncio.Task[Any]]:
    """The tasks that are neither this test's nor those that a manager has between runs."""
    own = {"trackside-guard", "trackside-buffer-RecordingObserver"}
    return {t for t in asyncio.all_tasks() if t is not asyncio.current_task() and t.get_name() not in own}


@pytest.mark.parametrize("mode", ["values", "messages"])
@pytest.mark.parametrize("place", ["model", "stream", "tool", "tools", "delegate"])
async def test_a_cancelled_run_leaves_nothing_running(stage: Any, place: str, mode: str) -> None:
    reached, cleaned_up = asyncio.Event(), asyncio.Event()

    async def wait() -> str:
        reached.set()
        try:
            await asyncio.Event().wait()
        finally:
            cleaned_up.set()
        return ""

    async def ask() -> str:
        return (await Agent(answers([call("wait")]), tools=[wait]).run("go")).output

    agent = {
        "model": lambda: Agent(answers(wait)),
        "stream": lambda: Agent(streams(["half", wait])),
        "tool": lambda: Agent(answers([call("wait")]), tools=[wait]),
        "tools": lambda: Agent(answers([call("wait"), call("wait")]), tools=[wait]),
        "delegate": lambda: Agent(answers([call("ask")]), tools=[ask]),
    }[place]()
    handle = await stage.start(agent, "go", stream_mode=mode, thread_id="t")
    await reached.wait()
    await handle.cancel()
    outcome = await stage.outcome(handle)
    assert outcome.status is RunStatus.cancelled
    assert cleaned_up.is_set()
    assert others() == set()
    after = await stage.play(Agent(answers("done")), "go on", thread_id="t")
    asked = [part["content"] for message in after.values["message_history"] for part in message["parts"]]
    assert asked == ["go", "go on", "done"], "what is cut off is not remembered"


async def test_an_agent_that_is_cancelled_twice_is_waited_for(stage: Any) -> None:
    reached, cleaning, may_end = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def wait() -> str:
        reached.set()
        try:
            await asyncio.Event().wait()
        finally:
            while not may_end.is_set():
                cleaning.set()
                try:
                    await may_end.wait()
                except asyncio.CancelledError:
                    continue
        return ""

    handle = await stage.start(Agent(answers([call("wait")]), tools=[wait]), "go")
    await reached.wait()
    await handle.cancel()
    await cleaning.wait()
    await handle.cancel()
    for _ in range(10):  # turns of the loop
        await asyncio.sleep(0)
    assert (await stage.manager.get(handle.run_id)).status is RunStatus.running
    may_end.set()
    assert (await handle.result()).status is RunStatus.cancelled


async def test_an_agent_that_swallows_its_cancel_is_stopped_before_its_next_step(stage: Any) -> None:
    reached = asyncio.Event()
    heard: list[Any] = []

    async def stubborn() -> str:
        reached.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            return "never mind"
        return ""

    agent = Agent(answers([call("stubborn")], "done", heard=heard), tools=[stubborn])
    handle = await stage.start(agent, "go")
    await reached.wait()
    await handle.cancel()
    assert (await handle.result()).status is RunStatus.cancelled
    assert len(heard) == 1


async def test_a_tool_in_a_thread_sees_that_it_shall_stop_and_is_waited_for(stage: Any) -> None:
    reached = asyncio.Event()
    ended = threading.Event()
    loop = asyncio.get_running_loop()

    def work() -> str:
        run = current_run()
        assert run is not None
        loop.call_soon_threadsafe(reached.set)
        while not run.cancelled:
            ended.wait(0.001)
        ended.set()
        return "stopped"

    handle = await stage.start(Agent(answers([call("work")], "done"), tools=[work]), "go")
    await reached.wait()
    await handle.cancel()
    assert (await handle.result()).status is RunStatus.cancelled
    assert ended.is_set()


async def test_a_run_does_not_wait_for_the_thread_of_a_run_that_a_tool_has_started(stage: Any) -> None:
    loop = asyncio.get_running_loop()
    reached, may_end = asyncio.Event(), threading.Event()

    def reach() -> str:
        loop.call_soon_threadsafe(reached.set)
        return "in time" if may_end.wait(60) else "too late"

    async def plain(input: Any) -> Any:
        heard: list[Any] = []
        await Agent(answers([call("reach")], "done", heard=heard), tools=[reach]).run("go")
        return texts(heard[-1])[-1]

    async def start() -> str:
        await stage.start(plain, run_id="below")
        await reached.wait()
        return "started"

    outcome = await stage.play(Agent(answers([call("start")], "done"), tools=[start]), "go")
    may_end.set()
    assert outcome.status is RunStatus.success
    assert outcome.usage["tool_call_count"] == 1
    assert (await stage.manager.result("below")).output == "in time"


async def test_an_agent_that_is_asked_to_stop_first_finishes_the_step_that_it_is_in(open_stage: Any) -> None:
    stage = await open_stage(stopping=StopPolicy(cancel_after=60))
    reached, may_end = asyncio.Event(), asyncio.Event()
    ran: list[str] = []

    async def save() -> str:
        reached.set()
        await may_end.wait()
        ran.append("saved")
        return "saved"

    handle = await stage.start(Agent(answers([call("save")], [call("save")], "done"), tools=[save]), "go")
    await reached.wait()
    await handle.cancel()
    may_end.set()
    assert (await handle.result()).status is RunStatus.cancelled
    assert ran == ["saved"]
