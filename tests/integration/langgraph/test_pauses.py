"""Runs that wait for a human, and how they go on."""

import asyncio
import operator
from typing import Annotated, Any, TypedDict

import pytest
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.func import entrypoint, task
from langgraph.graph import START, StateGraph
from langgraph.types import Send, interrupt
from pydantic import BaseModel

from trackside import RunStatus, current_run
from trackside.harness.adapters.langgraph import LangGraphAgent, NoCheckpointerError
from trackside.harness.errors import InvalidSpecError, NotPausedError
from trackside.harness.states import ThreadPlace


class State(TypedDict, total=False):
    notes: Annotated[list[Any], operator.add]


def graph_of(*nodes: Any, **compiled: Any) -> Any:
    """A graph of these nodes, one after the other, each under its function's name."""
    builder = StateGraph(State)
    before = START
    for node in nodes:
        builder.add_node(node.__name__, node).add_edge(before, node.__name__)
        before = node.__name__
    return builder.compile(**compiled)


async def ask(state: State) -> State:
    return {"notes": [interrupt({"question": "how many?"})]}


async def after(state: State) -> State:
    return {"notes": ["after"]}


async def test_a_question_interrupts_the_run_and_its_answer_ends_the_next(stage: Any, saver: Any) -> None:
    graph = graph_of(ask, after, checkpointer=saver)
    paused = await stage.play(graph, {"notes": ["before"]}, thread_id="t")
    assert paused.status is RunStatus.interrupted
    (question,) = paused.interrupts
    assert question == {"id": question["id"], "value": {"question": "how many?"}}
    assert paused.values["notes"] == ["before"]
    assert paused.events[-1].payload["status"] == "interrupted"

    resumed = await stage.play(graph, thread_id="t", command={"resume": "three"})
    assert resumed.status is RunStatus.success
    assert resumed.values == {"notes": ["before", "three", "after"]}
    assert [human["content"] for human in resumed.humans] == ["three"]


async def test_code_in_a_graph_sees_what_the_human_has_answered(stage: Any, saver: Any) -> None:
    seen: list[Any] = []

    async def asks(state: State) -> State:
        answer = interrupt("?")
        run = current_run()
        assert run is not None
        seen.append(run.resume)
        return {"notes": [answer]}

    builder = (
        StateGraph(State).add_node("one", asks).add_node("two", asks).add_edge(START, "one").add_edge("one", "two")
    )
    graph = builder.compile(checkpointer=saver)
    first = await stage.play(graph, {}, thread_id="t")
    await stage.play(graph, thread_id="t", command={"resume": "yes"})
    second = await stage.play(graph, {}, thread_id="u")
    await stage.play(graph, thread_id="u", command={"resume": {second.interrupts[0]["id"]: {"a": 1}}})
    assert (len(first.interrupts), seen) == (1, ["yes", {"a": 1}])

    both = builder.add_edge(START, "two").compile(checkpointer=saver)
    answers = {each["id"]: "yes" for each in (await stage.play(both, {}, thread_id="v")).interrupts}
    await stage.play(both, thread_id="v", command={"resume": answers})
    assert (len(answers), seen[2:4]) == (2, [answers, answers])


async def test_followers_of_values_and_updates_see_the_question(stage: Any) -> None:
    graph = graph_of(ask, checkpointer=InMemorySaver())
    paused = await stage.play(graph, {"notes": []}, thread_id="t", stream_mode=["values", "updates"])
    (question,) = paused.interrupts
    for mode in ("values", "updates"):
        (asked,) = paused.streamed(mode)[-1]["__interrupt__"]
        assert (asked["id"], asked["value"]) == (question["id"], question["value"])


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ("text", "text"),
        ({"approve": True, "limit": 3}, '{"approve": true, "limit": 3}'),
        ([1, 2], "[1, 2]"),
        (False, "false"),
        (None, "null"),
        ({}, "{}"),
        ("", ""),
    ],
    ids=repr,
)
async def test_any_json_is_an_answer_and_reaches_the_node_as_it_is(stage: Any, answer: Any, said: str) -> None:
    graph = graph_of(ask, checkpointer=InMemorySaver())
    await stage.play(graph, {"notes": []}, thread_id="t")
    resumed = await stage.play(graph, thread_id="t", command={"resume": answer})
    assert resumed.status is RunStatus.success
    assert resumed.values == {"notes": [answer]}
    assert [human["content"] for human in resumed.humans] == [said]


async def test_a_node_that_asks_three_times_is_answered_three_times(stage: Any, saver: Any) -> None:
    async def interview(state: State) -> State:
        return {"notes": [interrupt("first?"), interrupt("second?"), interrupt("third?")]}

    graph = graph_of(interview, checkpointer=saver)
    outcome = await stage.play(graph, {"notes": []}, thread_id="t")
    for question, answer in (("first?", 1), ("second?", None), ("third?", 3)):
        assert [asked["value"] for asked in outcome.interrupts] == [question]
        outcome = await stage.play(graph, thread_id="t", command={"resume": answer})
    assert outcome.values == {"notes": [1, None, 3]}


def asking_in_parallel(saver: Any) -> Any:
    async def worker(state: dict[str, Any]) -> State:
        return {"notes": [f"{state['topic']}: {interrupt(state['topic'])}"]}

    builder = StateGraph(State).add_node("worker", worker)
    topics = [Send("worker", {"topic": topic}) for topic in ("a", "b", "c")]
    return builder.add_conditional_edges(START, lambda _: topics, ["worker"]).compile(checkpointer=saver)


async def test_several_questions_at_once_are_answered_by_id_together_or_one_by_one(stage: Any, saver: Any) -> None:
    graph = asking_in_parallel(saver)
    paused = await stage.play(graph, {"notes": []}, thread_id="t")
    ids = {asked["value"]: asked["id"] for asked in paused.interrupts}
    assert sorted(ids) == ["a", "b", "c"]

    some = await stage.play(graph, thread_id="t", command={"resume": {ids["a"]: "A", ids["c"]: "C"}})
    assert some.status is RunStatus.interrupted
    assert [asked["value"] for asked in some.interrupts] == ["b"]
    assert [human["content"] for human in some.humans] == ["A", "C"]

    rest = await stage.play(graph, thread_id="t", command={"resume": "B"})
    assert rest.status is RunStatus.success
    assert rest.values == {"notes": ["a: A", "b: B", "c: C"]}


def asking_in_nodes(saver: Any, *, inside: bool) -> Any:
    """Two nodes that ask in the same step; `inside`, each of them is a graph whose node asks."""
    builder = StateGraph(State)
    for topic in ("a", "b"):

        async def ask(state: State, topic: str = topic) -> State:
            return {"notes": [f"{topic}: {interrupt(topic)}"]}

        builder.add_node(topic, graph_of(ask) if inside else ask).add_edge(START, topic)
    return builder.compile(checkpointer=saver)


@pytest.mark.parametrize("inside", [False, True], ids=["nodes", "sub-graphs"])
async def test_nodes_that_ask_beside_each_other_are_answered_one_by_one(stage: Any, saver: Any, inside: bool) -> None:
    graph = asking_in_nodes(saver, inside=inside)
    paused = await stage.play(graph, {"notes": []}, thread_id="t")
    ids = {asked["value"]: asked["id"] for asked in paused.interrupts}
    assert sorted(ids) == ["a", "b"]

    refused = await stage.play(graph, thread_id="t", command={"resume": {ids["a"]: "A", "0" * 32: "?"}})
    assert (refused.status, refused.end["error_type"]) == (RunStatus.error, "UnknownQuestionError")
    assert refused.events[-1].payload == {"status": "interrupted", "previous": "busy"}

    some = await stage.play(graph, thread_id="t", command={"resume": {ids["b"]: "B"}})
    assert [asked["value"] for asked in some.interrupts] == ["a"]
    assert some.events[-1].payload == {"status": "interrupted", "previous": "busy"}
    rest = await stage.play(graph, thread_id="t", command={"resume": {some.interrupts[0]["id"]: "A"}})
    assert sorted(rest.values["notes"]) == ["a: A", "b: B"]


async def test_one_answer_to_several_questions_is_refused_and_all_stay_open(stage: Any) -> None:
    graph = asking_in_parallel(InMemorySaver())
    paused = await stage.play(graph, {"notes": []}, thread_id="t")
    refused = await stage.play(graph, thread_id="t", command={"resume": "yes"})
    assert refused.status is RunStatus.error
    assert "waits for answers to several questions" in refused.end["error"]
    assert not refused.humans
    assert refused.events[-1].payload == {"status": "interrupted", "previous": "busy"}, "the thread still waits"
    answers = {asked["id"]: "ok" for asked in paused.interrupts}
    resumed = await stage.play(graph, thread_id="t", command={"resume": answers})
    assert resumed.values == {"notes": ["a: ok", "b: ok", "c: ok"]}


async def test_an_answer_to_a_question_that_is_not_open_is_refused(run_context: Any) -> None:
    agent = LangGraphAgent(graph_of(ask, checkpointer=InMemorySaver()))
    paused = await agent.run(run_context({"notes": []}))
    with pytest.raises(InvalidSpecError, match=f"waits for {paused.interrupts[0]['id']}, and not for"):
        await agent.run(run_context(command={"resume": {"0" * 32: "late"}}))


def going_to_ask(saver: Any) -> Any:
    """A graph that asks only if a command sends it there."""

    async def before(state: State) -> State:
        return {"notes": ["before"]}

    builder = StateGraph(State).add_node(before).add_node(ask).add_node(after).add_edge(START, "before")
    return builder.add_edge("ask", "after").compile(checkpointer=saver)


@pytest.mark.parametrize("goto", ["ask", {"node": "ask", "input": {}}], ids=["node", "node with an input"])
@pytest.mark.parametrize("by_id", [False, True], ids=["plain", "by id"])
async def test_a_question_of_a_node_to_which_a_command_has_gone_is_answered(
    stage: Any, saver: Any, goto: Any, by_id: bool
) -> None:
    graph = going_to_ask(saver)
    await stage.play(graph, {"notes": []}, thread_id="t")
    asked = await stage.play(graph, thread_id="t", command={"goto": goto})
    (question,) = asked.interrupts
    (shown,) = (await LangGraphAgent(graph).state(ThreadPlace(thread_id="t"))).interrupts
    resume = {question["id"]: "three"} if by_id else "three"
    answered = await stage.play(graph, thread_id="t", command={"resume": resume})

    assert shown == question
    assert answered.status is RunStatus.success
    assert answered.values == {"notes": ["before", "three", "after"]}


async def test_what_is_asked_where_a_command_has_gone_is_open_beside_what_was_asked_before(
    stage: Any, saver: Any
) -> None:
    async def other(state: State) -> State:
        return {"notes": [interrupt("other?")]}

    graph = StateGraph(State).add_node(other).add_node(ask).add_edge(START, "other").compile(checkpointer=saver)
    await stage.play(graph, {"notes": []}, thread_id="t")
    asked = await stage.play(graph, thread_id="t", command={"goto": "ask"})
    plain = await stage.play(graph, thread_id="t", command={"resume": "which?"})
    answers = {question["id"]: question["value"] for question in asked.interrupts}
    answered = await stage.play(graph, thread_id="t", command={"resume": answers})

    assert len(answers) == 2
    assert plain.end["error_type"] == "UnansweredError"
    assert answered.status is RunStatus.success
    assert len(answered.values["notes"]) == 2
    assert all(note in answers.values() for note in answered.values["notes"])


async def test_a_command_to_a_deferred_node_leaves_what_was_asked_before_open(stage: Any, saver: Any) -> None:
    async def before(state: State) -> State:
        return {"notes": ["before"]}

    builder = StateGraph(State).add_node(before).add_node(ask).add_node(after, defer=True)
    graph = builder.add_edge(START, "before").add_edge("before", "ask").compile(checkpointer=saver)
    paused = await stage.play(graph, {"notes": []}, thread_id="t")
    await stage.play(graph, thread_id="t", command={"goto": "after"})
    state = await LangGraphAgent(graph).state(ThreadPlace(thread_id="t"))
    answered = await stage.play(graph, thread_id="t", command={"resume": 3})

    assert state.values == {"notes": ["before"]}
    assert list(state.interrupts) == list(paused.interrupts)
    assert answered.status is RunStatus.success
    assert answered.values == {"notes": ["before", 3, "after"]}


async def test_a_question_inside_a_subgraph_is_answered(stage: Any, saver: Any) -> None:
    graph = graph_of(after, checkpointer=saver)
    inner = graph_of(ask)
    graph = StateGraph(State).add_node("inner", inner).add_edge(START, "inner").compile(checkpointer=saver)
    paused = await stage.play(graph, {"notes": []}, thread_id="t", stream_subgraphs=True)
    assert [asked["value"] for asked in paused.interrupts] == [{"question": "how many?"}]
    resumed = await stage.play(graph, thread_id="t", command={"resume": 4})
    assert resumed.values == {"notes": [4]}


async def test_a_question_of_the_functional_api_is_answered(stage: Any, saver: Any) -> None:
    calls = []

    @task
    async def expensive() -> str:
        calls.append("called")
        return "result"

    @entrypoint(checkpointer=saver)
    async def flow(text: str) -> dict[str, Any]:
        return {"result": await expensive(), "answer": interrupt("sure?")}

    paused = await stage.play(flow, "go", thread_id="t")
    assert [asked["value"] for asked in paused.interrupts] == ["sure?"]
    resumed = await stage.play(flow, thread_id="t", command={"resume": "yes"})
    assert resumed.values == {"result": "result", "answer": "yes"}
    assert calls == ["called"]


async def test_a_question_with_a_schema_says_which(stage: Any) -> None:
    class Decision(BaseModel):
        approve: bool

    async def decide(state: State) -> State:
        return {"notes": [interrupt("ok?", response_schema=Decision).approve]}

    graph = graph_of(decide, checkpointer=InMemorySaver())
    paused = await stage.play(graph, {"notes": []}, thread_id="t")
    assert paused.interrupts[0]["response_schema"]["properties"]["approve"]["type"] == "boolean"
    resumed = await stage.play(graph, thread_id="t", command={"resume": {"approve": True}})
    assert resumed.values == {"notes": [True]}


@pytest.mark.parametrize("inside", [False, True], ids=["node", "sub-graph"])
async def test_an_answer_that_does_not_fit_its_schema_leaves_the_question_open(
    stage: Any, saver: Any, inside: bool
) -> None:
    class Amount(BaseModel):
        n: int

    async def count(state: State) -> State:
        return {"notes": [interrupt("how many?", response_schema=Amount).n]}

    graph = graph_of(count, checkpointer=saver)
    if inside:
        graph = (
            StateGraph(State).add_node("inner", graph_of(count)).add_edge(START, "inner").compile(checkpointer=saver)
        )
    await stage.play(graph, {"notes": []}, thread_id="t")
    for _ in range(2):
        wrong = await stage.play(graph, thread_id="t", command={"resume": {"n": "seven"}})
        assert (wrong.status, wrong.end["error_type"]) == (RunStatus.error, "InvalidSpecError")
        assert "valid integer" in wrong.end["error"]
        assert wrong.events[-1].payload == {"status": "interrupted", "previous": "busy"}
    right = await stage.play(graph, thread_id="t", command={"resume": {"n": 7}})
    assert right.values == {"notes": [7]}


@pytest.mark.parametrize("where", ["interrupt_before", "interrupt_after"])
async def test_a_breakpoint_of_the_run_stops_it_and_names_what_comes_next(stage: Any, saver: Any, where: str) -> None:
    graph = graph_of(plain_step, after, checkpointer=saver)
    node = {"interrupt_before": "after", "interrupt_after": ["plain_step"]}[where]
    paused = await stage.play(graph, {"notes": []}, thread_id="t", **{where: node})
    assert paused.status is RunStatus.interrupted
    (stop,) = paused.interrupts
    assert stop == {"id": stop["id"], "value": None, "next": ["after"], where: node}  # for the run that goes on there
    assert paused.values == {"notes": ["step"]}
    resumed = await stage.play(graph, thread_id="t")
    assert resumed.status is RunStatus.success
    assert resumed.values == {"notes": ["step", "after"]}
    assert resumed.humans == []


async def plain_step(state: State) -> State:
    return {"notes": ["step"]}


@pytest.mark.parametrize("answer", [None, "go on", {}])
async def test_a_breakpoint_compiled_in_is_passed_by_any_answer(stage: Any, answer: Any) -> None:
    graph = graph_of(plain_step, after, checkpointer=InMemorySaver(), interrupt_before=["after"])
    paused = await stage.play(graph, {"notes": []}, thread_id="t")
    assert paused.interrupts[0]["next"] == ["after"]
    resumed = await stage.play(graph, thread_id="t", command={"resume": answer})
    assert resumed.values == {"notes": ["step", "after"]}


@pytest.mark.parametrize("is_inside", [False, True], ids=["", "inside"])
@pytest.mark.parametrize("answer", ["yes", True, {"approved": True}], ids=repr)
@pytest.mark.parametrize("update", [None, {"notes": ["changed"]}], ids=repr)
async def test_what_lets_a_graph_go_on_past_a_stop_answers_nothing_that_is_asked_behind_it(
    stage: Any, answer: Any, update: Any, is_inside: bool
) -> None:
    nodes = graph_of(plain_step, ask, interrupt_before=["ask"])
    builder = StateGraph(State).add_node("inner", nodes).add_edge(START, "inner") if is_inside else nodes.builder
    graph = builder.compile(checkpointer=InMemorySaver(), interrupt_before=[] if is_inside else ["ask"])
    await stage.play(graph, {"notes": []}, thread_id="t")
    command = {"resume": answer} if update is None else {"resume": answer, "update": update}
    asked = await stage.play(graph, thread_id="t", command=command)
    assert asked.status is RunStatus.interrupted
    assert [question["value"] for question in asked.interrupts] == [{"question": "how many?"}]
    assert asked.humans == []  # no human message announces the answer
    resumed = await stage.play(graph, thread_id="t", command={"resume": "three"})
    assert resumed.values["notes"][-1] == "three"
    assert [human["content"] for human in resumed.humans] == ["three"]


async def test_a_breakpoint_at_every_node_stops_at_each(stage: Any) -> None:
    graph = graph_of(plain_step, after, checkpointer=InMemorySaver())
    outcome = await stage.play(graph, {"notes": []}, thread_id="t", interrupt_before="*")
    stops = [outcome.interrupts[0]["next"]]
    while (outcome := await stage.play(graph, thread_id="t", interrupt_before="*")).interrupts:
        stops.append(outcome.interrupts[0]["next"])
    assert stops == [["plain_step"], ["after"]]


@pytest.mark.parametrize("where", [["after"], "*"], ids=str)
async def test_a_breakpoint_after_the_last_node_is_the_end(stage: Any, where: Any) -> None:
    graph = graph_of(plain_step, after, checkpointer=InMemorySaver())
    outcome = await stage.play(graph, {"notes": []}, thread_id="t", interrupt_after=where)
    if where == "*":
        assert outcome.interrupts[0]["next"] == ["after"]
        outcome = await stage.play(graph, thread_id="t", interrupt_after=where)
    assert outcome.status is RunStatus.success
    assert outcome.result.output == {"notes": ["step", "after"]}
    assert outcome.events[-1].payload["status"] == "idle"


async def test_a_breakpoint_inside_a_subgraph_stops_the_run(stage: Any) -> None:
    inner = graph_of(plain_step, after, interrupt_before=["after"])
    builder = StateGraph(State).add_node("inner", inner).add_edge(START, "inner")
    graph = builder.compile(checkpointer=InMemorySaver())
    paused = await stage.play(graph, {"notes": []}, thread_id="t")
    assert paused.status is RunStatus.interrupted
    assert paused.interrupts[0]["next"] == ["inner"]
    resumed = await stage.play(graph, thread_id="t", command={"resume": "go"})
    assert resumed.values == {"notes": ["step", "after"]}


@pytest.mark.parametrize(
    ("compiled", "spec"),
    [({}, {}), ({"interrupt_before": ["after"]}, {}), ({}, {"interrupt_before": ["after"]})],
    ids=["question", "breakpoint", "breakpoint of the run"],
)
async def test_a_pause_without_a_checkpointer_is_an_error_that_says_so(
    run_context: Any, compiled: Any, spec: Any
) -> None:
    nodes = [plain_step, after] if compiled or spec else [ask]
    agent = LangGraphAgent(graph_of(*nodes, **compiled))
    with pytest.raises(NoCheckpointerError, match="without a checkpointer: compile it with `checkpointer=`"):
        await agent.run(run_context({"notes": []}, **spec))


async def test_a_question_that_nothing_can_remember_is_not_said(stage: Any) -> None:
    outcome = await stage.play(graph_of(ask), {"notes": []}, stream_mode=["values", "updates"])
    assert outcome.status is RunStatus.error
    assert not [part for part in outcome.parts if "__interrupt__" in part.data]


async def test_a_question_is_said_once_it_is_kept_behind_all_that_nodes_beside_it_say(stage: Any, saver: Any) -> None:
    kept: list[Any] = []

    async def beside(state: State) -> State:
        await asyncio.sleep(0.1)  # meanwhile the other node asks
        return {"notes": ["beside"]}

    builder = StateGraph(State).add_node("ask", ask).add_node("beside", beside)
    graph = builder.add_edge(START, "ask").add_edge(START, "beside").compile(checkpointer=saver)
    run = await stage.start(graph, {"notes": []}, thread_id="t", durability="exit", stream_mode=["updates", "values"])
    async for part in run.stream():
        if "__interrupt__" in part.data:
            kept += (await graph.aget_state({"configurable": {"thread_id": "t"}})).interrupts
        said = part.data
    assert [question.value for question in kept] == [{"question": "how many?"}] * 2
    assert (said["notes"], len(said["__interrupt__"])) == (["beside"], 1)


async def test_resuming_a_thread_that_waits_for_nothing_is_an_error(stage: Any, run_context: Any) -> None:
    agent = LangGraphAgent(graph_of(plain_step, checkpointer=InMemorySaver()))
    with pytest.raises(NotPausedError):
        await agent.run(run_context(command={"resume": "?"}))
    await agent.run(run_context({"notes": []}))
    with pytest.raises(NotPausedError):
        await agent.run(run_context(command={"resume": "?"}))
    outcome = await stage.play(agent, thread_id="new", command={"resume": "?"})
    assert outcome.status is RunStatus.error
    assert "does not wait for an answer" in outcome.end["error"]


async def test_resuming_without_a_checkpointer_is_an_error(run_context: Any) -> None:
    with pytest.raises(NoCheckpointerError, match="cannot resume a thread"):
        await LangGraphAgent(graph_of(ask)).run(run_context(command={"resume": "?"}))


async def test_an_answer_survives_the_failure_of_what_comes_after(stage: Any) -> None:
    fails = [ConnectionError("once")]

    async def ask_then_fail(state: State) -> State:
        answer = interrupt("?")
        if fails:
            raise fails.pop()
        return {"notes": [answer]}

    graph = graph_of(ask_then_fail, checkpointer=InMemorySaver())
    await stage.play(graph, {"notes": []}, thread_id="t")
    failed = await stage.play(graph, thread_id="t", command={"resume": "yes"})
    assert failed.status is RunStatus.error
    again = await stage.play(graph, thread_id="t")
    assert again.values == {"notes": ["yes"]}


async def test_a_new_input_leaves_the_question_behind(stage: Any) -> None:
    graph = graph_of(ask, checkpointer=InMemorySaver())
    await stage.play(graph, {"notes": ["one"]}, thread_id="t")
    outcome = await stage.play(graph, {"notes": ["two"]}, thread_id="t")
    assert outcome.status is RunStatus.interrupted
    resumed = await stage.play(graph, thread_id="t", command={"resume": "three"})
    assert resumed.values == {"notes": ["one", "two", "three"]}


async def test_the_managers_checkpointer_remembers_questions(open_stage: Any, saver: Any) -> None:
    stage = await open_stage(agents={"asker": graph_of(ask)}, checkpointer=saver)
    await stage.play("asker", {"notes": []}, thread_id="t")
    resumed = await stage.play("asker", thread_id="t", command={"resume": "yes"})
    assert resumed.values == {"notes": ["yes"]}
