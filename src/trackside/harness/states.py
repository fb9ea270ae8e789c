"""What agents that keep their threads themselves show of them, and how agents describe themselves, to outside readers.

All of it is optional. An agent without it has what `ThreadStates` remembers, and is drawn as one box.
"""

from __future__ import annotations

from collections.abc import Awaitable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

from trackside.harness.errors import AgentFailedError, TracksideError, UnshownStateError
from trackside.harness.foreign.failures import line_of
from trackside.harness.types import Json, JsonObject


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """Who asks, for agents that are made for each call: the user as the app knows them, and what the manager lends."""

    user: Any = None
    items: Any = None
    config: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class ThreadPlace:
    """A state of a thread: the newest one, or that of a checkpoint; of the agent or of one inside it.

    `checkpointer` is what the manager was given for agents that have none of their own.
    """

    thread_id: str
    checkpoint_id: str | None = None
    namespace: str = ""
    checkpoints: Mapping[str, str] = field(default_factory=dict)
    """The checkpoints of the agents around the one in `namespace`, by their namespaces, where its state says so."""
    checkpointer: Any = None
    caller: Caller = field(default_factory=Caller)


@dataclass(frozen=True, slots=True, kw_only=True)
class StateSnapshot:
    """What a thread was at one checkpoint, as plain JSON.

    * `next` names what comes next; empty: nothing.
    * `checkpoint` is `{"thread_id", "checkpoint_ns", "checkpoint_id"}`, with a `checkpoint_map` if it belongs to an
      agent inside another one. `parent_checkpoint`, the one before, has the same form.
    * `tasks` are `{"id", "name", "error", "interrupts", "checkpoint", "state", "result"}`.
    * `interrupts` are all questions that are open there, as `{"id", "value"}`.
    * `created_at` is ISO 8601.
    * `outputs` names what of the values the agent gives back, or the one whose value alone it gives back; None: all.
    """

    values: Json
    next: Sequence[str] = ()
    tasks: Sequence[JsonObject] = ()
    checkpoint: JsonObject | None = None
    parent_checkpoint: JsonObject | None = None
    metadata: JsonObject = field(default_factory=dict)
    created_at: str | None = None
    interrupts: Sequence[JsonObject] = ()
    outputs: Sequence[str] | str | None = None

    @property
    def output(self) -> Json:
        """What the agent gives back of the values."""
        names, values = self.outputs, self.values
        if names is None or not isinstance(values, dict):
            return values
        return values.get(names) if isinstance(names, str) else {name: values[name] for name in names if name in values}

    def as_json(self) -> JsonObject:
        """The same as an object, without `outputs`, which shares its parts with this."""
        return {
            "values": self.values,
            "next": list(self.next),
            "tasks": list(self.tasks),
            "checkpoint": self.checkpoint,
            "parent_checkpoint": self.parent_checkpoint,
            "metadata": self.metadata,
            "created_at": self.created_at,
            "interrupts": list(self.interrupts),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class StateUpdate:
    """What a node is said to have returned."""

    values: Any = None
    as_node: str | None = None


@runtime_checkable
class KeepsThreads(Protocol):
    """An agent that keeps what its threads were, and not only what they are.

    An agent whose threads are kept by the checkpointer that the manager was given (`RunContext.checkpointer`) has
    `lacks_checkpointer = True`: an app then opens a checkpointer, and copies and prunes threads there. What other
    agents keep is theirs.
    """

    async def state(self, place: ThreadPlace, *, subgraphs: bool = False) -> StateSnapshot | None:
        """The state at a place; None if there is none. With `subgraphs`, the tasks have the states of agents inside.

        Raises:
            UnknownCheckpointError: the thread has no such checkpoint.
            UnshownStateError: the state there does not fit the agent.
        """
        ...

    async def history(
        self,
        place: ThreadPlace,
        *,
        limit: int,
        before: str | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> Sequence[StateSnapshot]:
        """The states of a thread, newest first: those older than the checkpoint `before`, with all of this metadata.

        Raises:
            InvalidSpecError: the metadata cannot be searched for.
            UnshownStateError: one of the states does not fit the agent.
        """
        ...

    async def update_state(self, place: ThreadPlace, values: Any, *, as_node: str | None = None) -> JsonObject:
        """Change a thread as if a node had returned these values, continuing from the place; returns the new
        checkpoint.

        With `as_node`, None as values only moves on. From a checkpoint other than the newest, the thread forks.

        Raises:
            InvalidSpecError: the values, or the node, do not fit the agent.
            UnknownCheckpointError: the thread has no such checkpoint.
        """
        ...

    async def replay(self, place: ThreadPlace, steps: Sequence[Sequence[StateUpdate]]) -> JsonObject:
        """Change a thread step by step, each step by what several nodes returned; returns the last new checkpoint.

        Raises:
            InvalidSpecError: the values, or a node, do not fit the agent.
        """
        ...


@runtime_checkable
class ForgetsThreads(Protocol):
    """An agent that keeps threads itself, and can remove what it keeps of them."""

    async def forget_thread(self, thread_id: str) -> None:
        """Remove what the agent keeps of a thread that is gone, if anything. It may be asked again, and about threads
        of others.
        """
        ...


@runtime_checkable
class ShowsLastStates(Protocol):
    """An agent that can say what a thread was before a step that failed, where it cannot say what that step has left."""

    async def last_state(self, place: ThreadPlace) -> StateSnapshot | None:
        """The state at a place or, where that cannot be shown, the last one before it that can be."""
        ...


@runtime_checkable
class AddressesAnswers(Protocol):
    """An agent that keeps its questions itself, and knows which open question an answer is for."""

    async def answers_at(self, place: ThreadPlace, resume: Any, *, is_free: bool) -> Mapping[str, Any]:
        """The answers that a run is to bring, by the ids of their questions; none where no question is open.

        Where the thread stopped without a question, and `is_free`, as no run that would go on has the thread, the
        answer is `resume` by the id of that stop.

        Raises:
            UnknownQuestionError, UnansweredError: (a `ValueError`) as `answers_by_id`.
        """
        ...


async def asked_of[T](agent: object, answer: Awaitable[T]) -> T:
    """Await an agent's answer to one of the protocols here, for callers that do more than ask: its own code, that of
    the function that makes it, or what keeps its threads may raise anything.

    Raises:
        AgentFailedError: the agent failed.
        TracksideError: as the protocol says.
    """
    try:
        return await answer
    except TracksideError:
        raise
    except Exception as exc:  # the agent's own
        name = getattr(agent, "name", type(agent).__name__)
        raise AgentFailedError(agent=name, why=line_of(exc)) from exc


async def last_shown(agent: KeepsThreads, place: ThreadPlace) -> StateSnapshot | None:
    """The state at a place, or what its agent can show instead.

    Raises:
        UnshownStateError: the agent can show nothing.
        AgentFailedError: the agent failed.
    """
    try:
        return await asked_of(agent, agent.state(place))
    except UnshownStateError:
        if not isinstance(agent, ShowsLastStates):
            raise
        return await asked_of(agent, agent.last_state(place))


@runtime_checkable
class Describes(Protocol):
    """An agent that can describe what it consists of."""

    async def drawing(self, *, xray: int | bool = False, caller: Caller | None = None) -> JsonObject:
        """`{"nodes": [{"id", "type", "data"}], "edges": [{"source", "target", "data"?, "conditional"?}]}`.

        `xray` says to which depth agents inside are drawn, too; True: all.
        """
        ...

    async def schemas(self, *, caller: Caller | None = None) -> JsonObject:
        """JSON Schemas of what goes in, comes out and is kept.

        `{"input_schema", "output_schema", "state_schema", "config_schema", "context_schema"}`, each None if it is not
        known.
        """
        ...

    async def subgraphs(
        self, *, namespace: str | None = None, recurse: bool = False, caller: Caller | None = None
    ) -> Mapping[str, JsonObject]:
        """The schemas of the agents inside, by their namespaces."""
        ...
