"""What authorization handlers get to see of a request as their `value`, and what of it they may change.

The names are those of `langgraph_sdk.auth.types`, whose ids are UUIDs. `metadata` is always there, so that a handler
can mark whatever the request is about, and so is what LangGraph's server always shows of a run; the endpoint gets what
the handler has changed. Where something is only looked at, there is nothing to mark: `metadata` is empty, and the
filter that a handler returns decides whether the caller finds it at all.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final
from uuid import UUID

import msgspec
from msgspec import UNSET

from trackside.app.server.auth.handlers import Action, Resource
from trackside.app.server.calls import Call
from trackside.app.server.failures import FAILED, HttpError
from trackside.app.server.wire.assistants import agent_of
from trackside.app.server.wire.items import ItemQuery
from trackside.app.server.wire.lifetimes import Ttl
from trackside.app.server.wire.protocol import STARTS, InputRespond, ProtocolCommand, RunStart
from trackside.app.server.wire.runs import Command
from trackside.harness.agents.asked import configured
from trackside.harness.ids import assistant_id_of, is_uuid
from trackside.harness.payload import json_bytes
from trackside.harness.powers import completed_of

logger = logging.getLogger("trackside.server")

_NAMESPACES: Final = ("namespace", "namespace_prefix", "prefix")
"""What endpoints call what handlers know as a namespace."""
_RUN: Final = ("multitask_strategy", "if_not_exists", "after_seconds", "ttl")
_KWARGS: Final = (
    "input",
    "command",
    "config",
    "context",
    "stream_mode",
    "interrupt_before",
    "interrupt_after",
    "webhook",
)
_CHANGED: Final = ("input", "config", "context")
_CRON: Final = ("input", "config", "context", "interrupt_before", "interrupt_after", "webhook", "stream_mode")


def value_of(call: Call[Any, Any], resource: Resource, action: Action, more: Mapping[str, Any]) -> dict[str, Any]:
    """What the handler gets, with what `more` is known of the request. The handler may change it."""
    said = {**_said(call), **more}
    if resource == "store":
        return _item(call, said)
    metadata = said.pop("metadata", None) or {}
    # A client's own filter of a thread's history says nothing of the thread, and must not seem to.
    value: dict[str, Any] = {"metadata": {} if action == "read" else metadata}
    if action == "create_run":
        value |= _run(call, said)
    elif resource == "crons":
        value |= _cron(call, said, action)
    else:
        value |= said
        if said.get("values") is None:
            value.pop("values", None)
    for name in ("assistant_id", "graph_id"):
        if name in call.path:
            value[name] = _assistant(call, call.path[name])
    return {**value, **more}


def ttl_of(call: Call[Any, Any]) -> Any:
    """The time to live that a request for a run asks for, as the request has it; None if it asks for none."""
    return _said(call).get("ttl")


def as_it_fits(command: ProtocolCommand) -> ProtocolCommand:
    """A command that starts a run, without parameters that do not fit: handlers rely on types, as in other requests."""
    kind, params = STARTS[command.method], command.params or {}
    if _fits(params, kind):
        return command
    known = {field.encode_name: field.type for field in msgspec.structs.fields(kind)}
    fitting = {name: value for name, value in params.items() if name in known and _fits(value, known[name])}
    return msgspec.structs.replace(command, params=fitting)


def _fits(value: Any, kind: Any) -> bool:
    try:
        msgspec.convert(value, kind)
    except msgspec.ValidationError:
        return False
    return True


def changed_by(
    call: Call[Any, Any], resource: Resource, action: Action, value: Mapping[str, Any], more: Mapping[str, Any]
) -> Call[Any, Any]:
    """The call with what a handler has changed in its value, which it got with `more` of the request.

    Raises:
        HttpError: the handler has put something there that cannot be.
    """
    if resource == "store":
        return _with_item(call, value)
    if action == "read":
        return call
    begins_runs = action == "create_run" or (resource, action) == ("crons", "create")
    body, shown = call.body, _always_there(call, action, {**_said(call), **more}) if begins_runs else {}
    if isinstance(body, ProtocolCommand):
        if action != "create_run":
            return call
        said = body.params or {}
        taken = set(STARTS[body.method].__struct_fields__)
        if call.is_answer:  # a run with a command reads no input
            taken.discard("input")
        params = {**said, **_options(value.get("kwargs"), taken, shown), "metadata": metadata_of(value)}
        return replace(call, body=msgspec.structs.replace(body, params=params))
    names = getattr(body, "__struct_fields__", ())
    changes: dict[str, Any] = {"metadata": metadata_of(value)} if "metadata" in names else {}
    options = value.get("kwargs") if action == "create_run" else value.get("payload")
    changes |= _options(options, names, shown)
    if not changes:
        return call
    return replace(call, body=msgspec.structs.replace(body, **changes))


def narrowed_by(call: Call[Any, Any], resource: Resource, action: Action, value: Mapping[str, Any]) -> dict[str, Any]:
    """The metadata that a handler wants of threads by putting them into a search whose request has no place for them."""
    if (resource, action) != ("threads", "search") or "metadata" in getattr(call.body, "__struct_fields__", ()):
        return {}
    return metadata_of(value)


def _options(options: Any, names: Collection[str], shown: Mapping[str, Any]) -> dict[str, Any]:
    """What a handler may have changed of what a run gets. What it left as `shown` stays as the request has it."""
    if not isinstance(options, Mapping):
        return {}
    left = {name: options[name] for name in _CHANGED if name in options and name in names}
    return {name: value for name, value in left.items() if name not in shown or value != shown[name]}


def _said(call: Call[Any, Any]) -> dict[str, Any]:
    """What the request says, by its own names."""
    body = call.body
    if isinstance(body, ProtocolCommand):
        return _said_by(body, is_answer=bool(call.is_answer))
    said: dict[str, Any] = {}
    for part in (call.query, body):
        if isinstance(part, msgspec.Struct):
            said |= {name: None if value is UNSET else value for name, value in msgspec.structs.asdict(part).items()}
    if isinstance(said.get("ttl"), Ttl):
        said["ttl"] = msgspec.to_builtins(said["ttl"])
    if isinstance(said.get("metadata"), str):  # that of a query, which is JSON that nobody has read yet
        del said["metadata"]
    for name in ("thread_id", "run_id", "cron_id"):
        if isinstance(said.get(name), str) and is_uuid(said[name]):
            said[name] = UUID(said[name])
    if isinstance(said.get("ids"), list):
        said["ids"] = [UUID(one) if is_uuid(one) else one for one in said["ids"]]
    return said


def _said_by(command: ProtocolCommand, *, is_answer: bool) -> dict[str, Any]:
    """What a command says, by the names that other requests have for it."""
    said = dict(command.params or {})
    if not isinstance(said.get("metadata"), dict):
        said.pop("metadata", None)
    if (strategy := said.get("multitask_strategy") or said.get("multitaskStrategy")) is not None:
        said["multitask_strategy"] = strategy
    if STARTS.get(command.method) is InputRespond:
        said["command"] = msgspec.convert(command.params or {}, InputRespond).command
    if is_answer:
        said["command"] = Command(resume=said.pop("input"))
    return said


def _always_there(call: Call[Any, Any], action: Action, said: Mapping[str, Any]) -> dict[str, Any]:
    """What LangGraph's server always shows of what runs get, whatever the request says: copies, to be changed in place.

    Where a request has only one of context and configurable, a graph gets that one as the other, too.
    """
    if action not in ("create_run", "create"):
        return {}
    config = _copy(said.get("config")) or {}
    config["configurable"] = own = config.get("configurable") or {}
    context = {} if said.get("context") is None else _copy(said["context"])
    if _is_of_graph(call, said.get("assistant_id")) and isinstance(own, dict) and isinstance(context, dict):
        mine, its = _copy(configured(own)), _copy(configured(context))
        own |= {} if mine else its
        context |= {} if context else mine
    return {"config": config} if action == "create" else {"config": config, "context": context}


def _copy(value: Any) -> Any:
    """A copy as JSON, also of values too deep for `deepcopy`. Another handler may have put in what JSON lacks."""
    return msgspec.json.decode(json_bytes(value))


def _is_of_graph(call: Call[Any, Any], assistant: Any) -> bool:
    agents = call.parts.manager.agents
    return completed_of(agents.get(agent_of(str(assistant), agents) or "")) is not None


def _run(call: Call[Any, Any], said: Mapping[str, Any]) -> dict[str, Any]:
    kwargs = {name: said[name] for name in _KWARGS if said.get(name) is not None}
    if "command" in kwargs:  # a struct in requests, whose fields may each be left out
        kwargs["command"] = msgspec.to_builtins(kwargs["command"])
    begins = isinstance(call.body, ProtocolCommand) and STARTS[call.body.method] is RunStart
    return {
        "assistant_id": _assistant(call, said.get("assistant_id")),
        "run_id": None,
        "status": "pending",
        "prevent_insert_if_inflight": said.get("multitask_strategy") == "reject",
        "multitask_strategy": "enqueue",
        "if_not_exists": "create" if begins or said.get("thread_id") is None else "reject",
        "after_seconds": 0,
        **{name: said[name] for name in _RUN if said.get(name) is not None},
        "kwargs": kwargs | _always_there(call, "create_run", said),
    }


def _cron(call: Call[Any, Any], said: Mapping[str, Any], action: Action) -> dict[str, Any]:
    named = {
        name: said[name] for name in ("schedule", "end_time", "timezone", "enabled", "limit", "offset") if name in said
    }
    payload = {name: said[name] for name in _CRON if said.get(name) is not None}
    value: dict[str, Any] = {
        **named,
        "thread_id": said.get("thread_id"),
        "payload": payload | _always_there(call, action, said),
        "user_id": call.principal.identity,
    }
    if "assistant_id" in said:
        value["assistant_id"] = _assistant(call, said["assistant_id"])
    return value


def _item(call: Call[Any, Any], said: dict[str, Any]) -> dict[str, Any]:
    name = _namespace_field(said)
    labels = said.pop(name) or ()
    if isinstance(call.query, ItemQuery):
        labels = [label for part in labels for label in part.split(".")]
    return {**said, "namespace": tuple(labels)}


def _with_item(call: Call[Any, Any], value: Mapping[str, Any]) -> Call[Any, Any]:
    labels = value.get("namespace")
    if labels is None:
        labels = ()
    if isinstance(labels, str) or not isinstance(labels, Sequence) or not all(isinstance(one, str) for one in labels):
        raise _wrong("namespace", "a sequence of texts")
    if any("." in label for label in labels):
        raise HttpError(status=422, detail=f"namespace = {list(labels)!r:.200}: a label has no dot")
    part = call.query if isinstance(call.query, ItemQuery) else call.body
    changes: dict[str, Any] = {_namespace_field(msgspec.structs.asdict(part)): list(labels)}
    for name, kind in (("key", str), ("value", dict), ("filter", dict)):
        if name in part.__struct_fields__ and isinstance(value.get(name), kind):
            changes[name] = value[name]
    changed = msgspec.structs.replace(part, **changes)
    return replace(call, query=changed) if part is call.query else replace(call, body=changed)


def _namespace_field(said: Mapping[str, Any]) -> str:
    return next(name for name in _NAMESPACES if name in said)


def metadata_of(value: Mapping[str, Any]) -> dict[str, Any]:
    """The metadata in a value, as a handler has left them.

    Raises:
        HttpError: they are not metadata any more.
    """
    metadata = value.get("metadata")
    if metadata is None:
        return {}
    if not isinstance(metadata, dict):
        raise _wrong("metadata", "an object")
    return metadata


def _assistant(call: Call[Any, Any], named: Any) -> Any:
    """The id of the assistant that is named, or the name itself where there is no such assistant."""
    agent = agent_of(named, call.parts.manager.agents) if isinstance(named, str) else None
    return named if agent is None else UUID(assistant_id_of(agent))


def _wrong(name: str, what: str) -> HttpError:
    logger.error("an authorization handler has put something into value[%r] that is not %s", name, what)
    return HttpError(status=500, detail=FAILED)
