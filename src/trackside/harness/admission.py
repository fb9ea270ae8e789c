"""Turns what a caller asks for into a run that can be let in: checks a `RunSpec`, makes its `RunRecord`, and gives it a
form that survives the process.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any

from msgspec.structs import fields, replace

from trackside.harness.amounts import count_of, seconds_of, timeout_of
from trackside.harness.errors import InvalidSpecError
from trackside.harness.ids import new_id
from trackside.harness.payload import canonical, canonical_payload
from trackside.harness.ports import IdempotencyKey
from trackside.harness.types import (
    ON_BEHALF_OF,
    USER,
    AgentLimits,
    JsonObject,
    MultitaskStrategy,
    RunRecord,
    RunSpec,
    RunStatus,
)

MAX_ID_CHARS = 255
"""How long an id may be."""
MAX_ID_BYTES = 3 * MAX_ID_CHARS
"""The same in UTF-8; all databases can index a run's id, its thread's and an agent's name together if none has more."""

NOTHING_LASTS = "only a durable coordinator, as store.coordinator(), outlives its process and starts a run anew"
"""Why a run can have only one attempt."""

_COUNTS = ("max_tokens", "max_llm_calls", "max_tool_calls", "max_attempts")
_COMMANDS = ("resume", "update", "goto")
_DEFAULTS = {field.name: field.default for field in fields(RunSpec)}
_DEFAULT_STREAM_MODE = _DEFAULTS["stream_mode"]
_LISTS = ("stream_mode", "interrupt_before", "interrupt_after")
_NOT_ASKED = frozenset({"idempotency_key", "any_owner"})  # it depends on the thread, which the first request may make
_ASKED_ONCE = frozenset({"run_id", "idempotency_key", "after_seconds", "multitask", "thread_exists", "thread_ttl"})
_CALLBACKS = "callbacks"  # of LangChain
_AT_ONCE = 2  # the last attempt that does not wait
_DOUBLINGS, _LONGEST_WAIT = 6, 60.0
_WHOLE = sys.maxsize  # characters: nothing is cut from what is executed later


def record_of(spec: RunSpec, *, agent: str, now: datetime, parent_run_id: str | None = None) -> RunRecord:
    """The record of a run that is asked for by this spec; ids are made where none are given.

    Raises:
        InvalidSpecError: (a `ValueError`) a field has a value that no run can have; the message names it.
        PayloadError: (a `ValueError`) the metadata cannot be read.
    """
    if spec.command is not None:
        check_command(spec)
    if spec.config is not None:
        _check(spec.config, Mapping, "config", "a mapping of names to values")
    if spec.metadata is not None:
        _check(spec.metadata, Mapping, "metadata", "a mapping of names to values")
    if spec.options is not None:
        _check(spec.options, Mapping, "options", "a mapping of names to values")
    if spec.owner is not None:
        _name(spec.owner, "owner")
    _check_stream_mode(spec.stream_mode)
    _check_limits(spec)
    parent = spec.parent_run_id or parent_run_id
    return RunRecord(
        run_id=new_id() if spec.run_id is None else _id(spec.run_id, "run_id"),
        thread_id=new_id() if spec.thread_id is None else _id(spec.thread_id, "thread_id"),
        agent=_plain(agent),
        status=RunStatus.pending,
        created_at=now,
        metadata=canonical_payload(spec.metadata, path="metadata") if spec.metadata else {},
        multitask=_strategy(spec.multitask),
        due_at=None if spec.after_seconds is None else _due_at(spec.after_seconds, now),
        parent_run_id=None if parent is None else _name(parent, "parent_run_id"),
        trigger=None if spec.trigger is None else _text(spec.trigger, "trigger"),
        attempt=1 if spec.attempt == 1 else count_of(spec.attempt, "attempt"),
        retry_of=None if spec.retry_of is None else _id(spec.retry_of, "retry_of"),
    )


def as_of(owner: str | None, spec: RunSpec) -> RunSpec:
    """The spec of a run that a run of this owner starts: on the owner's behalf, unless the spec says on whose."""
    options = {} if spec.options is None else spec.options
    if owner is None or spec.owner is not None or not isinstance(options, Mapping):  # which `record_of` refuses
        return spec
    return replace(spec, options={**options, ON_BEHALF_OF: owner})


def request_of(spec: RunSpec, agent: str) -> JsonObject:
    """What was asked for, as plain JSON, so that another process can execute it; `spec_of` turns it back into a spec.

    Values that JSON lacks are converted and values nested too deep are cut, as in an event's payload, and
    `"sanitized": true` says so; text is not cut. Fields that have their default are left out, and so are callbacks in
    the config: they are objects of the process that asks.

    Args:
        spec: what was asked for.
        agent: the name by which whoever executes it knows its agent. Nobody else can execute a run whose agent has no
            name: it is admitted without a spec.

    Raises:
        PayloadError: (a `ValueError`) a value's own code fails while it is read.
    """
    asked = {name: value for name, default in _DEFAULTS.items() if (value := getattr(spec, name)) is not default}
    for name in _LISTS:  # what is already plain costs a quarter
        if type(modes := asked.get(name)) is tuple:
            asked[name] = [*modes]
    if spec.config is not None:
        asked["config"] = _lasting(spec.config)
    return canonical_payload(asked | {"agent": agent}, max_chars=_WHOLE, path="spec")


def _lasting(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """The config without callbacks: they are of no use elsewhere, and new objects each time the same is asked for."""
    return {name: value for name, value in config.items() if name != _CALLBACKS} if _CALLBACKS in config else config


def _with_identity_alone(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """The config with nothing about its user but the identity."""
    own = config.get("configurable")
    user = own.get(USER) if isinstance(own, Mapping) else None
    if not isinstance(own, Mapping) or not isinstance(user, Mapping) or "identity" not in user:
        return config
    return {**config, "configurable": {**own, USER: {"identity": user["identity"]}}}


def spec_of(request: Mapping[str, Any]) -> RunSpec:
    """The spec in what `request_of` gave.

    Raises:
        InvalidSpecError: (a `ValueError`) it asks for something that this version does not know.
    """
    asked: dict[str, Any] = dict(request)
    for name in _LISTS:
        if type(modes := asked.get(name)) is list:
            asked[name] = tuple(modes)
    asked.pop("sanitized", None)
    if unknown := asked.keys() - _DEFAULTS.keys():
        field = min(unknown)
        raise InvalidSpecError(field=field, value=asked[field], why="a newer version of Trackside has written it")
    return RunSpec(**asked)


def asked_again(request: JsonObject, *, attempt: int, retry_of: str, thread_id: str) -> JsonObject:
    """The request for another attempt at a run: to begin at once, and without its id or its idempotency key."""
    asked = {name: value for name, value in request.items() if name not in _ASKED_ONCE}
    return asked | {"thread_id": thread_id, "attempt": attempt, "retry_of": retry_of}


def another_attempt(
    request: JsonObject, *, attempt: int, retry_of: str, thread_id: str, parent_run_id: str | None
) -> RunSpec:
    """The spec of another attempt, which somebody wants, at a run that has ended.

    How often processes try a run does not count for that.

    Args:
        request: the run's request, as `request_of` gave it.
        attempt: the number of this attempt.
        retry_of: the run that has ended.
        thread_id: its thread, or a new one if that is gone.
        parent_run_id: the run that started it.

    Raises:
        InvalidSpecError: (a `ValueError`) it asks for something that this version does not know.
    """
    asked = asked_again(request, attempt=attempt, retry_of=retry_of, thread_id=thread_id)
    return replace(spec_of(asked), max_attempts=None, parent_run_id=parent_run_id)


def attempts_of(request: JsonObject) -> int:
    """How many attempts a run has in all, according to its request."""
    attempts = request.get("max_attempts")
    return attempts if type(attempts) is int else 1


def with_attempts(spec: RunSpec, limits: AgentLimits, *, is_named: bool, durable: bool) -> RunSpec:
    """The spec with the number of attempts that its run has, if there are several: the coordinator sees to them.

    Args:
        spec: what was asked for.
        limits: its agent's limits.
        is_named: whether other processes know the agent, too.
        durable: whether the coordinator, which lets runs in, outlives its process.

    Raises:
        InvalidSpecError: there can be only one.
    """
    attempts = _all_attempts(spec, limits) if spec.max_attempts is None else spec.max_attempts
    if type(attempts) is not int or attempts <= 1:  # `record_of` refuses what is not a number of attempts
        return spec
    if not durable:
        raise InvalidSpecError(field="max_attempts", value=attempts, why=NOTHING_LASTS)
    if not is_named:
        why = "nobody else knows its agent, to start the run anew: name it in RunManager({…})"
        raise InvalidSpecError(field="max_attempts", value=attempts, why=why)
    return spec if spec.max_attempts == attempts else replace(spec, max_attempts=attempts)


def _all_attempts(spec: RunSpec, limits: AgentLimits) -> int:
    """By its agent's limits. A run by which somebody tries another again has them all, as if it were the first."""
    attempts = limits.max_attempts
    is_another = spec.retry_of is not None and type(spec.attempt) is int
    return attempts + spec.attempt - 1 if attempts > 1 and is_another else attempts


def seconds_before(attempt: int) -> float:
    """How long an attempt waits: the second not at all, the third 2 s, each later twice as long, at most a minute."""
    return 0.0 if attempt <= _AT_ONCE else min(_LONGEST_WAIT, 2.0 ** min(attempt - _AT_ONCE, _DOUBLINGS))


def begins_later(created_at: datetime, request: Mapping[str, Any] | None, *, now: datetime) -> bool:
    """Whether a pending run, let in then with this request, is not due yet and keeps nobody from its thread."""
    seconds = (request or {}).get("after_seconds")
    return isinstance(seconds, int | float) and (now - created_at).total_seconds() < seconds


def idempotency_of(spec: RunSpec, agent: str | None) -> IdempotencyKey | None:
    """The caller's idempotency key with a digest of all that it asks for; None without a key.

    The agent counts by its name, if it has one, and the user in the config by identity: an object has another address
    in each process, and whatever else an authentication says of a user may differ from one request to the next.

    Raises:
        InvalidSpecError: (a `ValueError`) the key is not a text.
    """
    key = spec.idempotency_key
    if key is None:
        return None
    # Without defaults: a version that knows more fields finds the same in the same request.
    given = ((name, default, getattr(spec, name)) for name, default in _DEFAULTS.items() if name not in _NOT_ASKED)
    asked = {name: value for name, default, value in given if value is not default}
    if agent is not None:
        asked["agent"] = agent
    if isinstance(spec.config, Mapping):  # `record_of` refuses anything else
        asked["config"] = _with_identity_alone(_lasting(spec.config))
    plain, _ = canonical(asked, max_chars=_WHOLE)
    body = json.dumps(plain, sort_keys=True).encode()
    return IdempotencyKey(_id(key, "idempotency_key"), hashlib.sha256(body).hexdigest())


def checked_limits(limits: Any, *, durable: bool) -> dict[str, AgentLimits]:
    """The limits of agents by their names, if they can limit runs.

    Raises:
        InvalidSpecError: (a `ValueError`) one of them cannot, the message names it; or a run would have to outlive its
            process, and what lets runs in is not `durable`.
    """
    _check(limits, Mapping, "limits", "a mapping of names of agents to AgentLimits")
    for agent, of_agent in limits.items():
        where = f"limits[{agent!r}]"
        _check(of_agent, AgentLimits, where, "AgentLimits, as AgentLimits(max_running=2)")
        if of_agent.max_running is not None:
            count_of(of_agent.max_running, f"{where}.max_running")
        timeout_of(of_agent.timeout, f"{where}.timeout")
        _check_limits(of_agent, f"{where}.")
        if count_of(of_agent.max_attempts, f"{where}.max_attempts") > 1 and not durable:
            raise InvalidSpecError(field=f"{where}.max_attempts", value=of_agent.max_attempts, why=NOTHING_LASTS)
    return dict(limits)


def _check_limits(asked: RunSpec | AgentLimits, where: str = "") -> None:
    for name in _COUNTS:
        if (value := getattr(asked, name)) is not None:
            count_of(value, where + name)
    if asked.max_cost_usd is not None and seconds_of(asked.max_cost_usd, where + "max_cost_usd", "US dollars") == 0:
        why = "a run that may cost nothing could not call a model; leave it out for no limit"
        raise InvalidSpecError(field=where + "max_cost_usd", value=asked.max_cost_usd, why=why)


def _due_at(after_seconds: Any, now: datetime) -> datetime | None:
    seconds = seconds_of(after_seconds, "after_seconds")
    try:
        return now + timedelta(seconds=seconds) if seconds else None
    except OverflowError:
        why = "the calendar ends before that"
        raise InvalidSpecError(field="after_seconds", value=after_seconds, why=why) from None


def _strategy(name: MultitaskStrategy | str) -> MultitaskStrategy:
    if type(name) is MultitaskStrategy:
        return name
    return member(MultitaskStrategy, name, "multitask")


def member[E: StrEnum](kind: type[E], value: Any, field: str) -> E:
    """The member of an enum that a caller's word means.

    Raises:
        InvalidSpecError: (a `ValueError`) it has no such member.
    """
    try:
        return kind(value)
    except ValueError:
        raise InvalidSpecError(field=field, value=value, why=f"choose one of {', '.join(kind)}") from None


def _id(given: Any, field: str) -> str:
    if not is_id(given):
        value = f"{given:.40}…" if isinstance(given, str) and len(given) > MAX_ID_CHARS else given
        why = f"an id is a text of 1 to {MAX_ID_CHARS} printable characters"
        if isinstance(given, str) and is_too_heavy(given):
            why = f"{why}, and of {MAX_ID_BYTES} bytes at most"
        raise InvalidSpecError(field=field, value=value, why=why)
    return str(given)


def is_id(given: Any) -> bool:
    """Whether it can be the id of something."""
    if not isinstance(given, str) or not 0 < len(given) <= MAX_ID_CHARS:
        return False
    return given.isprintable() and not is_too_heavy(given)


def is_too_heavy(text: str) -> bool:
    """Whether a text has more bytes than an id may have."""
    return not text.isascii() and len(text.encode(errors="surrogatepass")) > MAX_ID_BYTES


def _check(value: Any, kind: type, field: str, what: str) -> None:
    if not isinstance(value, kind):
        raise InvalidSpecError(field=field, value=value, why=f"it has to be {what}")


def _check_stream_mode(modes: Any) -> None:
    if modes is _DEFAULT_STREAM_MODE:
        return
    if not isinstance(modes, str) and not (isinstance(modes, Sequence) and all(isinstance(m, str) for m in modes)):
        raise InvalidSpecError(field="stream_mode", value=modes, why="it has to be a mode or a list of modes")


def check_command(spec: RunSpec) -> None:
    """Check that a run can be asked for by the command in its spec.

    Raises:
        InvalidSpecError: (a `ValueError`) it cannot; the message has the command as it was passed.
    """
    _check(spec.command, Mapping, "command", "a mapping, as {'resume': answer}")
    if not spec.command:
        return
    if unknown := [name for name in spec.command if name not in _COMMANDS]:
        raise InvalidSpecError(field="command", value=unknown[0], why=f"a command has {', '.join(_COMMANDS)} only")
    if spec.input is not None:
        raise InvalidSpecError(
            field="command", value=spec.command, why="it takes the place of an input; pass one of them"
        )


def _text(value: Any, field: str) -> str:
    _check(value, str, field, "a text")
    if _plain(value) != value:
        raise InvalidSpecError(field=field, value=value, why="it is a text without NUL and half characters")
    return str(value)


def _name(value: Any, field: str) -> str:
    text = _text(value, field)
    if len(text) > MAX_ID_CHARS:
        why = f"it is a text of {MAX_ID_CHARS} characters at most"
        raise InvalidSpecError(field=field, value=f"{text:.40}…", why=why)
    return text


def _plain[T](value: T) -> T:
    if value is None or (isinstance(value, str) and value.isascii() and value.isprintable()):
        return value
    return canonical(value)[0]  # type: ignore[no-any-return]  # texts stay texts, mappings mappings
