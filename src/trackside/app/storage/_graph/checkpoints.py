"""The checkpoints of graphs as bytes: they are written through the store's writer, and read past it.

This module knows nothing of LangGraph; `graph_checkpoints` makes LangGraph's objects from this.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from functools import partial
from itertools import chain
from typing import Any

from trackside.app.storage import errors
from trackside.app.storage._databases.old_checkpoints import OldTables, SplitCheckpoint, old_tables
from trackside.app.storage._databases.readers import Readers
from trackside.app.storage._graph.puts import Behind
from trackside.app.storage._graph.reads import (
    NEWEST,
    ONE,
    Encoded,
    Listed,
    Listing,
    StoredCheckpoint,
    assembled,
    keys_of,
    next_thread,
    of_runs,
    some,
)
from trackside.app.storage._graph.works import (
    CopyGraphThread,
    Key,
    PutGraphRows,
    RemoveCheckpoints,
    RemoveGraphThreads,
    TakeOverThread,
)
from trackside.app.storage._rows.encoding import json_of
from trackside.app.storage._rows.graph_checkpoint_rows import Borrowing, Known, ValueRow
from trackside.app.storage._writing.fences import changed_thread, holds_run
from trackside.app.storage._writing.outages import has_to_stop, patiently
from trackside.app.storage._writing.work import Refused
from trackside.app.storage._writing.writer import NoWriter, Writer, answer_of
from trackside.harness.context import current_run
from trackside.harness.foreign.timelimit import outlived
from trackside.harness.running.settling import current_settling

MAX_PUT_BYTES = 256 * 1_048_576
"""How much one step of a graph may add. It is never cut: the graph would go on with half of its state."""

_LISTED = 64  # checkpoints that are looked through together for those that are wanted
_MOST_READ = 16  # checkpoints that are read together
_REMOVED = 200  # checkpoints that are removed in one transaction
_MOST_KNOWN = 8_192  # namespaces of threads whose contents are remembered


class GraphCheckpoints:
    """All checkpoints of a store. This process sees at once what it puts; what others put, when it is committed."""

    def __init__(self, writer: Writer | NoWriter, readers: Readers) -> None:
        self._writer = writer
        self._readers = readers
        self._split: SplitCheckpoint = _as_it_is
        self._unwritten: dict[str, asyncio.Future[Any]] = {}
        self._known: dict[tuple[str, str], Known] = {}
        self._removals: int | None = None
        self._old: OldTables | None = None
        self._looked_for_old = False

    def split_old_by(self, split: SplitCheckpoint) -> None:
        """Have old checkpoints taken apart by this function, which knows how they are encoded."""
        self._split = split

    async def put(self, work: PutGraphRows) -> None:
        """Have this written: a run that settles its writes at its end goes on at once, others when it is on disk.

        Raises:
            CheckpointTooLargeError: it is larger than `MAX_PUT_BYTES`.
            RunEndedError: the run that puts it has ended.
            UnknownThreadError: the thread is changed on behalf of no run, and is gone.
            StorageError: it, or something that the run has put before, could not be written.
        """
        if (size := work.size) > MAX_PUT_BYTES:
            raise errors.CheckpointTooLargeError(thread_id=work.thread_id, size=size, limit=MAX_PUT_BYTES)
        work.held = holds_run(self._writer, work.run_id)
        work.made_at = changed_thread(self._writer, work.thread_id)
        for one in work.borrowings:
            self._borrow(one)
        behind = self._behind()
        if behind is not None:
            writing = await behind.put(work, size)
            if writing is not None:
                self._note(work, writing)
            return
        what = f"what a step of a graph leaves on thread {work.thread_id}"
        await patiently(self._writer, partial(self._put, work), what)

    async def _put(self, work: PutGraphRows) -> None:
        writing = await self._writer.defer(work)
        self._note(work, writing)
        self._writer.hurry(writing)
        answer_of(await outlived(writing))

    def _borrow(self, one: Borrowing) -> None:
        """Note how much had been removed when the values that a checkpoint has from those before it were there."""
        place = one.thread_id, one.namespace
        before = self._known.get(place)
        if not one.borrowed:
            one.known.removals = self._removals
        elif before is not None and one.borrowed.items() <= before.refs.items():
            one.known.removals = before.removals
        self._know(place, one.known)

    def known(self, thread_id: str, namespace: str, checkpoint_id: str) -> Known | None:
        """What is remembered of a checkpoint; None if another one of the thread and the namespace was read or put since."""
        known = self._known.get((thread_id, namespace))
        return known if known is not None and known.checkpoint_id == checkpoint_id else None

    def remember(self, found: StoredCheckpoint, inline: Mapping[str, str]) -> None:
        """Remember what a checkpoint just read has; `inline` are the versions of the values that it has in itself."""
        row = found.row
        known = Known(row.checkpoint_id, json_of(row.refs), inline, found.removals)
        self._know((row.thread_id, row.namespace), known)

    def _know(self, place: tuple[str, str], known: Known) -> None:
        self._known.pop(place, None)
        self._known[place] = known
        if len(self._known) > _MOST_KNOWN:
            del self._known[next(iter(self._known))]

    def _note(self, work: PutGraphRows, writing: asyncio.Future[Any]) -> None:
        if self._unwritten.get(work.thread_id) is not writing:
            self._unwritten[work.thread_id] = writing
            writing.add_done_callback(partial(self._written, work))

    def _behind(self) -> Behind | None:
        settling = current_settling()
        if settling is None:
            return None
        return settling.of(self, partial(Behind, self._writer, self._learn, has_to_stop()))

    def _written(self, work: PutGraphRows, writing: asyncio.Future[Any]) -> None:
        if self._unwritten.get(work.thread_id) is writing:
            del self._unwritten[work.thread_id]
        self._learn(work, isinstance(writing.result(), Refused))

    def _learn(self, work: PutGraphRows, is_refused: bool) -> None:  # noqa: FBT001
        for one in work.borrowings:
            one.known.removals = None if is_refused else one.removals
            if not is_refused:
                self._removals = one.removals

    async def _see(self, *thread_ids: str) -> None:
        """Wait until what this process has put of these threads can be read; without threads, all that it has put."""
        last = [self._unwritten[one] for one in thread_ids or [*self._unwritten] if one in self._unwritten]
        if last:
            self._writer.hurry()
            await asyncio.wait(last)  # those before are written by then, and whoever put them hears what failed

    async def _old_tables(self) -> OldTables | None:
        if not self._looked_for_old:
            self._old = await self._readers.run(old_tables)
            self._looked_for_old = True
        return self._old

    async def get(self, thread_id: str, namespace: str, checkpoint_id: str | None) -> StoredCheckpoint | None:
        """One checkpoint, the newest if none is named; None if there is none.

        Raises:
            DamagedDatabaseError: it lacks a value.
            StorageError: the database cannot be read.
        """
        await self._see(thread_id)
        if (behind := self._behind()) is not None:
            await behind.caught_up()
        removals = self._removals
        found = await self._find(thread_id, namespace, checkpoint_id)
        if found is None and await self.adopt(thread_id):
            found = await self._find(thread_id, namespace, checkpoint_id)
        if found is None:
            return None
        found.removals = removals
        return self._whole(found)

    async def _find(self, thread_id: str, namespace: str, checkpoint_id: str | None) -> StoredCheckpoint | None:
        if checkpoint_id is None:
            rows = await self._readers.rows(NEWEST, thread_id, namespace)
        else:
            rows = await self._readers.rows(ONE, thread_id, namespace, checkpoint_id)
        return next(iter(assembled(rows)), None)

    async def written_before(self, found: StoredCheckpoint, channel: str) -> list[Encoded]:
        """What the tasks of the step before a checkpoint have written to a channel, in LangGraph's order.

        Raises:
            StorageError: the database cannot be read.
        """
        row = found.row
        if row.parent_id is None:
            return []
        before = await self._find(row.thread_id, row.namespace, row.parent_id)
        return [] if before is None else [write.encoded for write in before.writes if write.channel == channel]

    def _whole(self, found: StoredCheckpoint) -> StoredCheckpoint:
        if lacking := found.lacking():
            why = (
                f"checkpoint {found.row.checkpoint_id} of thread {found.row.thread_id!r} lacks what it had in "
                f"{', '.join(lacking)}"
            )
            raise errors.DamagedDatabaseError(database=self._readers.database, why=why)
        return found

    async def list(
        self, listing: Listing, *, limit: int | None, is_wanted: Callable[[Encoded], bool] | None
    ) -> AsyncGenerator[StoredCheckpoint]:
        """Checkpoints of a thread, the newest first; `is_wanted` is called with the metadata of each."""
        await self._see(listing.thread_id)
        if (behind := self._behind()) is not None:
            await behind.caught_up()
        await self.adopt(listing.thread_id)
        after: Listed | None = None
        at_once = 1
        while limit is None or limit > 0:
            page = await self._readers.run(partial(listing.page, after=after, limit=_LISTED))
            if not page:
                return
            after = page[-1]
            wanted = [one for one in page if is_wanted is None or is_wanted(one.metadata)]
            if limit is not None:
                wanted = wanted[:limit]
                limit -= len(wanted)
            while wanted:
                part, wanted = wanted[:at_once], wanted[at_once:]
                at_once = min(2 * at_once, _MOST_READ)  # most look at the first ones only
                for found in await self._read_listed(listing.thread_id, part):
                    yield self._whole(found)

    async def _read_listed(self, thread_id: str, listed: Sequence[Listed]) -> Sequence[StoredCheckpoint]:
        """Those of them that are still there, in this order."""
        keys = [(one.namespace, one.checkpoint_id) for one in listed]
        rows = await self._readers.rows(some(len(keys)), thread_id, *chain.from_iterable(keys))
        found = {(one.row.namespace, one.row.checkpoint_id): one for one in assembled(rows)}
        return [found[key] for key in keys if key in found]

    async def threads(self) -> AsyncGenerator[str]:
        """All threads that have checkpoints, one after the other."""
        await self._see()
        await self._adopt_all()
        after = ""
        while (found := await self._readers.run(partial(next_thread, after=after))) is not None:
            yield found
            after = found

    async def adopt(self, thread_id: str) -> bool:
        """Bring what LangGraph's savers have left of a thread to where ours is; returns whether there was anything."""
        old = await self._old_tables()
        if old is None or not await self._readers.run(partial(old.has, thread_id=thread_id)):
            return False
        await self._take_over(thread_id, old)
        return True

    async def _take_over(self, thread_id: str, old: OldTables) -> None:
        values = await self._readers.run(partial(old.values, thread_id=thread_id, split=self._split))
        await self._writer.write(TakeOverThread(thread_id, old, values))

    async def _adopt_all(self) -> None:
        old = await self._old_tables()
        while old is not None and (left := await self._readers.run(partial(old.some_threads, limit=_LISTED))):
            for thread_id in left:
                await self._take_over(thread_id, old)

    async def remove_threads(self, thread_ids: Sequence[str], *, run_id: str | None = None) -> None:
        """Remove all that is stored of threads, for whoever asks, or for a run, which takes it back.

        Raises:
            RunEndedError: the run has ended.
        """
        await self._see(*thread_ids)
        await self._writer.write(RemoveGraphThreads(thread_ids, run_id, held=holds_run(self._writer, run_id)))

    async def remove_of_runs(self, run_ids: Sequence[str]) -> None:
        """Remove the checkpoints that these runs have made."""
        await self._see()
        await self._adopt_all()
        await self._remove(await self._readers.run(partial(of_runs, run_ids=run_ids)))

    async def remove_but(self, kept: Sequence[Key], listed: Sequence[Key]) -> None:
        """Remove all of the listed checkpoints except these. What has come since they were listed stays."""
        keep = {*kept}
        await self._remove([key for key in listed if key not in keep])

    async def keys(self, thread_id: str) -> Sequence[Key]:
        """The keys of a thread's checkpoints, by namespace, and each namespace's newest first."""
        await self._see(thread_id)
        await self.adopt(thread_id)
        return await self._readers.run(partial(keys_of, thread_id=thread_id))

    async def _remove(self, keys: Sequence[Key]) -> None:
        last = {key[:2]: number for number, key in enumerate(keys)}
        for start in range(0, len(keys), _REMOVED):
            some = keys[start : start + _REMOVED]
            # With the last keys of a thread and a namespace, as all values and references there are looked at.
            freed = {key[:2] for number, key in enumerate(some, start) if last[key[:2]] == number}
            await self._writer.write(RemoveCheckpoints(some, freed))

    async def gather(self, *thread_ids: str) -> None:
        """Bring all that there is of these threads into our tables, so that a transaction finds it there."""
        await self._see(*thread_ids)
        for thread_id in thread_ids:
            await self.adopt(thread_id)

    async def copy(self, source: str, target: str) -> None:
        """Copy all that is stored of a thread to another one."""
        await self.gather(source, target)
        await self._writer.write(CopyGraphThread(source, target))


def _as_it_is(thread_id: str, namespace: str, encoded: Encoded) -> Sequence[ValueRow]:
    return ()


def fenced_by() -> str | None:
    """The run that the calling code belongs to: when it has ended, it writes nothing more."""
    run = current_run()
    return None if run is None else run.run_id
