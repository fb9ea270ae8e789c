"""Finds what is meant in a store: by the beginning of an id, or the newest of something."""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable, Collection, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Protocol

from trackside.app.cli.appearance import interrupts_of
from trackside.harness.errors import TracksideError
from trackside.harness.types import JsonObject, LifecycleEventType

if TYPE_CHECKING:
    from trackside.app.storage import Store, StoredEvent, StoredRun, StoredThread

_PAGE = 1_000
_NAMED = 3  # ids that a complaint about an ambiguous one lists


class UnknownIdError(TracksideError, LookupError):
    """No {kind} here has an id that begins with {beginning!r}; `trackside {kind}s` lists them."""


class AmbiguousIdError(TracksideError, LookupError):
    """{beginning!r} is the beginning of the ids of more than one {kind}: {found}; write more of it."""


class NotWaitingError(TracksideError):
    """Thread {thread_id!r} does not wait for an answer, it is {status}; start a run on it with `trackside run AGENT INPUT --thread {thread_id}`."""  # noqa: E501


async def find_run(store: Store, beginning: str) -> StoredRun:
    """The run whose id this is, or whose id alone begins like this.

    Raises:
        UnknownIdError, AmbiguousIdError: there is none, or more than one.
    """
    found = await store.run(beginning)
    if found is not None:
        return found
    return await _only("run", beginning, lambda before: store.runs(before=before, limit=_PAGE), lambda run: run.run_id)


async def find_thread(store: Store, beginning: str) -> StoredThread:
    """The thread whose id this is, or whose id alone begins like this.

    Raises:
        UnknownIdError, AmbiguousIdError: there is none, or more than one.
    """
    found = await store.thread(beginning)
    if found is not None:
        return found
    return await _only(
        "thread",
        beginning,
        lambda before: store.threads(before=before, limit=_PAGE),
        lambda thread: thread.thread_id,
    )


async def find_paused_run(store: Store, thread: str) -> StoredRun:
    """The run that waits for an answer on this thread.

    Raises:
        NotWaitingError: there is none.
        UnknownIdError, AmbiguousIdError: there is no such thread, or more than one.
    """
    found = await find_thread(store, thread)
    run = None if found.last_run_id is None else await store.run(found.last_run_id)
    if run is None or not await open_questions(store, found):
        raise NotWaitingError(thread_id=found.thread_id, status=found.status.value)
    return run


async def open_questions(store: Store, thread: StoredThread) -> list[JsonObject]:
    """What a thread waits to be answered: what its last run asked in the end."""
    if thread.last_run_id is None:
        return []
    ends = await store.events(run_id=thread.last_run_id, types=[LifecycleEventType.RUN_COMPLETED])
    return [interrupt for stored in ends for interrupt in interrupts_of(stored.event.payload)]


class _Listed(Protocol):
    @property
    def cursor(self) -> str: ...


async def _only[R: _Listed](
    kind: str, beginning: str, page_before: Callable[[str | None], Awaitable[list[R]]], id_of: Callable[[R], str]
) -> R:
    found: list[R] = []
    page = await page_before(None)
    while page and len(found) <= _NAMED:
        found += [record for record in page if id_of(record).startswith(beginning)]
        page = await page_before(page[-1].cursor)
    if not found:
        raise UnknownIdError(kind=kind, beginning=beginning)
    if len(found) > 1:
        named = [*map(id_of, found[:_NAMED]), *("…" for _ in found[_NAMED:][:1])]
        raise AmbiguousIdError(kind=kind, beginning=beginning, found=", ".join(named))
    return found[0]


async def newest_events(
    store: Store,
    *,
    run_id: str | None = None,
    thread_id: str | None = None,
    types: Collection[LifecycleEventType] | None = None,
    since: datetime | None = None,
    limit: int,
) -> list[StoredEvent]:
    """The last `limit` events that fit, in order of position."""
    newest: deque[StoredEvent] = deque(maxlen=limit)
    if run_id is not None or thread_id is not None:
        # Few compared to the log, and there is an index for them: from the first to the last.
        after = 0
        while page := await store.events(after, run_id=run_id, thread_id=thread_id, types=types, limit=_PAGE):
            newest.extend(stored for stored in page if since is None or stored.event.occurred_at >= since)
            after = page[-1].position
        return list(newest)
    end = await _last_position(store)
    while end > 0 and len(newest) < limit:
        start = max(0, end - _PAGE)
        window = await store.events(start, types=types, limit=_PAGE)
        fitting = [stored for stored in window if stored.position <= end and _is_newer(stored, since)]
        newest.extendleft(reversed(fitting[-(limit - len(newest)) :]))
        if since is not None and window and not fitting:
            break  # older ones follow: positions are in the order of commits, times nearly so
        end = start
    return list(newest)


def _is_newer(stored: StoredEvent, since: datetime | None) -> bool:
    return since is None or stored.event.occurred_at >= since


async def _last_position(store: Store) -> int:
    """The highest position in the log, found by doubling and halving: positions have no gaps (I2)."""
    low, high = 0, 1
    while await store.events(high - 1, limit=1):
        low, high = high, high * 2
    while high - low > 1:
        middle = (low + high) // 2
        if await store.events(middle - 1, limit=1):
            low = middle
        else:
            high = middle
    return low


def shortened(ids: Sequence[str], least: int = 13) -> dict[str, str]:
    """For each id the beginning that tells it from the others here; at least as long as the time in a UUIDv7."""
    distinct = sorted(set(ids))
    short: dict[str, str] = {}
    for before, id_, after in zip(["", *distinct], distinct, [*distinct[1:], ""], strict=False):
        shared = max(_shared(id_, before), _shared(id_, after))
        short[id_] = id_[: max(least, shared + 1)]
    return short


def _shared(one: str, other: str) -> int:
    count = 0
    for a, b in zip(one, other, strict=False):
        if a != b:
            break
        count += 1
    return count
