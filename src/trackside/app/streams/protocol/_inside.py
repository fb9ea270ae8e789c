"""What the agents inside a run do: when each began, what called it, and how it ended, by the tasks of a graph."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import msgspec

type Namespace = tuple[str, ...]

_NOTHING = msgspec.Raw()


class _Asked(msgspec.Struct):
    id: str | None = None


class _CallInput(msgspec.Struct):
    tool_call: _Asked | None = None


class _Meta(msgspec.Struct):
    lc_agent_name: str | None = None


class _Question(msgspec.Struct):
    id: str | None = None


class _Task(msgspec.Struct):
    """Only what is needed of a task; its input and result may be large, and are passed over."""

    id: str
    input: msgspec.Raw = _NOTHING
    metadata: _Meta | None = None
    result: msgspec.Raw = _NOTHING
    error: Any = None
    interrupts: list[_Question] = []


_task_of = msgspec.json.Decoder(_Task).decode
_input_of = msgspec.json.Decoder(_CallInput).decode
_inputs_of = msgspec.json.Decoder(list[_Asked]).decode


class Step(NamedTuple):
    """An agent inside has begun, or ended."""

    namespace: Namespace
    data: dict[str, Any]


class AgentsInside:
    """The agents inside one run, by their namespaces."""

    __slots__ = ("_calls", "_open", "asked_in", "status")

    def __init__(self) -> None:
        self.status: dict[Namespace, dict[str, Any]] = {}
        """What was last said of each agent, with its name."""
        self.asked_in: dict[str, list[str]] = {}
        """The namespace in which each question was asked, by the question's id."""
        self._open: dict[Namespace, str | None] = {}
        self._calls: dict[str, str] = {}

    def take(self, namespace: Namespace, data: bytes) -> Iterator[Step]:
        """What a task that begins or ends says of the agent around it, or of one that it ran."""
        try:
            task = _task_of(data)
        except (msgspec.DecodeError, RecursionError):  # from another version of the graph's framework, or too deep
            return
        if task.result is not _NOTHING:
            for question in task.interrupts:
                if question.id is not None:
                    self.asked_in.setdefault(question.id, list(namespace))
            yield from self._ended(namespace, task)
            return
        if (call_id := _call_in(bytes(task.input))) is not None:
            self._calls[task.id] = call_id
        if namespace and namespace not in self.status:
            yield self._began(namespace, task)

    def end(self, event: str, error: str | None) -> Iterator[Step]:
        """End the agents that have not ended, because the run is over."""
        for namespace in list(self._open):
            yield self._end(namespace, event, error)

    def _began(self, namespace: Namespace, task: _Task) -> Step:
        name, _, task_id = namespace[-1].partition(":")
        agent = None if task.metadata is None else task.metadata.lc_agent_name
        data: dict[str, Any] = {"event": "started", "graph_name": agent or name}
        if task_id:
            data["trigger_call_id"] = task_id
        if agent is not None and (call_id := self._calls.get(task_id)) is not None:
            data["cause"] = {"type": "toolCall", "tool_call_id": call_id}
        self._open[namespace] = task_id or None
        self.status[namespace] = data
        return Step(namespace, data)

    def _ended(self, namespace: Namespace, task: _Task) -> Iterator[Step]:
        for inside, task_id in list(self._open.items()):
            if inside[:-1] == namespace and task_id == task.id:
                if task.interrupts:
                    yield self._end(inside, "interrupted", None)
                elif task.error:
                    yield self._end(inside, "failed", str(task.error))
                else:
                    yield self._end(inside, "completed", None)

    def _end(self, namespace: Namespace, event: str, error: str | None) -> Step:
        self._open.pop(namespace, None)
        data = {"event": event, "graph_name": self.status[namespace]["graph_name"]}
        if error is not None:
            data["error"] = error
        self.status[namespace] = data
        return Step(namespace, data)


def _call_in(given: bytes) -> str | None:
    """The id of the tool call that a task was made for."""
    try:
        if given.startswith(b"{") and b'"tool_call"' in given:
            asked = _input_of(given).tool_call
            return None if asked is None else asked.id
        if given.startswith(b"[{"):
            return next((one.id for one in _inputs_of(given) if one.id is not None), None)
    except msgspec.DecodeError:
        pass
    return None
