"""A run as events: its beginning, what it says, what it asks, and how it ends."""

from __future__ import annotations

import logging
from collections.abc import Callable, Generator, Iterable, Mapping
from contextlib import contextmanager
from typing import Any, Final, Protocol

import msgspec

from trackside.app.streams.frames import Frame
from trackside.app.streams.protocol._inside import AgentsInside, Namespace
from trackside.app.streams.protocol._messages import MessageEvent, MessageEvents
from trackside.harness.payload import json_bytes
from trackside.harness.questions import is_breakpoint
from trackside.harness.types import RunStatus

logger = logging.getLogger("trackside.stream")

MARKS: Final = "checkpoint-marks"
"""The mode of parts that say only which checkpoint there is."""
_INTERRUPT: Final = "__interrupt__"
_REFUSAL: Final = ("reason", "interrupt_ids", "pending_ids")
"""The fields by which the JavaScript client knows that an answer was refused."""
_decode = msgspec.json.Decoder().decode
_members_of = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_SAID: Final[Mapping[RunStatus, str]] = {
    RunStatus.success: "completed",
    RunStatus.interrupted: "interrupted",
}
"""What clients hear of an end. All others are failures: for some clients, only what has completed or failed is over."""


class Say(Protocol):
    """Appends an event."""

    def __call__(
        self,
        method: str,
        data: bytes,
        *,
        at: int,
        namespace: Namespace = (),
        node: str | None = None,
        name: str | None = None,
        about: str | None = None,
        ends: str | None = None,
        asks: str | None = None,
    ) -> None:
        """Append an event: it is about the run `about`, ends the run `ends`, and asks the question `asks`."""
        ...


class RunAsEvents:
    """One run, from its start to its end. `known_as` is the run that clients know it as: the one that it goes on for."""

    def __init__(
        self,
        run_id: str,
        say: Say,
        *,
        agent: str = "",
        modes: frozenset[str] = frozenset(),
        known_as: str | None = None,
        by_command: bool = False,
    ) -> None:
        self.run_id = run_id
        self.by_command = by_command
        self.known_as = known_as or run_id
        self.agent = agent
        self.inside = AgentsInside()
        self.event = "running"
        self._has_complained = False
        self._say = say
        self._modes = modes
        self._messages: dict[Namespace, MessageEvents] = {}
        self._values: bytes | None = None
        self._mark: dict[str, Any] | None = None
        self._held: dict[Namespace, tuple[bytes, int]] = {}
        self._parts: Mapping[str, Callable[[Frame], None]] = {
            "values": self._take_values,
            "updates": self._take_updates,
            "messages-tuple": self._take_message,
            "messages": _pass_over,  # the same, added up
            "custom": self._take_custom,
            "tasks": self._take_task,
            "checkpoints": self._take_checkpoint,
            MARKS: self._take_mark,
        }

    def begin(self, at: int, answered: list[str]) -> None:
        """The run has started, and brings the answers to these questions."""
        self._lifecycle("running", at)
        if answered:
            self._say("input.answered", json_bytes({"interrupt_ids": answered}), at=at)

    def take(self, frame: Frame) -> None:
        """The run has said something."""
        if self._held and frame.mode not in (MARKS, "checkpoints"):
            self.let_go()
        take = self._parts.get(frame.mode)
        if take is not None:
            take(frame)
        else:
            self._say(frame.mode, frame.data, at=frame.at, namespace=frame.namespace)

    def let_go(self) -> None:
        """Say the values that were held back for the checkpoint that comes with them."""
        held, self._held = self._held, {}
        for namespace, (data, at) in held.items():
            self._say("values", data, at=at, namespace=namespace)

    def end(self, says: Mapping[str, Any], at: int) -> list[str]:
        """The run has ended; returns the ids of the questions that it leaves open. Its end is said whatever it said."""
        self.let_go()
        status = RunStatus(says.get("status", RunStatus.cancelled))
        event = _SAID.get(status, "failed")
        error = _error_of(status, says) if event == "failed" else None
        self._end_inside(event, error, at)
        if says.get("retried_as") is not None:  # it goes on, as another run
            return []
        stops = says.get("interrupts") or () if event == "interrupted" else ()
        asked = self.ask(stops, at)
        refused = says.get("refused") if event == "failed" else None
        more = {name: refused.get(name) for name in _REFUSAL} if isinstance(refused, Mapping) else {}
        self._lifecycle(event, at, status=status.value, error=error, **more)
        if event == "interrupted" and self._values is not None:
            self._say("values", self._values, at=at)
        return asked

    def ask(self, stops: Iterable[Mapping[str, Any]], at: int) -> list[str]:
        """Say those of these that are questions; returns their ids."""
        asked: list[str] = []
        for stop in stops:
            with self._harmless():
                if not is_breakpoint(stop):
                    asked.append(self._ask(stop, at))
        return asked

    def complain(self, exc: Exception) -> None:
        """Log, once, that no event can be made of something that the run has said: a message may contain anything."""
        if not self._has_complained:
            self._has_complained = True
            said = "something that run %s has said does not reach those who follow its thread: %s"
            logger.warning(said, self.run_id, type(exc).__name__, exc_info=exc)

    @contextmanager
    def _harmless(self) -> Generator[None]:
        """Complain of what fails in the block, and go on with what comes behind it."""
        try:
            yield
        except Exception as exc:  # noqa: BLE001  # whatever an agent has said
            self.complain(exc)

    def _end_inside(self, event: str, error: str | None, at: int) -> None:
        """End what is still open in the run."""
        for namespace, messages in self._messages.items():
            with self._harmless():
                for said in messages.end(error):
                    self._say_message(said, namespace, at)
        with self._harmless():
            for step in self.inside.end(event, error):
                self._say("lifecycle", json_bytes(step.data), at=at, namespace=step.namespace)

    def _lifecycle(self, event: str, at: int, **more: Any) -> None:
        self.event = event
        data: dict[str, Any] = {"event": event, "graph_name": self.agent, "run_id": self.run_id}
        data |= {name: value for name, value in more.items() if value is not None}
        if event != "running" and self._mark is not None:
            data["checkpoint"] = {"id": self._mark["id"], "ns": ""}
        ends = None if event == "running" else self.run_id
        self._say("lifecycle", json_bytes(data), at=at, about=self.known_as, ends=ends)

    def _ask(self, question: Mapping[str, Any], at: int) -> str:
        question_id = str(question.get("id"))
        value = question.get("value")
        # One client looks for `value`, the other for what the protocol says.
        data = {"interrupt_id": question_id, "payload": value, "value": value}
        namespace = tuple(self.inside.asked_in.get(question_id, ()))
        self._say("input.requested", json_bytes(data), at=at, namespace=namespace, asks=question_id)
        return question_id

    def _take_values(self, frame: Frame) -> None:
        data, asks = frame.data, False
        if b'"__interrupt__"' in data:
            values = _decode(data)
            if isinstance(values, dict) and _INTERRUPT in values:
                asks = True
                del values[_INTERRUPT]
                if not values:
                    return
                data = json_bytes(values)
        if not frame.namespace:
            self._values = data
        if asks:  # these are said after the questions
            return
        if self._mark is not None:
            self._held[frame.namespace] = data, frame.at
        else:
            self._say("values", data, at=frame.at, namespace=frame.namespace)

    def _take_updates(self, frame: Frame) -> None:
        try:
            members = _members_of(frame.data)
        except (msgspec.DecodeError, RecursionError):
            members = {}
        by_node = bool(members) and all(bytes(value)[:1] in b"{[n" for value in members.values())
        if not by_node:
            self._say("updates", b'{"values":%b}' % frame.data, at=frame.at, namespace=frame.namespace)
            return
        for node, update in members.items():
            if not node.startswith("__"):
                values = b"{}" if bytes(update) == b"null" else bytes(update)
                data = b'{"node":%b,"values":%b}' % (json_bytes(node), values)
                self._say("updates", data, at=frame.at, namespace=frame.namespace)

    def _take_message(self, frame: Frame) -> None:
        pair = _decode(frame.data)
        if not (isinstance(pair, list) and len(pair) == 2):
            return
        message, about = pair
        messages = self._messages.get(frame.namespace)
        if messages is None:
            messages = self._messages[frame.namespace] = MessageEvents(self.run_id)
        for said in messages.take(message, about):
            self._say_message(said, frame.namespace, frame.at)
        if "tools" not in self._modes and isinstance(message, dict) and message.get("type") == "tool":
            self._end_tool(message, frame)

    def _say_message(self, said: MessageEvent, namespace: Namespace, at: int) -> None:
        self._say("messages", json_bytes(said.data), at=at, namespace=namespace, node=said.node)
        if "tools" in self._modes or said.data["event"] != "content-block-finish":
            return
        block = said.data["content"]
        if block["type"] == "tool_call":
            call = {"tool_call_id": block.get("id"), "tool_name": block.get("name"), "input": block.get("args")}
            self._say("tools", json_bytes({"event": "tool-started", **call}), at=at, namespace=namespace)

    def _end_tool(self, message: Mapping[str, Any], frame: Frame) -> None:
        """Say what a tool has returned, for an agent that says so only in messages."""
        call = {"tool_call_id": message.get("tool_call_id")}
        if message.get("status") == "error":
            data = {"event": "tool-error", **call, "message": str(message.get("content"))}
        else:
            data = {"event": "tool-finished", **call, "output": message.get("content")}
        self._say("tools", json_bytes(data), at=frame.at, namespace=frame.namespace)

    def _take_custom(self, frame: Frame) -> None:
        data, name = frame.data, None
        if data.startswith(b"{") and b'"payload"' in data:
            said = _decode(data)
            if {"payload"} <= said.keys() <= {"name", "payload"} and isinstance(said.get("name", ""), str):
                name = said.get("name")
                self._say("custom", data, at=frame.at, namespace=frame.namespace, name=name)
                return
        self._say("custom", b'{"payload":%b}' % data, at=frame.at, namespace=frame.namespace)

    def _take_task(self, frame: Frame) -> None:
        for step in self.inside.take(frame.namespace, frame.data):
            self._say("lifecycle", json_bytes(step.data), at=frame.at, namespace=step.namespace)
        self._say("tasks", frame.data, at=frame.at, namespace=frame.namespace)

    def _take_checkpoint(self, frame: Frame) -> None:
        if MARKS not in self._modes:
            self._note_mark(_mark_of(_decode(frame.data)), frame)

    def _take_mark(self, frame: Frame) -> None:
        mark = _decode(frame.data)
        self._note_mark(mark if isinstance(mark, dict) and "id" in mark else None, frame)

    def _note_mark(self, mark: dict[str, Any] | None, frame: Frame) -> None:
        """Say which checkpoint there is now, before the values that were held back for it."""
        if mark is None:
            return
        if not frame.namespace or self._mark is None:
            self._mark = mark
        self._say("checkpoints", json_bytes(mark), at=frame.at, namespace=frame.namespace)
        self.let_go()


def _pass_over(frame: Frame) -> None:
    """Pass over a part of no interest."""


def _mark_of(checkpoint: Any) -> dict[str, Any] | None:
    """The mark of a checkpoint that came whole; None if it has no form that is known here."""
    try:
        parent = (checkpoint.get("parent_config") or {}).get("configurable", {}).get("checkpoint_id")
        mark = {"id": checkpoint["config"]["configurable"]["checkpoint_id"]}
        metadata = checkpoint.get("metadata") or {}
        return {**mark, **({"parent_id": parent} if parent else {}), **{k: metadata.get(k) for k in ("step", "source")}}
    except (AttributeError, KeyError, TypeError):
        return None


_NOTHING: Final = msgspec.Raw()


class _State(msgspec.Struct):
    """What events say of a thread's state."""

    values: msgspec.Raw
    output: msgspec.Raw = _NOTHING
    checkpoint: dict[str, Any] | None = None
    parent_checkpoint: dict[str, Any] | None = None
    metadata: dict[str, Any] = {}


_state_of = msgspec.json.Decoder(_State).decode


def parts_of_state(state: Any) -> tuple[dict[str, Any] | None, bytes] | None:
    """Which checkpoint a state is, and what its agent gives back of it; None if it has no form that is known here."""
    try:
        known = _state_of(state)
    except (msgspec.DecodeError, TypeError):
        return None
    values = bytes(known.output) or bytes(known.values)
    named = known.checkpoint or {}
    step = known.metadata.get("step")
    if named.get("checkpoint_id") is None or step is None:  # from an agent that keeps no checkpoints
        return None, values
    mark = {"id": named["checkpoint_id"], "step": step, "source": known.metadata.get("source", "update")}
    if (before := (known.parent_checkpoint or {}).get("checkpoint_id")) is not None:
        mark["parent_id"] = before
    return mark, values


def _error_of(status: RunStatus, says: Mapping[str, Any]) -> str:
    if status is RunStatus.cancelled:
        return str(says.get("error") or "the run was cancelled")
    if status is RunStatus.timeout:
        return str(says.get("error") or "the run took too long")
    kind, error = says.get("error_type"), str(says.get("error") or "the run has failed")
    return f"{kind}: {error}" if kind and not error.startswith(str(kind)) else error
