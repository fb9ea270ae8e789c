"""Rows that nobody has locked: for a process that does something for all, and must not wait for one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import ColumnElement, select

from trackside.app.storage._rows.tables import runs, threads
from trackside.app.storage._writing.work import UnitOfWork


def free_among[Row: tuple[Any, ...]](unit: UnitOfWork, rows: Sequence[Row]) -> list[Row]:
    """Lock these runs (id, thread, …) and their threads; returns the runs of which nobody else had locked either.

    In SQLite, where only one writes at a time, these are all.
    """
    held_threads = _held(unit, threads.c.thread_id, {row[1] for row in rows})
    held_runs = _held(unit, runs.c.run_id, {row[0] for row in rows if row[1] not in held_threads})
    return [row for row in rows if row[0] not in held_runs and row[1] not in held_threads]


def _held(unit: UnitOfWork, key: ColumnElement[str], names: set[str]) -> set[str]:
    if not names:
        return set()
    query = select(key).where(key.in_([*names])).order_by(key)
    # NO KEY: as those who change them lock them, which does not keep out those who only refer to them.
    free = {name for (name,) in unit.session.execute(query.with_for_update(key_share=True, skip_locked=True))}
    if len(free) == len(names):
        return set()
    return {name for (name,) in unit.session.execute(query)} - free  # nobody has locked a row that is not there
