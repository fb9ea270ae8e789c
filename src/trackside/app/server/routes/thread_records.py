"""What is recorded of threads: listed as runs are, page by page, without what they remember."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Final

import msgspec

from trackside.app.server.authorizing import About, fits, threads_wanted
from trackside.app.server.failures import HttpError
from trackside.app.server.principal import Permission
from trackside.app.server.responses import json_reply
from trackside.app.server.routing import Call, Routes
from trackside.app.server.wire.thread_records import RecordedThread, ThreadRecordQuery, recorded_thread
from trackside.app.server.wire.threads import metadata_shown
from trackside.app.storage import StoredThread
from trackside.app.storage.threads import RunsOfThread
from trackside.harness.types import JsonObject

routes = Routes("Records")

type ListCall = Call[None, ThreadRecordQuery]

_PAGE: Final = 500
_MOST_PAGES: Final = 10
"""How many pages of threads one request looks through for those that a handler wants."""


@routes.get(
    "/threads",
    Permission.read,
    about=About("threads", "search", "many"),
    query=ThreadRecordQuery,
    answers={200: list[RecordedThread]},
)
async def list_recorded_threads(call: ListCall) -> Any:
    """List threads without what they remember, those in which something happened last first.

    `X-Pagination-Next` is the value to pass as `before` for the next page, which has older threads. `metadata` is a
    JSON object.
    """
    query = call.query
    metadata = _metadata(query.metadata)
    if metadata or (call.wanted and _is_searched(query)):
        found, more = await _with_metadata(call, metadata)
    else:
        found, more = await (_looked_through(call) if call.wanted else _listed(call))
    threads = call.parts.store.threads_of(call.principal.owner)
    runs = await threads.runs_of([thread.thread_id for thread in found])
    shown = [recorded_thread(thread, runs.get(thread.thread_id, RunsOfThread())) for thread in found]
    return json_reply(shown, headers=None if more is None else {"X-Pagination-Next": more})


def _is_searched(query: ThreadRecordQuery) -> bool:
    """Whether a search, which is quicker, can find what is asked for among the threads that a handler wants."""
    return _not_searched(query) is None and (query.before is None or query.before.isdecimal())


def _not_searched(query: ThreadRecordQuery) -> str | None:
    """The first name of something that is asked for and that no search by metadata knows; None if there is none."""
    names = ("since", "until", "thread_id", "id_prefix", "after", "removed")
    return next((name for name in names if getattr(query, name) not in (None, False)), None)


async def _listed(call: ListCall) -> tuple[Sequence[StoredThread], str | None]:
    query = call.query
    found = await _read(call, after=query.after, before=query.before, limit=query.limit + 1)
    # As with runs: pages of newer ones begin at the near end.
    page = found[: query.limit] if query.after is None else found[-query.limit :]
    has_more = len(found) > len(page) or (query.after is not None and bool(page))
    return page, page[-1].cursor if has_more else None


async def _looked_through(call: ListCall) -> tuple[Sequence[StoredThread], str | None]:
    """A page of the threads that a handler wants, from up to `_MOST_PAGES`; if they do not fill it, more may follow."""
    query = call.query
    before, after, is_last = query.before, query.after, False
    found: list[StoredThread] = []
    for _ in range(_MOST_PAGES):
        page = await _read(call, after=after, before=before, limit=_PAGE)
        fitting = [thread for thread in page if fits(call, metadata_shown(thread))]
        found = [*found, *fitting] if query.after is None else [*fitting, *found]
        is_last = len(page) < _PAGE
        if is_last or len(found) > query.limit:
            break
        if query.after is None:
            before = page[-1].cursor
        else:
            after = page[0].cursor
    if query.after is not None:
        found = found[-query.limit :]
        return found, found[-1].cursor if found else None
    if len(found) > query.limit:
        return found[: query.limit], found[query.limit - 1].cursor
    return found, None if is_last else before


async def _read(call: ListCall, *, after: str | None, before: str | None, limit: int) -> list[StoredThread]:
    query = call.query
    return await call.parts.store.threads(
        status=query.status,
        agent=query.agent,
        since=query.since,
        until=query.until,
        thread_id=query.thread_id,
        id_prefix=query.id_prefix,
        owner=call.principal.owner,
        removed=query.removed,
        after=after,
        before=before,
        limit=limit,
    )


async def _with_metadata(call: ListCall, metadata: JsonObject) -> tuple[Sequence[StoredThread], str | None]:
    """A page of the threads with these metadata. A search finds them, whose pages go by offset.

    Raises:
        HttpError: the request also asks for something that a search does not look at.
    """
    query = call.query
    if (name := _not_searched(query)) is not None:
        raise HttpError(status=422, detail=f"{name} cannot be asked for together with metadata")
    if query.before is not None and not query.before.isdecimal():
        raise HttpError(status=422, detail="before: with metadata it is what X-Pagination-Next said")
    offset = int((query.before or "0")[:9])
    wanted = replace(
        threads_wanted(call),
        metadata=metadata,
        status=query.status,
        announced=True,
        agent=query.agent,
        limit=query.limit,
        offset=offset,
    )
    page = await call.parts.store.threads_of(call.principal.owner).search(wanted)
    behind = offset + len(page.threads)
    return page.threads, str(behind) if page.threads and behind < page.total else None


def _metadata(said: str | None) -> JsonObject:
    if said is None:
        return {}
    try:
        return msgspec.json.decode(said, type=dict[str, Any])
    except (msgspec.DecodeError, RecursionError) as exc:
        raise HttpError(status=422, detail=f"metadata is a JSON object: {exc}") from exc
