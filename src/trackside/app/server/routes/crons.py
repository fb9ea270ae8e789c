"""Crons start runs again and again, on one thread or each on a thread of its own."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import msgspec

from trackside.app.server.authorizing import About, ask, on_thread
from trackside.app.server.calls import id_of
from trackside.app.server.failures import HttpError
from trackside.app.server.parts import ServerParts
from trackside.app.server.preparing import check_config, check_spec
from trackside.app.server.principal import Permission, Principal
from trackside.app.server.responses import empty, json_reply, page_headers
from trackside.app.server.routing import Call, Routes
from trackside.app.server.schedules import next_run
from trackside.app.server.starting import (
    FOLLOWED_MODES,
    agent_named,
    check_own_config,
    expect_webhook,
    spec_of,
    unasked_config,
)
from trackside.app.server.wire.assistants import agent_of
from trackside.app.server.wire.crons import (
    CronCount,
    CronCreate,
    CronInfo,
    CronSearch,
    CronUpdate,
    asked_of,
    cron_on_wire,
    is_more_than_switched,
    payload_of,
    utc_of,
    with_changes,
    with_run,
)
from trackside.app.server.wire.runs import RunCreate
from trackside.app.storage.crons import Cron, CronPage
from trackside.harness.ids import new_id
from trackside.harness.payload import whole
from trackside.harness.threads import in_own_thread

routes = Routes("Crons")

_PATH = "/runs/crons/{cron_id}"


@routes.post(
    "/runs/crons", Permission.run, about=About("crons", "create", "each"), body=CronCreate, answers={200: CronInfo}
)
async def create_cron(call: Call[CronCreate, None]) -> Any:
    """Create a cron that starts each run on a thread of its own.

    Each thread is removed when its run has ended, unless `on_run_completed` is `keep`.
    """
    on = await on_thread(call, "create_run", None)  # each of the cron's runs makes a thread
    call = replace(call, body=on.body)
    if call.handlers is not None:
        call = await ask(call, "crons", "create")
    return await _create(call, None, call.principal.identity)


@routes.post(
    "/threads/{thread_id}/runs/crons",
    Permission.run,
    about=About("crons", "create", "each"),
    body=CronCreate,
    answers={200: CronInfo},
)
async def create_cron_for_thread(call: Call[CronCreate, None]) -> Any:
    """Create a cron that starts its runs on an existing thread."""
    on = await on_thread(call, "create_run", call.thread_id)  # the cron's runs are started there
    thread = await call.parts.store.threads_of(on.principal.owner).get(call.thread_id)
    call = replace(call, body=on.body)
    if call.handlers is not None:
        call = await ask(call, "crons", "create", thread_id=UUID(thread.thread_id))
    is_his = thread.owner == call.principal.identity
    if not is_his and (on.principal.sees_all or thread.owner is None):  # an admin may also use what is nobody's
        return await _create(call, thread.thread_id, call.principal.identity, is_shared=True)
    # A thread's runs belong to its owner, whoever asks for them.
    return await _create(call, thread.thread_id, thread.owner)


@routes.patch(_PATH, Permission.run, about=About("crons", "update", "cron"), body=CronUpdate, answers={200: CronInfo})
async def update_cron(call: Call[CronUpdate, None]) -> Any:
    """Change a cron. Metadata is merged; everything else replaces what was there.

    If the cron is enabled afterwards, the server checks that its runs can be started. You can always disable a cron.
    """
    crons = call.parts.store.crons
    while True:  # the scheduler, or another client, may change it meanwhile
        cron = await crons.get(call.cron_id, owner=call.principal.owner)
        if cron is None:
            raise _unknown(call.cron_id)
        changed = await _changed(call, cron)
        if await crons.replace(cron, changed):
            return cron_on_wire(changed)


@routes.delete(_PATH, Permission.run, about=About("crons", "delete", "cron"), answers={204: None})
async def delete_cron(call: Call[None, None]) -> Any:
    """Delete a cron: it starts no more runs. Those that it has started go on."""
    if not await call.parts.store.crons.delete(call.cron_id, owner=call.principal.owner):
        raise _unknown(call.cron_id)
    return empty()


@routes.post(
    "/runs/crons/search",
    Permission.read,
    about=About("crons", "search", "many"),
    body=CronSearch,
    answers={200: list[CronInfo]},
)
async def search_crons(call: Call[CronSearch, None]) -> Any:
    """Find crons, newest first unless `sort_by` says otherwise.

    `X-Pagination-Total` says how many there are, and `X-Pagination-Next` is the offset of the next page, if there is
    one.
    """
    wanted = call.body
    offset = wanted.offset or 0
    page = await _found(call, limit=10 if wanted.limit is None else wanted.limit, offset=offset, **_order(wanted))
    headers = page_headers(offset=offset, shown=len(page.crons), total=page.total)
    shown = [cron_on_wire(cron) for cron in page.crons]
    if not wanted.select:  # an empty list stands for all, as everywhere
        return json_reply(shown, headers=headers)
    now = {"now": datetime.now(UTC)}
    whole_ones = [msgspec.to_builtins(cron) | now for cron in shown]
    return json_reply(
        [{name: one[name] for name in one if name in wanted.select} for one in whole_ones], headers=headers
    )


@routes.post(
    "/runs/crons/count", Permission.read, about=About("crons", "search", "many"), body=CronCount, answers={200: int}
)
async def count_crons(call: Call[CronCount, None]) -> Any:
    """Count the crons that match."""
    return (await _found(call, limit=0)).total


async def _create(
    call: Call[CronCreate, None], thread_id: str | None, owner: str | None, *, is_shared: bool = False
) -> CronInfo:
    asked, manager, now = call.body, call.parts.manager, datetime.now(UTC)
    end_time, is_enabled = utc_of(asked.end_time), asked.enabled is not False
    _check_end_time(end_time, now)
    cron = Cron(
        cron_id=new_id(),
        agent=agent_named(asked.assistant_id, manager, call.handlers),
        thread_id=thread_id,
        schedule=asked.schedule,
        timezone=asked.timezone,
        end_time=end_time,
        enabled=is_enabled,
        on_run_completed=asked.on_run_completed,
        payload=payload_of(asked, thread_id, is_shared=is_shared),
        metadata=whole(asked.metadata or {}),
        owner=owner,
        created_at=now,
        updated_at=now,
    )
    _check_end(cron)
    check_own_config(call, asked.assistant_id)
    cron = _without_headers(call.parts, cron)
    await _expect_runs(call.parts, cron)
    cron = await _due(cron, now)
    await call.parts.store.crons.create(cron)
    return cron_on_wire(cron)


async def _decided(call: Call[CronUpdate, None], changed: Cron, before: Cron) -> Cron:
    """The cron, with the handler's changes to what is new in the runs that it starts.

    The handler has already seen what is as it was; if it changed that again, that would become something else, or
    another user's.

    Raises:
        HttpError: it may not start them.
        UnknownThreadError: the thread does not fit.
    """
    if call.handlers is None:
        return changed
    if not changed.enabled and not is_more_than_switched(changed, before):
        return changed
    asking: Call[Any, Any] = replace(call, body=_asked(changed), wanted=None)  # type: ignore[arg-type]  # another body
    on = await on_thread(asking, "create_run", changed.thread_id, again=True)
    return changed if on.wanted is None else with_run(changed, before, on.body)


async def _changed(call: Call[CronUpdate, None], cron: Cron) -> Cron:
    """The cron as the request changes it, with the time of its next run."""
    now = datetime.now(UTC)
    changed = replace(with_changes(cron, call.body), updated_at=now)
    _check_end(changed)
    if changed.end_time != cron.end_time or (changed.enabled and not cron.enabled):
        _check_end_time(changed.end_time, now)
    check_config(call.parts.manager, cron.agent, call.body.config, call.principal)
    changed = _without_headers(call.parts, await _decided(call, changed, cron))
    if changed.enabled:
        await _expect_runs(call.parts, changed)
    return changed if _times(changed) == _times(cron) else await _due(changed, now)


def _times(cron: Cron) -> tuple[Any, ...]:
    return cron.schedule, cron.timezone, cron.end_time, cron.enabled


async def _due(cron: Cron, now: datetime) -> Cron:
    """The cron with the time of its next run.

    Raises:
        HttpError: its end comes before its first run, so that there would be none.
        InvalidScheduleError: there is no such time, or place.
    """
    coming = await in_own_thread(next_run, cron.schedule, cron.timezone, cron.end_time, now)
    if cron.enabled and coming is None and (end := cron.end_time) is not None:
        said = f"end_time = {end.isoformat()} comes before the next time of schedule = {cron.schedule!r}"
        raise HttpError(status=422, detail=f"{said}: no run would be started")
    reason = None if cron.enabled else cron.disabled_because
    return replace(cron, next_run_at=coming if cron.enabled else None, disabled_because=reason)


def _check_end_time(end_time: datetime | None, now: datetime) -> None:
    if end_time is not None and end_time <= now:
        raise HttpError(status=422, detail=f"end_time = {end_time.isoformat()} is past: no run would be started")


def _check_end(cron: Cron) -> None:
    if cron.thread_id is not None and cron.on_run_completed is not None:
        raise HttpError(status=422, detail="on_run_completed is for crons whose runs have threads of their own")


async def _expect_runs(parts: ServerParts, cron: Cron) -> None:
    """See that the runs of a cron can be started.

    Raises:
        HttpError: they cannot.
        InvalidSpecError: the agent would refuse them.
    """
    asked, manager = _asked(cron), parts.manager
    owner, headers = Principal(identity=cron.owner, permission=Permission.run), parts.options.configurable_headers
    check_spec(manager, spec_of(asked, manager, owner, cron.thread_id, modes=FOLLOWED_MODES, unasked=headers))
    await expect_webhook(parts, asked.webhook)


def _without_headers(parts: ServerParts, cron: Cron) -> Cron:
    """The cron without what counts for nothing, for whoever looks at it or starts its runs."""
    config, agent = cron.payload.get("config"), parts.manager.agents.get(cron.agent)
    if not isinstance(config, dict):  # there is none, or it is from another version
        return cron
    kept = unasked_config(agent, config, parts.options.configurable_headers)
    return cron if kept is config else replace(cron, payload={**cron.payload, "config": kept})


def _asked(cron: Cron) -> RunCreate:
    """What the cron asks for each time.

    Raises:
        HttpError: another version has stored what this one does not know.
    """
    try:
        return asked_of(cron)
    except msgspec.ValidationError as exc:
        raise HttpError(status=422, detail=f"what the cron asks for is not known here: {exc}") from exc


async def _found(call: Call[Any, None], **page: Any) -> CronPage:
    wanted: CronCount = call.body
    assistant = wanted.assistant_id
    agent = None if assistant is None else await _agent_meant(call, assistant)
    return await call.parts.store.crons.search(
        owner=call.principal.owner,
        agent=agent,
        thread_id=None if wanted.thread_id is None else id_of(wanted.thread_id),
        metadata=wanted.metadata,
        wanted=call.wanted,
        **page,
    )


async def _agent_meant(call: Call[Any, None], assistant: str) -> str:
    """The agent that a name or an assistant id means; it may have crons although it is not served here."""
    if (served := agent_of(assistant, call.parts.manager.agents)) is not None:
        return served
    having_crons = await call.parts.store.crons.agents(owner=call.principal.owner)
    return agent_of(assistant, having_crons) or assistant


def _order(wanted: CronSearch) -> dict[str, Any]:
    return {"enabled": wanted.enabled, "sort_by": wanted.order, "descending": wanted.sort_order != "asc"}


def _unknown(cron_id: str) -> HttpError:
    return HttpError(status=404, detail=f"there is no cron {cron_id}: its id is wrong, or it was deleted")
