"""What a run's config says to its agent besides what the client wrote: who asks, and where in the thread the run begins."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from msgspec.structs import replace

from trackside.app.server.access import caller_of
from trackside.app.server.calls import place_name
from trackside.app.server.failures import HttpError
from trackside.app.server.parts import ServerParts
from trackside.app.server.principal import Permission, Principal
from trackside.app.server.wire.assistants import agent_of
from trackside.app.server.wire.runs import STREAM_MODES
from trackside.harness import RunManager, RunSpec
from trackside.harness.agents.asked import PLACE
from trackside.harness.errors import UnknownCheckpointError, UnknownThreadError
from trackside.harness.powers import check_of, owners_config_of, stream_modes_of
from trackside.harness.states import Caller, KeepsThreads, ThreadPlace, asked_of
from trackside.harness.types import OF_USERS, USER, USER_ID, USER_PERMISSIONS


def with_user(config: Mapping[str, Any] | None, principal: Principal) -> Mapping[str, Any] | None:
    """A run's config with the caller in it, and without any other user whom a client has put there.

    Raises:
        HttpError: the config does not have the form of one.
    """
    configurable = (config or {}).get("configurable") or {}
    if not isinstance(configurable, Mapping):
        raise HttpError(status=422, detail=f"config.configurable = {configurable!r:.120}: it is an object")
    own = {key: value for key, value in configurable.items() if not key.startswith(OF_USERS)}
    if principal.identity is not None:
        user = principal.user or {"identity": principal.identity}
        own |= {USER: user, USER_ID: principal.identity, USER_PERMISSIONS: list(user.get("permissions", ()))}
    return config if own == configurable else {**(config or {}), "configurable": own}


def with_headers(config: Mapping[str, Any] | None, headers: Mapping[str, str]) -> Mapping[str, Any] | None:
    """A run's config with what its request's headers say to its graph, in place of what the client has configured."""
    own = (config or {}).get("configurable") or {}
    if not headers or not isinstance(own, Mapping):  # `with_user` refuses that
        return config
    return {**(config or {}), "configurable": {**own, **headers}}


def without_headers(config: Mapping[str, Any] | None, is_header: Callable[[str], bool]) -> Mapping[str, Any] | None:
    """A run's config without what the client has configured under the names of headers: that counts for nothing."""
    own = (config or {}).get("configurable") or {}
    if not isinstance(own, Mapping) or not any(map(is_header, own)):
        return config
    return {**(config or {}), "configurable": {name: own[name] for name in own if not is_header(name)}}


def with_user_of(config: Mapping[str, Any] | None, before: Mapping[str, Any] | None) -> Mapping[str, Any] | None:
    """A run's config with the user who asked for the run before, whom nobody else gets to see."""
    configurable = (before or {}).get("configurable") or {}
    user = {key: value for key, value in configurable.items() if key.startswith(OF_USERS)}
    if not user:
        return config
    own = (config or {}).get("configurable") or {}
    return {**(config or {}), "configurable": {**own, **user}}


def check_config(manager: RunManager, assistant: str, config: Any, principal: Principal) -> None:
    """See that the caller configures no more of a run's agent than the caller may. An admin may configure all of it.

    Raises:
        HttpError: the caller does.
    """
    if not isinstance(config, Mapping) or principal.may(Permission.admin):
        return
    agent = agent_of(assistant, manager.agents)
    owners = owners_config_of(manager.agents.get(agent or ""))
    if (name := next((name for name in config if name in owners), None)) is not None:
        why = f"it would make another agent of {agent!r}, and needs the permission 'admin'"
        raise HttpError(status=403, detail=f"config.{name}: {why}")


def user_in(config: Mapping[str, Any] | None) -> Any:
    """The user who asked for a run, as its config has it; None: nobody is known."""
    return ((config or {}).get("configurable") or {}).get(USER)


def caller_of_request(request: Mapping[str, Any] | None, items: Any) -> Caller:
    """The caller who asked for a run, by what is kept of the request, for use when nobody is asking now."""
    return Caller(user=user_in((request or {}).get("config")), items=items)


async def prepared(parts: ServerParts, principal: Principal, spec: RunSpec) -> RunSpec:
    """The run as it can be let in, after a check that the checkpoint that it names exists.

    Raises:
        UnknownThreadError: there is no such thread for the caller.
        UnknownCheckpointError: the thread has no such checkpoint.
        HttpError: the agent does not stream what is wanted, or keeps no checkpoints.
        InvalidSpecError: the agent knows already that it would refuse the run.
    """
    check_spec(parts.manager, spec)
    config = spec.config or {}
    configurable = dict(config.get("configurable") or {})
    if not configurable.get("checkpoint_id"):
        return spec
    placed = await _placed(parts, principal, spec, configurable)
    return spec if placed is configurable else replace(spec, config={**config, "configurable": placed})


def check_spec(manager: RunManager, spec: RunSpec) -> None:
    """See that an agent has what a run asks for, as far as that is known before the run is let in.

    Raises:
        HttpError: the agent does not stream what is wanted.
        InvalidSpecError: the agent knows already that it would refuse the run.
    """
    agent = manager.agents[spec.agent]
    known = stream_modes_of(agent)
    if known is not None and (unknown := sorted({*spec.stream_mode} - known)):
        why = f"the agent {spec.agent!r} streams {', '.join(sorted(known & STREAM_MODES))}"
        raise HttpError(status=422, detail=f"stream_mode = {', '.join(unknown)}: {why}")
    check = check_of(agent)
    if check is not None:
        check(spec)


async def _placed(
    parts: ServerParts, principal: Principal, spec: RunSpec, configurable: dict[str, Any]
) -> dict[str, Any]:
    """The config of a run that names a checkpoint, after a check that it exists."""
    agent, thread_id = parts.manager.agents[spec.agent], spec.thread_id
    checkpoint_id = configurable["checkpoint_id"]
    if not isinstance(agent, KeepsThreads):
        if checkpoint_id != thread_id:  # the name of its one state
            why = f"the agent {spec.agent!r} keeps no checkpoints: a run goes on from what its thread is now"
            raise HttpError(status=422, detail=f"checkpoint_id = {checkpoint_id!r:.120}: {why}")
        return {key: value for key, value in configurable.items() if key not in PLACE}
    thread = None if thread_id is None else await parts.store.thread(thread_id, owner=principal.owner)
    if thread is None and spec.thread_exists:
        raise UnknownThreadError(thread_id=thread_id)
    if thread_id is None:
        why = f"there is no checkpoint {checkpoint_id!r:.120} on a thread of the run's own: say thread_id, too"
        raise HttpError(status=404, detail=why, code=UnknownCheckpointError.code)
    if thread is None:
        raise UnknownCheckpointError(thread_id=thread_id, checkpoint_id=checkpoint_id)
    place = ThreadPlace(
        thread_id=thread.thread_id,
        checkpoint_id=place_name("checkpoint_id", str(checkpoint_id)),
        namespace=place_name("checkpoint_ns", str(configurable.get("checkpoint_ns") or "")),
        checkpointer=parts.checkpointer,
        caller=caller_of(parts, principal),
    )
    await asked_of(agent, agent.state(place))
    return configurable
