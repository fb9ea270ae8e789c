"""Runs that are stopped: at every point, promptly, and leaving nothing behind."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from agents import Agent, GuardrailFunctionOutput, RunHooks, Runner, function_tool, input_guardrail, output_guardrail
from agents.sandbox import SandboxAgent, SandboxRunConfig
from agents.sandbox.capabilities import Shell
from agents.sandbox.sandboxes.unix_local import UnixLocalSandboxClient
from tests.contract.ways_to_run import virtual
from tests.integration.openai_agents.scripted_model import Calls, ScriptedModel

from trackside import CancelAction, RunManager, RunSpec, RunStatus, StopPolicy, current_run

type Wait = Callable[[], Any]


@asynccontextmanager
async def nothing_left() -> AsyncIterator[None]:
    """Check that no task is left afterwards that was not there before, except the manager's own."""
    before = asyncio.all_tasks()
    yield
    left = asyncio.all_tasks() - before
    assert [task for task in left if not task.get_name().startswith("trackside-guard")] == []


class Place:
    """A place where an agent waits for ever; `left` counts how often it was cancelled there."""

    def __init__(self) -> None:
        self.reached = asyncio.Event()
        self.left = 0

    async def __call__(self, *_: Any) -> Any:
        self.reached.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            self.left += 1
            raise


def in_the_model(wait: Wait) -> Agent[Any]:
    async def turn(items: list[Any]) -> str:
        return str(await wait())

    return Agent("lead", model=ScriptedModel(turn))


def in_a_tool(wait: Wait) -> Agent[Any]:
    async def look() -> str:
        return str(await wait())

    return Agent("lead", model=ScriptedModel(Calls("look"), "well"), tools=[function_tool(look)])


def in_an_agent_below(wait: Wait) -> Agent[Any]:
    tool = in_a_tool(wait).as_tool(tool_name="below", tool_description="Looks.")
    return Agent("top", model=ScriptedModel(Calls("below", {"input": "x"}), "well"), tools=[tool])


def in_a_streamed_agent_below(wait: Wait) -> Agent[Any]:
    tool = in_the_model(wait).as_tool(tool_name="below", tool_description="Looks.", on_stream=lambda event: None)
    return Agent("top", model=ScriptedModel(Calls("below", {"input": "x"}), "well"), tools=[tool])


def after_a_handoff(wait: Wait) -> Agent[Any]:
    return Agent("top", model=ScriptedModel(Calls("transfer_to_lead")), handoffs=[in_a_tool(wait)])


def in_a_guardrail_of_the_input(wait: Wait) -> Agent[Any]:
    @input_guardrail
    async def check(*_: Any) -> GuardrailFunctionOutput:
        await wait()
        return GuardrailFunctionOutput(None, tripwire_triggered=False)

    return Agent("lead", model=ScriptedModel("well"), input_guardrails=[check])


def in_a_guardrail_of_the_output(wait: Wait) -> Agent[Any]:
    @output_guardrail
    async def check(*_: Any) -> GuardrailFunctionOutput:
        await wait()
        return GuardrailFunctionOutput(None, tripwire_triggered=False)

    return Agent("lead", model=ScriptedModel("well"), output_guardrails=[check])


def in_the_instructions(wait: Wait) -> Agent[Any]:
    async def instructions(context: Any, agent: Any) -> str:
        return str(await wait())

    return Agent("lead", model=ScriptedModel("well"), instructions=instructions)


PLACES = [
    in_the_model,
    in_a_tool,
    in_an_agent_below,
    in_a_streamed_agent_below,
    after_a_handoff,
    in_a_guardrail_of_the_input,
    in_a_guardrail_of_the_output,
    in_the_instructions,
]


@pytest.mark.parametrize("made", PLACES)
@virtual
async def test_a_cancelled_run_has_stopped_wherever_it_was(made: Callable[[Wait], Agent[Any]]) -> None:
    async with RunManager() as manager, nothing_left():
        place = Place()
        handle = await manager.start(RunSpec(made(place), "go"))
        await place.reached.wait()
        await handle.cancel(wait=True)
        result = await handle.result()
    assert result.status is RunStatus.cancelled
    assert place.left == 1


@virtual
async def test_a_cancel_while_several_tools_run_stops_them_all() -> None:
    async with RunManager() as manager, nothing_left():
        places = [Place(), Place(), Place()]

        def tool(nth: int) -> Any:
            async def look() -> str:
                return str(await places[nth]())

            return function_tool(look, name_override=f"look{nth}")

        calls = [Calls(f"look{nth}") for nth in range(3)]
        agent = Agent("lead", model=ScriptedModel(calls, "well"), tools=[tool(nth) for nth in range(3)])
        handle = await manager.start(RunSpec(agent, "go"))
        for place in places:
            await place.reached.wait()
        await handle.cancel(wait=True)
    assert [place.left for place in places] == [1, 1, 1]


@virtual
async def test_a_run_is_cancelled_only_once_its_tool_has_cleaned_up() -> None:
    done = []

    async def look() -> str:
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(3)
            done.append("cleaned up")
        return ""

    async with RunManager() as manager, nothing_left():
        agent = Agent("lead", model=ScriptedModel(Calls("look"), "well"), tools=[function_tool(look)])
        handle = await manager.start(RunSpec(agent, "go"))
        await asyncio.sleep(1)
        await handle.cancel(wait=True)
        assert done == ["cleaned up"]


class Closing(Place):
    """Takes its time when cancelled, as a closing connection does."""

    async def __call__(self, *_: Any) -> Any:
        try:
            await super().__call__()
        finally:
            await asyncio.sleep(3)
            self.closed = True

    closed = False


@pytest.mark.parametrize("made", PLACES)
@virtual
async def test_what_is_being_closed_is_not_cancelled_again(made: Callable[[Wait], Agent[Any]]) -> None:
    async with RunManager() as manager, nothing_left():
        place = Closing()
        handle = await manager.start(RunSpec(made(place), "go"))
        await place.reached.wait()
        await handle.cancel(wait=True)
        assert place.closed


@virtual
async def test_a_second_cancel_reaches_a_tool_that_ignored_the_first() -> None:
    cancels = []

    async def look() -> str:
        while len(cancels) < 2:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                cancels.append(1)
        return "a cat"

    async with RunManager() as manager, nothing_left():
        agent = Agent("lead", model=ScriptedModel(Calls("look"), "well"), tools=[function_tool(look)])
        handle = await manager.start(RunSpec(agent, "go"))
        await asyncio.sleep(1)
        await handle.cancel()
        await asyncio.sleep(1)
        assert len(cancels) == 1
        await handle.cancel(wait=True)
    assert len(cancels) == 2


@virtual
async def test_a_cancelled_run_does_not_wait_for_a_run_that_a_tool_has_started() -> None:
    reached, may_end = asyncio.Event(), asyncio.Event()

    async def reach() -> str:
        reached.set()
        await may_end.wait()
        return "a cat"

    async def plain(input: Any) -> Any:
        agent = Agent("below", model=ScriptedModel(Calls("reach"), "a cat, then"), tools=[function_tool(reach)])
        return (await Runner.run(agent, "go")).final_output

    async with RunManager() as manager, nothing_left():

        async def start() -> str:
            return str(await (await manager.start(RunSpec(plain, run_id="below"))).result())

        agent = Agent("above", model=ScriptedModel(Calls("start"), "well"), tools=[function_tool(start)])
        above = await manager.start(RunSpec(agent, "go"))
        await reached.wait()
        await above.cancel(wait=True)
        assert (await manager.get("below")).status is RunStatus.running
        may_end.set()
        assert (await manager.result("below")).output == "a cat, then"
    assert (await above.result()).completion_data["llm_call_count"] == 1, "what the other run calls is its own"


@virtual
async def test_a_run_that_is_asked_to_stop_begins_no_further_call() -> None:
    asked = asyncio.Event()
    ready = asyncio.Event()
    later = []

    async def look() -> str:
        ready.set()
        await asked.wait()
        return "a cat"

    class Hooks(RunHooks[Any]):
        async def on_llm_start(self, context: Any, agent: Any, prompt: Any, items: Any) -> None:
            run = current_run()
            assert run is not None
            later.append(run.cancelled)

    async with RunManager(stopping=StopPolicy(cancel_after=60.0)) as manager, nothing_left():
        agent = Agent("lead", model=ScriptedModel(Calls("look"), "well"), tools=[function_tool(look)])
        handle = await manager.start(RunSpec(agent, "go", config={"hooks": Hooks()}))
        await ready.wait()
        await handle.cancel()
        asked.set()
        result = await handle.result()
    assert result.status is RunStatus.cancelled
    assert result.completion_data["llm_call_count"] == 1
    assert later == [False]


@pytest.mark.parametrize(
    ("action", "heard"),
    [(CancelAction.interrupt, ["one", "two", "three"]), (CancelAction.rollback, ["one", "three"])],
    ids=["interrupt", "rollback"],
)
@virtual
async def test_a_cancelled_run_leaves_what_it_was_asked_unless_it_is_rolled_back(
    action: CancelAction, heard: list[str]
) -> None:
    async with RunManager() as manager:
        place = Place()

        async def turn(items: list[Any]) -> str:
            return str(await place())

        model = ScriptedModel("well", turn, "well again")
        agent = Agent("lead", model=model)
        await (await manager.start(RunSpec(agent, "one", thread_id="thread"))).result()
        handle = await manager.start(RunSpec(agent, "two", thread_id="thread"))
        await place.reached.wait()
        await handle.cancel(action=action, wait=True)
        await (await manager.start(RunSpec(agent, "three", thread_id="thread"))).result()
    assert [item["content"] for item in model.heard[-1] if item["role"] == "user"] == heard


@virtual
async def test_a_stopped_run_leaves_the_calls_that_were_answered_and_no_other() -> None:
    place = Place()

    async def look() -> str:
        return "a cat"

    async def wait() -> str:
        return str(await place())

    tools = [function_tool(look), function_tool(wait)]
    model = ScriptedModel(Calls("look"), [Calls("look"), Calls("wait")], "well")
    async with RunManager() as manager:
        agent = Agent("lead", model=model, tools=tools)
        run = await manager.start(RunSpec(agent, "one", thread_id="thread", timeout=5.0))
        assert (await run.result()).status is RunStatus.timeout
        await (await manager.start(RunSpec(agent, "two", thread_id="thread"))).result()
    kinds = [item.get("type", item.get("role")) for item in model.heard[-1]]
    assert kinds == ["user", "function_call", "function_call_output", "user"]


@virtual
async def test_a_failing_run_leaves_no_task_of_a_tool_beside_it() -> None:
    async with RunManager() as manager, nothing_left():
        place = Place()

        async def wait() -> str:
            return str(await place())

        async def fail() -> str:
            await place.reached.wait()
            raise LookupError("lost")

        tools = [function_tool(wait), function_tool(fail, failure_error_function=None)]
        agent = Agent("lead", model=ScriptedModel([Calls("wait"), Calls("fail")]), tools=tools)
        result = await (await manager.start(RunSpec(agent, "go"))).result()
    assert result.status is RunStatus.error
    assert result.error == "lost"
    assert place.left == 1


class Unreadable:
    """A tool's output that a model can read and nobody else."""

    def __str__(self) -> str:
        return "a cat"

    def __repr__(self) -> str:
        raise LookupError("unreadable")


@virtual
async def test_a_run_whose_output_cannot_be_shown_ends_there_and_not_at_its_own_end() -> None:
    async with RunManager() as manager, nothing_left():

        async def never(items: list[Any]) -> str:
            await asyncio.Event().wait()
            return ""

        look = function_tool(Unreadable, name_override="look", strict_mode=False)
        agent = Agent("lead", model=ScriptedModel(Calls("look"), never), tools=[look])
        result = await (await manager.start(RunSpec(agent, "go"))).result()
    assert result.status is RunStatus.error
    assert "unreadable" in str(result.error)


@pytest.mark.parametrize("ending", [RunStatus.error, RunStatus.cancelled])
async def test_a_run_ends_before_the_processes_that_it_has_started_in_its_callers_sandbox(ending: RunStatus) -> None:
    place = Place()

    async def turn(items: list[Any]) -> str:
        place.reached.set()
        if ending is RunStatus.error:
            raise ConnectionError("the model is away")
        return str(await place())

    start = Calls(
        "exec_command", {"cmd": "until [ -e done ]; do sleep 0.1; done", "yield_time_ms": 300, "login": False}
    )
    agent = SandboxAgent(name="dev", model=ScriptedModel(start, turn), capabilities=[Shell()])
    async with await UnixLocalSandboxClient().create() as session:
        before = asyncio.all_tasks()
        async with RunManager() as manager, asyncio.timeout(30):
            spec = RunSpec(agent, "start the server", config={"sandbox": SandboxRunConfig(session=session)})
            handle = await manager.start(spec)
            await place.reached.wait()
            if ending is RunStatus.cancelled:
                await handle.cancel()
            result = await handle.result()
        reading = asyncio.all_tasks() - before
        await session.exec("touch done")
        await asyncio.wait(reading)
    assert result.status is ending
    assert not any(task.cancelled() for task in reading), "what the process writes is read until it ends"
