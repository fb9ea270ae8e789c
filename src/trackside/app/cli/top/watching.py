"""What `trackside top` knows: the active runs, those that ended last, and how much is happening. No screen, no I/O."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING

from trackside.app.cli.views.usage import used_in
from trackside.harness.lifecycle import is_final, is_terminal, run_status_of
from trackside.harness.types import LifecycleEventType, RunStatus

if TYPE_CHECKING:
    from trackside.app.storage import StoredEvent, StoredRun

WINDOW = 60.0
"""Seconds over which rates are measured."""

_ENDED = 500  # runs that are kept after they have ended


@dataclass(slots=True)
class Seen:
    """A run, as far as it has been seen. `tokens` and `cost` are known once it has ended."""

    run_id: str
    thread_id: str
    agent: str
    status: RunStatus
    since: datetime
    ended_at: datetime | None = None
    tokens: int = 0
    cost: float | None = None

    def fits(self, text: str) -> bool:
        """Whether the text is in its agent or status, or one of its ids begins with it."""
        wanted = text.casefold()
        within = wanted in self.agent.casefold() or wanted in self.status.value
        return within or self.run_id.startswith(text) or self.thread_id.startswith(text)

    def seconds(self, now: datetime) -> float:
        """How long it took, or has been going on."""
        return max(0.0, ((self.ended_at or now) - self.since).total_seconds())


ORDERS: dict[str, Callable[[Seen], tuple[bool, float]]] = {
    "newest": lambda run: (is_final(run.status), -run.since.timestamp()),
    "longest": lambda run: (is_final(run.status), run.since.timestamp()),
    "tokens": lambda run: (False, -run.tokens),
    "cost": lambda run: (False, -(run.cost or 0.0)),
}
"""The orders in which runs can be sorted, by name: the smallest key comes first."""


@dataclass(slots=True)
class Watched:
    """Everything that is known. Times are seconds of the caller's clock, which never goes back."""

    runs: dict[str, Seen] = field(default_factory=dict)
    outcomes: Counter[RunStatus] = field(default_factory=Counter)
    """How many runs ended how, since the beginning of the watch."""
    _ended: deque[str] = field(default_factory=deque)
    _dropped: set[str] = field(default_factory=set)
    """Runs that ended and were left out since somebody began to look which runs there are."""
    _events: deque[tuple[float, int, int]] = field(default_factory=deque)

    def look(self) -> None:
        """Note that somebody begins to look which runs there are, for `begin`."""
        self._dropped.clear()

    def begin(self, runs: Iterable[StoredRun]) -> None:
        """Take the existing runs. Even if this comes late, events say more about a run that has started, or ended."""
        for run in runs:
            if run.run_id in self._dropped:
                continue
            known = self.runs.get(run.run_id)
            if known is None or known.status is RunStatus.pending:
                self.runs[run.run_id] = _seen(run)

    def take(self, stored: StoredEvent, now: float) -> None:
        """Take an event that has just come."""
        event, payload = stored.event, stored.event.payload
        ends, tokens = is_terminal(event.event_type), 0
        seen = self.runs.get(event.run_id)
        if seen is None:
            if event.event_type is LifecycleEventType.THREAD_STATUS_UPDATED:  # also comes after the end of a run
                self._events.append((now, 0, 0))
                return
            agent = str(payload.get("agent") or "")
            seen = Seen(event.run_id, event.thread_id, agent, RunStatus.running, event.occurred_at)
            self.runs[event.run_id] = seen
        if event.event_type is LifecycleEventType.RUN_STARTED:
            seen.status, seen.since = RunStatus.running, event.occurred_at
            seen.agent = str(payload.get("agent") or seen.agent)
        elif ends and not is_final(seen.status):
            tokens = self._end(seen, stored)
        self._events.append((now, int(ends), tokens))

    def _end(self, seen: Seen, stored: StoredEvent) -> int:
        event, used = stored.event, used_in(stored.event.payload.get("completion_data"))
        seen.status = run_status_of(event.event_type, event.payload) or seen.status
        seen.ended_at = event.occurred_at
        seen.tokens, seen.cost = used.get("total_tokens", 0), used.get("cost_usd")
        self.outcomes[seen.status] += 1
        self._ended.append(seen.run_id)
        while len(self._ended) > _ENDED:
            self._dropped.add(dropped := self._ended.popleft())
            self.runs.pop(dropped, None)
        return seen.tokens

    def rates(self, now: float) -> tuple[float, float, float]:
        """Ended runs per second, events per second and tokens per minute, over the last minute."""
        while self._events and self._events[0][0] < now - WINDOW:
            self._events.popleft()
        ended, tokens = sum(one[1] for one in self._events), sum(one[2] for one in self._events)
        return ended / WINDOW, len(self._events) / WINDOW, tokens / WINDOW * 60

    def listed(self, *, text: str, order: str, limit: int) -> tuple[list[Seen], int]:
        """The first runs that match, and how many match in all."""
        fitting = [run for run in self.runs.values() if not text or run.fits(text)]
        fitting.sort(key=ORDERS[order])
        return fitting[:limit], len(fitting)


def _seen(run: StoredRun) -> Seen:
    return Seen(
        run_id=run.run_id,
        thread_id=run.thread_id,
        agent=run.agent or "",
        status=run.status,
        since=run.started_at or run.created_at,
        ended_at=run.ended_at,
        tokens=run.total_input_tokens + run.total_output_tokens,
        cost=run.cost_usd,
    )
