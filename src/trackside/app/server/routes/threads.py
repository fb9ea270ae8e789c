"""Create, read, change, find, copy and remove threads."""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Generator, Iterable, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from itertools import groupby
from operator import itemgetter
from typing import Any, Final

from trackside.app.server.access import check_served
from trackside.app.server.authorizing import About, copied_metadata, for_existing, on_thread, threads_wanted
from trackside.app.server.calls import uuid_of
from trackside.app.server.copying import are_kept_here, check_prunable, copy_checkpoints, keep_latest
from trackside.app.server.failures import HttpError
from trackside.app.server.principal import Permission
from trackside.app.server.responses import empty, json_reply, page_headers
from trackside.app.server.routing import Call, Routes
from trackside.app.server.thread_states import StatesOfThread
from trackside.app.server.thread_views import keeper_of, place_of, views_of
from trackside.app.server.wire.lifetimes import minutes_of
from trackside.app.server.wire.threads import (
    ASSISTANT,
    GRAPH,
    JsonPath,
    Pruned,
    Superstep,
    Thread,
    ThreadChange,
    ThreadCount,
    ThreadCreate,
    ThreadGet,
    ThreadPrune,
    ThreadSearch,
    agent_meant,
    thread_on_wire,
    with_extracts,
)
from trackside.app.storage import StoredThread
from trackside.app.storage.containment import Wanted
from trackside.app.storage.errors import InvalidQueryError
from trackside.app.storage.threads import ThreadPage, ThreadQuery, Threads
from trackside.harness.errors import ThreadExistsError, ThreadInUseError, TracksideError, UnknownThreadError
from trackside.harness.ids import new_id
from trackside.harness.running.steady import finish
from trackside.harness.states import KeepsThreads, StateUpdate, ThreadPlace, asked_of
from trackside.harness.threads import in_own_thread

routes = Routes("Threads")

MOST_LOOKED_AT: Final = 1_000
"""How many threads' states one search by values that agents keep looks at."""

_OF_STATE: Final = frozenset({"values", "interrupts"})


@routes.post(
    "/threads",
    Permission.run,
    about=About("threads", "create", "new_thread"),
    body=ThreadCreate,
    answers={200: Thread, 204: None},
)
async def create_thread(call: Call[ThreadCreate, None]) -> Any:
    """Create a thread.

    A thread that already has this id is an error. With `if_exists=do_nothing`, the response is that thread, as it is.
    """
    asked = call.body
    agents = call.parts.manager.agents
    agent = agent_meant(asked.metadata, agents)
    steps = _steps(asked.supersteps)
    if steps and not isinstance(agents.get(agent or ""), KeepsThreads):
        raise HttpError(status=422, detail="supersteps: graph_id names no agent here that keeps checkpoints")
    thread_id = new_id() if asked.thread_id is None else uuid_of(asked.thread_id, "thread_id")
    try:
        with _as_clients_name_agents():
            thread = await _threads(call).create(
                thread_id,
                belongs_to=call.principal.identity,
                metadata=asked.metadata,
                agent=agent,
                ttl_minutes=minutes_of(asked.ttl),
            )
    except ThreadExistsError as exc:
        if asked.if_exists == "do_nothing":
            return await _changed(call, await _threads(call).get(thread_id))
        if not await _is_there(call, thread_id):
            raise
        why = f'{exc} The thread that has it is there: if_exists="do_nothing" gets it.'
        raise HttpError(status=409, detail=why, code=exc.code) from exc
    if steps:
        await _replay(call, thread, steps, is_named=asked.thread_id is not None)
        thread = await _threads(call).get(thread_id)
    elif asked.thread_id is not None and isinstance(agents.get(agent or ""), KeepsThreads):
        thread = await _as_it_was_left(call, thread)
    return await _changed(call, thread)


@routes.get(
    "/threads/{thread_id}",
    Permission.read,
    about=About("threads", "read", "thread"),
    query=ThreadGet,
    answers={200: Thread},
)
async def get_thread(call: Call[None, ThreadGet]) -> Any:
    """Get a thread, with its values and the questions that it asks."""
    return await _shown(call, await _threads(call).get(call.thread_id))


@routes.patch(
    "/threads/{thread_id}",
    Permission.run,
    about=About("threads", "update", "thread"),
    body=ThreadChange,
    answers={200: Thread, 204: None},
)
async def update_thread(call: Call[ThreadChange, None]) -> Any:
    """Add metadata to a thread, and set anew how long it lives."""
    metadata = call.body.metadata
    with _as_clients_name_agents():
        thread = await _threads(call).change(
            call.thread_id,
            metadata=metadata,
            agent=agent_meant(metadata, call.parts.manager.agents),
            ttl_minutes=minutes_of(call.body.ttl),
        )
    return await _changed(call, thread)


@routes.delete("/threads/{thread_id}", Permission.run, about=About("threads", "delete", "thread"), answers={204: None})
async def delete_thread(call: Call[None, None]) -> Any:
    """Remove a thread with all that it has. First cancel any run of it that has not ended."""
    await _threads(call).remove(call.thread_id)
    return empty()


@routes.post(
    "/threads/search",
    Permission.read,
    about=About("threads", "search", "many"),
    body=ThreadSearch,
    answers={200: list[Thread]},
)
async def search_threads(call: Call[ThreadSearch, None]) -> Any:
    """Find threads, those that changed last first unless `sort_by` says otherwise.

    `X-Pagination-Total` says how many match, and `X-Pagination-Next` is the offset of the next page, if there is one.
    """
    asked = call.body
    paths = {name: JsonPath(text) for name, text in (asked.extract or {}).items()}
    select = frozenset(asked.select) if asked.select else None
    wanted = _OF_STATE if select is None else select | {path.field for path in paths.values()}
    with _as_clients_name_agents():
        page = await _found(call, asked)
    views = await views_of(call.parts, call.principal, page.threads, values=bool(wanted & _OF_STATE))
    headers = page_headers(offset=asked.offset, shown=len(page.threads), total=page.total)
    shown = [thread_on_wire(thread, views[thread.thread_id], select) for thread in page.threads]
    if paths:
        whole = [thread_on_wire(thread, views[thread.thread_id]) for thread in page.threads]
        shown = [with_extracts(thread, of, paths) for thread, of in zip(shown, whole, strict=True)]
    return json_reply(shown, headers=headers)


@routes.post(
    "/threads/count", Permission.read, about=About("threads", "search", "many"), body=ThreadCount, answers={200: int}
)
async def count_threads(call: Call[ThreadCount, None]) -> Any:
    """Count the threads that match."""
    asked = call.body
    with _as_clients_name_agents():
        query = _query(call, asked)
        if query.values and _asks_agents(call):
            return len(await _looked_at(call, query))
        return await _threads(call).count(query)


@routes.post(
    "/threads/prune", Permission.run, about=About("threads", "delete", "each"), body=ThreadPrune, answers={200: Pruned}
)
async def prune_threads(call: Call[ThreadPrune, None]) -> Any:
    """Remove threads, or all but the latest state of each.

    Threads that do not exist, or that have a run that has not ended, do not count. With the strategy `keep_latest`, a
    run that is not due yet does not matter.
    """
    asked = call.body
    ids = dict.fromkeys(uuid_of(thread_id, "thread_ids") for thread_id in asked.thread_ids)
    allowed = [
        (owner, [*those]) for owner, those in groupby([one async for one in _prunable(call, ids)], itemgetter(0))
    ]
    pruned = 0
    for owner, those in allowed:
        threads, named = call.parts.store.threads_of(owner), [thread_id for _, thread_id in those]
        if asked.strategy == "keep_latest":
            pruned += await _keep_latest(call, threads, named)
            continue
        for thread_id in named:
            with suppress(UnknownThreadError, ThreadInUseError):
                await threads.remove(thread_id)
                pruned += 1
    return Pruned(pruned)


def _check_keeper(call: Call[Any, Any], thread: StoredThread, remembered: Collection[str]) -> None:
    """See that it is known here what keeps a thread: its agent is known, or the thread is `remembered` in the store.

    Raises:
        HttpError: it is not known, though the store may have all existing checkpoints.
    """
    if thread.thread_id not in remembered:
        check_served(thread, call.parts.manager)


async def _keep_latest(call: Call[ThreadPrune, None], threads: Threads, named: Sequence[str]) -> int:
    """Remove all but the latest state of each of these threads that has no run when its turn comes; returns how many.

    Threads whose keeper is not known here stay as they are.
    """
    page = await threads.search(ThreadQuery(ids=named, limit=len(named)))
    remembered = await threads.remembered([thread.thread_id for thread in page.threads])
    keepers: dict[str, KeepsThreads | None] = {}
    for thread in page.threads:
        with suppress(HttpError):
            _check_keeper(call, thread, remembered)
            keepers[thread.thread_id] = keeper_of(call.parts, thread)
    check_prunable(call.parts, keepers.values())
    pruned = 0
    for thread_id, keeper in keepers.items():
        found = (await threads.contents([thread_id])).get(thread_id)
        if found is None or found.is_held:
            continue
        await keep_latest(call.parts, keeper, thread_id)
        pruned += 1
    return pruned


async def _prunable(call: Call[ThreadPrune, None], ids: Iterable[str]) -> AsyncIterator[tuple[str | None, str]]:
    """These threads, each with the owner that it is looked up for: all are looked at before the first one goes."""
    for thread_id in ids:
        with suppress(UnknownThreadError):
            yield (await on_thread(call, "delete", thread_id)).principal.owner, thread_id


@routes.post(
    "/threads/{thread_id}/copy", Permission.run, about=About("threads", "read", "thread"), answers={200: Thread}
)
async def copy_thread(call: Call[None, None]) -> Any:
    """Copy a thread: the new thread remembers what this one does, without its runs."""
    threads = _threads(call)
    thread, copy_id = await threads.get(call.thread_id), new_id()
    _check_keeper(call, thread, await threads.remembered([thread.thread_id]))
    metadata = await copied_metadata(call, thread, copy_id)
    copied_before = await copy_checkpoints(call.parts, keeper_of(call.parts, thread), thread.thread_id, copy_id)

    async def copy() -> StoredThread:
        try:
            return await threads.copy(
                thread.thread_id,
                copy_id=copy_id,
                belongs_to=call.principal.identity,
                metadata=metadata,
                checkpoints=not copied_before,
            )
        except TracksideError:
            if copied_before:
                await call.parts.checkpointer.adelete_thread(copy_id)
            raise

    return await _shown(call, await finish(copy, name=f"copy-{copy_id}"))


async def _is_there(call: Call[ThreadCreate, None], thread_id: str) -> bool:
    """Whether the caller gets this thread, which exists or did, with `if_exists="do_nothing"`."""
    try:
        await _threads(await for_existing(call, thread_id)).get(thread_id)
    except (HttpError, UnknownThreadError):
        return False
    return True


def _threads(call: Call[Any, Any]) -> Threads:
    return call.parts.store.threads_of(call.principal.owner)


async def _shown(call: Call[Any, Any], thread: StoredThread) -> Thread:
    views = await views_of(call.parts, call.principal, [thread])
    return thread_on_wire(thread, views[thread.thread_id])


async def _changed(call: Call[Any, Any], thread: StoredThread) -> Any:
    headers = {"Content-Location": f"/threads/{thread.thread_id}"}  # clients put the prefix of their URL before it
    if call.wants_little:
        return empty(headers=headers)
    return json_reply(await _shown(call, thread), headers=headers)


@contextmanager
def _as_clients_name_agents() -> Generator[None]:
    """Where the store refuses an agent's name, say so of the field in which the client named the agent."""
    try:
        yield
    except InvalidQueryError as exc:
        if exc.details["field"] != "agent":
            raise
        raise InvalidQueryError(**{**exc.details, "field": f"metadata.{GRAPH}"}) from exc


def _query(call: Call[Any, Any], asked: ThreadCount) -> ThreadQuery:
    """What to look for in the store. The agent that a thread had last is in a column, whatever clients call it."""
    metadata = dict(asked.metadata or {})
    named: set[str] = set()
    if isinstance(metadata.get(GRAPH), str):
        named.add(metadata.pop(GRAPH))
    if ASSISTANT in metadata:
        agent = agent_meant({ASSISTANT: metadata[ASSISTANT]}, call.parts.manager.agents)
        if agent is not None:
            del metadata[ASSISTANT]
            named.add(agent)
    return replace(
        threads_wanted(call),
        metadata=metadata,
        values=asked.values or {},
        status=() if len(named) > 1 else asked.status,  # no thread has two
        agent=next(iter(named), None),
        ids=None if not asked.ids else [uuid_of(thread_id, "ids") for thread_id in asked.ids],
    )


def _asks_agents(call: Call[Any, Any]) -> bool:
    return any(isinstance(agent, KeepsThreads) for agent in call.parts.manager.agents.values())


async def _found(call: Call[ThreadSearch, None], asked: ThreadSearch) -> ThreadPage:
    query = _query(call, asked)
    page = replace(
        query,
        sort_by=asked.sort_by or "updated_at",
        descending=asked.sort_order != "asc",
        limit=asked.limit,
        offset=asked.offset,
    )
    if not (page.values and _asks_agents(call)):
        return await _threads(call).search(page)
    found = await _looked_at(call, page)
    return ThreadPage(found[page.offset : page.offset + page.limit], len(found))


async def _looked_at(call: Call[Any, Any], query: ThreadQuery) -> list[StoredThread]:
    """The threads whose values fit, each asked for what it remembers.

    Raises:
        HttpError: they would be too many.
    """
    wanted = Wanted("values", dict(query.values))
    others = replace(query, values={}, limit=MOST_LOOKED_AT, offset=0)
    page = await _threads(call).search(others)
    if page.total > MOST_LOOKED_AT:
        why = f"values of graphs are looked at thread by thread, and {page.total:,} threads fit all else"
        raise HttpError(status=422, detail=f"{why}; narrow it down to {MOST_LOOKED_AT:,} by metadata, ids or status")
    views = await views_of(call.parts, call.principal, page.threads)

    def fitting() -> list[StoredThread]:
        return [thread for thread in page.threads if wanted.is_in(views[thread.thread_id].values)]

    return await in_own_thread(fitting)  # they may be long


def _steps(supersteps: list[Superstep] | None) -> list[list[StateUpdate]]:
    for step in supersteps or ():
        if any(update.command is not None for update in step.updates):
            raise HttpError(status=422, detail="supersteps: command is not supported in an update; values are")
    return [
        [StateUpdate(values=update.values, as_node=update.as_node) for update in step.updates]
        for step in supersteps or ()
    ]


async def _as_it_was_left(call: Call[Any, Any], thread: StoredThread) -> StoredThread:
    """A thread that was just made: it waits if its checkpoints existed before it and say so, as those of LangGraph's
    own savers.
    """
    states = StatesOfThread.of(call, thread)
    try:
        waits = bool((await states.state()).next)
    except TracksideError:  # a state that cannot be shown keeps no thread from being made
        return thread
    if not waits:
        return thread
    await states.note_change()
    return await _threads(call).get(thread.thread_id)


async def _replay(
    call: Call[Any, Any], thread: StoredThread, steps: list[list[StateUpdate]], *, is_named: bool
) -> None:
    """Do these steps on a thread that was just made; `is_named` if the client has given its id."""
    keeper = keeper_of(call.parts, thread)
    assert keeper is not None
    states = StatesOfThread.of(call, thread)
    place = place_of(call.parts, call.principal, thread.thread_id)
    has_past = is_named and await _has_past(keeper, place)
    async with states.changing():
        try:
            await asked_of(keeper, keeper.replay(place, steps))
        except TracksideError:
            if has_past:  # it would go with the thread
                await _as_it_was_left(call, thread)
            else:
                await _unmake(call, thread, keeper)
            raise
        await states.note_change()


async def _has_past(keeper: KeepsThreads, place: ThreadPlace) -> bool:
    """Whether there are, or may be, checkpoints of a thread that was just made, as in one of LangGraph's own savers."""
    try:
        return bool(await asked_of(keeper, keeper.history(place, limit=1)))
    except TracksideError:  # they do not fit the agent, or nobody can say
        return True


async def _unmake(call: Call[Any, Any], thread: StoredThread, keeper: KeepsThreads) -> None:
    """Remove a thread whose state could not be made. Its id is free at once, unless others have to forget it first."""
    with suppress(UnknownThreadError, ThreadInUseError):  # who has asked hears what did not fit
        await _threads(call).remove(thread.thread_id)
        if are_kept_here(call.parts, keeper):
            await call.parts.store.sweeper().forget_only([thread.thread_id])
