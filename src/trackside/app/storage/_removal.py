"""Removes runs from the database, inside one transaction: each run whole, and only runs that nobody needs by then."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import NamedTuple, override

from sqlalchemy import ColumnElement, FromClause, and_, delete, exists, not_, or_, select, update

from trackside.app.storage._graph.works import remove_checkpoints
from trackside.app.storage._rows.client_tables import crons
from trackside.app.storage._rows.conditions import last_in_log, last_position, unindexed
from trackside.app.storage._rows.encoding import time_text
from trackside.app.storage._rows.tables import (
    active_runs,
    duration_totals,
    events,
    idempotency_keys,
    parked_events,
    run_labels,
    run_totals,
    runs,
    subscriptions,
    thread_labels,
    thread_states,
    threads,
    usage,
    usage_totals,
)
from trackside.app.storage._rows.totals import MINUTE, NO_AGENT, PERIODS, minute_of
from trackside.app.storage._writing.work import UnitOfWork, Work
from trackside.harness.types import RunStatus, ThreadStatus

_ROW_BYTES = 300
_AT_REST = (ThreadStatus.idle, ThreadStatus.error)  # neither busy, nor waiting for a human


class Candidate(NamedTuple):
    """A run to remove; `last` is its last event's position, `asks` whether its thread waits for an answer to it."""

    run_id: str
    thread_id: str
    created_at: datetime
    events: int
    last: int
    asks: bool


def is_released() -> ColumnElement[bool]:
    """Whether a run has ended for its coordinator as well."""
    return ~exists().where(active_runs.c.run_id == runs.c.run_id)


def may_go(now: datetime | str) -> ColumnElement[bool]:
    """Whether a thread without runs is removed: it is at rest and belongs to no cron, or it is gone for clients and so
    is what it remembered, or it is about to be gone because its time is over.
    """
    of_crons = select(crons.c.thread_id).where(crons.c.thread_id.is_not(None))
    is_at_rest = and_(threads.c.removed_at.is_(None), threads.c.status.in_(_AT_REST))
    is_over = and_(threads.c.removed_at.is_(None), threads.c.status != ThreadStatus.busy, has_expired(threads, now))
    return or_(and_(is_at_rest, threads.c.thread_id.not_in(of_crons)), is_gone(), is_over)


def is_gone() -> ColumnElement[bool]:
    """Whether a thread is gone for clients, and so is what it remembered."""
    return and_(threads.c.removed_at.is_not(None), threads.c.forgotten)


def is_of_one_gone() -> ColumnElement[bool]:
    """Whether a run's thread is gone, and was not begun anew under the same id."""
    return exists().where(threads.c.thread_id == runs.c.thread_id, is_gone())


def has_expired(its_thread: FromClause, now: datetime | str) -> ColumnElement[bool]:
    """Whether a thread's time is over and no coordinator has a run of it: it takes no more runs."""
    expires_at = its_thread.c.expires_at
    is_held = exists().where(active_runs.c.thread_id == its_thread.c.thread_id)
    return and_(expires_at.is_not(None), expires_at <= now, ~is_held)


def asks(now: datetime | str) -> ColumnElement[bool]:
    """Whether a run asked what its thread waits to have answered: it is the last run of the thread that asked.

    A run that asked later is behind it in the log. But so may be an older run that was imported since. The run that the
    thread names as its last one did ask later; any other run's time must say so as well, otherwise both stay.
    """
    later, its_thread = runs.alias(), threads.alias()
    asked = RunStatus.interrupted.value
    asked_later = exists().where(
        later.c.thread_id == runs.c.thread_id,
        unindexed(later.c.status) == asked,  # else, for each such run, all runs that have asked are looked at
        or_(later.c.run_id == its_thread.c.last_run_id, later.c.ended_at >= runs.c.ended_at),
        last_position(later) > last_position(),
    )
    return and_(
        runs.c.status == asked,
        exists().where(
            its_thread.c.thread_id == runs.c.thread_id,
            its_thread.c.status == ThreadStatus.interrupted.value,
            its_thread.c.removed_at.is_(None),
            ~has_expired(its_thread, now),
            ~asked_later.correlate(runs, its_thread),
        ),
    )


def is_of_one_changed_since(cutoff: datetime | str) -> ColumnElement[bool]:
    """Whether a run is the last one of a thread that was changed since: what people do to a thread keeps it young."""
    its_thread = threads.alias()
    return exists().where(
        its_thread.c.thread_id == runs.c.thread_id,
        its_thread.c.last_run_id == runs.c.run_id,
        its_thread.c.updated_at >= cutoff,
        its_thread.c.removed_at.is_(None),
    )


def is_free(now: datetime | str) -> list[ColumnElement[bool]]:
    """The conditions for runs that nobody needs any more (I30)."""
    its_event_is_parked = and_(parked_events.c.position == events.c.position, events.c.run_id == runs.c.run_id)
    return [
        not_(asks(now)),
        ~exists().where(subscriptions.c.cursor < last_position()),
        ~exists().where(its_event_is_parked),
    ]


class Removed(NamedTuple):
    """How much was removed."""

    runs: int
    events: int
    threads: int


_NOTHING = Removed(0, 0, 0)


@dataclass(slots=True, eq=False)
class RemoveRuns(Work):
    """Removes these runs, except those that somebody needs by now, and the threads that are left without any.

    With `of_gone`, only runs of threads that are still gone, and not begun anew under the same id. With a `cutoff`, not
    the last run of a thread that was changed since.
    """

    candidates: Sequence[Candidate]
    of_gone: bool = False
    cutoff: datetime | None = None
    done: tuple[Sequence[str], Removed] = ((), _NOTHING)
    """Which runs it has removed, and how much: a transaction whose reply was lost is repeated, and finds it done."""

    @property
    @override
    def alone(self) -> bool:
        return (
            self.cutoff is not None
        )  # threads changed in the same transaction would keep their last runs, and nobody would come back for those

    @property
    @override
    def size(self) -> int:
        return _ROW_BYTES * sum(candidate.events for candidate in self.candidates)

    @override
    def run_ids(self) -> Iterable[str]:
        return (candidate.run_id for candidate in self.candidates)

    @override
    def thread_ids(self) -> Iterable[str]:
        return {candidate.thread_id for candidate in self.candidates}

    @override
    def undone(self) -> None:
        self.done = (), _NOTHING

    @override
    def apply(self, unit: UnitOfWork) -> Removed:
        run_ids, removed = self.done
        if run_ids and unit.run(run_ids[0]) is None:
            return removed
        session, now = unit.session, time_text(datetime.now(UTC))
        found = session.execute(
            select(runs.c.run_id, runs.c.thread_id, runs.c.last_sequence).where(
                runs.c.run_id.in_(self._untouched(unit)),
                runs.c.ended_at.is_not(None),
                is_released(),
                *is_free(now),
                *([is_of_one_gone()] if self.of_gone else []),
                *([] if self.cutoff is None else [~is_of_one_changed_since(time_text(self.cutoff))]),
            )
        )
        if not found:
            return _NOTHING
        run_ids = [run_id for run_id, _, _ in found]
        _subtract(unit, run_ids)
        gone = self._remove_threads(unit, {thread_id for _, thread_id, _ in found}, run_ids, now)
        for table in (events, usage, run_labels, idempotency_keys, runs):
            session.execute(delete(table).where(table.c.run_id.in_(run_ids)))
        for run_id in run_ids:
            unit.forget_run(run_id)
        removed = Removed(len(found), sum(count for _, _, count in found), gone)
        self.done = run_ids, removed
        return removed

    def _untouched(self, unit: UnitOfWork) -> list[str]:
        """The runs about which the transaction writes nothing else, nor, if that matters, about their threads."""
        return [
            candidate.run_id
            for candidate in self.candidates
            if not unit.changes_run(candidate.run_id)
            and (self.cutoff is None or not unit.changes_thread(candidate.thread_id))
        ]

    def _remove_threads(self, unit: UnitOfWork, thread_ids: Collection[str], run_ids: Sequence[str], now: str) -> int:
        """Remove threads that have no run but these, with what they remember; others name the last run that stays."""
        session = unit.session
        unused = [thread_id for thread_id in thread_ids if not unit.changes_thread(thread_id)]
        keeps_run = exists().where(runs.c.thread_id == threads.c.thread_id, runs.c.run_id.not_in(run_ids))
        goes = (threads.c.thread_id.in_(unused), may_go(now), ~keeps_run)
        found = session.execute(select(threads.c.thread_id).where(*goes))
        gone = [thread_id for (thread_id,) in found]
        remove_checkpoints(session, gone)
        for table in (thread_labels, thread_states, threads):
            session.execute(delete(table).where(table.c.thread_id.in_(gone)))
        unit.forget_threads(gone)
        session.execute(
            update(threads)
            .where(threads.c.thread_id.in_(thread_ids), threads.c.last_run_id.in_(run_ids))
            .values(last_run_id=last_in_log(threads, lambda run: run.c.run_id.not_in(run_ids)))
        )
        return len(gone)


@dataclass(frozen=True, slots=True)
class RemoveEmptyTotals(Work):
    """Removes totals that no longer count any run, for runs created in these minutes (counted from 1970)."""

    minutes: Collection[int]

    @property
    @override
    def size(self) -> int:
        return _ROW_BYTES * len(self.minutes)

    @override
    def apply(self, unit: UnitOfWork) -> None:
        for table in (run_totals, duration_totals, usage_totals):
            for seconds in PERIODS:
                starts = {minute * MINUTE // seconds for minute in self.minutes}
                unit.session.execute(
                    delete(table).where(table.c.seconds == seconds, table.c.start.in_(starts), table.c.runs == 0)
                )


_USED = ("total_input_tokens", "total_output_tokens", "llm_call_count", "tool_call_count", "message_count")
_TOKENS = ("input_tokens", "output_tokens", "cache_read_tokens", "reasoning_tokens")


def _subtract(unit: UnitOfWork, run_ids: Sequence[str]) -> None:
    """Take runs out of the totals in which they counted."""
    places: dict[str, tuple[int, str, str]] = {}
    facts = (runs.c.run_id, runs.c.created_at, runs.c.agent, runs.c.status, runs.c.cost_usd, runs.c.duration_seconds)
    counts = [runs.c[name] for name in _USED]
    for run_id, created_at, agent, status, cost_usd, duration, *used in unit.session.execute(
        select(*facts, *counts).where(runs.c.run_id.in_(run_ids))
    ):
        place = places[run_id] = (minute_of(created_at), agent or NO_AGENT, status)
        unit.totals.count(place, -1, used, cost_usd=cost_usd, duration=duration)
    tokens = [usage.c[name] for name in _TOKENS]
    for run_id, *used in unit.session.execute(
        select(usage.c.run_id, usage.c.kind, usage.c.name, *tokens, usage.c.cost_usd).where(usage.c.run_id.in_(run_ids))
    ):
        kind, name, inputs, outputs, cached, reasoning, cost_usd = used
        unit.totals.count_usage(places[run_id], (kind, name, inputs, outputs, cached, reasoning, cost_usd), -1)
