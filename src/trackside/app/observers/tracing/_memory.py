"""What is remembered about runs, with an upper bound."""

from __future__ import annotations

from collections import OrderedDict
from typing import NamedTuple

from opentelemetry.trace import Span

__all__ = ["OpenRun", "Recent"]


class OpenRun(NamedTuple):
    """A run that has started and not ended. `began` is in nanoseconds since 1970."""

    span: Span
    began: int


class Recent[V]:
    """The most recently kept values, by key; older ones are forgotten.

    Args:
        limit: how many values are kept.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._kept: OrderedDict[str, V] = OrderedDict()

    def __contains__(self, key: str) -> bool:
        return key in self._kept

    def __len__(self) -> int:
        return len(self._kept)

    def keep(self, key: str, value: V) -> V | None:
        """Keep a value; returns the one that is forgotten for it."""
        self._kept[key] = value
        self._kept.move_to_end(key)
        return self._kept.popitem(last=False)[1] if len(self._kept) > self._limit else None

    def get(self, key: str) -> V | None:
        """What is kept under a key."""
        return self._kept.get(key)

    def take(self, key: str) -> V | None:
        """What was kept under a key, which is then forgotten."""
        return self._kept.pop(key, None)

    def take_all(self) -> list[V]:
        """All values that were kept, which are then forgotten."""
        values = list(self._kept.values())
        self._kept.clear()
        return values
