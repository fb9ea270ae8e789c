"""Fills what revision 0002 adds from the runs that are there: labels, costs of models and callers, and sums.

The rules are those of that revision, written down here once more: a migration does the same for ever, but the code that
keeps these tables goes on changing.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from operator import add
from typing import Any

import msgspec
import sqlalchemy as sa

_PAGE = 1_000
_MOST_NAME_CHARS = 255
_MOST_LABEL_BYTES = 1_000
_MOST_DOLLARS = 10**6
_MOST_SECONDS = 10**12
_NANO = 1_000_000_000
_BINS = 32
_AT_ONCE = 2.0**-20
_PERIODS = (60, 3600, 86_400)

_USED = ("total_input_tokens", "total_output_tokens", "llm_call_count", "tool_call_count", "message_count")
_TOKENS = ("input_tokens", "output_tokens", "cache_read_tokens", "reasoning_tokens")
_KEY = ("seconds", "start", "agent", "status")
_COST = ("priced_runs", "cost_nanousd")

type _Sums = defaultdict[tuple[Any, ...], list[int]]


def _table(name: str, *columns: str) -> sa.TableClause:
    return sa.table(name, *(sa.column(column) for column in columns))


_runs = _table(
    "runs",
    *("run_id", "thread_id", "agent", "status", "created_at", "started_at", "ended_at"),
    *("metadata", "completion_data", "duration_seconds", "cost_usd"),
    *_USED,
)
_usage = _table("usage", "run_id", "kind", "name", *_TOKENS, "cost_usd")
_labels = _table("run_labels", "key", "value", "created_at", "run_id", "thread_id", "agent")
_run_totals = _table("run_totals", *_KEY, "runs", *_USED, *_COST)
_duration_totals = _table("duration_totals", *_KEY, "bin", "runs")
_usage_totals = _table("usage_totals", *_KEY, "kind", "name", "runs", *_TOKENS, *_COST)


def fill(connection: sa.Connection) -> None:
    """Fill the new tables and the new column; names and amounts that no index or sum takes count as absent from now on."""
    _drop_what_is_too_long(connection)
    runs, durations, used = _new_sums(), _new_sums(), _new_sums()
    for page in _pages(connection):
        costs = {run.run_id: _costs(run.completion_data) for run in page}
        _insert(connection, _labels, [label for run in page for label in _labels_of(run)])
        _count_runs(page, runs, durations)
        _price(connection, costs)
        _count_usage(connection, page, used)
    _insert(connection, _run_totals, _rows(runs))
    _insert(connection, _duration_totals, _rows(durations))
    _insert(connection, _usage_totals, _rows(used))


def _new_sums() -> _Sums:
    return defaultdict(list)


def _drop_what_is_too_long(connection: sa.Connection) -> None:
    names = sa.func.length(_usage.c.name) > _MOST_NAME_CHARS
    agents = sa.func.length(_runs.c.agent) > _MOST_NAME_CHARS
    connection.execute(sa.delete(_usage).where(names))
    connection.execute(sa.update(_runs).where(agents).values(agent=None))
    connection.execute(sa.update(_runs).where(_runs.c.cost_usd > _MOST_DOLLARS).values(cost_usd=None))
    too_long = sa.select(_runs).where(_runs.c.duration_seconds > _MOST_SECONDS)
    for run in connection.execute(too_long).all():
        by_the_clocks = run.started_at and max(0.0, (_time(run.ended_at) - _time(run.started_at)).total_seconds())
        this_one = sa.update(_runs).where(_runs.c.run_id == run.run_id)
        connection.execute(this_one.values(duration_seconds=by_the_clocks))


def _pages(connection: sa.Connection) -> Iterator[Sequence[sa.Row[Any]]]:
    after = ""
    while page := connection.execute(
        sa.select(_runs).where(_runs.c.run_id > after).order_by(_runs.c.run_id).limit(_PAGE)
    ).all():
        after = page[-1].run_id
        yield page


def _labels_of(run: sa.Row[Any]) -> Iterator[tuple[Any, ...]]:
    for key, value in msgspec.json.decode(run.metadata).items():
        if value is None or type(value) in {str, int, bool}:
            text = msgspec.json.encode(value).decode()
            if len(key.encode()) + len(text.encode()) <= _MOST_LABEL_BYTES:
                yield key, text, run.created_at, run.run_id, run.thread_id, run.agent


def _costs(completion_data: str | None) -> dict[tuple[str, str], float]:
    """What each model and each caller cost, by kind and name, where that was said."""
    data = msgspec.json.decode(completion_data) if completion_data else {}
    costs: dict[tuple[str, str], float] = {}
    for kind in ("model", "caller"):
        usage = data.get(f"token_usage_by_{kind}")
        for name, tokens in usage.items() if isinstance(usage, dict) else ():
            said: Any = tokens.get("cost_usd") if isinstance(tokens, dict) else None
            if type(said) in {int, float} and 0 <= said <= _MOST_DOLLARS:
                costs[kind, name] = float(said)
    return costs


def _price(connection: sa.Connection, costs: dict[str, dict[tuple[str, str], float]]) -> None:
    known = [
        {"of_run": run_id, "of_kind": kind, "of_name": name, "cost": cost}
        for run_id, by_name in costs.items()
        for (kind, name), cost in by_name.items()
    ]
    if known:
        this_one = sa.and_(
            _usage.c.run_id == sa.bindparam("of_run"),
            _usage.c.kind == sa.bindparam("of_kind"),
            _usage.c.name == sa.bindparam("of_name"),
        )
        connection.execute(sa.update(_usage).where(this_one).values(cost_usd=sa.bindparam("cost")), known)


def _count_runs(page: Iterable[sa.Row[Any]], runs: _Sums, durations: _Sums) -> None:
    for run in page:
        if run.ended_at is None:
            continue
        place = _place(run)
        _add(runs, place, [1, *(getattr(run, name) for name in _USED), *_cost(run.cost_usd)])
        if run.duration_seconds is not None:
            _add(durations, (*place, _bin(run.duration_seconds)), [1])


def _count_usage(connection: sa.Connection, page: Sequence[sa.Row[Any]], used: _Sums) -> None:
    places = {run.run_id: _place(run) for run in page}
    of_page = sa.and_(_usage.c.run_id >= page[0].run_id, _usage.c.run_id <= page[-1].run_id)
    for row in connection.execute(sa.select(_usage).where(of_page)):
        amounts = [1, *(getattr(row, name) for name in _TOKENS), *_cost(row.cost_usd)]
        _add(used, (*places[row.run_id], row.kind, row.name), amounts)


def _place(run: sa.Row[Any]) -> tuple[int, str, str]:
    return int(_time(run.created_at).timestamp()) // 60, run.agent or "", run.status


def _time(text: str) -> datetime:
    return datetime.fromisoformat(text)


def _bin(duration: float) -> int:
    if duration < _AT_ONCE:
        return -20 * _BINS
    fraction, power = math.frexp(duration)
    return power * _BINS + int(fraction * 2 * _BINS) - _BINS


def _cost(cost_usd: float | None) -> tuple[int, int]:
    return (0, 0) if cost_usd is None else (1, round(cost_usd * _NANO))


def _add(sums: _Sums, key: tuple[Any, ...], amounts: list[int]) -> None:
    known = sums[key]
    sums[key] = [*map(add, known, amounts)] if known else amounts


def _rows(by_minute: _Sums) -> list[tuple[Any, ...]]:
    rows: list[tuple[Any, ...]] = []
    for seconds in _PERIODS:
        grouped = _new_sums()
        for (minute, *rest), amounts in by_minute.items():
            _add(grouped, (minute * 60 // seconds, *rest), amounts)
        rows += [(seconds, *key, *amounts) for key, amounts in grouped.items()]
    return rows


def _insert(connection: sa.Connection, table: sa.TableClause, rows: Sequence[tuple[Any, ...]]) -> None:
    if rows:
        names = table.c.keys()
        connection.execute(sa.insert(table), [dict(zip(names, row, strict=True)) for row in rows])
