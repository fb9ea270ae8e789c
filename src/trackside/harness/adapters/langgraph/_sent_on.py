"""A thread that a command has sent to a node (`goto`), as LangGraph goes on with it.

LangGraph keeps that with the checkpoint, as a write of no task. Whoever runs the graph has it applied before he sees which
nodes are next; whoever looks, only after that: for him there is no such node, nor what it asks.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, override

from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import BaseCheckpointSaver, CheckpointTuple, DeltaChannelHistory

from trackside.harness.adapters.langgraph._graph import Saver

NO_TASK = "00000000-0000-0000-0000-000000000000"
"""To whom LangGraph puts down the writes that came with the input of a step."""

_TO_NODE = "branch:to:"  # of the channels of LangGraph's that have a node run
_SENT = "__pregel_tasks"  # LangGraph's channel of nodes that run with an input of their own (`Send`)


class SentOn(BaseCheckpointSaver[Any]):
    """What a saver has, for who looks at a thread: with each checkpoint as it is where commands have sent its thread."""

    def __init__(self, saver: Saver) -> None:
        super().__init__(serde=saver.serde)
        self._saver = saver

    @override
    async def aget_tuple(self, config: RunnableConfig) -> CheckpointTuple | None:
        saved = await self._saver.aget_tuple(config)
        return None if saved is None else _sent_on(saved, self._saver)

    @override
    async def aget_delta_channel_history(
        self, *, config: RunnableConfig, channels: Sequence[str]
    ) -> Mapping[str, DeltaChannelHistory]:
        return await self._saver.aget_delta_channel_history(config=config, channels=channels)

    @override
    def with_allowlist(self, extra_allowlist: Collection[tuple[str, ...]]) -> Saver:
        return SentOn(self._saver.with_allowlist(extra_allowlist))


def _sent_on(saved: CheckpointTuple, saver: Saver) -> CheckpointTuple:
    """A checkpoint with the channels as LangGraph sets them to go on where commands have sent its thread."""
    given = [(channel, value) for task_id, channel, value in saved.pending_writes or () if task_id == NO_TASK]
    sent: dict[str, Any] = {channel: value for channel, value in given if channel.startswith(_TO_NODE)}
    if sends := [value for channel, value in given if channel == _SENT]:
        sent[_SENT] = sends
    if not sent:
        return saved
    checkpoint = saved.checkpoint.copy()
    versions = checkpoint["channel_versions"]
    version: Any = saver.get_next_version(max(versions.values(), default=None), None)
    sent_at: dict[str, Any] = dict.fromkeys(sent, version)
    checkpoint["channel_versions"] = {**versions, **sent_at}
    checkpoint["channel_values"] = {**checkpoint["channel_values"], **sent}
    return saved._replace(checkpoint=checkpoint)
