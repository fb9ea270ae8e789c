"""Has the authorization handlers of a LangGraph project decide on each request, in one place for all endpoints.

An endpoint says what it is `About`. If a handler decides on that, it is asked once the request has been read, before
anything is done for it, and its word takes the place of ownership: this module looks up what the request names, and if
its metadata do not fit what the handler returned, the caller is told that it does not exist. Where no handler decides,
ownership does, as ever.

An endpoint does a part of this itself only where a request means several things: it leaves out what does not fit
`Call.wanted`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final, Literal
from uuid import UUID

import msgspec

from trackside.app.server.access import agent_of_thread
from trackside.app.server.answers import is_answer_to_anybody
from trackside.app.server.auth.handlers import Action, Handlers, Resource
from trackside.app.server.authorized_values import as_it_fits, changed_by, metadata_of, narrowed_by, ttl_of, value_of
from trackside.app.server.calls import Call, uuid_of
from trackside.app.server.failures import HttpError
from trackside.app.server.preparing import check_config
from trackside.app.server.principal import ANYBODY, Permission
from trackside.app.server.wire.protocol import STARTS, RunStart
from trackside.app.server.wire.threads import ThreadChange, ThreadCreate, agents_saying, metadata_shown
from trackside.app.storage import StoredThread
from trackside.app.storage.containment import contains
from trackside.app.storage.threads import ThreadQuery
from trackside.harness.errors import UnknownRunError, UnknownThreadError
from trackside.harness.ids import assistant_id_of, is_uuid, new_id
from trackside.harness.types import JsonObject

type AnyCall = Call[Any, Any]

type Which = Literal["thread", "command", "new_thread", "named", "run", "log", "cron", "many", "item", "each"]
"""Which of a resource: the thread, run or cron that the path names; a command on a thread; a thread that is made; the
one that the body names, if it names one; the part of the log that the query names; `many`, of which the endpoint leaves
out what does not fit `call.wanted`; an item of the store; or `each` of several, for which the endpoint itself asks."""


@dataclass(frozen=True, slots=True)
class About:
    """What an endpoint is about, as handlers know it."""

    resource: Resource
    action: Action | Callable[[AnyCall], Action]
    which: Which = "many"


class Operation:
    """What handlers do not know: how the server does, and its subscriptions. With handlers, it takes an admin."""


OPERATION: Final = Operation()


class Inside:
    """Nothing of its own: the endpoint asks other endpoints in its caller's name, and handlers decide on those."""


INSIDE: Final = Inside()


async def authorized(call: AnyCall, about: About | Operation | Inside | None, handlers: Handlers) -> AnyCall:
    """The call as its endpoint may go on with it, on a server that has handlers.

    Handlers could not know a caller that is `ANYBODY`, such as the code of a run without an owner: it gets everything.

    Raises:
        HttpError: a handler has refused it, or failed; or nothing says what the endpoint is about.
        UnknownThreadError, UnknownRunError: what it names does not fit the handler's filter.
    """
    if call.principal is ANYBODY:
        return call
    call = replace(call, handlers=handlers)
    if isinstance(about, Inside):
        return call
    if isinstance(about, Operation):
        if not call.principal.may(Permission.admin):
            raise HttpError(status=403, detail="this needs the permission 'admin' where handlers decide on all else")
        return call
    if about is None:
        raise HttpError(status=403, detail="no authorization handler can decide on this")
    if about.which == "each":
        return call
    action = about.action(call) if callable(about.action) else about.action
    decide = _DECIDES[about.which]
    return await decide(call, about.resource, action)


async def ask(call: AnyCall, resource: Resource, action: Action, *, again: bool = False, **more: Any) -> AnyCall:
    """The call with what the handler has changed of it, and what it wants of metadata; with `more` in the value.

    With `again`, the request is one that was kept, and handlers may have put something into its config that the caller
    may not.

    Raises:
        HttpError: it is refused, for what it configures, too, or the handler failed.
    """
    assert call.handlers is not None
    value = value_of(call, resource, action, more)
    if action == "create_run" and not again:
        check_config(call.parts.manager, str(value["assistant_id"]), value["kwargs"].get("config"), call.principal)
    wanted = await call.handlers.ask(call.principal, call.scope, resource, action, value)
    if wanted is None:
        return call
    wanted = {**narrowed_by(call, resource, action, value), **wanted}
    return replace(changed_by(call, resource, action, value, more), wanted=wanted)


async def on_thread(call: AnyCall, action: Action, thread_id: str | None, **more: Any) -> AnyCall:
    """The call, if a handler lets the caller do this with a thread; None: with one that is made for it.

    Without handlers, the call stays as it is. Of a thread that does not exist nothing is known yet: its owner is still
    checked later, so that a caller who loses a race for its id does not get what another one has made. A run that
    brings a time to live for a thread that exists also changes that thread.

    Raises:
        HttpError: it is refused.
        UnknownThreadError: the thread does not fit.
    """
    if call.handlers is None:
        return call
    allowed = await _on_thread(call, action, thread_id, **more)
    if action != "create_run" or thread_id is None or (ttl := ttl_of(call)) is None:
        return allowed
    if await call.parts.store.thread(thread_id, removed=True) is None:
        return replace(allowed, principal=call.principal)
    change = msgspec.convert({"ttl": ttl}, ThreadChange)
    changing = await _on_thread(replace(call, body=change), "update", thread_id)
    return allowed if changing.principal.sees_all else replace(allowed, principal=call.principal)


async def _on_thread(call: AnyCall, action: Action, thread_id: str | None, **more: Any) -> AnyCall:
    call = await ask(call, "threads", action, thread_id=thread_id and UUID(thread_id), **more)
    if call.wanted is None or thread_id is None:
        return call
    if not call.wanted:
        return seeing_all(call)
    thread = await call.parts.store.thread(thread_id, removed=True)
    if thread is None:
        return call
    if not fits(call, metadata_shown(thread)):
        raise UnknownThreadError(thread_id=thread_id)
    return seeing_all(call)


async def for_existing(call: AnyCall, thread_id: str) -> AnyCall:
    """The call of somebody who may make a thread, for the thread that may be there already.

    Raises:
        HttpError: it is refused.
        UnknownThreadError: the thread does not fit.
    """
    thread = None if call.wanted is None else await call.parts.store.thread(thread_id)
    if thread is None:
        return call
    if not call.wanted:  # being allowed to make threads is no reason to get one that somebody else has made
        return replace(await on_thread(call, "read", thread_id), body=call.body)
    if not fits(call, metadata_shown(thread)):
        raise UnknownThreadError(thread_id=thread_id)
    return seeing_all(call)


async def copied_metadata(call: AnyCall, thread: StoredThread, copy_id: str) -> JsonObject | None:
    """The metadata of a copy of a thread, which a handler may have changed; None: those of the thread.

    Raises:
        HttpError: it may not be made.
    """
    if call.handlers is None:
        return None
    value: dict[str, Any] = {"thread_id": UUID(copy_id), "metadata": metadata_shown(thread)}
    wanted = await call.handlers.ask(call.principal, call.scope, "threads", "create", value)
    return None if wanted is None else metadata_of(value)


def fits(call: AnyCall, metadata: Mapping[str, Any]) -> bool:
    """Whether something with these metadata is there for the caller, as far as a handler has decided."""
    return not call.wanted or contains(dict(metadata), call.wanted)


def threads_wanted(call: AnyCall) -> ThreadQuery:
    """Those of many threads that are there for the caller, as far as a handler has decided: each as `fits` says."""
    wanted = call.wanted or {}
    return ThreadQuery(wanted=wanted, by_agent=agents_saying(wanted, call.parts.manager.agents))


def seeing_all(call: AnyCall) -> AnyCall:
    """The call, for whose caller a handler has decided on all that it is about."""
    return replace(call, principal=replace(call.principal, sees_all=True))


async def fitting(call: AnyCall, thread_ids: Any) -> set[str]:
    """Those of these threads that are there for the caller, as far as a handler has decided."""
    found: set[str] = set()
    for thread_id in dict.fromkeys(thread_ids):
        thread: StoredThread | None = await call.parts.store.thread(thread_id)
        if thread is not None and fits(call, metadata_shown(thread)):
            found.add(thread_id)
    return found


async def _thread(call: AnyCall, resource: Resource, action: Action) -> AnyCall:
    if "run_id" not in call.path:
        return await on_thread(call, action, call.thread_id)
    try:
        return await on_thread(call, action, call.thread_id, run_id=UUID(call.run_id))
    except UnknownThreadError:
        if action == "delete":
            raise
        raise UnknownRunError(run_id=call.run_id) from None  # as if there were no thread: its run is looked for first


async def _command(call: AnyCall, resource: Resource, action: Action) -> AnyCall:
    """A command on a thread. One that starts a run without naming an agent starts the thread's agent."""
    if action != "create_run":
        return await _thread(call, resource, action)
    said, fitting = call.body, as_it_fits(call.body)
    call = await _start(replace(call, body=fitting), resource, action)
    # A command that does not fit only leads to an answer that says so: handlers have decided who may get that.
    return call if fitting is said else replace(call, body=said)


async def _start(call: AnyCall, resource: Resource, action: Action) -> AnyCall:
    if STARTS[call.body.method] is RunStart:
        return await _thread(replace(call, is_answer=await _brings_answer(call)), resource, action)
    thread = await call.parts.store.thread(call.thread_id)
    agent = None if thread is None else agent_of_thread(thread, call.parts.manager)
    assistant_id = None if agent is None else UUID(assistant_id_of(agent))
    return replace(await on_thread(call, action, call.thread_id, assistant_id=assistant_id), agent=agent)


async def _brings_answer(call: AnyCall) -> bool:
    """Whether a handler is asked about the input of `run.start` as an answer."""
    try:
        params = msgspec.convert(call.body.params or {}, RunStart)
    except msgspec.ValidationError:  # it does not say which agent is meant, and nothing starts
        return False
    return await is_answer_to_anybody(call, params.asked)


async def _new_thread(call: AnyCall, resource: Resource, action: Action) -> AnyCall:
    body = call.body
    if not isinstance(body, ThreadCreate):
        return await on_thread(call, action, None)
    thread_id = new_id() if body.thread_id is None else uuid_of(body.thread_id, "thread_id")
    named = replace(call, body=msgspec.structs.replace(body, thread_id=thread_id))
    call = await ask(named, resource, action, thread_id=UUID(thread_id))
    return await for_existing(call, thread_id) if body.if_exists == "do_nothing" else call


async def _named(call: AnyCall, resource: Resource, action: Action) -> AnyCall:
    thread_id = call.body.thread_id
    if thread_id is not None and is_uuid(thread_id):
        return await on_thread(call, action, thread_id.lower())
    return await _many(call, resource, action)


async def on_run(call: AnyCall, action: Action, run_id: str) -> AnyCall:
    """The call, if a handler lets the caller do this with the thread of a run. Without handlers, it stays as it is.

    Raises:
        HttpError: it is refused.
        UnknownRunError: the thread does not fit.
    """
    if call.handlers is None:
        return call
    run = await call.parts.store.run(run_id, removed=True)
    try:
        return await on_thread(call, action, None if run is None else run.thread_id, run_id=UUID(run_id))
    except UnknownThreadError:
        raise UnknownRunError(run_id=run_id) from None


async def _run(call: AnyCall, resource: Resource, action: Action) -> AnyCall:
    return await on_run(call, action, call.run_id)


async def _log(call: AnyCall, resource: Resource, action: Action) -> AnyCall:
    """The log of the thread or the run that is named; the whole log only if the handler leaves nothing out."""
    run_id, thread_id = (getattr(call.query, name, None) for name in ("run_id", "thread_id"))
    named: dict[str, Any] = {
        name: UUID(id_) for name, id_ in (("run_id", run_id), ("thread_id", thread_id)) if id_ and is_uuid(id_)
    }
    call = await ask(call, resource, action, **named)
    if call.wanted is None:
        return call
    if not call.wanted:
        return seeing_all(call)
    if run_id is not None:
        run = await call.parts.store.run(run_id, removed=True)
        thread = None if run is None else await call.parts.store.thread(run.thread_id, removed=True)
        if thread is None or not fits(call, metadata_shown(thread)):
            raise UnknownRunError(run_id=run_id)
    if thread_id is not None:
        thread = await call.parts.store.thread(thread_id, removed=True)
        if thread is None or not fits(call, metadata_shown(thread)):
            raise UnknownThreadError(thread_id=thread_id)
    if run_id is None and thread_id is None:
        why = "your authorization lets you see threads by their metadata: name one of them as thread_id"
        raise HttpError(status=403, detail=why)
    return seeing_all(call)


async def _cron(call: AnyCall, resource: Resource, action: Action) -> AnyCall:
    call = await ask(call, resource, action, cron_id=UUID(call.cron_id))
    if call.wanted is None:
        return call
    cron = await call.parts.store.crons.get(call.cron_id)
    if cron is None:
        return call
    if not fits(call, cron.metadata):
        raise HttpError(status=404, detail=f"there is no cron {call.cron_id}: its id is wrong, or it was deleted")
    return seeing_all(call)


async def _many(call: AnyCall, resource: Resource, action: Action) -> AnyCall:
    call = await ask(call, resource, action)
    return call if call.wanted is None else seeing_all(call)


async def _item(call: AnyCall, resource: Resource, action: Action) -> AnyCall:
    """Items have no metadata. Where a handler wants some, as one for all resources does, ownership decides as ever."""
    call = await ask(call, resource, action)
    return call if call.wanted is None or call.wanted else seeing_all(call)


_DECIDES: Final[Mapping[str, Callable[[AnyCall, Resource, Action], Awaitable[AnyCall]]]] = {
    "thread": _thread,
    "command": _command,
    "new_thread": _new_thread,
    "named": _named,
    "run": _run,
    "log": _log,
    "cron": _cron,
    "many": _many,
    "item": _item,
}
