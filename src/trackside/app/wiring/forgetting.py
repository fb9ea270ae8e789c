"""How threads that are gone are forgotten by LangGraph's own savers; what the store keeps it forgets itself."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

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
