"""Which values of channels get rows of their own, and which a checkpoint has in itself."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, Final

SENT: Final = "__pregel_tasks"
"""LangGraph's channel for the tasks that a step has sent to the next one."""
KEEPS_SENT: Final = 4
"""The first version of LangGraph's checkpoints that have what was sent to their step: others leave it to what the tasks
of the step before have written.
"""

_BRIEF: Final = frozenset({"__start__", SENT})  # channels that are empty again at the next checkpoint
_PLAIN: Final = frozenset({type(None), bool, int, float})
_SHORT: Final = 128  # characters of a text that a checkpoint has in itself


def has_row(channel: str, values: Mapping[str, Any], versions: Collection[str]) -> bool:
    """Whether a value gets a row of its own; others take less than a row, and the checkpoint has them in itself.

    A look at the value decides, so the answer is known for each of its checkpoints, also where the value is not new.
    """
    value = values[channel]
    is_small = type(value) in _PLAIN or (type(value) is str and len(value) <= _SHORT)
    return not is_small and channel in versions and channel not in _BRIEF
