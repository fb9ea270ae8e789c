"""What a benchmark reports: its tables and budgets on the screen, and everything that it measured as JSON.

The report in this folder is made from that JSON (`_page.py`).
"""

import argparse
import json
import os
import platform
import subprocess
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Literal

from _rounds import Clock, Contender, Effort, Race, Spread

type Measure = Clock | Literal["memory", "instructions"]

HERE = Path(__file__).parent
RESULTS = HERE / "results"
PARTIAL = ("capacity", "compare", "database", "events", "filled", "only")
"""Options with which a benchmark measures something other than its published figures."""
QUICK = Effort(rounds=2, seconds=0.001)
CLOCKS: Mapping[Clock, str] = {"cpu": "CPU time", "wall": "wall clock"}
MEASURES: Mapping[Measure, str] = {
    "cpu": "CPU time",
    "wall": "wall clock",
    "memory": "resident memory",
    "instructions": "instructions",
}


@dataclass(frozen=True, slots=True)
class Options:
    """What the command line asked for. `results` is None without JSON; `about` is the benchmark in a sentence."""

    about: str
    effort: Effort
    quick: bool
    results: Path | None
    load: float
    """The machine's load in the minute before, in processes."""
    given: argparse.Namespace
    """The whole command line, for options that a benchmark adds."""


@dataclass(frozen=True, slots=True)
class Budget:
    """A figure that we want to keep, and its value by each clock, or by another measure."""

    what: str
    limit: float
    measured: Mapping[Measure, float]
    at_most: bool = False

    @classmethod
    def of(cls, what: str, limit: float, measure: Callable[[Clock], Spread], *, at_most: bool = False) -> "Budget":
        """A budget for a median."""
        return cls(what, limit, {clock: measure(clock).median for clock in CLOCKS}, at_most)

    @property
    def met(self) -> bool:
        """Whether every measure is within the limit."""
        return all(value <= self.limit if self.at_most else value >= self.limit for value in self.measured.values())

    def __str__(self) -> str:
        values = ", ".join(f"{_number(value)} by {MEASURES[measure]}" for measure, value in self.measured.items())
        if self.met:
            return f"met: {self.what}: {values}"
        return f"**missed by {abs(1 - self.worst / self.limit):.0%}**: {self.what}: {values}"

    @property
    def worst(self) -> float:
        """The value that is least within the limit."""
        return (max if self.at_most else min)(self.measured.values())


@dataclass(frozen=True, slots=True)
class Bars:
    """A plot of one figure of several contenders: low, median and high of each; `limit` is a budget."""

    title: str
    unit: str
    bars: Mapping[str, tuple[float, float, float]]
    limit: float | None = None


@dataclass(frozen=True, slots=True)
class Lines:
    """A plot of how a figure of several contenders depends on another, as points (x, y); `limit` is a budget."""

    title: str
    x: str
    y: str
    lines: Mapping[str, Sequence[tuple[float, float]]]
    limit: float | None = None
    logarithmic: bool = False


type Plot = Bars | Lines


@dataclass(frozen=True, slots=True)
class Report:
    """A benchmark that has run.

    `ours` are the contenders that are Trackside, `plots` replaces the plot of the contenders' wall clock, `packages`
    are those whose version matters for the figures, `how` says how it was measured if not in interleaved rounds, and
    `extra` is what only the JSON has.
    """

    name: str
    unit: str
    race: Race
    tables: Sequence[str]
    budgets: Sequence[Budget] = ()
    ours: Sequence[str] = ()
    plots: Sequence[Plot] = ()
    packages: Sequence[str] = ()
    how: str = ""
    extra: Mapping[str, object] = field(default_factory=dict)


def options_of(
    description: str | None, effort: Effort, *, more: Callable[[argparse.ArgumentParser], object] | None = None
) -> Options:
    """Read the command line; `effort` is what a real measurement takes, `more` adds arguments."""
    parser = argparse.ArgumentParser(description=description)
    if more is not None:
        more(parser)
    parser.add_argument("--quick", action="store_true", help="see whether it works; the figures mean nothing")
    parser.add_argument("--rounds", type=int, metavar="N", help=f"instead of {effort.rounds}, at least 2")
    parser.add_argument(
        "--results",
        type=Path,
        metavar="DIR",
        help="where the JSON goes; benchmarks/results, and nowhere if it is not all that is measured, or --quick",
    )
    given = parser.parse_args()
    if given.rounds is not None and given.rounds < 2:
        parser.error("--rounds: two rounds at least make a spread")
    seconds, rounds = (QUICK.seconds, QUICK.rounds) if given.quick else (effort.seconds, effort.rounds)
    return Options(
        about=(description or "").splitlines()[0].rstrip("."),
        effort=Effort(rounds=given.rounds or rounds, seconds=seconds),
        quick=given.quick,
        results=given.results
        or (None if given.quick or any(getattr(given, name, None) for name in PARTIAL) else RESULTS),
        load=round(os.getloadavg()[0], 2),
        given=given,
    )


def publish(report: Report, options: Options) -> None:
    """Print the report, and write it where the options say."""
    facts = {**machine(report.packages), "load": options.load}
    print(_text(report, facts, options.effort))
    if options.results is not None:
        options.results.mkdir(parents=True, exist_ok=True)
        path = options.results / f"{report.name}.json"
        path.write_text(_as_json(report, facts, options))


def table(header: Sequence[str], rows: Iterable[Sequence[str]], *, words: Collection[int] = (0,)) -> str:
    """A Markdown table with aligned columns, so that it reads well on a screen, too.

    `words` are the columns that hold words; the others hold figures.
    """
    lines = [list(header), *map(list, rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    rule = ["-" * width if i in words else "-" * (width - 1) + ":" for i, width in enumerate(widths)]
    aligned = [
        [cell.ljust(widths[i]) if i in words else cell.rjust(widths[i]) for i, cell in enumerate(line)]
        for line in lines
    ]
    return "\n".join(f"| {' | '.join(line)} |" for line in [aligned[0], rule, *aligned[1:]])


def figure(spread: Spread, *, digits: int = 0) -> str:
    """A median between its quartiles, as `102 (99–108)`."""
    low, median, high = (f"{value:,.{digits}f}" for value in (spread.low, spread.median, spread.high))
    return f"{median} ({low}–{high})"


def times(ratio: float) -> str:
    """A multiple, in as many digits as matter."""
    return f"{ratio:.0f}" if ratio >= 20 else f"{ratio:.1f}" if ratio >= 2 else f"{ratio:.2f}"


def rate_and_cpu(race: Race, way: Contender, *, digits: int = 1) -> list[str]:
    """Two cells of a table: the rate in a second by wall clock, and microseconds of CPU time."""
    return [figure(race.rate(way, "wall")), figure(race.cost(way, "cpu").scaled(1e-3), digits=digits)]


def rate_beside(race: Race, way: Contender, other: Contender) -> list[str]:
    """Two cells of a table: how many times the other's rate, by wall clock and by CPU time."""
    return [times(race.ratio(other, way, clock).median) for clock in ("wall", "cpu")]


def machine(packages: Sequence[str]) -> dict[str, object]:
    """What the figures depend on, without saying whose machine it is."""
    return {
        "cpu": _cpu(),
        "cores": os.cpu_count(),
        "system": platform.system(),
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "packages": {package: version(package) for package in packages},
        "commit": _commit(),
    }


def _text(report: Report, facts: Mapping[str, object], effort: Effort) -> str:
    budgets = "\n".join(f"* {budget}" for budget in report.budgets)
    return "\n\n".join([*report.tables, *([budgets] if budgets else []), footnote(facts, _how(report, effort))])


def _how(report: Report, effort: Effort) -> str:
    return report.how or f"{effort.rounds} interleaved rounds; median (quartiles)."


def footnote(facts: Mapping[str, object], how: str) -> str:
    """On which machine and how it was measured."""
    packages = facts["packages"]
    versions = ", ".join(f"{name} {number}" for name, number in packages.items()) if isinstance(packages, dict) else ""
    return (
        f"{how} {facts['python']} on {facts['cores']} cores of "
        f"{facts['cpu']}, load {facts['load']}{versions and f'; {versions}'}; commit {facts['commit']}."
    )


def _as_json(report: Report, facts: Mapping[str, object], options: Options) -> str:
    head = {
        "benchmark": report.name,
        "about": options.about,
        "quick": options.quick,
        "measured_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "effort": asdict(options.effort),
        "how": _how(report, options.effort),
        "machine": facts,
        "unit": report.unit,
        "ours": [*report.ours],
        "tables": [each.splitlines() for each in report.tables],
        "plots": [{"kind": type(plot).__name__.lower()} | asdict(plot) for plot in report.plots],
        "budgets": [asdict(budget) | {"met": budget.met} for budget in report.budgets],
        **report.extra,
    }
    contenders = [
        {
            "case": contender.case,
            "name": contender.name,
            **{clock: asdict(report.race.cost(contender, clock)) for clock in CLOCKS},
            "rounds": {clock: [round(cost.by(clock), 1) for cost in costs] for clock in CLOCKS},
        }
        for contender, costs in report.race.costs.items()
    ]
    # One line for each contender, so that a diff shows what changed from one measurement to the next.
    lines = ",\n  ".join(json.dumps(contender, ensure_ascii=False) for contender in contenders)
    return f'{json.dumps(head, indent=1, ensure_ascii=False)[:-2]},\n "contenders": [\n  {lines}\n ]\n}}\n'


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.2f}"


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.machine()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


def _commit() -> str | None:
    """The commit that is measured, with a + if the measured code was changed since; None outside a checkout."""
    try:
        commit = _git("rev-parse", "--short", "HEAD")
        changed = _git("status", "--porcelain", "--", "src", "benchmarks/*.py")
    except (OSError, subprocess.CalledProcessError):
        return None
    return f"{commit}+" if changed else commit


def _git(*arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=HERE.parent, check=True, capture_output=True, text=True)
    return done.stdout.strip()
