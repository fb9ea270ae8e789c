"""Says in the server's log that a run has failed, and where: whoever wrote the agent sits before it. A flood is counted."""

from __future__ import annotations

import asyncio
import logging
import re
import sysconfig
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any, Final

from trackside.harness.types import RunStatus

logger = logging.getLogger("trackside.server")

IN_FULL: Final = 10
"""How many failures of a kind are said within `PERIOD`, before the others are only counted."""
PERIOD: Final = 60.0  # seconds
_MOST_KINDS: Final = 100
_MOST_CHARS: Final = 300  # of an error; all of it is in the log of events
_FRAME: Final = re.compile(r'^[^\S\n]*File "(?P<path>[^"]*)", line (?P<line>\d+)', re.MULTILINE)
_LIBRARY: Final = re.compile(r"[/\\](site|dist)-packages[/\\]|^<")
_MACHINERY: Final = (str(Path(__file__).parents[2]), sysconfig.get_path("stdlib"))

type _Kind = tuple[str, str, str]
"""The agent, the type of the error, and where it was raised."""


@dataclass(slots=True)
class _Times:
    """How often a kind of failure came since then."""

    since: float
    said: int = 0
    unsaid: int = 0


class FailedRuns:
    """Notes how runs end, for the log. Two failures are of one kind if the same type was raised in the same place."""

    def __init__(self) -> None:
        self._kinds: dict[_Kind, _Times] = {}

    def note(self, run_id: str, agent: str | None, end: Mapping[str, Any]) -> None:
        """Say it if a run has failed; its last event says `end`. What others of its kind there were is said with it."""
        if "error_type" not in end or end.get("status", RunStatus.error) != RunStatus.error:
            return
        name, error_type = agent or "?", str(end["error_type"])
        where = place_in(str(end.get("traceback") or ""))
        now = asyncio.get_running_loop().time()
        times = self._times_of((name, error_type, where), now)
        if times.said >= IN_FULL and now - times.since < PERIOD:
            times.unsaid += 1
            return
        more = ""
        if now - times.since >= PERIOD:
            more = f" ({times.unsaid} more failed like this before)" if times.unsaid else ""
            times.since, times.said, times.unsaid = now, 0, 0
        times.said += 1
        if times.said == IN_FULL:
            more += "; others like it are counted for a minute"
        error = " ".join(str(end.get("error") or "").split())[:_MOST_CHARS]
        said = error if error.startswith(f"{error_type}:") else f"{error_type}: {error}"
        place = f" ({where})" if where else ""
        logger.warning(
            "run %s of agent %r failed: %s%s; see `trackside runs %s`%s", run_id, name, said, place, run_id, more
        )

    def _times_of(self, kind: _Kind, now: float) -> _Times:
        found = self._kinds.get(kind)
        if found is None:
            if len(self._kinds) >= _MOST_KINDS:
                del self._kinds[next(iter(self._kinds))]
            found = self._kinds[kind] = _Times(now)
        return found


def place_in(trace: str) -> str:
    """The innermost place of a formatted traceback that is nobody's library, else the innermost; empty if there is none."""
    frames = [(found["path"], found["line"]) for found in _FRAME.finditer(trace)]
    own = [one for one in frames if not _LIBRARY.search(one[0]) and not one[0].startswith(_MACHINERY)]
    path, line = (own or frames or [("", "")])[-1]
    return f"{PurePath(path).name}:{line}" if path else ""
