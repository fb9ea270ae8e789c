"""Makes the report from the results alone: `REPORT.md`, with a plot of each benchmark beside it in `plots/`."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Final

import _plots
from _lines import LINES, Line, said
from _report import HERE, RESULTS, footnote, table
from _results import Result, benchmarks, commits, read

_HEAD: Final = """\
# Report

This page has every benchmark's figures, beside other software that does the same work. `./scripts/bench report` makes it
from what is in `results/`; `./scripts/bench all` measures everything again, and then makes it. [The README](README.md) says
what each benchmark does, and how it is measured."""


def write_report(results: Path) -> Path:
    """Write the report of the results in a folder; returns its path.

    The report of `benchmarks/results` is `benchmarks/REPORT.md`; that of any other folder goes into the folder itself.
    """
    folder = HERE if results.resolve() == RESULTS else results
    found = read(results)
    plots = folder / "plots"
    plots.mkdir(exist_ok=True)
    for old in plots.glob("*.svg"):
        old.unlink()
    for result in found.values():
        if drawn := result.plots:
            (plots / f"{result.name}.svg").write_text(_plots.svg(drawn, result.written["ours"]), encoding="utf-8")
    path = folder / "REPORT.md"
    path.write_text(page(found), encoding="utf-8")
    return path


def page(results: Mapping[str, Result]) -> str:
    """The text of the report."""
    names = dict.fromkeys([*(line.benchmark for line in LINES if line.benchmark in results), *results])
    sections = [_section(results[name]) for name in names]
    return "\n\n".join([_HEAD, *_measured_on([*results.values()]), *_budgets(results), *sections]) + "\n"


def _measured_on(results: Sequence[Result]) -> Iterable[str]:
    """When, at which commit and on which machine each was measured."""
    yield "## What was measured, and when"
    by_commit = commits(results)
    if len(by_commit) > 1:
        yield (
            f"**These results are of {len(by_commit)} different commits**, and of different hours of a machine: compare"
            " figures within a benchmark, whose contenders take turns, rather than between two of them."
        )
    if any(commit.endswith("+") for commit in by_commit):
        yield "A `+` behind a commit: the code was not quite that of the commit."
    rows = [
        [
            f"[`{result.name}`](#{result.name})",
            f"`{result.machine['commit']}`",
            str(result.written["measured_at"])[:16].replace("T", " "),
            f"{result.written['effort']['rounds']}",
            str(result.machine["python"]),
            f"{result.machine['cores']} × {result.machine['cpu']}",
            f"{result.machine['load']}",
        ]
        for result in results
    ]
    header = ["benchmark", "commit", "UTC", "rounds", "Python", "cores", "load before"]
    yield table(header, rows, words=(0, 1, 2, 4, 5))
    if notes := [f"* `{result.name}`: {note}" for result in results for note in result.written.get("notes", [])]:
        yield "### What could not be measured"
        yield "\n".join(notes)
    measured = {result.name for result in results}
    if missing := [f"`./scripts/bench {name}`" for name in benchmarks() if name not in measured]:
        yield f"Not measured yet: {', '.join(missing)}."


def _budgets(results: Mapping[str, Result]) -> Iterable[str]:
    """The table of all lines."""
    yield "## Budgets"
    yield (
        "*Reached* is the figure that is compared with the budget; where both CPU time and wall clock are measured, it is"
        " the worse of the two. All figures are medians of the rounds."
    )
    header = ["work", "budget", "reached", "", "Trackside", "beside it", "command"]
    yield table(header, [_row(line, results.get(line.benchmark)) for line in LINES], words=(0, 1, 3, 4, 5, 6))
    reasons = [
        f"* {line.work} ({line.budget}): {line.reason(results[line.benchmark])}."
        for line in LINES
        if line.benchmark in results and any(not one.met for one in line.budgets_in(results[line.benchmark]))
    ]
    if reasons:
        yield "### Why some are missed"
        yield "\n".join(reasons)


def _row(line: Line, result: Result | None) -> list[str]:
    command = f"`{line.command}`"
    budgets = [] if result is None else line.budgets_in(result)
    if result is None or not budgets:
        return [line.work, line.budget, "", "not measured", "", "", command]
    missed = [abs(1 - one.worst / one.limit) for one in budgets if not one.met]
    of = f" ({len(missed)} of {len(budgets)})" if len(budgets) > 1 else ""
    return [
        line.work,
        line.budget,
        " / ".join(said(one.worst) for one in budgets),
        f"**missed by {max(missed):.0%}**{of}" if missed else "met",
        "<br>".join(line.ours(result)),
        "<br>".join(line.peers(result)),
        command,
    ]


def _section(result: Result) -> str:
    parts = [f"## {result.name}", f"{result.about}.", f"`./scripts/bench {result.name}`"]
    if result.plots:
        parts.append(f"![{result.name}: {result.about}](plots/{result.name}.svg)")
    parts += result.tables
    if result.budgets:
        parts.append("\n".join(f"* {budget}" for budget in result.budgets))
    if any(not budget.met for budget in result.budgets):
        parts.append("[The README](README.md) says what is known about missed budgets.")
    parts.append(footnote(result.machine, result.written["how"]))
    return "\n\n".join(parts)
