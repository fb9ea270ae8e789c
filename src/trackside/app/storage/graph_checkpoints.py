"""Where graphs keep their threads: LangGraph's checkpointer on the writer and the readers of a store.

Importing this module imports LangGraph; `Store.checkpointer` does so when it is called.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncGenerator, AsyncIterator, Coroutine, Iterable, Iterator, Mapping, Sequence
from contextlib import aclosing
from functools import partial
from typing import Any, Final, cast, override

from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import (
    WRITES_IDX_MAP,
    BaseCheckpointSaver,
    ChannelVersions,
    Checkpoint,
    CheckpointMetadata,
    CheckpointTuple,
    DeltaChannelHistory,
    get_checkpoint_metadata,
)
from langgraph.checkpoint.base import id as checkpoint_ids

from trackside.app.storage._graph.channels import KEEPS_SENT, SENT, has_row
from trackside.app.storage._graph.checkpoints import GraphCheckpoints, fenced_by
from trackside.app.storage._graph.reads import Encoded, Listing, StoredCheckpoint
from trackside.app.storage._graph.works import Key, PutGraphRows
from trackside.app.storage._rows.encoding import json_text
from trackside.app.storage._rows.graph_checkpoint_rows import Borrowing, CheckpointRow, Known, ValueRow, WriteRow
from trackside.app.storage.errors import CheckpointLoopError, PruneStrategyError

__all__ = ["StoreCheckpointer"]

_REMOVED: Final = ("empty", b"")
"""How LangGraph's savers write an empty channel: what another graph had there was removed with all that had it."""
_LAST_STAMP: Final = "_last_v6_timestamp"
"""In LangGraph's module that makes ids: the ids that it makes next come after this time, whatever the clock says."""
_DELTAS: Final = (
    "counters_since_delta_snapshot"  # LangGraph's: the channels that have only changes since their last value
)


class StoreCheckpointer(BaseCheckpointSaver[str]):
    """LangGraph's checkpointer in the database of a store: `store.checkpointer()`.

        async with Store.open("sqlite:///trackside.db") as store:
            graph = builder.compile(checkpointer=store.checkpointer())
            await graph.ainvoke(inputs, {"configurable": {"thread_id": "1"}})

    **When a put is on disk.** Outside a manager's runs, when it returns. In a run of a `RunManager` whose `durability` is
    "async", LangGraph's default, or "exit", it returns at once and is written together with whatever else is written
    at that moment, at the latest some hundredths of a second later. What the run has done counts only when all of it is
    on disk, and nobody is told of the run's end before that. If something could not be written, the run's next step
    fails, nothing that came after it is written, and the run ends as an error. With "sync", each step waits until its
    checkpoint is on disk.

    **Who sees it.** This process at once; others when it is committed.

    **Who may put.** A run that has ended puts nothing more, and takes nothing back. A worker that was taken for dead is
    refused with `RunEndedError` from the moment at which somebody else has ended its run. What is put while
    `Threads.changing` lasts is refused once that thread is removed.

    A value of a channel is stored once for each version, however many checkpoints have it. A graph that continues the
    thread of another one leaves the values that its own state lacks as they were. Threads that `AsyncSqliteSaver` or
    `AsyncPostgresSaver` has left in the same database are taken over, each when it is first used. Call the methods that
    are not asynchronous from other threads than that of the store's event loop.
    """

    def __init__(self, checkpoints: GraphCheckpoints, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__()
        self._checkpoints = checkpoints
        self._loop = loop
        checkpoints.split_old_by(self._values_in)

    @override
    async def aget_tuple(self, config: RunnableConfig) -> CheckpointTuple | None:
        """The checkpoint that the config names, or the newest of its thread and namespace; None if there is none.

        Raises:
            DamagedDatabaseError: it lacks a value.
            StorageError: the database cannot be read.
        """
        thread_id, namespace, checkpoint_id = _address(config)
        found = await self._checkpoints.get(thread_id, namespace, checkpoint_id)
        if found is None:
            return None
        _make_ids_after(found.row.checkpoint_id)
        whole = await self._tuple_of(found)
        inline = (channel for channel in whole.checkpoint["channel_values"] if channel not in found.values)
        self._checkpoints.remember(found, _versions_of(inline, whole.checkpoint))
        return whole

    @override
    async def alist(
        self,
        config: RunnableConfig | None,
        *,
        filter: dict[str, Any] | None = None,
        before: RunnableConfig | None = None,
        limit: int | None = None,
    ) -> AsyncIterator[CheckpointTuple]:
        """Checkpoints of a thread, newest first; without a config, those of all threads, one thread after the other.

        A few are read at a time, and what others put meanwhile may be missing.

        Args:
            config: the thread, and the namespace or the checkpoint if it names them.
            filter: only those whose metadata has all of this.
            before: only those that are older than the one that this names.
            limit: how many at most.

        Raises:
            StorageError: the database cannot be read.
        """

        def fits(metadata: Encoded) -> bool:
            said = self.serde.loads_typed(metadata)
            return all(said.get(name) == value for name, value in (filter or {}).items())

        left = limit
        async with aclosing(self._threads(config)) as threads:
            async for thread_id in threads:
                named = _configurable(config)
                listing = Listing(
                    thread_id=thread_id,
                    namespace=named.get("checkpoint_ns"),
                    checkpoint_id=named.get("checkpoint_id") or None,
                    before=_configurable(before).get("checkpoint_id") or None,
                )
                found_here = self._checkpoints.list(listing, limit=left, is_wanted=fits if filter else None)
                async with aclosing(found_here) as checkpoints:
                    async for found in checkpoints:
                        yield await self._tuple_of(found)
                        left = None if left is None else left - 1

    async def _threads(self, config: RunnableConfig | None) -> AsyncGenerator[str]:
        if config is not None:
            yield str(_configurable(config)["thread_id"])
            return
        async with aclosing(self._checkpoints.threads()) as threads:
            async for thread_id in threads:
                yield thread_id

    @override
    async def aput(
        self,
        config: RunnableConfig,
        checkpoint: Checkpoint,
        metadata: CheckpointMetadata,
        new_versions: ChannelVersions,
    ) -> RunnableConfig:
        """Store a checkpoint; returns the config that names it. The class says when it is on disk.

        Raises:
            CheckpointTooLargeError: it is too large to be written at once.
            RunEndedError: the run that puts it has ended.
            StorageError: it, or something that the run has put before, could not be written.
        """
        thread_id, namespace, parent_id = _address(config)
        values, versions = checkpoint["channel_values"], checkpoint["channel_versions"]
        refs = {channel: str(versions[channel]) for channel in values if has_row(channel, values, versions)}
        inline = {channel: value for channel, value in values.items() if channel not in refs}
        new = [channel for channel in refs if channel in new_versions]
        stored, unstored = await self._of_other_graphs(config, checkpoint)
        if unstored:
            values, new = {**values, **unstored}, [*new, *unstored]
            refs |= _versions_of(unstored, checkpoint)
        refs |= stored
        borrowed = {channel: version for channel, version in refs.items() if channel not in new}
        value_row = partial(self._value_row, thread_id, namespace, values, versions)
        known = Known(checkpoint["id"], refs, _versions_of(inline, checkpoint))
        said = get_checkpoint_metadata(config, metadata)
        run_id = said.get("run_id")
        row = CheckpointRow(
            thread_id,
            namespace,
            checkpoint["id"],
            parent_id,
            run_id if isinstance(run_id, str) else None,
            json_text(refs),
            *self.serde.dumps_typed({**checkpoint, "channel_values": inline}),
            *self.serde.dumps_typed(said),
        )
        await self._checkpoints.put(
            PutGraphRows(
                thread_id=thread_id,
                run_id=fenced_by(),
                checkpoints=[row],
                values=[*map(value_row, new)],
                borrowings=[Borrowing(thread_id, namespace, borrowed, known, value_row)],
            )
        )
        return _named(thread_id, namespace, checkpoint["id"])

    async def _of_other_graphs(
        self, config: RunnableConfig, checkpoint: Checkpoint
    ) -> tuple[Mapping[str, str], Mapping[str, Any]]:
        """What the checkpoint before has in channels that the graph putting this one lacks: versions that have rows,
        and values that have none yet.

        LangGraph passes on the versions of all channels, but only that graph's values; a version determines its value.
        """
        thread_id, namespace, parent_id = _address(config)
        if parent_id is None:
            return {}, {}
        found = None
        if (before := self._checkpoints.known(thread_id, namespace, parent_id)) is None:
            found = await self.aget_tuple(config)
            before = self._checkpoints.known(thread_id, namespace, parent_id)
        if before is None:
            return {}, {}
        stored, unstored = _left_as_it_was(before.refs, checkpoint), _left_as_it_was(before.inline, checkpoint)
        if unstored and found is None:
            found = await self.aget_tuple(config)
        values = {} if found is None else found.checkpoint["channel_values"]
        return stored, {channel: values[channel] for channel in unstored if channel in values}

    def _value_row(
        self, thread_id: str, namespace: str, values: Mapping[str, Any], versions: ChannelVersions, channel: str
    ) -> ValueRow:
        encoded = self.serde.dumps_typed(values[channel]) if channel in values else _REMOVED
        return ValueRow(thread_id, namespace, channel, str(versions[channel]), *encoded)

    def _values_in(self, thread_id: str, namespace: str, encoded: Encoded) -> Iterator[ValueRow]:
        """The values that a checkpoint written by one of LangGraph's savers has in itself, and ours would not."""
        checkpoint: Checkpoint = self.serde.loads_typed(encoded)
        values, versions = checkpoint.get("channel_values", {}), checkpoint["channel_versions"]
        for channel in values:
            if has_row(channel, values, versions):
                yield self._value_row(thread_id, namespace, values, versions, channel)

    @override
    async def aput_writes(
        self, config: RunnableConfig, writes: Sequence[tuple[str, Any]], task_id: str, task_path: str = ""
    ) -> None:
        """Store what a task of the step after a checkpoint has written; what it wrote there before stays.

        Raises:
            CheckpointTooLargeError: it is too large to be written at once.
            RunEndedError: the run that puts it has ended.
            StorageError: it, or something that the run has put before, could not be written.
        """
        thread_id, namespace, checkpoint_id = _address(config)
        if checkpoint_id is None:
            raise KeyError("checkpoint_id")  # as LangGraph's own savers
        rows = [
            WriteRow(
                thread_id,
                namespace,
                checkpoint_id,
                task_id,
                WRITES_IDX_MAP.get(channel, place),
                task_path,
                channel,
                *self.serde.dumps_typed(value),
            )
            for place, (channel, value) in enumerate(writes)
        ]
        if rows:
            await self._checkpoints.put(PutGraphRows(thread_id=thread_id, run_id=fenced_by(), writes=rows))

    @override
    async def adelete_thread(self, thread_id: str) -> None:
        """Remove all that is stored of a thread, whoever asks for it."""
        await self._checkpoints.remove_threads([str(thread_id)])

    async def adelete_begun_thread(self, thread_id: str, run_id: str) -> None:
        """Remove all that is stored of a thread that a run began, because that run is rolled back.

        Raises:
            RunEndedError: the run has ended; others may have continued from what it left.
            StorageError: the database failed.
        """
        await self._checkpoints.remove_threads([thread_id], run_id=run_id)

    @override
    async def adelete_for_runs(self, run_ids: Sequence[str]) -> None:
        """Remove the checkpoints that these runs have made, in all threads. This looks at all existing checkpoints.

        Channels that keep only changes (`DeltaChannel`) lose those of the runs.
        """
        if run_ids:
            await self._checkpoints.remove_of_runs([*run_ids])

    @override
    async def acopy_thread(self, source_thread_id: str, target_thread_id: str) -> None:
        """Copy all checkpoints of a thread to another one, with their ids; what is there already stays."""
        await self._checkpoints.copy(str(source_thread_id), str(target_thread_id))

    async def agather(self, thread_id: str) -> None:
        """Move everything that was put of a thread into the tables, where `Threads.copy` finds it."""
        await self._checkpoints.gather(thread_id)

    @override
    async def aprune(self, thread_ids: Sequence[str], *, strategy: str = "keep_latest") -> None:
        """Remove the history of threads, and what only the history has.

        Args:
            thread_ids: the threads.
            strategy: "keep_latest" leaves the newest checkpoint of each namespace, and those from which a channel that
                keeps only changes (`DeltaChannel`) is made; "delete" leaves nothing.

        Raises:
            PruneStrategyError: it is another strategy.
            StorageError: the database failed; what had been removed stays removed.
        """
        if strategy == "delete":
            await self._checkpoints.remove_threads([*map(str, thread_ids)])
        elif strategy == "keep_latest":
            for thread_id in map(str, thread_ids):
                await self._keep_latest(thread_id)
        else:
            raise PruneStrategyError(strategy=strategy)

    async def _keep_latest(self, thread_id: str) -> None:
        """Remove what was there at the beginning, except the newest of each namespace and what that is made of."""
        listed = await self._checkpoints.keys(thread_id)
        newest: dict[str, str] = {}
        for _, namespace, checkpoint_id in listed:
            newest.setdefault(namespace, checkpoint_id)
        await self._checkpoints.remove_but(await self._needed(thread_id, newest), listed)

    async def _needed(self, thread_id: str, newest: Mapping[str, str]) -> list[Key]:
        """These checkpoints, by namespace, and those before them that their states are made of."""
        needed = [(thread_id, namespace, checkpoint_id) for namespace, checkpoint_id in newest.items()]
        for namespace, checkpoint_id in newest.items():
            found = await self.aget_tuple(_named(thread_id, namespace, checkpoint_id))
            changed = set() if found is None else {*cast("dict[str, Any]", found.metadata).get(_DELTAS, ())}
            if found is not None and _has_what_the_one_before_sent(found.checkpoint):
                before = _configurable(found.parent_config).get("checkpoint_id", checkpoint_id)
                needed.append((thread_id, namespace, before))
            while found is not None:
                needed.append((thread_id, namespace, found.checkpoint["id"]))
                changed -= found.checkpoint["channel_values"].keys()
                if not changed or found.parent_config is None:
                    break
                found = await self.aget_tuple(found.parent_config)
        return needed

    @override
    def get_next_version(self, current: str | None, channel: None) -> str:
        """A version after this one, different from all that others choose at the same place."""
        number = 0 if current is None else int(str(current).partition(".")[0])
        return f"{number + 1:032}.{random.random():016}"  # it only has to be different

    async def _tuple_of(self, found: StoredCheckpoint) -> CheckpointTuple:
        row, load = found.row, self.serde.loads_typed
        checkpoint: Checkpoint = load((row.encoding, row.body))
        stored = {channel: load(value) for channel, value in found.values.items() if value != _REMOVED}
        checkpoint["channel_values"] = {**checkpoint.get("channel_values", {}), **stored}
        if checkpoint["v"] < KEEPS_SENT and (sent := await self._checkpoints.written_before(found, SENT)):
            versions = checkpoint["channel_versions"]
            checkpoint["channel_values"][SENT] = [load(one) for one in sent]
            versions[SENT] = max(versions.values(), default=self.get_next_version(None, None))
        return CheckpointTuple(
            config=_named(row.thread_id, row.namespace, row.checkpoint_id),
            checkpoint=checkpoint,
            metadata=load((row.metadata_encoding, row.metadata)),
            parent_config=_named(row.thread_id, row.namespace, row.parent_id) if row.parent_id else None,
            pending_writes=[(write.task_id, write.channel, load(write.encoded)) for write in found.writes],
        )

    def _elsewhere[T](self, call: Coroutine[Any, Any, T]) -> T:
        """Run a call on the store's event loop, for another thread, which waits."""
        try:
            here = asyncio.get_running_loop()
        except RuntimeError:
            here = None
        if here is self._loop:
            call.close()
            raise CheckpointLoopError
        return asyncio.run_coroutine_threadsafe(call, self._loop).result()

    @override
    def get_tuple(self, config: RunnableConfig) -> CheckpointTuple | None:
        """As `aget_tuple`, from another thread."""
        return self._elsewhere(self.aget_tuple(config))

    @override
    def list(
        self,
        config: RunnableConfig | None,
        *,
        filter: dict[str, Any] | None = None,
        before: RunnableConfig | None = None,
        limit: int | None = None,
    ) -> Iterator[CheckpointTuple]:
        """As `alist`, from another thread."""
        found = cast("AsyncGenerator[CheckpointTuple]", self.alist(config, filter=filter, before=before, limit=limit))
        try:
            while (one := self._elsewhere(_next(found))) is not None:
                yield one
        finally:
            self._elsewhere(found.aclose())

    @override
    def put(
        self,
        config: RunnableConfig,
        checkpoint: Checkpoint,
        metadata: CheckpointMetadata,
        new_versions: ChannelVersions,
    ) -> RunnableConfig:
        """As `aput`, from another thread."""
        return self._elsewhere(self.aput(config, checkpoint, metadata, new_versions))

    @override
    def put_writes(
        self, config: RunnableConfig, writes: Sequence[tuple[str, Any]], task_id: str, task_path: str = ""
    ) -> None:
        """As `aput_writes`, from another thread."""
        self._elsewhere(self.aput_writes(config, writes, task_id, task_path))

    @override
    def delete_thread(self, thread_id: str) -> None:
        """As `adelete_thread`, from another thread."""
        self._elsewhere(self.adelete_thread(thread_id))

    @override
    def delete_for_runs(self, run_ids: Sequence[str]) -> None:
        """As `adelete_for_runs`, from another thread."""
        self._elsewhere(self.adelete_for_runs(run_ids))

    @override
    def copy_thread(self, source_thread_id: str, target_thread_id: str) -> None:
        """As `acopy_thread`, from another thread."""
        self._elsewhere(self.acopy_thread(source_thread_id, target_thread_id))

    @override
    def prune(self, thread_ids: Sequence[str], *, strategy: str = "keep_latest") -> None:
        """As `aprune`, from another thread."""
        self._elsewhere(self.aprune(thread_ids, strategy=strategy))

    @override
    def get_delta_channel_history(
        self, *, config: RunnableConfig, channels: Sequence[str]
    ) -> Mapping[str, DeltaChannelHistory]:
        """As `aget_delta_channel_history`, from another thread."""
        return self._elsewhere(self.aget_delta_channel_history(config=config, channels=channels))


def _make_ids_after(checkpoint_id: str) -> None:
    """Have the ids that LangGraph makes in this process come after that of the checkpoint from which a thread goes on.

    The newest checkpoint has the highest id, and LangGraph makes ids from the wall clock. Whoever wrote this one may
    have had a clock that was ahead: what this process writes would be older, and the thread would forget it (I8).
    """
    try:
        made = checkpoint_ids.UUID(hex=checkpoint_id)
    except ValueError:  # somebody's own id
        return
    last: int | None = getattr(checkpoint_ids, _LAST_STAMP, None)
    if made.version == 6 and (last is None or last < made.time):
        setattr(checkpoint_ids, _LAST_STAMP, made.time)


async def _next(found: AsyncGenerator[CheckpointTuple]) -> CheckpointTuple | None:
    return await anext(found, None)


def _has_what_the_one_before_sent(checkpoint: Checkpoint) -> bool:
    return checkpoint["v"] < KEEPS_SENT and SENT in checkpoint["channel_values"]


def _versions_of(channels: Iterable[str], checkpoint: Checkpoint) -> Mapping[str, str]:
    versions = checkpoint["channel_versions"]
    return {channel: str(versions[channel]) for channel in channels if channel in versions}


def _left_as_it_was(before: Mapping[str, str], checkpoint: Checkpoint) -> Mapping[str, str]:
    """The channels that a checkpoint has no value of, though their version is still that of the one before."""
    values, versions = checkpoint["channel_values"], checkpoint["channel_versions"]
    return {
        channel: version
        for channel, version in before.items()
        if channel not in values and str(versions.get(channel)) == version
    }


def _address(config: RunnableConfig) -> tuple[str, str, str | None]:
    """The thread, namespace and checkpoint that a config names."""
    named = _configurable(config)
    return str(named["thread_id"]), named.get("checkpoint_ns", ""), named.get("checkpoint_id") or None


def _configurable(config: RunnableConfig | None) -> Mapping[str, Any]:
    return {} if config is None else config.get("configurable", {})


def _named(thread_id: str, namespace: str, checkpoint_id: str) -> RunnableConfig:
    return {"configurable": {"thread_id": thread_id, "checkpoint_ns": namespace, "checkpoint_id": checkpoint_id}}
