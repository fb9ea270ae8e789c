"""The report shows all that every benchmark has measured, and is made only of what the benchmarks wrote down."""

import ast
import importlib
import json
import re
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
RESULTS = BENCHMARKS / "results"
REPORT = BENCHMARKS / "REPORT.md"
NAMES = sorted(path.stem.removeprefix("serve_") for path in BENCHMARKS.glob("[a-z]*.py"))
MEASURED = [name for name in NAMES if (RESULTS / f"{name}.json").exists()]
SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture(autouse=True)
def modules(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(BENCHMARKS)


def module(name: str) -> ModuleType:
    return importlib.import_module(name)


def runner(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, BENCHMARKS / "_run.py", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd="/")


def test_committed_report_is_that_of_the_committed_results() -> None:
    assert module("_page").page(module("_results").read(RESULTS)) == REPORT.read_text()


@pytest.mark.long
def test_committed_plots_are_those_of_the_committed_results(tmp_path: Path) -> None:
    for path in RESULTS.glob("*.json"):
        shutil.copy(path, tmp_path)
    assert module("_page").write_report(tmp_path) == tmp_path / "REPORT.md"
    assert (tmp_path / "REPORT.md").read_text() == REPORT.read_text()
    drawn, committed = plots_in(tmp_path), plots_in(BENCHMARKS)
    assert drawn.keys() == committed.keys()
    for name, (what, places) in drawn.items():
        assert what == committed[name][0], name
        # Places are rounded, and differ between processors.
        assert places == pytest.approx(committed[name][1], abs=0.015), name


def plots_in(folder: Path) -> dict[str, tuple[list[str], list[float]]]:
    """The contents of each plot: everything except the numbers, and the numbers."""
    number = re.compile(r"\d+(?:\.\d+)?")
    drawn = {path.name: path.read_text(encoding="utf-8") for path in (folder / "plots").iterdir()}
    return {name: (number.split(plot), [*map(float, number.findall(plot))]) for name, plot in drawn.items()}


@pytest.mark.parametrize("name", MEASURED)
def test_every_benchmark_has_a_section_with_its_figures_and_a_plot_with_its_contenders(name: str) -> None:
    written = json.loads((RESULTS / f"{name}.json").read_text())
    report = REPORT.read_text()

    section = report.partition(f"\n## {name}\n")[2].partition("\n## ")[0]

    assert "\n| -" in section
    assert all("\n".join(lines) in section for lines in written["tables"])
    assert all(budget["what"] in section for budget in written["budgets"])
    assert f"`./scripts/bench {name}`" in section
    assert f"commit {written['machine']['commit']}" in section
    assert f"(plots/{name}.svg)" in section
    plot = ET.parse(BENCHMARKS / "plots" / f"{name}.svg")
    texts = {"".join(text.itertext()) for text in plot.iter(f"{SVG}text")}
    drawn = [plot.get("bars", plot.get("lines")) for plot in written["plots"]]
    expected = {label for one in drawn for label in one} or {way["name"] for way in written["contenders"]}
    assert expected
    assert expected <= texts


def test_plots_say_no_date_and_no_version_and_follow_the_colours_of_the_page() -> None:
    for path in (BENCHMARKS / "plots").iterdir():
        text = path.read_text()
        assert "<dc:date>" not in text
        assert "matplotlib.org" not in text
        assert "prefers-color-scheme" in text
        assert "fill: currentColor" in text
        assert len(text) < (400_000 if path.stem == "growth" else 200_000)  # growth has a panel per group of lines


def test_every_line_of_the_budget_is_in_the_report_with_figures_and_a_command_that_exists() -> None:
    lines = module("_lines").LINES
    table = REPORT.read_text().partition("\n## Budgets\n")[2].partition("\n## ")[0]

    for line in lines:
        (row,) = [
            cells
            for cells in ([cell.strip() for cell in row.split(" | ")] for row in table.splitlines())
            if cells[0] == f"| {line.work}" and cells[1] == line.budget
        ]
        assert line.benchmark in NAMES
        if line.benchmark in MEASURED:
            assert row[2]
            assert row[3] == "met" or row[3].startswith("**missed by ")
            assert row[4]
        else:
            assert row[3] == "not measured"
        assert row[-1].startswith(f"`./scripts/bench {line.benchmark}`")


@pytest.mark.parametrize("typed", ["--quick", "--only checkpoints", "--only=checkpoints", "--events 5", "--filled"])
def test_what_measures_something_else_is_not_published(typed: str, tmp_path: Path) -> None:
    results_of = module("_run").results_of
    assert results_of(typed.split()) is None
    assert results_of([*typed.split(), "--results", str(tmp_path)]) == tmp_path
    assert results_of(["--rounds", "31"]) == results_of([]) == RESULTS


def test_figures_that_cannot_be_compared_are_told_from_worse_ones_and_change_no_report(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))  # there is no valgrind here
    written = REPORT.stat().st_mtime_ns

    done = runner("instructions", "--", "--compare")

    assert done.returncode == 2, done.stderr
    assert "valgrind is not installed" in done.stderr
    assert REPORT.stat().st_mtime_ns == written


def test_a_line_that_was_not_measured_says_so() -> None:
    page = module("_page")
    line = module("_lines").LINES[0]

    assert page._row(line, None) == [line.work, line.budget, "", "not measured", "", "", f"`{line.command}`"]


def test_a_benchmark_that_was_not_measured_is_said_not_to_be() -> None:
    results = module("_results").read(RESULTS)
    without = {name: result for name, result in results.items() if name != "read"}

    report = module("_page").page(without)

    (said,) = [line for line in report.splitlines() if line.startswith("Not measured yet: ")]
    unmeasured = [name for name in NAMES if name not in without]
    assert said == f"Not measured yet: {', '.join(f'`./scripts/bench {name}`' for name in unmeasured)}."
    assert "read" in unmeasured
    assert "\n## read\n" not in report


def test_a_missed_budget_is_said_with_by_how_much_and_why() -> None:
    line = module("_lines").LINES[0]
    written = json.loads((RESULTS / f"{line.benchmark}.json").read_text())
    for budget in written["budgets"]:
        budget["measured"] = {"cpu": budget["limit"] * (1.5 if budget["at_most"] else 0.5)}

    report = module("_page").page({line.benchmark: module("_results").Result(written)})

    assert "**missed by 50%** (3 of 3)" in report
    assert f"* {line.work} ({line.budget}): {line.why}." in report


def test_results_of_different_commits_are_said_to_be() -> None:
    def result(name: str, commit: str) -> Any:
        written = json.loads((RESULTS / f"{name}.json").read_text())
        written["machine"]["commit"] = commit
        return module("_results").Result(written)

    page = module("_page").page

    assert "2 different commits" in page({"live": result("live", "abc"), "read": result("read", "def")})
    assert "different commits" not in page({"live": result("live", "abc"), "read": result("read", "abc")})


def test_one_benchmark_that_fails_does_not_stop_the_others(tmp_path: Path) -> None:
    done = runner("read", "import_time", "--", "--quick", "--rounds", "2", "--results", tmp_path, "--events", "5")

    # Neither takes --events: both failed, so the second was tried.
    assert done.returncode == 1
    assert "bench: read failed: exit code 2" in done.stderr
    assert "bench: import_time failed: exit code 2" in done.stderr

    assert runner("import_time", "--", "--quick", "--results", tmp_path).returncode == 0
    assert "## import_time" in (tmp_path / "REPORT.md").read_text()


def test_all_benchmarks_are_found_and_none_that_is_not_there_is_run() -> None:
    listed = runner()
    assert [line.split()[0] for line in listed.stdout.splitlines()] == [*NAMES, "all", "report"]
    assert all(ast.get_docstring(ast.parse(path.read_text())) for path in BENCHMARKS.glob("[a-z]*.py"))

    unknown = runner("dispatch", "dispach")
    assert unknown.returncode == 2
    assert "there is no benchmark “dispach”" in unknown.stderr


NAME = "CompositeObserver.on_event, 1 observer"


@pytest.mark.parametrize(
    ("counted", "code", "said"),
    [
        (1_019.0, 0, "Nothing is further above instructions.json than it allows"),
        (
            1_030.0,
            1,
            "1 observer takes 1,030 instructions, 3.0% more than the 1,000 of instructions.json, which allows 2%",
        ),
    ],
)
def test_more_instructions_than_in_the_baseline_fail(counted: float, code: int, said: str) -> None:
    found = module("instructions").compared({NAME: counted}, {NAME: 1_000.0})

    assert found[0] == code
    assert said in found[1]


@pytest.mark.parametrize(
    "other", [{"python": "CPython 2.7"}, {"packages": {"sqlalchemy": "0.1"}}, {"cpu": "Zilog Z80"}]
)
def test_instructions_are_compared_with_those_of_the_same_environment_alone(other: dict[str, object]) -> None:
    instructions = module("instructions")
    here = instructions.counted_with() | {"instructions": {NAME: 1_000.0}}
    elsewhere = here | other | {"instructions": {NAME: 900.0}}

    assert instructions.baseline_of([elsewhere]) is None
    assert "cannot be compared with instructions.json" in instructions.why_not_comparable([elsewhere])
    assert instructions.baseline_of([elsewhere, here]) == {NAME: 1_000.0}
    assert instructions.why_not_comparable([elsewhere, here]) is None


def test_a_baseline_takes_the_place_of_those_that_nothing_can_be_compared_with_any_more() -> None:
    instructions = module("instructions")
    before = instructions.counted_with() | {"instructions": {NAME: 900.0}}
    elsewhere = before | {"cpu": "Zilog Z80"}
    outdated = elsewhere | {"cpu": "MOS 6502", "python": "CPython 2.7"}

    known = instructions.with_baseline({NAME: 1_000.0}, [before, elsewhere, outdated])

    assert {one["cpu"] for one in known} == {before["cpu"], "Zilog Z80"}
    assert instructions.baseline_of(known) == {NAME: 1_000.0}


def test_committed_baselines_have_a_figure_for_each_piece_of_work() -> None:
    instructions = module("instructions")
    for baseline in instructions.baselines():
        assert baseline["instructions"].keys() == {one.words for one in instructions.WORKS}
        assert all(value > 100 for value in baseline["instructions"].values())


def test_samples_are_summed_by_module_with_the_hottest_function_of_each() -> None:
    profiles = module("profiles")
    ours, library, standard = (
        place / file
        for place, file in (
            (profiles._PACKAGE, "harness/worker.py"),
            (profiles._LIBRARIES, "sqlalchemy/sql/base.py"),
            (profiles._STANDARD, "asyncio/events.py"),
        )
    )

    found = profiles.parts(
        profiles._samples(
            [
                f"main (<string>:1);Worker.run ({ours}:10);Handle._run ({standard}:3) 20",
                f"main (<string>:1);Worker.run ({ours}:10) 10",
                f"main (<string>:1);Worker.run (slowly) ({ours}:11) 40",
                f"main (<string>:1);select ({library}:7) 25",
                "main (<string>:1) 5",
            ]
        )
    )

    assert [(part.module, part.share, part.hottest) for part in found] == [
        ("harness/worker.py", 0.5, "Worker.run (slowly)"),
        ("sqlalchemy", 0.25, "select"),
        ("asyncio", 0.2, "Handle._run"),
        ("generated code", 0.05, "main"),
    ]


def test_what_came_with_an_import_is_said_of_the_package_that_was_imported() -> None:
    profiles = module("profiles")
    ours, library = (
        profiles._PACKAGE / "app/cli/serving/process_life.py",
        profiles._LIBRARIES / "sqlalchemy/sql/base.py",
    )
    imports = "<frozen importlib._bootstrap>"

    assert profiles._allocating([("run", str(ours), 1), ("main", "<string>", 1)]) == (
        "app/cli/serving/process_life.py",
        "run",
    )
    assert profiles._allocating([("compile", imports, 1), ("base", str(library), 1), ("load", imports, 1)]) == (
        "sqlalchemy, imported",
        "import",
    )
    assert profiles._allocating([("load", imports, 1), ("main", str(ours), 1)]) == ("Trackside, imported", "import")


@pytest.mark.long
def test_profiles_of_all_paths_are_taken(tmp_path: Path) -> None:
    done = runner("profiles", "--", "--quick", "--results", tmp_path)

    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "profiles.json").read_text())["profiles"]
    assert len(found) == 6
    for profile in found.values():
        for what in ("time", "memory"):
            shares = [part["share"] for part in profile[what]]
            assert shares == sorted(shares, reverse=True)
            assert shares[-1] > 0
            # The largest parts are kept: all parts, if there are no more. The total otherwise depends on the samples.
            assert (
                sum(shares) == pytest.approx(1) if len(shares) < module("profiles").KEPT else sum(shares) <= 1.000_001
            )
        assert profile["peak_mib"] > 1
    assert any(part["module"].startswith("harness/") for part in found["dispatch to 4 observers"]["time"])
    assert any(part["module"].startswith("app/") for part in found["HTTP wait, a function, 32 at once"]["time"])
