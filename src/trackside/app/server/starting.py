"""From what a client asks for to a run that has been let in."""

from __future__ import annotations

import asyncio
import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Final, NamedTuple

import msgspec
from msgspec import UNSET

from trackside.app.config_headers import headers_for_config, is_said_by_headers
from trackside.app.server.auth.handlers import Handlers
from trackside.app.server.authorizing import on_thread
from trackside.app.server.calls import id_of, uuid_of
from trackside.app.server.failures import HttpError
from trackside.app.server.following import visible_run
from trackside.app.server.misfits import misfit
from trackside.app.server.parts import ServerParts
from trackside.app.server.preparing import check_config, prepared, with_headers, with_user, without_headers
from trackside.app.server.principal import Principal
from trackside.app.server.routing import Call
from trackside.app.server.wire.assistants import agent_of
from trackside.app.server.wire.lifetimes import minutes_of
from trackside.app.server.wire.runs import Batch, BatchedRun, CheckpointRef, Run, RunCreate, asked_of, run_on_wire
from trackside.app.streams.live_messages import BY_COMMAND
from trackside.harness import RunHandle, RunManager, RunSpec
from trackside.harness.admission import MAX_ID_CHARS, is_id
from trackside.harness.errors import InvalidSpecError
from trackside.harness.powers import completed_of

_UNSUPPORTED: Final = ("langsmith_tracer",)
_SNAKE: Final = re.compile(r"(?<=[a-z])([A-Z])")
_COMMAND: Final = ("resume", "update", "goto")
_KEPT: Final = ("webhook", "feedback_keys", "stream_resumable")
DEFAULT_MODES: Final = ("values",)
FOLLOWED_MODES: Final = ("values", "updates", "messages-tuple", "custom")
"""What a run that nobody follows yet says, so that clients that join it later find what they usually want."""

LENIENT_RESUME: Final = (
    "strict_resume = false is not supported: an answer that fits no open question is not passed over, but fails its run"
)


def agent_named(assistant: str, manager: RunManager, handlers: Handlers | None = None) -> str:
    """The agent that an assistant id or a name means.

    Raises:
        HttpError: there is none.
    """
    agent = agent_of(assistant, manager.agents)
    if agent is None:
        raise HttpError(status=422, detail=no_assistant(assistant, manager.agents, handlers))
    return agent


def no_assistant(assistant: str, known: Iterable[str], handlers: Handlers | None) -> str:
    """The sentence that there is no such assistant, and which exist, unless a handler decides on who may know that."""
    why = f"there is no assistant {assistant!r:.120}"
    if handlers is not None and handlers.decide_on("assistants", "search"):
        return why
    return f"{why}; there are {', '.join(sorted(known)) or 'none'}"


class Started(NamedTuple):
    """A run that a request has asked for. It is `stateless` if its thread is its own and goes with it."""

    handle: RunHandle
    spec: RunSpec
    stateless: bool

    @property
    def shown(self) -> Run:
        """As clients see it."""
        return run_on_wire(self.handle.record, asked_of(self.spec))


async def started(
    call: Call[RunCreate, Any],
    thread_id: str | None,
    *,
    modes: tuple[str, ...] | None = None,
    by_command: bool = False,
) -> Started:
    """Let in the run that a request asks for.

    With the header `Idempotency-Key`, a request that is sent again, because nobody knows whether it arrived, finds the
    run that it made before; the same key with another request is an error. Each caller has keys of its own.

    Args:
        call: the request.
        thread_id: the thread; None: one of the run's own.
        modes: what the run says if the request does not ask for anything.
        by_command: whether it is a command of version 2 of the protocol: a client that sends one watches the thread.

    Raises:
        HttpError: an option is not supported, or does not fit.
        TracksideError: the run is not let in.
    """
    parts = call.parts
    _check_assistant(call)
    headers = _headers_of(call)
    spec = spec_of(call.body, parts.manager, call.principal, thread_id, modes=modes, headers=headers)
    if call.limits:
        spec = msgspec.structs.replace(spec, **call.limits)
    if by_command:
        spec = msgspec.structs.replace(spec, options={**(spec.options or {}), BY_COMMAND: True})
    spec = await prepared(parts, call.principal, spec)
    await expect_webhook(parts, call.body.webhook)
    return Started(await let_in(call, spec, call.header("idempotency-key")), spec, spec.thread_ends)


async def let_in(call: Call[Any, Any], spec: RunSpec, key: str | None, part: str = "") -> RunHandle:
    """Let a run in, under a key that the client has for it.

    Args:
        call: the request.
        spec: the run.
        key: the key; None: there is none.
        part: which one of the runs that are asked for with one key this is.

    Raises:
        HttpError: this cannot be a key, or it was used for another run.
        UnknownRunError: the run that the key names is gone.
        TracksideError: the run is not let in.
    """
    if key is not None:
        spec = msgspec.structs.replace(spec, idempotency_key=own_key(call.principal, key, part))
    try:
        handle = await call.parts.manager.start(spec)
    except InvalidSpecError as exc:
        if key is None or exc.details.get("field") != "idempotency_key":
            raise
        # The client must not learn whose run that is, or how keys are kept.
        why = f"Idempotency-Key {key!r:.120}: a run was started with it and asked for something else"
        raise HttpError(status=422, detail=why) from exc
    if handle.existing:
        await visible_run(call.parts, call.principal, handle.run_id, lingers=True)
    return handle


def is_of_used_key(exc: HttpError) -> bool:
    """Whether a run was not let in because its key was used for another one."""
    cause = exc.__cause__
    return isinstance(cause, InvalidSpecError) and cause.details.get("field") == "idempotency_key"


async def is_let_in(call: Call[Any, Any], key: str | None, part: str = "") -> bool:
    """Whether a request with this key has let its run in, so that it finds that run when sent again, whatever changed.

    Raises:
        HttpError: this cannot be a key.
    """
    return key is not None and await call.parts.store.run_of_key(own_key(call.principal, key, part)) is not None


def own_key(principal: Principal, key: str, part: str = "") -> str:
    """A key that no other caller can have, whatever their names: if a name is too long for it, its digest stands in it.

    Raises:
        HttpError: this cannot be a key.
    """
    identity = principal.identity or ""
    by_name = f"{len(identity)}/{identity}/{key}{part}"
    if is_id(by_name):
        return by_name
    by_digest = f"sha256/{hashlib.sha256(identity.encode(errors='surrogatepass')).hexdigest()}/{key}{part}"
    if is_id(by_digest):
        return by_digest
    most = MAX_ID_CHARS - min(len(by_name), len(by_digest)) + len(key)
    why = f"Idempotency-Key {key!r:.120}: it is a text of up to {most} printable characters"
    raise HttpError(status=422, detail=why)


async def expect_webhook(parts: ServerParts, url: str | None) -> None:
    """See that a client may ask for a run that tells this address of its end.

    Raises:
        HttpError: it may not.
    """
    if url is None:
        return
    if parts.expect_webhook is None:
        raise HttpError(status=501, detail="webhook is not supported by this server")
    await parts.expect_webhook(url)


async def batched(call: Call[Batch, Any]) -> list[Started]:
    """Let several runs in, once all of them are known to fit. A key is for all of them, in this order.

    Raises:
        HttpError: one of them does not fit, and none was let in.
        TracksideError: one of them is not let in; others may be.
    """
    manager, key = call.parts.manager, call.header("idempotency-key")
    asked = [_one_of_batch(number, fields) for number, fields in enumerate(call.body)]
    calls: list[Call[Any, Any]] = [
        await on_thread(replace(call, body=one), "create_run", one.thread_id)  # type: ignore[arg-type]  # another body
        for one in asked
    ]
    for each in calls:
        _check_assistant(each)
    more: Any = {"modes": FOLLOWED_MODES, "headers": _headers_of(call)}
    specs = [spec_of(one.body, manager, one.principal, one.body.thread_id, **more) for one in calls]
    specs = [await prepared(call.parts, one.principal, spec) for one, spec in zip(calls, specs, strict=True)]
    for one in asked:
        await expect_webhook(call.parts, one.webhook)
    if key is not None:
        own_key(call.principal, key, part_of(len(specs)))  # no shorter than any of theirs; none is let in yet
    runs = enumerate(zip(calls, specs, strict=True))
    handles = await asyncio.gather(*(let_in(one, spec, key, part_of(number)) for number, (one, spec) in runs))
    return [Started(handle, spec, spec.thread_ends) for handle, spec in zip(handles, specs, strict=True)]


def part_of(which: int | str) -> str:
    """A key's suffix for one of several runs that share it; headers, which are Latin-1, cannot have such a key."""
    return f"→{which}"


def _one_of_batch(number: int, fields: dict[str, Any]) -> BatchedRun:
    named = {_SNAKE.sub(r"_\1", name).lower(): value for name, value in fields.items()}
    try:
        one = msgspec.convert(named, BatchedRun)
    except msgspec.ValidationError as exc:
        raise HttpError(status=422, detail=f"run {number} of the batch: {misfit(exc, BatchedRun, named)}") from exc
    if one.thread_id is not None:
        one.thread_id = uuid_of(one.thread_id, f"run {number} of the batch: thread_id")
    return one


def spec_of(
    asked: RunCreate,
    manager: RunManager,
    principal: Principal,
    thread_id: str | None,
    *,
    modes: tuple[str, ...] | None = None,
    headers: Mapping[str, str] | None = None,
    unasked: Sequence[str] = (),
) -> RunSpec:
    """The run that is asked for; if it names no thread, it is on none that exists already.

    Args:
        asked: what is asked for.
        manager: has the agents.
        principal: who asks.
        thread_id: the thread; None: one of the run's own.
        modes: what the run says if the request does not say what it wants.
        headers: those of the request that a graph gets to see.
        unasked: patterns of the headers that graphs see, for a run without a request: it has nothing under their names.

    Raises:
        HttpError: an option is not supported, or does not fit.
    """
    for name in _UNSUPPORTED:
        if getattr(asked, name):
            raise HttpError(status=422, detail=f"{name} is not supported")
    if asked.strict_resume is False:
        raise HttpError(status=422, detail=LENIENT_RESUME)
    stateless = thread_id is None
    if not stateless and asked.on_completion == "delete":
        why = "the thread is not the run's own, and stays"
        raise HttpError(status=422, detail=f"on_completion = 'delete' is not supported: {why}")
    agent = agent_named(asked.assistant_id, manager)
    said = _config(asked, thread_id), asked.context
    config, context = _completed(manager.agents[agent], *said, headers or {}, unasked)
    command = _command(asked)
    return RunSpec(
        agent,
        # Pages answer with `submit({}, {command: {resume: …}})`, and CopilotKit's also send the state of the thread.
        # LangGraph's server reads no input beside a command either.
        None if command else asked.input,
        thread_id=thread_id,
        metadata=asked.metadata,
        config=with_user(config, principal),
        context=context,
        command=command,
        multitask=asked.multitask_strategy or "enqueue",
        after_seconds=asked.after_seconds,
        stream_mode=_modes(asked) or modes or DEFAULT_MODES,
        stream_subgraphs=bool(asked.stream_subgraphs),
        interrupt_before=asked.interrupt_before,
        interrupt_after=asked.interrupt_after,
        durability=_durability(asked),
        strict_resume=bool(asked.strict_resume),
        owner=principal.identity,
        any_owner=principal.owner is None,
        thread_exists=not stateless and asked.if_not_exists != "create",
        thread_ends=stateless and asked.on_completion != "keep",
        thread_metadata=asked.metadata,
        thread_ttl=minutes_of(asked.ttl),
        options=_options(asked),
    )


def _check_assistant(call: Call[RunCreate, Any]) -> None:
    """See that the assistant named by a request for a run exists, and that the request configures only what it may."""
    agent_named(call.body.assistant_id, call.parts.manager, call.handlers)
    check_own_config(call, call.body.assistant_id)


def check_own_config(call: Call[Any, Any], assistant: str) -> None:
    """See that a request for runs configures no more of an assistant than it may.

    Handlers are asked only after that, because what they put into a config is the project's own.

    Raises:
        HttpError: it does.
    """
    if call.handlers is None:
        check_config(call.parts.manager, assistant, call.body.config, call.principal)


def _headers_of(call: Call[Any, Any]) -> dict[str, str]:
    return headers_for_config(call.parts.options.configurable_headers, call.scope["headers"])


def unasked_config(
    agent: object, config: Mapping[str, Any] | None, patterns: Sequence[str]
) -> Mapping[str, Any] | None:
    """The config of a run that no request asks for, without what only headers say to its agent, if it gets headers."""
    if completed_of(agent) is None:
        return config
    return without_headers(config, partial(is_said_by_headers, patterns=patterns))


def _completed(
    agent: object, config: Mapping[str, Any] | None, context: Any, headers: Mapping[str, str], unasked: Sequence[str]
) -> tuple[Mapping[str, Any] | None, Any]:
    """The config and the context, each from the other if the agent takes them for the same: a graph, which also gets
    headers.
    """
    completed = completed_of(agent)
    if completed is None:
        return config, context
    config = without_headers(unasked_config(agent, config, unasked), headers.__contains__)
    config, context = completed(config, context)
    return with_headers(unasked_config(agent, config, unasked), headers), context


def _options(asked: RunCreate) -> dict[str, Any] | None:
    """What the server will need again of a request."""
    options = {name: value for name in _KEPT if (value := getattr(asked, name))}
    return options or None


def _durability(asked: RunCreate) -> str | None:
    if asked.durability is not None or asked.checkpoint_during is None:
        return asked.durability
    return "async" if asked.checkpoint_during else "exit"


def _modes(asked: RunCreate) -> tuple[str, ...]:
    modes = asked.stream_mode
    if modes is None:
        return ()
    return (modes,) if isinstance(modes, str) else tuple(dict.fromkeys(modes))


def _command(asked: RunCreate) -> dict[str, Any] | None:
    if asked.command is None:
        return None
    command = {name: value for name in _COMMAND if (value := getattr(asked.command, name)) is not UNSET}
    return {name: value for name, value in command.items() if name == "resume" or not _says_nothing(value)} or None


def _says_nothing(value: Any) -> bool:
    """Whether a value is what clients that send every part of a command fill in where they say nothing."""
    return value is None or value == []


def _config(asked: RunCreate, thread_id: str | None) -> dict[str, Any] | None:
    named = None if asked.checkpoint is None else asked.checkpoint.thread_id
    if named is not None and id_of(named) != thread_id:
        raise HttpError(status=422, detail="checkpoint.thread_id is another thread than the run's")
    checkpoint_id = asked.checkpoint_id or (asked.checkpoint and asked.checkpoint.checkpoint_id)
    if not checkpoint_id and asked.checkpoint is not None:
        _expect_no_place(asked.checkpoint)
    config = asked.config or {}
    own = config.get("configurable") or {}
    if not checkpoint_id or not isinstance(own, dict):  # `with_user` refuses that
        return asked.config
    configurable = {**own, "checkpoint_id": checkpoint_id}
    if asked.checkpoint is not None and asked.checkpoint.checkpoint_ns:
        configurable["checkpoint_ns"] = asked.checkpoint.checkpoint_ns
    return {**config, "configurable": configurable}


def _expect_no_place(checkpoint: CheckpointRef) -> None:
    for name in ("checkpoint_ns", "checkpoint_map"):
        if value := getattr(checkpoint, name):
            why = "it is part of the name of a checkpoint; give its checkpoint_id, too"
            raise HttpError(status=422, detail=f"checkpoint.{name} = {value!r:.120}: {why}")
