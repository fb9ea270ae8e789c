"""Says in the server's log that a run has failed, and where: the agent's author reads that log. A flood is counted."""

from __future__ import annotations

import logging
import re
import sysconfig
from collections.abc import Mapping
from pathlib import Path, PurePath
from typing import Any, Final, override

from trackside.harness.observing.recurring import IN_FULL, Recurrences
from trackside.harness.types import RunStatus

logger = logging.getLogger("trackside.server")

_MOST_CHARS: Final = 300  # of an error; all of it is in the log of events
_FRAME: Final = re.compile(r'^[^\S\n]*File "(?P<path>[^"]*)", line (?P<line>\d+)', re.MULTILINE)
_LIBRARY: Final = re.compile(r"[/\\](site|dist)-packages[/\\]|^<")
_MACHINERY: Final = (str(Path(__file__).parents[2]), sysconfig.get_path("stdlib"))

type _Kind = tuple[str | None, str, str]
"""The agent, None if that is not known, the type of the error, and where it was raised."""


class FailedRuns(Recurrences[_Kind]):
    """Notes how runs end, for the log. Two failures are of one kind if the same type was raised in the same place."""

    def note(self, run_id: str, agent: str | None, end: Mapping[str, Any]) -> None:
        """Log it if a run has failed, or count it; its last event says `end`."""
        if "error_type" not in end or end.get("status", RunStatus.error) != RunStatus.error:
            return
        kind = agent, str(end["error_type"]), place_in(str(end.get("traceback") or ""))
        if which := self.count(kind, lambda: _said(run_id, kind, end)):
            more = "; others like it are counted, and reported once a minute" if which == IN_FULL else ""
            logger.warning("%s%s", _said(run_id, kind, end), more)

    @override
    def say_counted(self, count: int, seconds: float, example: str) -> None:
        logger.warning("in %.0f s %d more failed like this: %s", seconds, count, example)


def _said(run_id: str, kind: _Kind, end: Mapping[str, Any]) -> str:
    agent, error_type, where = kind
    error = " ".join(str(end.get("error") or "").split())[:_MOST_CHARS]
    said = error if error.startswith(f"{error_type}:") else f"{error_type}: {error}"
    place = f" ({where})" if where else ""
    whose = "" if agent is None else f" of agent {agent!r}"
    return f"run {run_id}{whose} failed: {said}{place}; see `trackside runs {run_id}`"


def place_in(trace: str) -> str:
    """The innermost place of a formatted traceback outside libraries, else the innermost; empty if there is none."""
    frames = [(found["path"], found["line"]) for found in _FRAME.finditer(trace)]
    own = [one for one in frames if not _LIBRARY.search(one[0]) and not one[0].startswith(_MACHINERY)]
    path, line = (own or frames or [("", "")])[-1]
    return f"{PurePath(path).name}:{line}" if path else ""
