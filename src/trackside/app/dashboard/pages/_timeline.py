"""A run as rows against time: itself, what it called, the runs that it started. Pure: no store, no clock, no markup.

Rows are nested by caller: what `researcher` did is below the call that made it run, or below its name if nothing says
which call did. All places are percentages of the run's time, so that drawing them needs no script. Times from another
machine's clock may lie outside the run: they are drawn at its edge, and reported to be off.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any, Final, Literal

LEAD: Final = "lead_agent"
"""The caller's name in what the run's own agent calls."""
MOST_ROWS: Final = 300
MOST_MARKS: Final = 200
WAIT_SECONDS: Final = 0.5
"""The least wait of a run that is reported."""
_MOST_TICKS: Final = 6
_GAP_SHARE: Final = 0.05
"""The least share of a run that is shown as a gap, if nothing is known to have happened in it."""
_OFF_SECONDS: Final = 1.0
"""The clocks in one network differ by less."""

type RowKind = Literal["run", "wait", "caller", "chat", "execute_tool", "invoke_agent", "child", "events"]
_KINDS: Final[Mapping[str, RowKind]] = {
    "chat": "chat",
    "execute_tool": "execute_tool",
    "invoke_agent": "invoke_agent",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """Where something is, in percent of the run."""

    left: float
    width: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Mark:
    """Something that takes no time."""

    left: float
    name: str
    at: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One line. `at` counts from the run's start; `seconds`, how long it took, is None if nobody has timed it."""

    kind: RowKind
    name: str
    depth: int = 0
    at: float = 0.0
    seconds: float | None = None
    span: Span | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None
    cost: float | None = None
    error: str | None = None
    status: str | None = None
    """The status, if it is a run."""
    run_id: str | None = None
    goes_on: bool = False
    gaps: tuple[Span, ...] = ()
    marks: tuple[Mark, ...] = ()
    note: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Tick:
    """A line of the axis."""

    left: float
    label: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Timeline:
    """What is drawn."""

    seconds: float
    rows: tuple[Row, ...]
    ticks: tuple[Tick, ...]
    omitted: int = 0
    """How many rows are left out."""
    idle_seconds: float | None = None
    """How long nothing was called, if calls were timed."""
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Happened:
    """An event of the run."""

    name: str
    at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Ran:
    """What is known about a run: the one that is drawn, or one that it started."""

    run_id: str
    agent: str
    status: str
    created_at: datetime
    started_at: datetime | None
    ended_at: datetime | None
    duration_seconds: float | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None
    cost: float | None = None
    error: str | None = None


@dataclass(slots=True)
class _Axis:
    """Converts seconds of the run to percent of it."""

    start: datetime
    seconds: float
    off: float = 0.0
    """How far something lay outside the run."""

    def at(self, when: datetime) -> float:
        """The second of the run at which something was, limited to the run."""
        second = (when - self.start).total_seconds()
        self.off = max(self.off, -second, second - self.seconds)
        return min(max(second, 0.0), self.seconds)

    def percent(self, seconds: float) -> float:
        return round(min(max(100 * seconds / self.seconds, 0.0), 100.0), 3)

    def span(self, at: float, seconds: float) -> Span:
        left = self.percent(at)
        return Span(left=left, width=round(min(self.percent(at + seconds), 100.0) - left, 3))


def timeline_of(
    run: Ran,
    *,
    calls: Sequence[Any] = (),
    children: Sequence[Ran] = (),
    events: Sequence[Happened] = (),
    costs: Mapping[str, float | None] | None = None,
    now: datetime,
    most: int | None = MOST_ROWS,
) -> Timeline:
    """The rows of a run.

    Args:
        run: the run.
        calls: as its last event lists them (`completion_data.calls`); anything that is not a call is left out.
        children: the runs that it started.
        events: its first events.
        costs: what each caller cost, in US dollars.
        now: until when a run that goes on is drawn.
        most: the most rows; None: all.
    """
    axis = _axis_of(run, now)
    known = [call for call in map(_call_of, calls) if call is not None]
    child_rows = [_child(child, axis, now) for child in children]
    drawn = [replace(call, row=_with_span(call.row, axis)) for call in known]
    rows = _merged(_nested(drawn, costs or {}, axis), child_rows)
    idle, gaps = _idle([*(call.row for call in known), *child_rows], axis)
    top = _run_row(run, axis, gaps)
    lines = [*_wait(run), top, *_event_row(events, axis), *rows]
    shown = lines if most is None else lines[:most]
    return Timeline(
        seconds=axis.seconds,
        rows=tuple(shown),
        ticks=ticks_of(axis.seconds),
        omitted=len(lines) - len(shown),
        idle_seconds=idle,
        notes=_notes(run, axis),
    )


def ticks_of(seconds: float) -> tuple[Tick, ...]:
    """Where the axis has its lines: at round times, the first at 0, and never more than fit."""
    step = _step(seconds / _MOST_TICKS)
    number = math.floor(seconds / step + 1e-9)
    return tuple(
        Tick(left=round(100 * one * step / seconds, 3), label=_label(one * step, step, seconds))
        for one in range(number + 1)
    )


def _step(least: float) -> float:
    """The round time that is not shorter than this."""
    for unit, sizes in ((1.0, (1, 2, 5, 10, 15, 30)), (60.0, (1, 2, 5, 10, 15, 30)), (3_600.0, (1, 2, 3, 6, 12))):
        if unit == 1.0 and least < 1.0:
            power = 10.0 ** math.floor(math.log10(least))
            return next(power * one for one in (1, 2, 5, 10) if power * one >= least * (1 - 1e-9))
        for size in sizes:
            if size * unit >= least:
                return size * unit
    return 86_400.0 * math.ceil(least / 86_400.0)


def _label(at: float, step: float, seconds: float) -> str:
    """A time on the axis: if a step is below a minute, in the unit of the whole, otherwise in the unit of the step."""
    if at == 0:
        return "0"
    if step < 60:
        return f"{at:.6g} s" if seconds >= 1 else f"{at * 1_000:.6g} ms"
    size, name = next((size, name) for size, name in ((86_400.0, "d"), (3_600.0, "h"), (60.0, "min")) if step >= size)
    return f"{at / size:.6g} {name}"


@dataclass(frozen=True, slots=True)
class _Call:
    row: Row
    caller: str


def _call_of(said: Any) -> _Call | None:
    kind = _KINDS.get(str(said.get("kind"))) if isinstance(said, Mapping) else None
    if kind is None:
        return None
    at, seconds = _seconds(said.get("at")), _seconds(said.get("seconds"))
    error = said.get("error_type")
    row = Row(
        kind=kind,
        name=str(said.get("name") or "?"),
        at=at or 0.0,
        seconds=seconds or None,  # 0: reported afterwards, without its duration
        input_tokens=_whole(said.get("input_tokens")),
        output_tokens=_whole(said.get("output_tokens")),
        error=None if error is None else str(error),
    )
    return _Call(row, str(said.get("caller") or LEAD))


def _seconds(said: Any) -> float | None:
    return float(said) if isinstance(said, int | float) and math.isfinite(said) and said >= 0 else None


def _whole(said: Any) -> int | None:
    return said if type(said) is int else None


def _axis_of(run: Ran, now: datetime) -> _Axis:
    start = run.started_at or run.created_at
    if run.duration_seconds is not None:
        seconds = run.duration_seconds
    elif run.started_at is None and run.ended_at is None:
        seconds = (now - run.created_at).total_seconds()
    else:
        seconds = ((run.ended_at or now) - start).total_seconds()
    return _Axis(start, max(seconds, 1e-4))


def _with_span(row: Row, axis: _Axis) -> Row:
    return replace(row, span=axis.span(row.at, row.seconds or 0.0))


def _child(child: Ran, axis: _Axis, now: datetime) -> Row:
    at = axis.at(child.started_at or child.created_at)
    until = axis.at(child.ended_at or now)
    length = max(until - at, 0.0)
    seconds = child.duration_seconds if child.duration_seconds is not None else length
    return Row(
        kind="child",
        name=child.agent,
        depth=1,
        at=at,
        seconds=seconds,
        span=axis.span(at, length),
        input_tokens=child.input_tokens,
        output_tokens=child.output_tokens,
        cost=child.cost,
        error=child.error,
        status=child.status,
        run_id=child.run_id,
        goes_on=child.ended_at is None,
    )


def _run_row(run: Ran, axis: _Axis, gaps: tuple[Span, ...]) -> Row:
    return Row(
        kind="run",
        name=run.agent,
        seconds=axis.seconds,
        span=Span(left=0.0, width=100.0),
        input_tokens=run.input_tokens,
        output_tokens=run.output_tokens,
        cost=run.cost,
        error=run.error,
        status=run.status,
        goes_on=run.ended_at is None,
        gaps=gaps,
    )


def _wait(run: Ran) -> list[Row]:
    """How long the run waited before it started; only stated, not drawn, as it may be a thousand times as long."""
    waited = 0.0 if run.started_at is None else (run.started_at - run.created_at).total_seconds()
    if waited < WAIT_SECONDS:
        return []
    return [Row(kind="wait", name="waited to start", at=-waited, seconds=waited, note="before the time that is drawn")]


def _event_row(events: Sequence[Happened], axis: _Axis) -> list[Row]:
    marks = [(event.name, axis.at(event.at)) for event in events[:MOST_MARKS]]
    if not marks:
        return []
    shown = tuple(Mark(left=axis.percent(at), name=name, at=at) for name, at in marks)
    return [Row(kind="events", name="events", depth=1, marks=shown, note=f"{len(events)}")]


@dataclass(slots=True)
class _Tree:
    """The calls, by caller."""

    by_caller: dict[str, list[Row]]
    costs: Mapping[str, float | None]
    axis: _Axis
    placed: set[str] = field(default_factory=lambda: {LEAD})
    """The callers whose calls have their place."""

    def below(self, caller: str, depth: int) -> list[Row]:
        """What a caller called, and below each agent what it did."""
        rows: list[Row] = []
        for row in sorted(self.by_caller[caller], key=lambda one: one.at):
            name = row.name
            if row.kind != "invoke_agent" or name in self.placed or name not in self.by_caller:
                rows.append(replace(row, depth=depth))
                continue
            self.placed.add(name)
            rows.append(replace(row, depth=depth, cost=self.costs.get(name)))
            rows += self.below(name, depth + 1)
        return rows

    def group(self, caller: str) -> list[Row]:
        """The calls of a caller that nothing is known to have called, below a row of its own."""
        self.placed.add(caller)
        calls = self.by_caller[caller]
        at = min(row.at for row in calls)
        seconds = max(row.at + (row.seconds or 0.0) for row in calls) - at
        head = Row(
            kind="caller",
            name=caller,
            depth=1,
            at=at,
            seconds=seconds,
            span=self.axis.span(at, seconds),
            input_tokens=_sum(row.input_tokens for row in calls),
            output_tokens=_sum(row.output_tokens for row in calls),
            cost=self.costs.get(caller),
        )
        return [head, *self.below(caller, 2)]


def _nested(calls: Sequence[_Call], costs: Mapping[str, float | None], axis: _Axis) -> list[Row]:
    by_caller: dict[str, list[Row]] = defaultdict(list)
    for call in calls:
        by_caller[call.caller].append(call.row)
    tree = _Tree(by_caller, costs, axis)
    blocks = _blocks(tree.below(LEAD, 1)) if LEAD in by_caller else []
    invoked = {row.name for rows in by_caller.values() for row in rows if row.kind == "invoke_agent"}
    # Callers that nothing is known to have called come first: they may lead to the others. What is left forms cycles.
    callers = sorted(by_caller, key=lambda name: (name in invoked, min(row.at for row in by_caller[name])))
    blocks.extend(tree.group(caller) for caller in callers if caller not in tree.placed)  # `group` adds to it
    return [row for block in sorted(blocks, key=lambda block: block[0].at) for row in block]


def _blocks(rows: Sequence[Row]) -> list[list[Row]]:
    """Each row of the first depth with the rows below it."""
    blocks: list[list[Row]] = []
    for row in rows:
        if row.depth == 1:
            blocks.append([row])
        else:
            blocks[-1].append(row)
    return blocks


def _merged(rows: Sequence[Row], children: Sequence[Row]) -> list[Row]:
    blocks = sorted([*_blocks(rows), *([row] for row in children)], key=lambda block: block[0].at)
    return [row for block in blocks for row in block]


def _sum(numbers: Any) -> int | None:
    known = [number for number in numbers if number is not None]
    return sum(known) if known else None


def _idle(rows: Sequence[Row], axis: _Axis) -> tuple[float | None, tuple[Span, ...]]:
    """How long nothing was called, and where the long gaps were; None and nothing if calls were not timed."""
    timed = sorted((row.at, min(row.at + row.seconds, axis.seconds)) for row in rows if row.seconds)
    if not timed:
        return None, ()
    gaps: list[tuple[float, float]] = []
    reached = 0.0
    for at, until in [*timed, (axis.seconds, axis.seconds)]:
        if at > reached:
            gaps.append((reached, at))
        reached = max(reached, until)
    long = [(at, until) for at, until in gaps if until - at >= _GAP_SHARE * axis.seconds]
    return sum(until - at for at, until in gaps), tuple(axis.span(at, until - at) for at, until in long)


def _notes(run: Ran, axis: _Axis) -> tuple[str, ...]:
    notes = []
    order = [when for when in (run.created_at, run.started_at, run.ended_at) if when is not None]
    if order != sorted(order):
        notes.append("The run's own times are not in order: the clock of a machine was off, or was set meanwhile.")
    if axis.off > max(_OFF_SECONDS, 0.01 * axis.seconds):
        notes.append(
            f"Something is recorded as having been {axis.off:.1f} s outside the run, and is drawn at its edge: "
            "the clock of a machine is off."
        )
    return tuple(notes)
