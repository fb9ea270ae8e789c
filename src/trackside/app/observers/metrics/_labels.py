"""Bounds how many values a label may have, so that no agent, model or error can flood the scraper."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping

logger = logging.getLogger("trackside.metrics")

OTHER = "other"
"""The label for all values that came too late to be counted on their own."""

UNKNOWN = "unknown"
"""The label where an event gives no value."""

_LONGEST = 128  # characters of a value


class Bounded[S]:
    """What is counted under each value of a label; values beyond the limit are counted under `OTHER`.

    One thread adds to it; any other may read it.
    """

    def __init__(self, label: str, most: int, make: Callable[[str], S]) -> None:
        self._label = label
        self._most = most
        self._make = make
        self._under: dict[str, S] = {}
        self._own = 0
        """How many values are counted on their own."""
        self._warned = False

    def __getitem__(self, value: object) -> S:
        """What is counted under this value, whatever an event has in its place."""
        if type(value) is str and (known := self._under.get(value)) is not None:
            return known
        return self._admitted(_shown(value))

    def merged(self, counts: Mapping[str, int]) -> Mapping[str, int]:
        """The counts by values as they are shown; 0 for a known value that is not in `counts`."""
        merged = dict.fromkeys([*self._under], 0)
        room = self._most - self._own
        for value, count in counts.items():
            shown = _shown(value)
            if shown not in merged and room > 0:
                room -= 1
            elif shown not in merged:
                shown = OTHER
            merged[shown] = merged.get(shown, 0) + count
        return merged

    def _admitted(self, shown: str) -> S:
        if shown not in self._under and shown not in {OTHER, UNKNOWN}:
            if self._own >= self._most:
                self._warn(shown)
                shown = OTHER
            else:
                self._own += 1
        if (under := self._under.get(shown)) is None:
            under = self._under[shown] = self._make(shown)
        return under

    def _warn(self, shown: str) -> None:
        if not self._warned:  # only once: every event might cause it
            self._warned = True
            logger.warning(
                "the label %s has %d values, as many as max_labels allows; %r and all others that are new are counted as %r",
                self._label,
                self._most,
                shown,
                OTHER,
            )


def _shown(value: object) -> str:
    """A value as a label can have it: anything but text is unknown, long text is cut, half characters are replaced."""
    if not isinstance(value, str) or not value:
        return UNKNOWN
    return value[:_LONGEST].encode("utf-8", "replace").decode()
