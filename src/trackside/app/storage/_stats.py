"""Totals over runs: how many, how they ended, how long they took, what they used and cost."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from sqlalchemy import Column, ColumnElement, Connection, Row, func, or_, select

from trackside.app.storage._records import RunTotals, Stats, TokenTotals
from trackside.app.storage._tables import runs, usage
from trackside.harness.types import RunStatus

_COUNTS = ("total_input_tokens", "total_output_tokens", "llm_call_count", "tool_call_count", "message_count")


type _Chosen = Sequence[ColumnElement[bool]]


def read_stats(connection: Connection, chosen: _Chosen) -> Stats:
    """Totals of the runs for which all that is `chosen` holds."""
    groups: dict[str | None, list[Row[Any]]] = defaultdict(list)
    for row in _sums(connection, chosen):
        groups[row.agent].append(row)
    durations = _percentiles(connection, chosen, [runs.c.agent])
    return Stats(
        total=_totals([row for rows in groups.values() for row in rows], _percentiles(connection, chosen, []).get(())),
        by_agent={agent: _totals(rows, durations.get((agent,))) for agent, rows in groups.items()},
        by_model=_tokens(connection, chosen, "model"),
        by_caller=_tokens(connection, chosen, "caller"),
    )


def _sums(connection: Connection, chosen: _Chosen) -> Sequence[Row[Any]]:
    sums = [func.sum(runs.c[name]).label(name) for name in _COUNTS]
    query = (
        select(
            runs.c.agent, runs.c.status, func.count().label("runs"), func.sum(runs.c.cost_usd).label("cost_usd"), *sums
        )
        .where(*chosen)
        .group_by(runs.c.agent, runs.c.status)
        .order_by(runs.c.agent, runs.c.status)
    )
    return connection.execute(query).all()


def _totals(rows: Iterable[Row[Any]], durations: tuple[float, float] | None) -> RunTotals:
    by_status: dict[RunStatus, int] = defaultdict(int)
    counts = dict.fromkeys(_COUNTS, 0)
    cost: float | None = None
    for row in rows:
        by_status[RunStatus(row.status)] += row.runs
        for name in _COUNTS:
            counts[name] += getattr(row, name)
        if row.cost_usd is not None:
            cost = (cost or 0.0) + row.cost_usd
    p50, p95 = durations or (None, None)
    return RunTotals(
        runs=sum(by_status.values()),
        by_status=dict(by_status),
        cost_usd=cost,
        duration_p50=p50,
        duration_p95=p95,
        **counts,
    )


def _percentiles(
    connection: Connection, chosen: _Chosen, group: Sequence[Column[Any]]
) -> Mapping[tuple[Any, ...], tuple[float, float]]:
    """Median and 95th percentile of the durations in each group: the nearest rank, so each is one that happened."""
    duration = runs.c.duration_seconds
    ranked = (
        select(
            *group,
            duration,
            func.row_number().over(partition_by=group, order_by=duration).label("rank"),
            func.count().over(partition_by=group).label("count"),
        )
        .where(*chosen, duration.is_not(None))
        .subquery()
    )
    at_p50 = ranked.c.rank == (ranked.c.count * 50 + 99) // 100
    at_p95 = ranked.c.rank == (ranked.c.count * 95 + 99) // 100
    query = select(ranked).where(or_(at_p50, at_p95)).order_by(ranked.c.rank)
    found: dict[tuple[Any, ...], list[float]] = defaultdict(list)
    for row in connection.execute(query):
        found[tuple(row)[: len(group)]].append(row.duration_seconds)
    return {key: (values[0], values[-1]) for key, values in found.items()}


def _tokens(connection: Connection, chosen: _Chosen, kind: str) -> Mapping[str, TokenTotals]:
    query = (
        select(
            usage.c.name,
            func.sum(usage.c.input_tokens).label("input_tokens"),
            func.sum(usage.c.output_tokens).label("output_tokens"),
            func.sum(usage.c.cache_read_tokens).label("cache_read_tokens"),
            func.sum(usage.c.reasoning_tokens).label("reasoning_tokens"),
        )
        .where(usage.c.kind == kind)
        .group_by(usage.c.name)
        .order_by(usage.c.name)
    )
    if chosen:  # not a join, for which SQLite reads the usage of all runs
        query = query.where(usage.c.run_id.in_(select(runs.c.run_id).where(*chosen)))
    return {
        row.name: TokenTotals(
            input_tokens=row.input_tokens,
            output_tokens=row.output_tokens,
            cache_read_tokens=row.cache_read_tokens,
            reasoning_tokens=row.reasoning_tokens,
        )
        for row in connection.execute(query)
    }
