"""From what a client asks for to a run that has been let in."""

from __future__ import annotations

from typing import Any

from msgspec import UNSET

from trackside.app.server.failures import HttpError
from trackside.app.server.principal import Principal
from trackside.app.server.wire.assistants import agent_of
from trackside.app.server.wire.runs import RunCreate
from trackside.harness import RunManager, RunSpec

_UNSUPPORTED = ("langsmith_tracer", "strict_resume", "ttl")


def agent_named(assistant: str, manager: RunManager) -> str:
    """The agent that an assistant id or a name means.

    Raises:
        HttpError: there is none.
    """
    agent = agent_of(assistant, manager.agents)
    if agent is None:
        known = ", ".join(sorted(manager.agents)) or "none"
        raise HttpError(status=422, detail=f"there is no assistant {assistant!r:.120}; there are {known}")
    return agent


def spec_of(asked: RunCreate, manager: RunManager, principal: Principal, thread_id: str | None) -> RunSpec:
    """The run that is asked for; on no thread that is there already if it names none.

    Raises:
        HttpError: an option is not supported, or does not fit.
    """
    for name in _UNSUPPORTED:
        if getattr(asked, name):
            raise HttpError(status=422, detail=f"{name} is not supported")
    stateless = thread_id is None
    options: dict[str, Any] = {}
    if asked.webhook is not None:
        options["webhook"] = asked.webhook
    if asked.feedback_keys:
        options["feedback_keys"] = asked.feedback_keys
    if asked.stream_resumable:
        options["stream_resumable"] = True
    return RunSpec(
        agent_named(asked.assistant_id, manager),
        None if asked.command is not None else asked.input,
        thread_id=thread_id,
        metadata=asked.metadata,
        config=_config(asked, thread_id),
        context=asked.context,
        command=_command(asked),
        multitask=asked.multitask_strategy or "enqueue",
        after_seconds=asked.after_seconds,
        stream_mode=_modes(asked),
        stream_subgraphs=bool(asked.stream_subgraphs),
        interrupt_before=asked.interrupt_before,
        interrupt_after=asked.interrupt_after,
        durability=asked.durability or ({True: "async", False: "exit"}.get(asked.checkpoint_during)),  # type: ignore[arg-type]
        owner=principal.identity,
        thread_exists=not stateless and asked.if_not_exists != "create",
        thread_ends=stateless and asked.on_completion != "keep",
        options=options or None,
    )


def _modes(asked: RunCreate) -> tuple[str, ...]:
    modes = asked.stream_mode
    if modes is None:
        return ("values",)
    return (modes,) if isinstance(modes, str) else tuple(dict.fromkeys(modes)) or ("values",)


def _command(asked: RunCreate) -> dict[str, Any] | None:
    if asked.command is None:
        return None
    command = {name: getattr(asked.command, name) for name in ("resume", "update", "goto")}
    return {name: value for name, value in command.items() if value is not UNSET} or None


def _config(asked: RunCreate, thread_id: str | None) -> dict[str, Any] | None:
    checkpoint_id = asked.checkpoint_id or (asked.checkpoint and asked.checkpoint.checkpoint_id)
    if not checkpoint_id:
        return asked.config
    if asked.checkpoint is not None and asked.checkpoint.thread_id not in (None, thread_id):
        raise HttpError(status=422, detail="checkpoint.thread_id is another thread than the run's")
    config = dict(asked.config or {})
    configurable = dict(config.get("configurable") or {})
    configurable["checkpoint_id"] = checkpoint_id
    if asked.checkpoint is not None and asked.checkpoint.checkpoint_ns:
        configurable["checkpoint_ns"] = asked.checkpoint.checkpoint_ns
    return {**config, "configurable": configurable}
