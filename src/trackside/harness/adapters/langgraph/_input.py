"""Turns a request into what a graph takes, its input or a command, and finds the messages in it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import copy
from dataclasses import dataclass, field, is_dataclass
from typing import Any

from langchain_core.messages import BaseMessage, RemoveMessage
from langgraph.constants import END
from langgraph.types import Command, Send

from trackside.harness.adapters.langgraph._changes import command_of
from trackside.harness.adapters.langgraph._graph import Graph, check_nodes
from trackside.harness.adapters.langgraph._kept_answers import KeptAnswers
from trackside.harness.adapters.langgraph._questions import OpenQuestions
from trackside.harness.context import RunContext
from trackside.harness.errors import InvalidSpecError
from trackside.harness.ids import new_id
from trackside.harness.journal import ROLES, answer_message, as_message, human_messages, listed_messages
from trackside.harness.questions import NO_QUESTION, answers_by_id, is_question_id
from trackside.harness.types import JsonObject

_COMMAND_AS_INPUT = 'a Command goes into the run\'s `command`, as {"resume": …}, {"update": …} or {"goto": …}'


@dataclass(slots=True)
class GraphInput:
    """What a graph gets to begin or go on with, and the messages that come with it.

    `value` is for `graph.astream`; None goes on from the thread's last checkpoint. `answers` are the texts of a human's
    answers, `humans` all human messages, answers included. `brought` counts the messages in `value`; `given_ids` are the
    ids that the caller gave them. `kept` pairs the answers that nodes keep from before with what they are to keep
    instead: only those to what was asked before any question that is answered now.
    """

    value: Any
    humans: list[JsonObject] = field(default_factory=list)
    answers: list[str] = field(default_factory=list)
    brought: int = 0
    given_ids: frozenset[str] = frozenset()
    kept: Sequence[tuple[KeptAnswers, KeptAnswers]] = ()

    @property
    def goes_on(self) -> bool:
        """Whether the graph goes on with the step that its thread is at, if that was left open."""
        return self.value is None or isinstance(self.value, Command)

    @classmethod
    def of(cls, run: RunContext, graph: Graph, questions: OpenQuestions, *, has_brought: bool) -> GraphInput:
        """What `run` asks for, in the form that `graph` takes; `questions` are those that its thread waits for.

        `has_brought` says that the attempt before has brought the thread what the command brings: its changes are not
        brought again, nor are answers that were used up.

        Raises:
            InvalidSpecError: the command names something that the graph does not have, or answers what nobody asked, or it
                is the input.
        """
        if isinstance(run.input, Command):
            raise InvalidSpecError(field="input", value=run.input, why=_COMMAND_AS_INPUT)
        if not run.command:
            return cls._of_state(run.input, graph)
        changes: Mapping[str, Any] = {} if has_brought else run.command
        brought = cls._of_state(pairs_as_tuples(changes.get("update")), graph)
        update, goto = brought.value, _destinations(changes.get("goto"), graph)
        if not run.resuming:
            brought.value = None if has_brought else command_of(run, update=update, goto=goto)
            return brought
        by_id = _answers_of(run, questions, has_brought=has_brought)
        # At a stop, where nobody asked anything, an answer lets the graph go on: given to the graph, it would answer
        # what the graph asks next, which nobody has read yet.
        resume = by_id or None
        if questions.are_stale and len(by_id) == 1:
            resume = next(iter(by_id.values()))
        is_through = has_brought and resume is None
        brought.value = None if is_through else command_of(run, update=update, goto=goto, resume=resume)
        answers = [answer_message(answer) for answer in by_id.values()]
        brought.kept = questions.overtaken(by_id.keys())
        brought.answers = [answer["content"] for answer in answers]
        brought.humans = [*answers, *brought.humans]
        return brought

    @classmethod
    def _of_state(cls, value: Any, graph: Graph) -> GraphInput:
        value = _as_state(value, graph)
        if value is None:
            return cls(None)
        messages, is_object = _messages_in(value), _is_state_object(value)
        given = frozenset(filter(None, map(id_of, messages)))
        if messages and (is_object or isinstance(value, Mapping)) and _merges_messages(graph):
            # With ids from here on, the message that is announced is the message that the thread keeps.
            messages = [_with_id(message) for message in messages]
            value = _with_messages(value, messages)
        return cls(
            value,
            humans=human_messages({"messages": _kept_in(value)} if is_object else value),
            brought=sum(not isinstance(message, RemoveMessage) for message in messages),
            given_ids=given,
        )


def _answers_of(run: RunContext, questions: OpenQuestions, *, has_brought: bool) -> dict[str, Any]:
    """The run's answers by the ids of their questions; empty where none is open, as at a breakpoint.

    LangGraph gets them by id even where it need not: a plain `null` or `{}` would count as no answer at all. Some or
    all of those that the attempt before has brought may be used up.

    Raises:
        InvalidSpecError: one answers a question that is not open, or does not say which of several.
    """
    resume, open_ids = run.resume, questions.ids
    named: set[Any] = {*resume} - {NO_QUESTION} if isinstance(resume, Mapping) else set()
    if named and named <= questions.stops.keys():
        return {}
    if named and has_brought:
        resume = {key: answer for key, answer in resume.items() if key in open_ids}
        if not resume:
            return {}
    return answers_by_id(resume, open_ids, thread_id=run.thread_id, is_id=is_question_id, strict=run.strict_resume)


def _destinations(goto: Any, graph: Graph) -> list[str | Send]:
    """Where a command jumps to: names of nodes, or what to send to them, as `{"node": …, "input": …}` or a `Send`.

    The end is not a node, and every graph has it: pages go there to leave a thread as it is.
    """
    places = goto if isinstance(goto, list | tuple) else () if goto is None else (goto,)
    destinations = [_destination(place) for place in places]
    nodes = [place.node if isinstance(place, Send) else place for place in destinations if place != END]
    check_nodes(graph, "command.goto", nodes)
    return destinations


def _destination(place: Any) -> str | Send:
    if isinstance(place, Mapping) and isinstance(node := place.get("node"), str):
        return Send(node, place.get("input"))
    if isinstance(place, str | Send):
        return place
    raise InvalidSpecError(field="command.goto", value=place, why='it is a node\'s name, or {"node": name, "input": …}')


def pairs_as_tuples(update: Any) -> Any:
    # JSON has no tuples; LangGraph takes a list of them as an update that writes one key several times.
    if isinstance(update, list) and update and all(isinstance(pair, list) and len(pair) == 2 for pair in update):
        return [tuple(pair) for pair in update]
    return update


def _as_state(value: Any, graph: Graph) -> Any:
    """Text, a message or a list of messages as the state of a graph that keeps `messages`; anything else as it is."""
    if "messages" not in graph.channels:
        return value
    if isinstance(value, str):
        return {"messages": [{"role": "user", "content": value}]}
    if isinstance(value, Mapping) and any(key in graph.channels for key in value):
        return value
    given = listed_messages(value)
    return {"messages": [*given]} if given and all(_is_message(as_message(item)) for item in given) else value


def _messages_in(value: Any) -> list[Any]:
    """The messages in an input: under `messages`, alone or in a list, or as the input itself."""
    if isinstance(value, Mapping) or _is_state_object(value):
        value = _kept_in(value)
    given = map(as_message, listed_messages(value))
    messages = [{"role": "user", "content": item} if isinstance(item, str) else item for item in given]
    return messages if all(map(_is_message, messages)) else []


def _is_state_object(value: Any) -> bool:
    """Whether it is a pydantic or dataclass state object that keeps `messages`: LangGraph takes it like a mapping."""
    return (is_dataclass(value) or hasattr(type(value), "model_fields")) and hasattr(value, "messages")


def _kept_in(state: Any) -> Any:
    """The messages of a state, which is a mapping or an object."""
    return state.get("messages") if isinstance(state, Mapping) else state.messages


def _with_messages(state: Any, messages: list[Any]) -> Any:
    """A copy of a state, which is a mapping or an object, with these messages."""
    if isinstance(state, Mapping):
        return {**state, "messages": messages}
    changed = copy(state)
    object.__setattr__(changed, "messages", messages)  # it may be frozen
    return changed


def _is_message(value: Any) -> bool:
    if isinstance(value, Mapping):
        return (_is_role(value.get("role")) or _is_role(value.get("type"))) and "content" in value
    return isinstance(value, BaseMessage)


def _is_role(value: Any) -> bool:
    return isinstance(value, str) and value in ROLES


def id_of(message: Any) -> str | None:
    """The id of a message, as an object or as JSON; None if it has none."""
    found = message.get("id") if isinstance(message, dict) else getattr(message, "id", None)
    return found if isinstance(found, str) else None


def _with_id(message: Any) -> Any:
    if id_of(message):
        return message
    if isinstance(message, BaseMessage):
        return message.model_copy(update={"id": new_id()})
    return {**message, "id": new_id()}


def _merges_messages(graph: Graph) -> bool:
    """Whether the graph's `messages` are LangChain messages, merged by id: whether LangGraph's own reducer keeps them."""
    channel = graph.channels.get("messages")
    reducer = getattr(channel, "operator", None) or getattr(channel, "reducer", None)
    reducer = getattr(reducer, "func", reducer)  # `add_messages(format=…)` is a partial
    return str(getattr(reducer, "__module__", "")).partition(".")[0] == "langgraph"
