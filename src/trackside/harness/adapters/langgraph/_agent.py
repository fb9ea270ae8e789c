"""The adapter: a compiled graph as an `Agent`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any
from uuid import UUID
from weakref import WeakKeyDictionary

# LangChain imports these two within a process's first run, which fails if no file descriptors are left by then.
import langchain_core.tracers.context
import langchain_core.tracers.stdout  # noqa: F401
from langchain_core.callbacks import BaseCallbackHandler, BaseCallbackManager
from langchain_core.runnables import RunnableConfig
from langchain_core.runnables.config import var_child_runnable_config
from langgraph.checkpoint.base import BaseCheckpointSaver, PendingWrite
from langgraph.errors import ParentCommand
from langgraph.types import StateSnapshot as GraphState

from trackside.harness.adapters.langgraph._asking import check_key, check_spec
from trackside.harness.adapters.langgraph._breakpoints import breakpoint_at, thread_at_stop
from trackside.harness.adapters.langgraph._changes import has_brought
from trackside.harness.adapters.langgraph._context import completed
from trackside.harness.adapters.langgraph._describing import drawing_of, schemas_of, subgraphs_of
from trackside.harness.adapters.langgraph._errors import GraphPauseError, NoCheckpointerError, NoParentGraphError
from trackside.harness.adapters.langgraph._graph import (
    CompiledStateGraph,
    Graph,
    Pregel,
    Saver,
    StateGraph,
    branches_at_start,
    checkpointer_of,
    has_timed_nodes,
    shows_start,
)
from trackside.harness.adapters.langgraph._input import GraphInput
from trackside.harness.adapters.langgraph._items import LentItems
from trackside.harness.adapters.langgraph._listening import QuestionRecorder, listen
from trackside.harness.adapters.langgraph._looking import look, look_before_input
from trackside.harness.adapters.langgraph._places import (
    Origin,
    configurable_of,
    metadata_of,
    newest_place,
    origin_of,
    place_of,
)
from trackside.harness.adapters.langgraph._questions import (
    answers_at,
    is_asking,
    open_questions,
    question_of,
    refused_answer,
)
from trackside.harness.adapters.langgraph._states import last_state, read_history, read_state, replay, write_state
from trackside.harness.adapters.langgraph._stopping import StopGate, see_through
from trackside.harness.adapters.langgraph._stream import STREAM_MODES, GraphStream, ids_of
from trackside.harness.adapters.langgraph._threads import left_unfinished, note_attempt, roll_back
from trackside.harness.adapters.langgraph._usage import UsageRecorder
from trackside.harness.context import AgentResult, RunContext, RunPaused, keep_to_run
from trackside.harness.errors import ErrorOutputError, InvalidSpecError, NotAnAgentError
from trackside.harness.ids import is_uuid, new_id
from trackside.harness.items import ItemStore
from trackside.harness.questions import answer_among
from trackside.harness.states import Caller, StateSnapshot, StateUpdate, ThreadPlace
from trackside.harness.threads import in_own_thread
from trackside.harness.types import JsonObject, RunSpec

_DURABILITIES = ("sync", "async", "exit")

keep_to_run(var_child_runnable_config, None)  # else what a node starts would count for its graph, and stop with it


def adapt(agent: Any, *, name: str | None = None) -> LangGraphAgent | None:
    """Make an agent of a compiled graph, or of a `StateGraph`, which is compiled as it is; None for anything else."""
    if isinstance(agent, StateGraph):
        try:
            agent = agent.compile()
        except ValueError as exc:
            raise NotAnAgentError(passed=f"{agent!r:.80}", why=f"the graph cannot be compiled: {exc}") from exc
    return LangGraphAgent(agent, name=name) if isinstance(agent, Pregel) else None


class LangGraphAgent:
    """Runs a graph: any compiled `StateGraph`, `Pregel`, or functional-API entrypoint.

    A text, a message or a list of messages becomes the `messages` of a graph that keeps messages. Every other input
    reaches the graph as it is, except that messages without an id get theirs now. A run's `command` is LangGraph's
    `Command`, which is refused as an input. The graph uses its own checkpointer, else the one that the manager was
    given, on a copy of the graph. Without either, nothing is kept, and a graph that wants to wait fails with
    `NoCheckpointerError`.

    A run whose config names a checkpoint continues from that one, with its input or without, and what the thread has
    become since stays in its history. Another attempt at a run (`retry_of`) continues from the last checkpoint of the
    attempt before, if that left one and had not finished; nodes that have finished are not executed again. If that
    attempt had come to a breakpoint, this one stops there, too. A run whose last new message is that of a tool that
    failed is an error: nobody has answered it.

    The output is what `graph.ainvoke` would return, as JSON; no more of the state is streamed as `values` and
    `updates`. A `title` in the state becomes the thread's title. Usage is credited as `UsageRecorder` says.

    Args:
        graph: the graph to run. It is never changed.
        name: what to call the agent; the graph's own name if left out.
    """

    def __init__(self, graph: Graph, *, name: str | None = None) -> None:
        self.name = name or graph.name
        self._graph = graph
        self._bound: tuple[Saver, Graph] | None = None
        self._lent: tuple[Graph, LentItems, Graph] | None = None
        self._runs: WeakKeyDictionary[RunContext, _RunState] = WeakKeyDictionary()
        self._has_timed_nodes = has_timed_nodes(graph)
        self._schemas: JsonObject | None = None

    stream_modes = STREAM_MODES

    @property
    def lacks_checkpointer(self) -> bool:
        """Whether the graph keeps threads, and needs the manager's checkpointer for that."""
        return self._graph.checkpointer is None

    def is_of(self, graph: Any) -> bool:
        """Whether this agent runs this graph."""
        return self._graph is graph

    def check(self, spec: RunSpec) -> None:
        """Check that the graph has the nodes at which the run is to stop, and that its config is one.

        Raises:
            InvalidSpecError: the graph would refuse the run.
        """
        check_spec(self._graph, spec)

    @property
    def context_schema(self) -> Any:
        """The type into which the graph turns a run's context; None if it takes the context as it is."""
        return self._graph.context_schema

    def completed(self, config: Mapping[str, Any] | None, context: Any) -> tuple[Mapping[str, Any] | None, Any]:
        """A run's config and context as LangGraph's server hands them to the graph, when a client has sent only one of
        them.
        """
        return completed(config, context, self.context_schema)

    async def human_messages(self, run: RunContext) -> Sequence[JsonObject]:
        """The human messages in the input that the thread does not have yet; the answer, if the run resumes one.

        Raises:
            InvalidSpecError: the run's command or config does not fit the graph, or answers what nobody asked.
            NotPausedError: the run resumes a thread that waits for nothing.
            UnknownCheckpointError: the run is to continue from a checkpoint that its thread does not have.
        """
        state = await self._state_of(run)
        return [message for message in state.given.humans if message["id"] not in state.known_ids]

    async def run(self, run: RunContext) -> AgentResult:
        """Run the graph to its end or to where it waits. What a node raises comes out as it is.

        When cancelled, however often, this waits until the graph has stopped and its checkpoints are written. It always
        waits for a node that took longer than its `timeout`. Only a node that is a plain function runs in a thread that
        LangGraph leaves behind, and that the worker waits for: it should look at `run.cancelled`.

        Raises:
            InvalidSpecError: the run asks for what the graph does not have, or its answer does not fit what was asked.
            NotPausedError: the run resumes a thread that waits for nothing.
            NoCheckpointerError: the graph has to wait, and nothing can remember it.
            GraphPauseError: a node called `run.interrupt`.
            NoParentGraphError: a node hands over to the graph around it.
            ErrorOutputError: the last thing that the graph says is that a tool has failed.
        """
        graph, state = self._graph_for(run), await self._state_of(run)
        stream = GraphStream(run, graph, state.given, state.known_ids, state.start)
        return await see_through(
            self._run(run, graph, state, stream),
            run,
            checkpointer_of(graph),
            has_timed_nodes=self._has_timed_nodes,
            on_written=stream.say_questions,
        )

    async def rollback(self, run: RunContext) -> str | None:
        """Restore the thread to what it was before this run; returns the checkpoint id that it had then, if any."""
        state = self._runs.get(run)
        return await roll_back(self._graph_for(run), run.run_id, run.thread_id, state.pending if state else None)

    def take_over(self, run: RunContext, other: LangGraphAgent) -> None:
        """Take over what another agent of such a graph, which has executed this run, knows about the run."""
        if (state := other._runs.get(run)) is not None:
            self._runs[run] = state

    async def asks(self, run: RunContext) -> bool:
        """Whether the run's thread waits for an answer to what the graph has asked."""
        graph = self._graph_for(run)
        return checkpointer_of(graph) is not None and await is_asking(graph, newest_place(run))

    async def answers_at(self, place: ThreadPlace, resume: Any, *, is_free: bool) -> Mapping[str, Any]:
        """As `AddressesAnswers`."""
        return await answers_at(self._graph_with(place.checkpointer), place, resume, is_free=is_free)

    async def state(self, place: ThreadPlace, *, subgraphs: bool = False) -> StateSnapshot | None:
        """As `KeepsThreads`."""
        return await read_state(self._graph_with(place.checkpointer), place, subgraphs=subgraphs)

    async def last_state(self, place: ThreadPlace) -> StateSnapshot | None:
        """As `ShowsLastStates`."""
        return await last_state(self._graph_with(place.checkpointer), place)

    async def history(
        self,
        place: ThreadPlace,
        *,
        limit: int,
        before: str | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> Sequence[StateSnapshot]:
        """As `KeepsThreads`."""
        graph = self._graph_with(place.checkpointer)
        return await read_history(graph, place, limit=limit, before=before, metadata=metadata)

    async def update_state(self, place: ThreadPlace, values: Any, *, as_node: str | None = None) -> JsonObject:
        """As `KeepsThreads`."""
        return await write_state(self._graph_with(place.checkpointer), place, values, as_node)

    async def replay(self, place: ThreadPlace, steps: Sequence[Sequence[StateUpdate]]) -> JsonObject:
        """As `KeepsThreads`."""
        return await replay(self._graph_with(place.checkpointer), place, steps)

    async def forget_thread(self, thread_id: str) -> None:
        """As `ForgetsThreads`: for a checkpointer of the graph's own, unless that cannot remove anything."""
        if isinstance(saver := self._graph.checkpointer, BaseCheckpointSaver):
            with suppress(NotImplementedError):
                await saver.adelete_thread(thread_id)

    async def drawing(self, *, xray: int | bool = False, caller: Caller | None = None) -> JsonObject:
        """As `Describes`."""
        return await in_own_thread(drawing_of, self._graph, xray=xray)

    async def schemas(self, *, caller: Caller | None = None) -> JsonObject:
        """As `Describes`."""
        if self._schemas is None:
            self._schemas = await in_own_thread(schemas_of, self._graph)
        return self._schemas

    async def subgraphs(
        self, *, namespace: str | None = None, recurse: bool = False, caller: Caller | None = None
    ) -> Mapping[str, JsonObject]:
        """As `Describes`."""
        return await in_own_thread(subgraphs_of, self._graph, namespace, recurse=recurse)

    async def _run(self, run: RunContext, graph: Graph, state: _RunState, stream: GraphStream) -> AgentResult:
        recorder, gate = UsageRecorder(run), StopGate(run)
        listen(recorder, gate)
        questions = QuestionRecorder()
        config = _config(run, state.origin, [recorder, gate, *([questions] if branches_at_start(graph) else [])])
        try:
            if state.at_stop is not None:
                stream.stay(state.at_stop)
            else:
                await stream.follow(await self._begin(run, graph, state), config)
                stream.hear(questions.asked_by(config.get("run_id")))
        except RunPaused as exc:
            raise GraphPauseError(graph=self.name) from exc
        except ParentCommand as exc:
            raise NoParentGraphError(graph=self.name) from exc
        except Exception as exc:
            refused = refused_answer(run, exc)
            if refused is not None or not stream.has_begun:
                await self._leave_kept(graph, state)
            if refused is not None:
                raise refused from exc
            raise
        finally:
            recorder.close()
        return await self._result(run, graph, stream)

    async def _begin(self, run: RunContext, graph: Graph, state: _RunState) -> Any:
        """What to hand to the graph. Remembers what waits on the thread if the run goes on with that, and has the run's
        answers replace those that nodes keep for the same questions.
        """
        value, saver = state.given.value, checkpointer_of(graph)
        if saver is not None and not state.origin and (value is None or run.command):
            saved = await saver.aget_tuple(newest_place(run))
            state.pending = tuple(saved.pending_writes or ()) if saved else ()
        if saver is not None:
            for _, instead in state.given.kept:
                await instead.put(saver)
        return value

    async def _leave_kept(self, graph: Graph, state: _RunState) -> None:
        """Have nodes keep again what they kept before, after an answer that does not fit or a run LangGraph refuses."""
        if (saver := checkpointer_of(graph)) is not None:
            for kept, instead in state.given.kept:
                await kept.put_back(saver, instead)

    async def _result(self, run: RunContext, graph: Graph, stream: GraphStream) -> AgentResult:
        output, state = stream.output(), stream.state()
        values = state if isinstance(state, dict) else None
        if stream.stopped and checkpointer_of(graph) is None:
            raise NoCheckpointerError(graph=self.name, what="wait for a human")
        interrupts = [question_of(interrupt) for interrupt in stream.interrupts.values()]
        if stream.stopped and not interrupts:
            interrupts = await breakpoint_at(run, graph)
        if not interrupts and (error := stream.last_error) is not None:
            raise ErrorOutputError(agent=self.name, why=error)
        return AgentResult(output=output, interrupts=interrupts, values=values)

    def _graph_for(self, run: RunContext) -> Graph:
        return self._lend_items(self._graph_with(run.checkpointer), run.items)

    def _graph_with(self, saver: Any) -> Graph:
        """The graph with a checkpointer, if there is any: its own, or a copy of the graph with the manager's."""
        own = self._graph.checkpointer
        if saver is None or own is False or isinstance(own, BaseCheckpointSaver):
            return self._graph
        if self._bound is None or self._bound[0] is not saver:
            self._bound = saver, self._graph.copy({"checkpointer": saver})
        return self._bound[1]

    def _lend_items(self, graph: Graph, items: ItemStore | None) -> Graph:
        """The graph with a store, if there is any: its own, or a copy of the graph with the manager's."""
        if items is None or graph.store is not None:
            return graph
        if self._lent is None or self._lent[0] is not graph or not self._lent[1].is_of(items):
            store = LentItems(items)
            self._lent = graph, store, graph.copy({"store": store})
        return self._lent[2]

    async def _state_of(self, run: RunContext) -> _RunState:
        """What is known about a run before it begins, found out once."""
        state = self._runs.get(run)
        if state is None:
            state = self._runs[run] = await self._look(run)
        return state

    async def _look(self, run: RunContext) -> _RunState:
        """What the run brings, and which of that its thread already has.

        Raises:
            InvalidSpecError: the run asks for something that the graph does not have.
            NotPausedError: it resumes a thread that waits for nothing.
            NoCheckpointerError: it needs what the thread remembers, and nothing does.
        """
        graph = self._graph_for(run)
        saver = checkpointer_of(graph)
        self._check(run, saver)
        origin = await origin_of(run, graph)
        left = None
        if saver is not None and run.retry_of is not None:
            if (thread := await thread_at_stop(run, graph, saver, run.retry_of)) is not None:
                await note_attempt(saver, run.run_id, newest_place(run), at_stop=True)
                return _RunState(GraphInput(None), ids_of(thread.values), origin, at_stop=thread)
            left = await left_unfinished(graph, run, newest_place(run), place_of(run, origin))
        if left is not None and saver is not None:
            origin = origin if left.is_origin else {}
            place = place_of(run, origin)
            await note_attempt(saver, run.run_id, place)  # before its start is announced: from then on it can be lost
            given = GraphInput(None)
        else:
            place = place_of(run, origin)
            questions = await open_questions(run, graph, place, origin)
            brought = await has_brought(run, graph, origin, questions.used_up_by)
            given = GraphInput.of(run, graph, questions, has_brought=brought)
            if run.resuming:
                run.resume = answer_among(run.resume, questions.ids or questions.stops)
        values: Any = {}
        is_shown = shows_start(graph, given.value)
        # Only messages with ids can be old ones; and a graph that shows only its end does not tell old from new.
        if saver is not None and (given.given_ids or not is_shown or not isinstance(graph, CompiledStateGraph)):
            values = (await (look if given.goes_on else look_before_input)(graph, place)).values
        return _RunState(given, ids_of(values), origin, start=None if is_shown else values)

    def _check(self, run: RunContext, saver: Saver | None) -> None:
        if run.durability is not None and run.durability not in _DURABILITIES:
            why = f"choose one of {', '.join(_DURABILITIES)}"
            raise InvalidSpecError(field="durability", value=run.durability, why=why)
        for key in run.config:
            check_key(key, run.config[key])
        if saver is not None:
            return
        if run.resuming:
            raise NoCheckpointerError(graph=self.name, what="resume a thread")
        if run.interrupt_before or run.interrupt_after:
            raise NoCheckpointerError(graph=self.name, what="stop at a node and go on later")
        if run.durability is not None:
            raise NoCheckpointerError(graph=self.name, what="be durable")


@dataclass(slots=True)
class _RunState:
    """What is known about a run before it begins: its input, and the ids of messages that its thread had before.

    `origin` is where in the thread the run begins, `pending` what waited there if it goes on with the newest state.
    `at_stop` is the thread if that is at a stop at which the run stays; `start` is the state that the run begins with,
    if the graph does not show that.
    """

    given: GraphInput
    known_ids: frozenset[str]
    origin: Origin
    pending: Sequence[PendingWrite] | None = None
    at_stop: GraphState | None = None
    start: Any = None


def _config(run: RunContext, origin: Origin, handlers: Sequence[BaseCallbackHandler]) -> RunnableConfig:
    """The run's config with what LangGraph and its tracers should know about the run."""
    config: RunnableConfig = {**run.config}  # type: ignore[typeddict-item]  # `check_key` has seen its keys
    config["configurable"] = configurable_of(run, origin)
    config["metadata"] = metadata_of(run)
    callbacks = run.config.get("callbacks")
    if isinstance(callbacks, BaseCallbackManager):
        callbacks = callbacks.copy()
        for handler in handlers:
            callbacks.add_handler(handler)
        config["callbacks"] = callbacks
    else:
        config["callbacks"] = [*(callbacks or ()), *handlers]
    config["run_id"] = UUID(run.run_id if is_uuid(run.run_id) else new_id())
    return config
