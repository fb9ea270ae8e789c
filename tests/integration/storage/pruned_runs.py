"""Runs that are long over, and what a prune says that has removed some."""

from datetime import UTC, datetime, timedelta

from trackside.app.storage import PruneReport

DAY = timedelta(days=1)
LONG_AGO = datetime(2020, 1, 1, tzinfo=UTC)


def removed(runs: int = 0, events: int = 0, threads: int = 0, *, waiting: int = 0, **kept_for: int) -> PruneReport:
    return PruneReport(runs=runs, events=events, threads=threads, kept_for=kept_for, kept_waiting=waiting)
