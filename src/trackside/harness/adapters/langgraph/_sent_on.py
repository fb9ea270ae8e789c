"""A thread that a command has sent to a node (`goto`), as LangGraph goes on with it.

LangGraph keeps that with the checkpoint, as a write of no task. A run of the graph has it applied before it sees which
nodes are next; a look at the thread only after that: it shows neither such a node nor what that asks.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, Final, override

from langchain_core.runnables import RunnableConfig
from langgraph.channels.base import BaseChannel
from langgraph.checkpoint.base import BaseCheckpointSaver, CheckpointTuple, DeltaChannelHistory

from trackside.harness.adapters.langgraph._graph import Graph, Saver

NO_TASK = "00000000-0000-0000-0000-000000000000"
"""The task id under which LangGraph stores the writes that came with the input of a step."""

_TO_NODE: Final = "branch:to:"  # the prefix of LangGraph's channels that have a node run
_SENT: Final = "__pregel_tasks"  # LangGraph's channel of nodes that run with an input of their own (`Send`)


class SentOn(BaseCheckpointSaver[Any]):
    """A graph's saver, for looks at a thread: it has each checkpoint as it is where commands have sent its thread."""

    def __init__(self, graph: Graph, saver: Saver) -> None:
        super().__init__(serde=saver.serde)
        self._graph = graph
        self._saver = saver

    @override
    async def aget_tuple(self, config: RunnableConfig) -> CheckpointTuple | None:
        saved = await self._saver.aget_tuple(config)
        return None if saved is None else self._sent_on(saved)

    @override
    async def aget_delta_channel_history(
        self, *, config: RunnableConfig, channels: Sequence[str]
    ) -> Mapping[str, DeltaChannelHistory]:
        return await self._saver.aget_delta_channel_history(config=config, channels=channels)

    @override
    def with_allowlist(self, extra_allowlist: Collection[tuple[str, ...]]) -> Saver:
        return SentOn(self._graph, self._saver.with_allowlist(extra_allowlist))

    def _sent_on(self, saved: CheckpointTuple) -> CheckpointTuple:
        """A checkpoint with the channels as LangGraph sets them to go on where commands have sent its thread."""
        written: defaultdict[str, list[Any]] = defaultdict(list)
        for task_id, name, value in saved.pending_writes or ():
            if task_id == NO_TASK and (name == _SENT or name.startswith(_TO_NODE)):
                written[name].append(value)
        sent: dict[str, Any] = dict(self._set(saved.checkpoint["channel_values"], written))
        if not sent:
            return saved
        checkpoint = saved.checkpoint.copy()
        versions = checkpoint["channel_versions"]
        version: Any = self._saver.get_next_version(max(versions.values(), default=None), None)
        sent_at: dict[str, Any] = dict.fromkeys(sent, version)
        checkpoint["channel_versions"] = {**versions, **sent_at}
        checkpoint["channel_values"] = {**checkpoint["channel_values"], **sent}
        return saved._replace(checkpoint=checkpoint)

    def _set(self, values: Mapping[str, Any], written: Mapping[str, Sequence[Any]]) -> Iterator[tuple[str, Any]]:
        """What channels hold after these writes: some keep more than the last, such as that of a deferred node."""
        for name, writes in written.items():
            if isinstance(channel := self._graph.channels.get(name), BaseChannel):
                after = channel.from_checkpoint(values[name]) if name in values else channel.copy()
                after.update(writes)
                yield name, after.checkpoint()
