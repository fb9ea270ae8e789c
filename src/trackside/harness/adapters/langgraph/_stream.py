"""Reads what a graph streams: passes on what was asked for, keeps what the run's result is made of."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from typing import Any, cast

from langchain_core.messages import BaseMessage
from langchain_core.runnables import RunnableConfig
from langgraph.constants import TAG_HIDDEN
from langgraph.types import Interrupt, StateSnapshot

from trackside.harness.adapters.langgraph._graph import UNNAMED, CompiledStateGraph, Graph, check_nodes
from trackside.harness.adapters.langgraph._input import GraphInput, id_of
from trackside.harness.adapters.langgraph._output import Outlet
from trackside.harness.adapters.langgraph._states import with_checkpoints
from trackside.harness.adapters.langgraph._threads import INTERRUPT
from trackside.harness.agents.asked import check_modes
from trackside.harness.context import RunContext
from trackside.harness.journal import excerpt
from trackside.harness.payload import whole
from trackside.harness.types import Json, JsonObject

type _Chunks = AsyncGenerator[Any]

_GRAPH_MODES = ("values", "updates", "messages", "custom", "checkpoints", "tasks", "debug", "tools")
_NEEDED = frozenset({"values", "updates"})  # the state and the pauses
_MESSAGES = frozenset({"messages", "messages-tuple"})  # two names of one thing: what a client asks for is what it gets
_EVENTS = "events"
_MARKS = "checkpoint-marks"
_AT_ROOT = ("checkpoint_ns", "")
_HUMAN = frozenset({"human", "user"})

STREAM_MODES = frozenset({*_GRAPH_MODES, "messages-tuple", _EVENTS, _MARKS})
"""What a graph can stream. `checkpoint-marks` say of each checkpoint only which one it is: `{"id", "parent_id"?, "step",
"source"}`. They are for clients that follow threads; messages whose content is a list then also have it in LangChain's
standard form, as `content_blocks`."""


class GraphStream:
    """One run's stream, from the graph to the run's followers and into its result.

    A part goes out under the mode that was asked for; `messages` and `messages-tuple` are the same thing, as
    `[message or chunk, metadata]`. Of the state, `values` and `updates` show what the graph gives back by its output schema.
    `has_begun` says that the graph has streamed anything, which it does before its nodes begin; `stopped` that it
    waits, for answers to `interrupts` or at a breakpoint. What it asks is not passed on before `say_questions`: an
    answer, which may come at once, is looked up in what the thread's checkpointer has. `start` is the state that the
    run begins with if the graph does not show it.

    Raises:
        InvalidSpecError: a mode is not one that a graph streams.
    """

    def __init__(
        self, run: RunContext, graph: Graph, given: GraphInput, known_ids: frozenset[str], start: Any = None
    ) -> None:
        check_modes(run, STREAM_MODES, "a graph")
        self.interrupts: dict[str, Interrupt] = {}
        self.stopped = False
        self.has_begun = False
        self._run = run
        self._graph = graph
        self._task: asyncio.Task[Any] | None = None
        self._asked: dict[str, tuple[str, ...]] = {mode: (mode,) for mode in run.stream_modes if mode in _GRAPH_MODES}
        if messages := tuple(sorted(run.stream_modes & _MESSAGES)):
            self._asked["messages"] = messages
        self._marks = _MARKS in run.stream_modes
        self._new_messages = _NewMessages(run, graph, given, known_ids)
        if start is not None:
            self._new_messages.begin(start)
        self._outlet = Outlet(graph)
        self._state: Any = None
        self._shown: Json = None
        self._asking: list[tuple[str, JsonObject, tuple[str, ...]]] = []
        self._title: str | None = None

    async def follow(self, value: Any, config: RunnableConfig) -> None:
        """Let the graph run to its end, or to where it waits."""
        run, self._task = self._run, asyncio.current_task()
        modes = list(_NEEDED | self._asked.keys() | ({"checkpoints"} if self._marks else set()))
        subgraphs = run.stream_subgraphs and bool(self._asked)
        options: dict[str, Any] = {
            "context": run.context,
            "stream_mode": modes,
            "subgraphs": subgraphs,
            "interrupt_before": self._stops("interrupt_before", run.interrupt_before),
            "interrupt_after": self._stops("interrupt_after", run.interrupt_after),
            "durability": run.durability,
        }
        if self._graph.name == UNNAMED:
            config = {"run_name": run.agent, **config}
        if _EVENTS in run.stream_modes:
            await self._follow_events(value, config, options)
        else:
            async with aclosing(cast("_Chunks", self._graph.astream(value, config, **options))) as chunks:
                async for chunk in chunks:
                    self._take(chunk)
        if self._outlet.hides and self._shown == {} and not self.stopped:  # the result is empty, which is said, too
            self._run.send({}, "values")

    def hear(self, questions: Sequence[Interrupt]) -> None:
        """Take questions that the graph has asked but does not stream, as it would those of a node."""
        if unheard := tuple(question for question in questions if question.id not in self.interrupts):
            for mode in ("updates", "values"):
                self._take((mode, {INTERRUPT: unheard}))

    def stay(self, thread: StateSnapshot) -> None:
        """Show what the graph would, at a stop of its thread that it is not to go past."""
        self._take(("values", thread.values))
        self._take(("updates", {INTERRUPT: thread.interrupts}))

    async def _follow_events(self, value: Any, config: RunnableConfig, options: Mapping[str, Any]) -> None:
        """As `follow`, by LangChain's events, in which the graph's own stream is that of the first runnable."""
        root = None
        # LangChain takes what is configured here for metadata, and the graph's own name of a node would not replace it.
        configurable = {key: said for key, said in config.get("configurable", {}).items() if (key, said) != _AT_ROOT}
        config = {**config, "configurable": configurable}
        events = self._graph.astream_events(value, config, version="v2", **options)
        async with aclosing(cast("_Chunks", events)) as stream:
            async for event in stream:
                root = root or event["run_id"]
                if event["event"] == "on_chain_stream" and event["run_id"] == root:
                    self._take(event["data"]["chunk"])
                elif TAG_HIDDEN not in event.get("tags", ()):
                    self._run.send(whole(event), _EVENTS)

    def say_questions(self) -> None:
        """Pass on what the graph has asked: all that it has saved is now where an answer looks for it."""
        asking, self._asking = self._asking, []
        for mode, asked, inside in asking:
            newest = self._shown if mode == "values" and not inside else None  # nodes beside it have finished since
            said = {**newest, INTERRUPT: asked[INTERRUPT]} if isinstance(newest, dict) else asked
            self._run.send(said, mode, namespace=inside)

    def _stops(self, field: str, names: Sequence[str] | str | None) -> Sequence[str] | str | None:
        if names is None or names == "*":
            return names
        names = [names] if isinstance(names, str) else list(names)
        check_nodes(self._graph, field, names)
        return names

    def output(self) -> Json:
        """What the graph gives back of its newest state, as plain JSON; None if it has streamed none."""
        return whole(self._outlet.values(self._state)) if self._shown is None else self._shown

    def state(self) -> Json:
        """All of the newest state, the same way."""
        return whole(self._state) if self._outlet.hides else self.output()

    @property
    def last_error(self) -> str | None:
        """What a failed tool said, if that is the last message that the run added."""
        return _error_in(self._new_messages.last)

    def _take(self, chunk: tuple[Any, ...]) -> None:
        self.has_begun = True
        if self._task is not None and self._task.cancelling():  # a node has swallowed the cancel: it ends here
            raise asyncio.CancelledError
        *namespace, mode, payload = chunk  # with sub-graphs, a namespace comes first
        inside = tuple(namespace[0]) if namespace else ()
        shown: Json = None
        if self._marks and mode == "checkpoints":
            self._run.send(_mark_of(payload), _MARKS, namespace=inside)
        if mode in self._asked:
            shown = self._send(mode, payload, inside)
        if inside:
            return
        if mode == "values":
            self._keep(payload, shown)
        elif mode == "updates" and INTERRUPT in payload:
            self.stopped = True
            self.interrupts.update({interrupt.id: interrupt for interrupt in payload[INTERRUPT]})

    def _send(self, mode: str, payload: Any, inside: tuple[str, ...]) -> Json:
        """Send the followers a part; returns what they got."""
        if not inside and mode == "values":
            payload = self._outlet.values(payload)
        elif not inside and mode == "updates":
            payload = self._outlet.updates(payload)
        shown = _shown(mode, payload)
        if mode == "values" and not inside and self._outlet.hides and shown in (self._shown, {}):
            return shown  # nothing that goes out has changed
        if self._marks and mode == "messages":
            _add_blocks(shown, payload[0])
        if mode in _NEEDED and isinstance(shown, dict) and INTERRUPT in shown:
            self._asking.append((mode, shown, inside))
            return shown
        for name in self._asked[mode]:
            self._run.send(shown, name, namespace=inside)
        return shown

    def _keep(self, state: Any, shown: Json) -> None:
        if isinstance(state, dict) and INTERRUPT in state:  # the questions come separately
            state = _without_interrupts(state)
            shown = _without_interrupts(shown) if shown is not None else None
            if not state:
                return
        self._state, self._shown = state, shown
        self._new_messages.record(state)
        title = state.get("title") if isinstance(state, Mapping) else None
        if isinstance(title, str) and title and title != self._title:
            self._title = title
            self._run.set_title(title)


class _NewMessages:
    """Finds the messages that the run adds to its thread, and records each once.

    The first state of a `StateGraph` is the thread's, with what the run brought at its end; anything before that is
    old. If the graph shows none, because its input has nothing for its state, the caller has to `begin` with the
    thread's. Of any other graph only the end result is seen, so what is old there has to be known. Human messages that
    the run brought, answers included, are recorded by the harness when it announces them.
    """

    def __init__(self, run: RunContext, graph: Graph, given: GraphInput, known_ids: frozenset[str]) -> None:
        self.last: Any = None
        """The last of a state's messages, if the graph has added it in this run."""
        self._added: set[str | int] = set()
        self._run = run
        self._answers = list(given.answers)
        self._brought = given.brought
        self._sees_start = isinstance(graph, CompiledStateGraph)
        self._at_start = self._sees_start
        self._seen: set[str | int] = {*known_ids} if self._sees_start else {*known_ids, *given.given_ids}

    def begin(self, start: Any) -> None:
        """Note the state that the run begins with, to which it brings nothing."""
        self._brought = 0
        self.record(start)

    def record(self, state: Any) -> None:
        """Record what is new in `state`."""
        items = _messages_of(state)
        begins = len(items) - self._brought if self._at_start else 0
        for index, item in enumerate(items):
            key = id_of(item) or index  # a list without LangGraph's reducer keeps messages without ids, in order
            if key in self._seen:
                continue
            self._seen.add(key)
            if not self._at_start:
                self._added.add(key)
            if index >= begins and (message := _message_of(item)) is not None and not self._is_announced(message):
                self._run.record_message(message)
        self.last = items[-1] if items and (id_of(items[-1]) or len(items) - 1) in self._added else None
        self._at_start = False

    def _is_announced(self, message: JsonObject) -> bool:
        if message["type"] not in _HUMAN:
            return False
        if self._at_start or not self._sees_start:
            return True
        if message["content"] in self._answers:  # a node put the answer among the messages
            self._answers.remove(message["content"])
            return True
        return False


def _shown(mode: str, payload: Any) -> Json:
    """A part of a graph's stream as plain JSON."""
    if mode == "checkpoints":
        return with_checkpoints(payload)
    if mode == "debug" and payload.get("type") == "checkpoint":
        return {**whole({**payload, "payload": None}), "payload": with_checkpoints(payload["payload"])}
    return whole(payload)


def _mark_of(checkpoint: Mapping[str, Any]) -> Json:
    """Which checkpoint it is."""
    metadata = checkpoint["metadata"] or {}
    mark: JsonObject = {
        "id": checkpoint["config"]["configurable"]["checkpoint_id"],
        "step": metadata.get("step"),
        "source": metadata.get("source"),
    }
    before = (checkpoint.get("parent_config") or {}).get("configurable", {}).get("checkpoint_id")
    return mark if before is None else {**mark, "parent_id": before}


def _add_blocks(shown: Any, message: Any) -> None:
    """Add the standard form of content that providers have in forms of their own."""
    if isinstance(message, BaseMessage) and isinstance(message.content, list) and message.content:
        shown[0]["content_blocks"] = whole(message.content_blocks)


def _error_in(item: Any) -> str | None:
    """What the message of a failed tool says, in one line; None for other messages."""
    message = _message_of(item)
    if message is None or message["type"] != "tool":
        return None
    status = item.get("status") if isinstance(item, Mapping) else getattr(item, "status", None)
    return " ".join(excerpt(message["content"]).split()).rstrip(".") if status == "error" else None


def ids_of(state: Any) -> frozenset[str]:
    """The ids of the messages in a thread's state."""
    return frozenset(filter(None, map(id_of, _messages_of(state))))


def _without_interrupts(state: Any) -> Any:
    return {key: value for key, value in state.items() if key != INTERRUPT}


def _messages_of(state: Any) -> Sequence[Any]:
    """The messages of a state: under `messages`, or the state itself."""
    if state is None or (isinstance(state, Mapping) and not state):
        return ()
    if isinstance(state, Mapping) and "messages" in state:
        state = state["messages"]
    return state if isinstance(state, list | tuple) else [state]


def _message_of(item: Any) -> JsonObject | None:
    """What a journal needs of a message; None if it is not one."""
    if isinstance(item, BaseMessage):
        kind = item.type.removesuffix("MessageChunk").lower()  # a chunk is the beginning of its message
        return {"type": kind, "content": item.content, "id": item.id}
    if isinstance(item, Mapping) and "content" in item:
        role = item.get("type") or item.get("role")
        return {"type": role, "content": item["content"], "id": id_of(item)} if isinstance(role, str) else None
    return None
