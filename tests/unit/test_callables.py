"""Agents that are plain Python, in all their shapes; and what is none."""

import asyncio
import functools
import gc
import inspect
import threading
import weakref
from collections.abc import AsyncIterator, Iterator
from typing import Any, TypedDict
from unittest.mock import AsyncMock, Mock

import pytest
from tests.contract.ways_to_run import Way, both_ways, virtual

from trackside.harness import NotAnAgentError, RunContext, RunStatus, as_agent, current_run, run_agent
from trackside.harness.adapters.callables import CallableAgent
from trackside.harness.context import AgentResult
from trackside.harness.ids import new_id
from trackside.harness.journal import answer_message
from trackside.harness.states import Describes


async def of_input(input: Any) -> Any:
    return {"got": input}


async def of_input_and_run(input: Any, run: RunContext) -> Any:
    return {"got": input, "run": run.run_id == current_run().run_id}  # type: ignore[union-attr]


def plain(input: Any) -> Any:
    return {"got": input}


def plain_with_run(input: Any, run: RunContext) -> Any:
    return {"got": input, "run": run.run_id == current_run().run_id}  # type: ignore[union-attr]


class Instance:
    async def __call__(self, input: Any, run: RunContext) -> Any:
        return {"got": input, "run": True}

    async def method(self, input: Any) -> Any:
        return {"got": input}

    def plain_method(self, input: Any, run: RunContext) -> Any:
        return {"got": input, "run": True}

    @staticmethod
    async def static(input: Any) -> Any:
        return {"got": input}

    @classmethod
    async def of_class(cls, input: Any) -> Any:
        return {"got": input}


class PlainInstance:
    def __call__(self, input: Any) -> Any:
        return {"got": input, "thread": threading.current_thread().name.startswith("trackside-agent")}


def decorated(function: Any) -> Any:
    @functools.wraps(function)
    def wrapper(*args: Any) -> Any:
        return function(*args)

    return wrapper


async def with_options(input: Any, temperature: float = 0.5) -> Any:
    return {"got": input, "temperature": temperature}


async def with_optional_run(input: Any, run: RunContext | None = None) -> Any:
    return {"got": input, "run": run is not None}


async def with_keyword(input: Any, *, option: str = "x") -> Any:
    return {"got": input, "option": option}


async def with_context_first(prefix: str, input: Any, run: RunContext) -> Any:
    return {"got": input, "prefix": prefix}


SHAPES = [
    pytest.param(of_input, {"got": "x"}, "of_input", id="async function"),
    pytest.param(of_input_and_run, {"got": "x", "run": True}, "of_input_and_run", id="async function of two"),
    pytest.param(plain, {"got": "x"}, "plain", id="function"),
    pytest.param(plain_with_run, {"got": "x", "run": True}, "plain_with_run", id="function of two"),
    pytest.param(lambda x: {"got": x}, {"got": "x"}, "<lambda>", id="lambda"),
    pytest.param(lambda x: of_input(x or None), {"got": "x"}, "<lambda>", id="lambda that gives a coroutine"),
    pytest.param(Instance(), {"got": "x", "run": True}, "Instance", id="async instance"),
    pytest.param(PlainInstance(), {"got": "x", "thread": True}, "PlainInstance", id="plain instance"),
    pytest.param(Instance().method, {"got": "x"}, "method", id="bound async method"),
    pytest.param(Instance().plain_method, {"got": "x", "run": True}, "plain_method", id="bound method"),
    pytest.param(Instance.static, {"got": "x"}, "static", id="static method"),
    pytest.param(Instance.of_class, {"got": "x"}, "of_class", id="class method"),
    pytest.param(
        functools.partial(with_context_first, "p"), {"got": "x", "prefix": "p"}, "with_context_first", id="partial"
    ),
    pytest.param(functools.partial(plain_with_run, run="r"), TypeError, "plain_with_run", id="partial of the run"),
    pytest.param(decorated(of_input_and_run), {"got": "x", "run": True}, "of_input_and_run", id="decorated"),
    pytest.param(with_options, {"got": "x", "temperature": 0.5}, "with_options", id="an option that is not the run"),
    pytest.param(with_optional_run, {"got": "x", "run": True}, "with_optional_run", id="an optional run"),
    pytest.param(with_keyword, {"got": "x", "option": "x"}, "with_keyword", id="a keyword"),
    pytest.param(str.upper, {"output": "X"}, "upper", id="builtin method"),
    pytest.param(len, {"output": 1}, "len", id="builtin"),
]


@pytest.mark.parametrize(("function", "output", "name"), SHAPES)
async def test_shapes_of_functions(function: Any, output: Any, name: str) -> None:
    agent = as_agent(function)
    assert agent.name == name
    if output is TypeError:
        assert not agent._takes_run  # type: ignore[attr-defined]
        return
    events: list[Any] = []

    async def watch(event: Any) -> None:
        events.append(event)

    thread = new_id()
    result = await run_agent(function, "x", thread_id=thread, observer=watch)
    assert (result.status, result.error) == (RunStatus.success, None)
    assert events[0].payload["agent"] == name

    remembered: list[Any] = []

    async def look(input: Any, run: RunContext) -> None:
        remembered.append(run.values)

    await run_agent(look, thread_id=thread)
    assert remembered == [output]


def test_a_name_may_be_given_and_an_agent_stays_what_it_is() -> None:
    agent = as_agent(of_input, name="lead")
    assert agent.name == "lead"
    assert as_agent(agent) is agent


@both_ways
@virtual
async def test_a_function_is_let_go_with_all_that_it_holds_when_its_run_is_over(way: Way) -> None:
    class Request:
        body = "x" * 1_000

    async with way() as runs:

        async def handle() -> weakref.ref[Request]:
            request = Request()

            async def agent(input: Any) -> int:
                return len(request.body)

            assert (await runs.run(agent)).output == 1_000
            return weakref.ref(request)

        gone = await handle()
        gc.collect()
        assert gone() is None


async def test_a_function_that_is_run_again_is_not_inspected_again(monkeypatch: pytest.MonkeyPatch) -> None:
    inspected: list[Any] = []
    signature = inspect.signature

    def noted(function: Any, **options: Any) -> inspect.Signature:
        inspected.append(function)
        return signature(function, **options)

    async def agent(input: Any, run: RunContext) -> Any:
        return [input, run.thread_id]

    monkeypatch.setattr(inspect, "signature", noted)
    outputs = [(await run_agent(agent, word, thread_id=word)).output for word in ("once", "again", "and again")]
    assert outputs == [["once", "once"], ["again", "again"], ["and again", "and again"]]
    assert inspected == [agent]


def generator(input: Any) -> Iterator[int]:
    yield 1


async def three(input: Any, run: Any, more: Any) -> None: ...


async def none() -> None: ...


async def keyword_only(input: Any, *, needed: str) -> None: ...


class Half:
    """An incomplete `Agent`."""

    name = "half"

    async def run(self, run: RunContext) -> None: ...


NO_AGENTS = [
    pytest.param(5, "5 is not an agent: a int cannot be called", id="int"),
    pytest.param("agent", "'agent' is not an agent: a str cannot be called", id="text"),
    pytest.param(None, "None is not an agent", id="None"),
    pytest.param(Instance, "Instance is not an agent: it is a class; pass an instance of it", id="class"),
    pytest.param(generator, "generator is not an agent: it is a generator function", id="generator function"),
    pytest.param(three, "three is not an agent: with the signature", id="three parameters"),
    pytest.param(
        none, "none is not an agent: it is a function without parameters: if it makes an agent", id="no parameter"
    ),
    pytest.param(keyword_only, "keyword_only is not an agent: with the signature", id="a needed keyword"),
    pytest.param([of_input], "a list cannot be called. Pass", id="list"),
    pytest.param(
        Half(),
        "a Half cannot be called, and to be an `Agent` it lacks human_messages and rollback. Pass",
        id="some methods of an Agent",
    ),
]


@pytest.mark.parametrize(("thing", "message"), NO_AGENTS)
async def test_what_is_no_agent_is_refused_with_a_reason(thing: Any, message: str) -> None:
    with pytest.raises(NotAnAgentError) as caught:
        as_agent(thing)
    assert message in str(caught.value)
    assert "Pass an async function" in str(caught.value)
    with pytest.raises(TypeError):
        await run_agent(thing)


@both_ways
async def test_a_test_double_of_a_function_is_called_as_that(way: Way) -> None:
    double = AsyncMock(return_value={"answer": 42})
    async with way() as runs:
        result = await runs.run(double, "hi")
    assert (result.status, result.output) == (RunStatus.success, {"answer": 42})
    double.assert_awaited_once_with("hi")


def test_a_test_double_of_an_agent_is_one_and_so_is_what_passes_on_to_one() -> None:
    class PassingOn:
        def __init__(self, agent: Any) -> None:
            self._agent = agent

        def __getattr__(self, name: str) -> Any:
            return getattr(self._agent, name)

        async def __call__(self, input: Any) -> Any: ...

    agent = as_agent(of_input)
    given = {name: getattr(agent, name) for name in ("human_messages", "run", "rollback")}
    for it in (PassingOn(agent), Mock(**given), Mock(spec=agent)):
        assert as_agent(it) is it


async def test_a_coroutine_is_no_agent() -> None:
    coroutine = of_input("x")
    with pytest.raises(NotAnAgentError):
        as_agent(coroutine)
    coroutine.close()


@both_ways
async def test_a_coroutine_that_an_agent_forgot_to_await_is_its_error(way: Way) -> None:
    async def forgets(input: Any) -> Any:
        return of_input("x")

    async def forgets_a_task(input: Any) -> Any:
        return asyncio.create_task(of_input("x"))

    async def ends_with_one(input: Any) -> AsyncIterator[Any]:
        yield asyncio.get_running_loop().create_future()

    async with way() as runs:
        results = [await runs.run(agent) for agent in (forgets, forgets_a_task, ends_with_one)]
        awaited = await runs.run(functools.partial(of_input), "x")
    assert [result.status for result in results] == [RunStatus.error] * 3
    assert "a coroutine; `await` it and return what it gives" in (results[0].error or "")
    assert awaited.status is RunStatus.success


@both_ways
async def test_an_async_generator_may_ask(way: Way) -> None:
    async def agent(input: Any, run: RunContext) -> AsyncIterator[str]:
        yield "thinking"
        yield str(run.interrupt("go on?"))

    thread = new_id()
    async with way() as runs:
        assert (await runs.run(agent, "x", thread_id=thread)).status is RunStatus.interrupted
        resumed = await runs.run(agent, command={"resume": "yes"}, thread_id=thread)
    assert resumed.status is RunStatus.success


@both_ways
async def test_a_plain_function_may_ask(way: Way) -> None:
    def agent(input: Any, run: RunContext) -> str:
        return f"{input}: {run.interrupt('go on?')}"

    thread = new_id()
    async with way() as runs:
        assert (await runs.run(agent, "x", thread_id=thread)).status is RunStatus.interrupted
        resumed = await runs.run(agent, command={"resume": "yes"}, thread_id=thread)
    assert resumed.completion_data["last_ai_message"] == "x: yes"


def test_an_answer_is_a_human_message() -> None:
    assert answer_message("yes") | {"id": ""} == {"id": "", "type": "human", "content": "yes"}
    assert answer_message({"city": "Köln"})["content"] == '{"city": "Köln"}'
    assert answer_message(None)["content"] == "null"


async def test_rolling_back_a_function_has_nothing_to_do() -> None:
    agent = CallableAgent(of_input)
    assert await agent.rollback(None) is None  # type: ignore[arg-type, func-returns-value]
    assert AgentResult().values is None


async def test_a_question_asked_in_a_task_group_pauses_the_run() -> None:
    answers: list[Any] = []

    async def agent(input: Any, run: RunContext) -> str:
        async def ask(question: str) -> None:
            answers.append(run.interrupt(question))

        async with asyncio.TaskGroup() as group:
            group.create_task(ask("one?"))
            group.create_task(ask("two?"))
        return "done"

    paused = await run_agent(agent, "hi", thread_id="asks-in-a-group")
    assert paused.status is RunStatus.interrupted
    again = await run_agent(agent, thread_id="asks-in-a-group", command={"resume": 1})
    assert again.status is RunStatus.interrupted
    done = await run_agent(agent, thread_id="asks-in-a-group", command={"resume": 2})
    assert (done.status, answers[-2:]) == (RunStatus.success, [1, 2])


async def test_a_failure_beside_a_question_in_a_task_group_is_the_runs() -> None:
    async def agent(input: Any, run: RunContext) -> None:
        async def ask() -> None:
            run.interrupt("?")

        async def fail() -> None:
            raise ValueError("no")

        async with asyncio.TaskGroup() as group:
            group.create_task(ask())
            group.create_task(fail())

    result = await run_agent(agent, "hi")
    assert result.status is RunStatus.error


async def test_a_function_is_described_by_its_types() -> None:
    class Question(TypedDict):
        text: str

    async def answer(input: Question) -> dict[str, int]: ...

    async def anything(input: Any) -> Any: ...

    async def odd(input: "Nobody") -> "complex": ...  # type: ignore[name-defined]  # noqa: F821  # nobody knows it

    agent = as_agent(answer)
    assert isinstance(agent, Describes)
    schemas = await agent.schemas()
    assert "text" in str(schemas["input_schema"])
    assert schemas["output_schema"] == {"type": "object", "additionalProperties": {"type": "integer"}}
    assert schemas["state_schema"] is None
    assert [node["id"] for node in (await agent.drawing())["nodes"]] == ["answer"]
    for unsaid in (anything, odd):
        described = as_agent(unsaid)
        assert isinstance(described, Describes)
        assert set((await described.schemas()).values()) == {None}
