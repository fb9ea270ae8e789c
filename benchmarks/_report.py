"""What a benchmark says: a table and its budgets on the screen, as JSON, and in the README of this folder."""

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

from _rounds import Clock, Effort, Race, Spread

type Measure = Clock | Literal["memory"]

HERE = Path(__file__).parent
README = HERE / "README.md"
RESULTS = HERE / "results"
QUICK = Effort(rounds=2, seconds=0.001)
CLOCKS: Mapping[Clock, str] = {"cpu": "CPU time", "wall": "wall clock"}
MEASURES: Mapping[Measure, str] = {"cpu": "CPU time", "wall": "wall clock", "memory": "resident memory"}


@dataclass(frozen=True, slots=True)
class Options:
    """What the command line asked for. `results` is None where no JSON is wanted."""

    effort: Effort
    quick: bool
    results: Path | None
    write: bool
    load: float
    """Of the machine in the minute before, in processes."""
    given: argparse.Namespace
    """All of it, for what a benchmark takes besides."""


@dataclass(frozen=True, slots=True)
class Budget:
    """A figure that we want to keep, and what it is by each clock, or by another measure."""

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
        """Whether both clocks say so."""
        return all(value <= self.limit if self.at_most else value >= self.limit for value in self.measured.values())

    def __str__(self) -> str:
        values = ", ".join(f"{_number(value)} by {MEASURES[measure]}" for measure, value in self.measured.items())
        if self.met:
            return f"met: {self.what}: {values}"
        worst = (max if self.at_most else min)(self.measured.values())
        return f"**missed by {abs(1 - worst / self.limit):.0%}**: {self.what}: {values}"


@dataclass(frozen=True, slots=True)
class Report:
    """A benchmark that has run.

    `packages` are those whose version matters for its figures, `extra` is what only its JSON has.
    """

    name: str
    unit: str
    race: Race
    tables: Sequence[str]
    budgets: Sequence[Budget] = ()
    packages: Sequence[str] = ()
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
        "--results", type=Path, metavar="DIR", help="where the JSON goes; benchmarks/results, and of --quick nowhere"
    )
    parser.add_argument("--write", action="store_true", help="put the table into benchmarks/README.md")
    given = parser.parse_args()
    if given.quick and given.write:
        parser.error("--quick measures nothing worth writing down")
    if given.rounds is not None and given.rounds < 2:
        parser.error("--rounds: two rounds at least make a spread")
    seconds, rounds = (QUICK.seconds, QUICK.rounds) if given.quick else (effort.seconds, effort.rounds)
    return Options(
        effort=Effort(rounds=given.rounds or rounds, seconds=seconds),
        quick=given.quick,
        results=given.results or (None if given.quick else RESULTS),
        write=given.write,
        load=round(os.getloadavg()[0], 2),
        given=given,
    )


def publish(report: Report, options: Options) -> None:
    """Print the report, and write it where the options say."""
    facts = {**machine(report.packages), "load": options.load}
    text = _text(report, facts, options.effort)
    print(text)
    if options.results is not None:
        options.results.mkdir(parents=True, exist_ok=True)
        path = options.results / f"{report.name}.json"
        path.write_text(_as_json(report, facts, options))
    if options.write:
        README.write_text(with_block(README.read_text(), report.name, text))


def table(header: Sequence[str], rows: Iterable[Sequence[str]], *, words: Collection[int] = (0,)) -> str:
    """A Markdown table whose columns are aligned, so that it reads well on a screen, too.

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
    """How many times as much, in as many digits as matter."""
    return f"{ratio:.0f}" if ratio >= 20 else f"{ratio:.1f}" if ratio >= 2 else f"{ratio:.2f}"


def with_block(readme: str, name: str, text: str) -> str:
    """The README with a new text between the markers of a benchmark.

    Raises:
        ValueError: it has no such markers.
    """
    opening, closing = f"<!-- {name} -->\n", f"<!-- /{name} -->"
    before, found, rest = readme.partition(opening)
    _, ended, after = rest.partition(closing)
    if not (found and ended):
        raise ValueError(f"{README.name} has no place for {name}: add {opening.strip()} and {closing}")
    return f"{before}{opening}{text}\n{closing}{after}"


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
    return "\n\n".join([*report.tables, *([budgets] if budgets else []), _footnote(facts, effort)])


def _footnote(facts: Mapping[str, object], effort: Effort) -> str:
    packages = facts["packages"]
    versions = ", ".join(f"{name} {number}" for name, number in packages.items()) if isinstance(packages, dict) else ""
    return (
        f"{effort.rounds} interleaved rounds; median (quartiles). {facts['python']} on {facts['cores']} cores of "
        f"{facts['cpu']}, load {facts['load']}{versions and f'; {versions}'}; commit {facts['commit']}."
    )


def _as_json(report: Report, facts: Mapping[str, object], options: Options) -> str:
    head = {
        "benchmark": report.name,
        "quick": options.quick,
        "measured_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "effort": asdict(options.effort),
        "machine": facts,
        "unit": report.unit,
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
    # A line for each contender: what changed from one measurement to the next can be read in a diff.
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
    """The commit that is measured, with a + where what is measured was changed since; None outside a checkout."""
    try:
        commit = _git("rev-parse", "--short", "HEAD")
        changed = _git("status", "--porcelain", "--", "src", "benchmarks/*.py")
    except (OSError, subprocess.CalledProcessError):
        return None
    return f"{commit}+" if changed else commit


def _git(*arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=HERE.parent, check=True, capture_output=True, text=True)
    return done.stdout.strip()
