"""How LangGraph's own savers and agents forget threads that are gone; the store itself forgets what it keeps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from trackside.harness.states import ForgetsThreads

if TYPE_CHECKING:
    from trackside.app.storage.sweeping import ForgetMemory


def forgotten_by(checkpointer: Any) -> Sequence[ForgetMemory]:
    """What removes the checkpoints of threads from a saver that is not the store's; nothing if there is none."""
    if checkpointer is None:
        return []

    async def forget(thread_ids: Sequence[str]) -> None:
        for thread_id in thread_ids:
            await checkpointer.adelete_thread(thread_id)

    return [forget]


def forgotten_by_agents(agents: Mapping[str, object]) -> Sequence[ForgetMemory]:
    """What removes what agents themselves keep of their threads."""
    from trackside.app.storage.sweeping import ForgetOfAgent

    return [
        ForgetOfAgent(name, partial(_forget, one)) for name, one in agents.items() if isinstance(one, ForgetsThreads)
    ]


async def _forget(agent: ForgetsThreads, thread_ids: Sequence[str]) -> None:
    for thread_id in thread_ids:
        await agent.forget_thread(thread_id)
