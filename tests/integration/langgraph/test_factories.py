"""Graphs made by functions: for each run, and for each look at a thread."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import pytest
from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph.state import CompiledStateGraph
from langgraph.types import interrupt
from langgraph_sdk.runtime import ServerRuntime
from tests.contract.ways_to_run import virtual
from tests.integration.langgraph.conftest import Stage
from tests.integration.langgraph.saying_graphs import Said, builder, nothing, saying

from trackside import NotAnAgentError, RunManager, RunStatus, as_agent
from trackside.harness.adapters.callables import CallableAgent
from trackside.harness.adapters.langgraph import GraphFactory
from trackside.harness.observing.bounding import DispatchPolicy
from trackside.harness.states import Caller, Describes, KeepsThreads, ThreadPlace
from trackside.testing import RecordingObserver


@dataclass
class Tenant:
    """The context that a run brings for the nodes."""

    name: str


async def of_config(config: RunnableConfig) -> Any:
    return saying(config["configurable"]["language"]).compile()


def of_both(runtime: ServerRuntime[Tenant], config: RunnableConfig) -> Any:
    execution = runtime.execution_runtime
    tenant = None if execution is None else execution.context
    return saying(f"{runtime.access_context} {tenant} {config['configurable'].get('language')}").compile()


@pytest.mark.parametrize(
    ("factory", "says"),
    [
        (nothing, "nothing"),
        (builder, "built"),
        (of_config, "de"),
        (of_both, "threads.create_run Tenant(name='ada') de"),
    ],
)
async def test_a_function_that_says_that_it_makes_graphs_is_called_for_each_run(
    factory: Any, says: str, stage: Any
) -> None:
    outcome = await stage.play(factory, {}, config={"configurable": {"language": "de"}}, context={"name": "ada"})
    assert outcome.values == {"said": says}


tenant = ContextVar("tenant", default="nobody")


def of_tenant() -> Any:
    return saying("?", node=lambda state: {"said": tenant.get()}).compile()


def sets_plainly(config: RunnableConfig) -> Any:
    tenant.set(config["configurable"]["tenant"])
    return of_tenant()


async def sets_in_a_coroutine(config: RunnableConfig) -> Any:
    await asyncio.sleep(0)
    return sets_plainly(config)


@contextmanager
def sets_for_a_while(config: RunnableConfig) -> Iterator[Any]:
    token = tenant.set(config["configurable"]["tenant"])
    yield of_tenant()
    tenant.reset(token)


@asynccontextmanager
async def sets_for_a_while_in_a_coroutine(config: RunnableConfig) -> AsyncIterator[Any]:
    token = tenant.set(config["configurable"]["tenant"])
    await asyncio.sleep(0)
    yield of_tenant()
    tenant.reset(token)


@pytest.mark.parametrize(
    "factory", [sets_plainly, sets_in_a_coroutine, sets_for_a_while, sets_for_a_while_in_a_coroutine]
)
async def test_context_variables_that_a_function_sets_are_set_in_its_graph_alone(factory: Any, stage: Any) -> None:
    graphs = [stage.play(factory, {}, config={"configurable": {"tenant": name}}) for name in ("acme", "bolt")]
    assert [outcome.values["said"] for outcome in await asyncio.gather(*graphs)] == ["acme", "bolt"]
    assert (await stage.play(of_tenant(), {})).values["said"] == tenant.get() == "nobody"


def unannotated():
    return saying("unannotated")


async def by_name(config, runtime):
    return saying(f"{config['configurable']['thread_id']} {runtime.access_context}").compile()


def by_place(anything):
    return saying(anything["configurable"]["thread_id"]).compile()


async def forgotten_decorator():
    yield saying("yielded")


def by_the_others_type(anything: dict[str, Any], runtime: ServerRuntime[Tenant]):
    return saying(f"{anything['configurable']['thread_id']} {runtime.execution_runtime.context}").compile()


def with_type_first(runtime: ServerRuntime, anything=None):
    return by_the_others_type(anything, runtime)


def of_a_name(name, config):
    return saying(f"{name} {config['configurable']['thread_id']}").compile()


class Maker:
    """Makes graphs as a callable object."""

    def __call__(self, anything, the_runtime: ServerRuntime[Tenant]):
        return by_the_others_type(anything, the_runtime)


@pytest.mark.parametrize(
    ("factory", "says"),
    [
        (unannotated, "unannotated"),
        (by_name, "t threads.create_run"),
        (by_place, "t"),
        (forgotten_decorator, "yielded"),
        (functools.partial(by_place), "t"),
        (functools.partial(of_a_name, "ada"), "ada t"),
        (by_the_others_type, "t Tenant(name='ada')"),
        (with_type_first, "t {'name': 'ada'}"),
        (Maker(), "t Tenant(name='ada')"),
        (functools.partial(Maker()), "t Tenant(name='ada')"),
    ],
)
async def test_in_a_file_of_graphs_a_function_need_not_say_so(factory: Any, says: str, stage: Any) -> None:
    outcome = await stage.play(as_agent(factory, makes_graphs=True), {}, thread_id="t", context={"name": "ada"})
    assert outcome.values == {"said": says}


def test_other_functions_are_agents_as_before() -> None:
    async def answer(input: Any) -> Any: ...

    async def with_run(input: Any, run: Any) -> Any: ...

    async def configured(input: Any, config: RunnableConfig) -> Any: ...

    for function in (answer, with_run, configured):
        assert isinstance(as_agent(function), CallableAgent)
    assert isinstance(as_agent(with_run, makes_graphs=True), CallableAgent)
    assert isinstance(as_agent(by_the_others_type), CallableAgent)
    assert isinstance(as_agent(nothing), GraphFactory)
    assert as_agent(nothing, name="chat").name == "chat"
    assert as_agent(functools.partial(of_a_name, "ada"), makes_graphs=True).name == "of_a_name"
    with pytest.raises(NotAnAgentError, match="without parameters"):
        as_agent(unannotated)


def test_a_factory_keeps_threads_and_describes_itself() -> None:
    agent = as_agent(nothing)
    assert isinstance(agent, KeepsThreads)
    assert isinstance(agent, Describes)


async def test_what_a_factory_raises_is_the_end_of_the_run(stage: Any) -> None:
    @asynccontextmanager
    async def unreachable() -> AsyncIterator[Any]:
        raise ConnectionError("the tools cannot be reached")
        yield

    @asynccontextmanager
    async def unclosable() -> AsyncIterator[Any]:
        yield saying("x").compile()
        raise ConnectionError("cannot say goodbye")

    def of_nothing(config: RunnableConfig) -> Any:
        return 42

    for factory, error in (
        (unreachable, "the tools cannot be reached"),
        (unclosable, "cannot say goodbye"),
        (of_nothing, "it is a int, not a graph"),
    ):
        outcome = await stage.play(factory, {})
        assert outcome.status is RunStatus.error
        assert error in (outcome.result.error or "")


@pytest.mark.parametrize(("saver", "warned"), [(None, 0), (InMemorySaver(), 1)])
async def test_of_graphs_that_forget_it_is_said_once_where_the_managers_checkpointer_would_not(
    saver: Any, warned: int, open_stage: Any, caplog: pytest.LogCaptureFixture
) -> None:
    def forgetful() -> CompiledStateGraph:
        return saying("hello").compile(checkpointer=InMemorySaver())

    stage = await open_stage(checkpointer=saver)
    factory = as_agent(forgetful)
    for _ in range(2):
        await stage.play(factory, {})

    assert caplog.text.count("'forgetful' makes graphs whose own checkpointer forgets") == warned


async def test_threads_are_kept_rolled_back_and_shown_by_what_the_factory_makes(open_stage: Any) -> None:
    started = asyncio.Event()
    accesses: list[str] = []

    async def say(state: Said) -> Said:
        if state["said"] == "hang":
            started.set()
            await asyncio.Event().wait()
        return {"said": f"{state['said']}!"}

    async def make(runtime: ServerRuntime) -> Any:
        accesses.append(runtime.access_context)
        return saying("", node=say).compile()

    saver = InMemorySaver()
    stage = await open_stage(checkpointer=saver)
    agent = as_agent(make)
    place = ThreadPlace(thread_id="t", checkpointer=saver)
    await stage.play(agent, {"said": "hello"}, thread_id="t")

    handle = await stage.start(agent, {"said": "hang"}, thread_id="t")
    await started.wait()
    await handle.cancel(action="rollback", wait=True)

    assert accesses == ["threads.create_run"] * 2
    state = await agent.state(place)  # type: ignore[attr-defined]  # it keeps threads
    assert state.values == {"said": "hello!"}
    await agent.update_state(place, {"said": "by hand"}, as_node="say")  # type: ignore[attr-defined]
    assert (await agent.history(place, limit=1))[0].values == {"said": "by hand"}  # type: ignore[attr-defined]
    assert accesses[2:] == ["threads.read", "threads.update", "threads.read"]


async def test_a_factory_knows_who_asks(stage: Any) -> None:
    def make(runtime: ServerRuntime) -> Any:
        user = runtime.ensure_user()
        return saying(f"{user.identity} {user['team']} {user.is_authenticated}").compile()

    ada = {"identity": "ada", "team": "x"}
    agent = as_agent(make)
    config = {"configurable": {"langgraph_auth_user": ada}}
    outcome = await stage.play(agent, {}, config=config)
    assert outcome.values == {"said": "ada x True"}
    place = ThreadPlace(thread_id="t", caller=Caller(config=config))  # as where somebody asks for a run of this user
    assert await agent.answers_at(place, "yes", is_free=True) == {}  # type: ignore[attr-defined]  # it knows what it has asked
    drawing = await agent.drawing(caller=Caller(user=ada))  # type: ignore[attr-defined]  # it describes itself
    assert [node["id"] for node in drawing["nodes"]] == ["__start__", "say", "__end__"]
    with pytest.raises(PermissionError):
        await agent.schemas()  # type: ignore[attr-defined]


class Slow:
    """Makes a graph that asks twice; once `hangs` is set, making it takes for ever."""

    def __init__(self) -> None:
        self.hangs = False
        self.busy, self.go_on = asyncio.Event(), asyncio.Event()
        self._saver = InMemorySaver()

    async def ask(self, state: Said) -> Said:
        first = interrupt("Refund 7?")
        self.busy.set()
        await self.go_on.wait()
        return {"said": f"{first} {interrupt('Refund 8?')}"}

    async def make(self, config: RunnableConfig) -> Any:
        if self.hangs:
            await asyncio.Event().wait()
        return saying("", node=self.ask).compile(checkpointer=self._saver)


@asynccontextmanager
async def stage_of(**options: Any) -> AsyncIterator[Stage]:
    """A stage on the loop of a test whose time is virtual."""
    recorder = RecordingObserver()
    async with RunManager(observers=[recorder], **options) as manager:
        yield Stage(manager, recorder)


@virtual
async def test_an_answer_to_a_graph_whose_making_hangs_is_a_run_that_times_out() -> None:
    slow = Slow()
    async with stage_of(policy=DispatchPolicy(call_limit=0.1), default_timeout=5.0) as stage:
        await stage.play(slow.make, {}, thread_id="t")
        slow.hangs = True
        async with asyncio.timeout(60):
            answer = await stage.play(slow.make, thread_id="t", command={"resume": "yes"}, timeout=0.1)
    assert answer.status is RunStatus.timeout


@virtual
async def test_an_answer_whose_question_nobody_could_find_is_none_to_the_next_one() -> None:
    slow = Slow()
    async with stage_of(policy=DispatchPolicy(call_limit=0.1)) as stage:
        await stage.play(slow.make, {}, thread_id="t")
        first = await stage.start(slow.make, thread_id="t", command={"resume": "yes"})
        await slow.busy.wait()
        slow.hangs = True
        again = await stage.start(slow.make, thread_id="t", command={"resume": "yes"})
        slow.hangs = False
        slow.go_on.set()
        assert [each["value"] for each in (await stage.outcome(first)).interrupts] == ["Refund 8?"]
        assert (await stage.outcome(again)).end["error_type"] == "UnknownQuestionError"


async def test_a_context_that_does_not_fit_is_the_callers_fault(stage: Any) -> None:
    outcome = await stage.play(of_both, {}, context={"colour": "red"})
    assert "is no Tenant" in (outcome.result.error or "")
