"""Checkpoints of whole threads: copied to another thread, or all or all but the latest removed, by what keeps them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from typing import Any

from trackside.app.server.failures import HttpError
from trackside.app.server.parts import ServerParts
from trackside.harness.powers import lacks_checkpointer
from trackside.harness.running.steady import finish
from trackside.harness.states import KeepsThreads


async def copy_checkpoints(parts: ServerParts, keeper: KeepsThreads | None, thread_id: str, copy_id: str) -> bool:
    """Copy all checkpoints of a thread, or none; False where the store copies them with the thread.

    Without a `keeper` there may be some, too, of graphs that ran on the thread before an agent that keeps none.

    Raises:
        HttpError: its agent keeps them itself, in a place that is not known here.
    """
    saver = _saver(parts, keeper, "copied")
    if saver is None:
        return False
    if _is_the_stores(saver):
        await saver.agather(thread_id)
        return False
    try:
        try:
            await saver.acopy_thread(thread_id, copy_id)
        except NotImplementedError:
            await _copy_each(saver, thread_id, copy_id)
    except BaseException:  # also a cancel: nobody else knows of what has been copied by now
        await finish(lambda: saver.adelete_thread(copy_id), name=f"uncopied-{copy_id}")
        raise
    return True


def are_kept_here(parts: ServerParts, keeper: object) -> bool:
    """Whether the store itself keeps all checkpoints of an agent, so that nobody else has to be asked to forget them."""
    return lacks_checkpointer(keeper) and _is_the_stores(parts.checkpointer)


async def forget_checkpoints(parts: ServerParts, keeper: object, thread_id: str) -> None:
    """Remove what was put for a thread after it was gone, where its checkpoints are kept outside of the store."""
    saver = parts.checkpointer
    if saver is not None and lacks_checkpointer(keeper) and not _is_the_stores(saver):
        await finish(lambda: saver.adelete_thread(thread_id), name=f"forgotten-{thread_id}")


def check_prunable(parts: ServerParts, keepers: Iterable[KeepsThreads | None]) -> None:
    """See that the checkpoints of all these agents' threads are kept where they can be removed.

    Raises:
        HttpError: one of the agents keeps them itself.
    """
    for keeper in keepers:
        _saver(parts, keeper, "pruned")


async def keep_latest(parts: ServerParts, keeper: KeepsThreads | None, thread_id: str) -> None:
    """Remove all checkpoints of a thread except its latest ones; `keeper` as for `copy_checkpoints`.

    Raises:
        HttpError: what keeps them cannot do that, or the thread's agent keeps them itself; nothing is removed.
    """
    saver = _saver(parts, keeper, "pruned")
    if keeper is None and (saver is None or await saver.aget_tuple({"configurable": {"thread_id": thread_id}}) is None):
        return
    try:
        await saver.aprune([thread_id], strategy="keep_latest")
    except NotImplementedError:
        why = "the checkpointer that keeps threads here cannot remove old checkpoints and keep the latest"
        raise HttpError(status=501, detail=f"strategy = 'keep_latest': {why}") from None


def _is_the_stores(saver: Any) -> bool:
    """Whether it keeps checkpoints in the store, which copies and forgets them with their threads."""
    return hasattr(saver, "agather")  # its class cannot be asked for without importing LangGraph


def _saver(parts: ServerParts, keeper: KeepsThreads | None, what: str) -> Any:
    if keeper is None:
        return parts.checkpointer
    if parts.checkpointer is None or not lacks_checkpointer(keeper):
        why = "its agent keeps them itself; a graph that has no checkpointer of its own has its threads kept here"
        raise HttpError(status=501, detail=f"the checkpoints of this thread cannot be {what}: {why}")
    return parts.checkpointer


async def _copy_each(saver: Any, thread_id: str, copy_id: str) -> None:
    """Copy checkpoint by checkpoint, oldest first, each with its pending writes."""
    found = [one async for one in saver.alist({"configurable": {"thread_id": thread_id}})]
    for one in reversed(found):
        place = one.config["configurable"]
        copied = {"thread_id": copy_id, "checkpoint_ns": place.get("checkpoint_ns", "")}
        if one.parent_config is not None:
            copied["checkpoint_id"] = one.parent_config["configurable"]["checkpoint_id"]
        versions = one.checkpoint["channel_versions"]
        config = await saver.aput({"configurable": copied}, one.checkpoint, one.metadata, versions)
        writes: dict[str, list[tuple[str, Any]]] = defaultdict(list)
        for task_id, channel, value in one.pending_writes or ():
            writes[task_id].append((channel, value))
        for task_id, written in writes.items():
            await saver.aput_writes(config, written, task_id)
