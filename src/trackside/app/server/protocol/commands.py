"""Commands on a thread. A failing one gets an answer, not a failed request, unless there is no such thread."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from typing import Any, Final, NamedTuple

import msgspec

from trackside.app.server.access import agent_of_thread, thread_for
from trackside.app.server.answers import is_answer, may_answer
from trackside.app.server.auth.handlers import Action
from trackside.app.server.failures import HttpError, answer_of
from trackside.app.server.following import heard_thread
from trackside.app.server.misfits import misfit
from trackside.app.server.parts import ServerParts
from trackside.app.server.routing import Call
from trackside.app.server.starting import LENIENT_RESUME, agent_named, is_let_in, is_of_used_key, started
from trackside.app.server.thread_states import StatesOfThread
from trackside.app.server.wire.protocol import (
    STARTS,
    AgentGetTree,
    CheckpointSummary,
    CommandDone,
    CommandFailed,
    CommandMeta,
    ErrorCode,
    InputRespond,
    ListCheckpoints,
    Namespace,
    ProtocolCommand,
    RunStart,
    StateFork,
    StateGet,
)
from trackside.app.server.wire.runs import CheckpointRef, Command, RunCreate
from trackside.app.storage import StoredThread
from trackside.app.streams.protocol import MARKS, log_of
from trackside.harness.errors import (
    NotPausedError,
    TracksideError,
    UnansweredError,
    UnknownCheckpointError,
    UnknownQuestionError,
    UnknownRunError,
    UnknownThreadError,
)
from trackside.harness.powers import stream_modes_of
from trackside.harness.questions import by_their_ids, is_own_id
from trackside.harness.states import StateSnapshot

MODES: Final = ("values", "updates", "messages-tuple", "custom", "tools", "tasks", MARKS)
"""What a run that is started here says, whoever will want which part: those of these modes that its agent has."""
_DEFAULT_MODES: Final = MODES[:4]

type CommandCall = Call[ProtocolCommand, None]

_CODES: Final[Mapping[type[TracksideError], ErrorCode]] = {
    UnknownRunError: "no_such_run",
    UnknownCheckpointError: "no_such_checkpoint",
    UnknownQuestionError: "no_such_interrupt",
    NotPausedError: "no_such_interrupt",
    UnansweredError: "no_such_interrupt",
}


class CommandError(TracksideError):
    """{why}"""  # noqa: D415  # the raiser brings the sentence

    def __init__(self, code: ErrorCode, why: str) -> None:
        super().__init__(code=code, why=why)


class _Method(NamedTuple):
    """What a method takes, and what it does."""

    params: Any
    handler: Callable[[CommandCall, Any], Awaitable[Any]]


def action_of(call: CommandCall) -> Action:
    """What a command does with its thread, as authorization handlers know it."""
    return "create_run" if call.body.method in STARTS else "read"


async def answered(call: CommandCall) -> CommandDone | CommandFailed:
    """Do what a command says.

    Raises:
        UnknownThreadError: there is no such thread where one has to exist, or it is somebody else's.
        TracksideError: it is not the command's fault.
    """
    command = call.body
    # Before anything is done: a client that follows the thread from there on misses nothing that the command brings.
    through = await _said_before(call)
    try:
        result = await _done(call, command)
    except UnknownThreadError:
        raise
    except TracksideError as exc:
        await _check_thread(call)
        code, why = _refusal(exc)
        return CommandFailed(command.id, code, why)
    return CommandDone(command.id, result, CommandMeta(through))


async def _said_before(call: CommandCall) -> int:
    """The number of the newest event on the thread, whichever process executes its runs; 0 if none is kept."""
    parts, thread_id = call.parts, call.thread_id
    if parts.mirrors is None:
        return _newest_on(parts, thread_id)
    thread = await parts.store.thread(thread_id, owner=call.principal.owner)
    if thread is None:
        return 0
    async with heard_thread(parts, thread):
        return _newest_on(parts, thread_id)


def _newest_on(parts: ServerParts, thread_id: str) -> int:
    feed = parts.streams.threads.known(thread_id)
    return 0 if feed is None else log_of(feed).newest


async def _done(call: CommandCall, command: ProtocolCommand) -> Any:
    if (why := _NOT_SUPPORTED.get(command.method)) is not None:
        raise CommandError("not_supported", f"{command.method}: {why}")
    method = _METHODS.get(command.method)
    if method is None:
        known = ", ".join(_METHODS)
        raise CommandError("unknown_command", f"there is no command {command.method!r:.80}; there are {known}")
    try:
        params = msgspec.convert(command.params or {}, method.params)
    except msgspec.ValidationError as exc:
        why = misfit(exc, method.params, command.params or {}, "params")
        raise CommandError("invalid_argument", f"{command.method}: {why}") from exc
    return await method.handler(call, params)


async def _check_thread(call: CommandCall) -> None:
    """See that the caller may hear what becomes of a command: somebody else's thread does not exist, whatever is asked
    of it, while one that is nobody's yet may be used.

    Raises:
        UnknownThreadError: it is somebody else's.
    """
    parts, principal = call.parts, call.principal
    if principal.owner is None or await parts.store.thread(call.thread_id, owner=principal.owner) is not None:
        return
    if await parts.store.thread(call.thread_id) is not None:
        raise UnknownThreadError(thread_id=call.thread_id)


def _refusal(exc: TracksideError) -> tuple[ErrorCode, str]:
    """What a client is told of why a command was not done.

    Raises:
        TracksideError: it is not the command's fault, or the caller may not ask for it: the request itself fails.
    """
    if isinstance(exc, CommandError):
        return exc.details["code"], str(exc)
    for kind in type(exc).__mro__:
        if (code := _CODES.get(kind)) is not None:
            return code, str(exc)
    status, why = answer_of(exc)[:2]
    if status == 501:
        return "not_supported", why
    if status in (409, 422):
        return "invalid_argument", why
    raise exc


async def _start(call: CommandCall, params: RunStart) -> Any:
    asked = params.asked
    answers = await is_answer(call, asked) if call.is_answer is None else call.is_answer
    try:
        return await _run(call, _answer(asked) if answers else asked)
    except HttpError as exc:
        if not (may_answer(asked) and is_of_used_key(exc)):
            raise
        # The command may be one that is sent again: then it means what it meant at first, and finds the run of then.
        return await _run(call, asked if answers else _answer(asked))


def _answer(asked: RunCreate) -> RunCreate:
    return msgspec.structs.replace(asked, input=None, command=Command(resume=asked.input))


async def _run(call: CommandCall, asked: RunCreate) -> Any:
    """Start a run that says all that channels need, on a thread that need not exist."""
    asked.if_not_exists = asked.if_not_exists or "create"
    if asked.stream_subgraphs is None:
        asked.stream_subgraphs = True
    manager = call.parts.manager
    agent = manager.agents[agent_named(asked.assistant_id, manager, call.handlers)]
    known = stream_modes_of(agent)
    modes = _DEFAULT_MODES if known is None else tuple(mode for mode in MODES if mode in known)
    run_call: Call[RunCreate, None] = replace(call, body=asked)  # type: ignore[arg-type, assignment]  # of another body
    run = await started(run_call, call.thread_id, modes=modes, by_command=True)
    return {"run_id": run.handle.run_id}


async def _respond(call: CommandCall, params: InputRespond) -> Any:
    if params.strict_resume is False:
        raise CommandError("not_supported", f"input.respond: {LENIENT_RESUME}")
    command = params.command
    answers = command.resume
    if not answers:
        raise CommandError("invalid_argument", "input.respond: give an interrupt_id and a response, or responses")
    thread = await thread_for(call)
    agent = _agent_of(call, thread)
    # With `strict_resume`, the client looks for the refusal in the end of the run.
    if not (params.strict_resume or await is_let_in(call, call.header("idempotency-key"))):
        await _check_answers(call, thread, answers)
    command.resume = by_their_ids(answers, is_own_id)  # all kinds of agents take a UUID for an id without being told
    return await _run(
        call,
        RunCreate(
            assistant_id=agent,
            command=command,
            config=params.config,
            context=params.context,
            metadata=params.metadata,
            strict_resume=params.strict_resume,
        ),
    )


async def _check_answers(call: CommandCall, thread: StoredThread, answers: Mapping[str, Any]) -> None:
    """See that these answers are to questions that are open.

    Raises:
        CommandError: one of them is not.
    """
    state = await StatesOfThread.of(call, thread).state()
    open_ids = {str(question.get("id")) for question in state.interrupts}
    if unknown := sorted(answers.keys() - open_ids):
        waits_for = ", ".join(sorted(open_ids)) or "nobody's answer"
        why = f"no open question has the id {', '.join(unknown):.200}; the thread waits for {waits_for}"
        raise CommandError("no_such_interrupt", why)


async def _fork(call: CommandCall, params: StateFork) -> Any:
    agent = _agent_of(call, await thread_for(call))
    asked = RunCreate(
        assistant_id=agent,
        input=params.input,
        config=params.config,
        context=params.context,
        metadata=params.metadata,
        checkpoint_id=params.checkpoint_id,
    )
    return {**await _run(call, asked), "thread_id": call.thread_id}


async def _state(call: CommandCall, params: StateGet) -> Any:
    thread = await thread_for(call)
    found = await StatesOfThread.of(call, thread).state(_at(params.namespace))
    values = found.values if isinstance(found.values, dict) else {}
    if params.keys is not None:
        values = {key: values[key] for key in params.keys if key in values}
    result: dict[str, Any] = {"values": values}
    place = found.checkpoint or {}
    if (checkpoint_id := place.get("checkpoint_id")) is not None:
        result["checkpoint"] = {"id": checkpoint_id, "ns": place.get("checkpoint_ns") or ""}
    return result


async def _checkpoints(call: CommandCall, params: ListCheckpoints) -> Any:
    states = StatesOfThread.of(call, await thread_for(call))
    history = await states.history(limit=params.limit, before=params.before, at=_at(params.namespace))
    return {"checkpoints": [_summary_of(state) for state in history]}


async def _tree(call: CommandCall, params: AgentGetTree) -> Any:
    thread = await thread_for(call)
    async with heard_thread(call.parts, thread):
        feed = call.parts.streams.threads.known(thread.thread_id)
        log = None if feed is None else log_of(feed)
        tree = None if log is None else log.tree()
        if params.run_id is not None and (log is None or log.last is None or log.last.run_id != params.run_id):
            raise UnknownRunError(run_id=params.run_id)
    if tree is None:
        tree = {"namespace": [], "status": "completed", "graph_name": agent_of_thread(thread, call.parts.manager) or ""}
    return {"tree": tree}


def _agent_of(call: CommandCall, thread: StoredThread) -> str:
    agent = agent_of_thread(thread, call.parts.manager) if call.handlers is None else call.agent
    if agent is None:
        raise CommandError("invalid_argument", "nothing that is served here has run on this thread")
    return agent


def _at(namespace: Namespace | None) -> CheckpointRef | None:
    return CheckpointRef(checkpoint_ns="|".join(namespace)) if namespace else None


def _summary_of(state: StateSnapshot) -> CheckpointSummary:
    step = state.metadata.get("step")
    place = state.checkpoint or {}
    return CheckpointSummary(
        id=place.get("checkpoint_id"),
        timestamp=state.created_at,
        step=step if isinstance(step, int) else 0,
        metadata=state.metadata,
    )


_METHODS: Final[Mapping[str, _Method]] = {
    "run.start": _Method(RunStart, _start),
    "input.respond": _Method(InputRespond, _respond),
    "state.get": _Method(StateGet, _state),
    "state.listCheckpoints": _Method(ListCheckpoints, _checkpoints),
    "state.fork": _Method(StateFork, _fork),
    "agent.getTree": _Method(AgentGetTree, _tree),
}
_SUBSCRIBE: Final = "to get events, open a stream for them, POST /threads/{thread_id}/stream/events"
_NOT_SUPPORTED: Final[Mapping[str, str]] = {
    "input.inject": "a run takes no messages while it runs; start another one, which waits for it or takes its place",
    "subscription.subscribe": _SUBSCRIBE,
    "subscription.unsubscribe": _SUBSCRIBE,
    "subscription.reconnect": _SUBSCRIBE,
}
