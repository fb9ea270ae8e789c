"""Prints the events of one run as rows, each at its time since the run's first."""

from __future__ import annotations

from datetime import datetime

from trackside.app.cli.appearance import CONTINUED, look_of, words_of
from trackside.app.cli.failures import users_frames
from trackside.app.cli.rows import Rows
from trackside.app.cli.usage import usage_line
from trackside.harness.lifecycle import is_terminal
from trackside.harness.observer import RunLifecycleEvent


class EventRows:
    """Prints events of one run, in order."""

    def __init__(self, rows: Rows) -> None:
        self._rows = rows
        self._first_at: datetime | None = None

    def seconds_of(self, event: RunLifecycleEvent) -> float:
        """How long after the run's first event this one occurred."""
        if self._first_at is None:
            self._first_at = event.occurred_at
        return (event.occurred_at - self._first_at).total_seconds()

    def print(self, event: RunLifecycleEvent) -> None:
        """Print an event; with the last one what the run used, and where in the agent's code it failed."""
        seconds, look, words = self.seconds_of(event), look_of(event), words_of(event)
        if not is_terminal(event.event_type):
            self._rows.print(seconds, look, words, look.style if look.style == "dim" else "")
            return
        usage = usage_line(event.payload.get("completion_data") or {})
        self._rows.print(seconds, look, words or usage, look.style if words else "")
        if words and usage:
            self._rows.print(None, CONTINUED, usage)
        if trace := event.payload.get("traceback"):
            # What the row above says already stands at the traceback's end once more.
            text = users_frames(str(trace)).rstrip().removesuffix(words).rstrip()
            self._rows.print(None, CONTINUED, text, "dim")
