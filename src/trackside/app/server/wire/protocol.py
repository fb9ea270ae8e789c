"""Version 2 of the protocol on the wire: commands, what they answer, and which events somebody wants.

Its schema is that of the package `langchain-protocol`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal

from msgspec import UNSET, Meta, Struct, UnsetType, field

from trackside.app.server.wire.runs import Command, RunCreate
from trackside.app.server.wire.states import HistoryLimit

type Sequence = Annotated[int, Meta(ge=0, le=9_007_199_254_740_991)]
"""Numbers that every client can count to."""
type Namespace = list[str]
type Channel = Annotated[
    str, Meta(pattern=r"^(values|updates|messages|tools|lifecycle|input|checkpoints|tasks|debug|custom|custom:.+)$")
]
type ErrorCode = Literal[
    "invalid_argument",
    "unknown_command",
    "unknown_error",
    "no_such_run",
    "no_such_subscription",
    "no_such_namespace",
    "no_such_interrupt",
    "no_such_checkpoint",
    "permission_denied",
    "not_supported",
]


class ProtocolCommand(Struct):
    """A command to carry out on a thread. What `params` has depends on the method."""

    id: Sequence
    method: str
    params: dict[str, Any] | None = None


class CommandMeta(Struct):
    """The number of an event on the thread: behind it comes what the command brought about."""

    applied_through_seq: int


class CommandDone(Struct, tag_field="type", tag="success"):
    """The command was carried out."""

    id: int
    result: Any
    meta: CommandMeta


class CommandFailed(Struct, tag_field="type", tag="error"):
    """The command was not carried out, and why."""

    id: int
    error: ErrorCode
    message: str


class EventsWanted(Struct, forbid_unknown_fields=True):
    """Which events of a thread are wanted.

    `namespaces` are those of agents inside, with all below them, `depth` levels deep. `since` is the number of the last
    event that the client has; 0 stands for all that is kept.
    """

    channels: Annotated[list[Channel], Meta(max_length=100)]
    namespaces: Annotated[list[Namespace], Meta(max_length=1_000)] | None = None
    depth: Annotated[int, Meta(ge=0)] | None = None
    since: Sequence | None = None


class RunStart(RunCreate, forbid_unknown_fields=True):
    """`run.start`: what a run that is created takes, and other names that clients have for some of it. On a thread that
    waits for an answer its input is the answer, unless it names a checkpoint.
    """

    fork_from: str | None = field(name="forkFrom", default=None)
    strategy: Literal["reject", "enqueue", "interrupt", "rollback"] | None = field(
        name="multitaskStrategy", default=None
    )

    @property
    def asked(self) -> RunCreate:
        """What it asks for, by the names of a run that is created."""
        asked = RunCreate(**{name: getattr(self, name) for name in RunCreate.__struct_fields__})
        asked.multitask_strategy = self.multitask_strategy or self.strategy
        asked.checkpoint_id = self.checkpoint_id or self.fork_from
        return asked


class Response(Struct, forbid_unknown_fields=True):
    """The answer to one question."""

    interrupt_id: str
    response: Any = None
    namespace: Namespace | None = None


class InputRespond(Struct, forbid_unknown_fields=True):
    """`input.respond`: the answer to one question, or to several at once."""

    interrupt_id: str | None = None
    response: Any = None
    namespace: Namespace | None = None
    responses: list[Response] | None = None
    update: Any = UNSET
    goto: Any = UNSET
    config: dict[str, Any] | None = None
    context: Any = None
    metadata: dict[str, Any] | None = None
    strict_resume: bool | None = None

    @property
    def command(self) -> Command:
        """What the run brings that it starts. It answers nothing if no question is named."""
        answers = {one.interrupt_id: one.response for one in self.responses or ()}
        if self.interrupt_id is not None:
            answers[self.interrupt_id] = self.response
        return Command(resume=answers, update=self.update, goto=self.goto)


class StateGet(Struct, forbid_unknown_fields=True):
    """`state.get`."""

    namespace: Namespace | None = None
    keys: list[str] | None = None


class ListCheckpoints(Struct, forbid_unknown_fields=True):
    """`state.listCheckpoints`."""

    namespace: Namespace | None = None
    limit: HistoryLimit = 10
    before: str | None = None


class StateFork(Struct, forbid_unknown_fields=True):
    """`state.fork`."""

    checkpoint_id: str
    input: Any = None
    config: dict[str, Any] | None = None
    context: Any = None
    metadata: dict[str, Any] | None = None


STARTS: Final[Mapping[str, type[Struct]]] = {
    "run.start": RunStart,
    "input.respond": InputRespond,
    "state.fork": StateFork,
}
"""What starts a run, and what each takes; all other commands look at the thread."""


class AgentGetTree(Struct, forbid_unknown_fields=True):
    """`agent.getTree`."""

    run_id: str | None = None


class CheckpointSummary(Struct, kw_only=True):
    """One of a thread's checkpoints."""

    id: str | None
    timestamp: str | None
    step: int
    node_name: str | UnsetType = UNSET
    metadata: Any = UNSET
