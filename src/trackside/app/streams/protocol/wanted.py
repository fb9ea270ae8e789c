"""Which events somebody wants: on which channels, of which agents."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from trackside.app.streams.protocol._event import Event

_CUSTOM = "custom"
GAP = "gap"
"""The channel of gaps for what is no longer kept, which everybody gets."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """Some channels, and of the agents inside only those below some namespaces, `depth` levels deep.

    A segment of a namespace without `:` means every task of that name.
    """

    channels: Collection[str]
    namespaces: Sequence[Sequence[str]] | None = None
    depth: int | None = None

    def has(self, event: Event) -> bool:
        """Whether it wants this one."""
        channel = event.channel
        if channel == GAP:
            return True
        if channel not in self.channels and not (channel.startswith("custom:") and _CUSTOM in self.channels):
            return False
        if not self.namespaces:
            return True
        return any(self._is_below(event.namespace, prefix) for prefix in self.namespaces)

    def _is_below(self, namespace: Sequence[str], prefix: Sequence[str]) -> bool:
        deeper = len(namespace) - len(prefix)
        if deeper < 0 or (self.depth is not None and deeper > self.depth):
            return False
        pairs = zip(prefix, namespace, strict=False)
        return all(one == other or (":" not in one and other.partition(":")[0] == one) for one, other in pairs)


def only_lifecycle(channels: Collection[str]) -> bool:
    """Whether a client only watches how runs go, and does not read what they say."""
    return set(channels) <= {"lifecycle", "input"}
