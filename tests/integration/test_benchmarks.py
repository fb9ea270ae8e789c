"""The benchmarks work, and say what they are read for. Tests do not look at what they measure: tests do not time.

Each takes seconds of CPU time even in its quick form, and shares all but its contenders with the others. So each run of
the tests runs one of each kind; the long tests, and whoever measures, run all of them.
"""

import asyncio
import importlib
import json
import random
import statistics
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
NAMES = ("checkpoints", "follow", "import_time", "live", "memory_runs", "webhooks")


def bench(name: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    place = BENCHMARKS / f"{name}.py"
    command = [sys.executable, place if place.exists() else BENCHMARKS / f"serve_{name}.py", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd="/")


@pytest.fixture
def rounds(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(BENCHMARKS)
    return importlib.import_module("_rounds")


@pytest.fixture
def report(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(BENCHMARKS)
    return importlib.import_module("_report")


@pytest.fixture
def growth_fit(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(BENCHMARKS)
    return importlib.import_module("_growth_fit")


@pytest.mark.parametrize("name", ["dispatch", *(pytest.param(name, marks=pytest.mark.long) for name in NAMES)])
def test_benchmark_prints_a_table_and_writes_every_round_of_every_contender(name: str, tmp_path: Path) -> None:
    done = bench(name, "--quick", "--results", tmp_path)

    assert (done.returncode, done.stderr) == (0, "")
    written = json.loads((tmp_path / f"{name}.json").read_text())
    assert (written["benchmark"], written["quick"]) == (name, True)
    ways = {way["name"] for way in written["contenders"]}
    assert len(ways) >= 3
    assert all(f"| {way}" in done.stdout or f"| `{way}`" in done.stdout for way in ways)
    for way in written["contenders"]:
        for clock in ("cpu", "wall"):
            assert len(way["rounds"][clock]) == written["effort"]["rounds"]
            assert 0 < way[clock]["low"] <= way[clock]["median"] <= way[clock]["high"]
    assert written["budgets"]
    for budget in written["budgets"]:
        assert budget["what"] in done.stdout
        assert budget["measured"].keys() == {"cpu", "wall"}


@pytest.mark.long
def test_a_big_store_is_filled_asked_for_every_page_and_appended_to(tmp_path: Path) -> None:
    done = bench("big", "--quick", "--events", 500, "--results", tmp_path)

    assert (done.returncode, done.stderr) == (0, "")
    written = json.loads((tmp_path / "big.json").read_text())
    assert written["events"] == 500
    assert written["bytes_per_event"] > 0
    assert len(written["milliseconds"]) >= 40
    assert all(f"| {name} " in done.stdout for name in written["milliseconds"])
    assert [budget["what"].split()[0] for budget in written["budgets"]] == ["append", "any", "all", "stats"]


@pytest.mark.long
def test_pages_are_read_beside_the_same_rows_by_hand(tmp_path: Path) -> None:
    done = bench("read", "--quick", "--results", tmp_path)

    assert (done.returncode, done.stderr) == (0, "")
    contenders = json.loads((tmp_path / "read.json").read_text())["contenders"]
    assert Counter(way["name"] for way in contenders) == {"by hand, on `sqlite3`": 5, "Store": 5}


@pytest.mark.parametrize(("name", "ways"), [("append", 4), pytest.param("runs", 4, marks=pytest.mark.long)])
def test_the_store_is_measured_beside_the_same_rows_by_hand_on_both_databases(
    name: str, ways: int, tmp_path: Path
) -> None:
    done = bench(name, "--quick", "--results", tmp_path)

    assert (done.returncode, done.stderr) == (0, "")
    written = json.loads((tmp_path / f"{name}.json").read_text())
    cases = Counter(way["case"].partition(",")[0] for way in written["contenders"])
    assert cases == {"SQLite": ways, "PostgreSQL": ways}
    assert [budget["what"].partition(",")[0] for budget in written["budgets"]] == ["SQLite", "PostgreSQL"]


@pytest.mark.long
def test_the_manager_is_measured_beside_raw_appends_and_with_a_long_queue_and_its_memory_is(tmp_path: Path) -> None:
    done = bench("manager", "--quick", "--results", tmp_path)

    assert (done.returncode, done.stderr) == (0, "")
    written = json.loads((tmp_path / "manager.json").read_text())
    ways = Counter(way["case"] for way in written["contenders"])
    assert ways == {"SQLite, one at a time": 3, "100 runs enqueued on one thread": 2}
    assert written["resident_mb"].keys() == {"memory", "sqlite"}
    assert all(len(resident) == 10 and min(resident) > 10 for resident in written["resident_mb"].values())
    assert [budget["measured"].keys() for budget in written["budgets"]] == [{"cpu", "wall"}] * 3 + [{"memory"}] * 2
    assert all(f"{budget['what']}: " in done.stdout for budget in written["budgets"])


@pytest.mark.long
def test_live_observers_are_measured_one_by_one_and_with_runs_beside_storage_alone(tmp_path: Path) -> None:
    done = bench("observers", "--quick", "--results", tmp_path)

    assert (done.returncode, done.stderr) == (0, "")
    written = json.loads((tmp_path / "observers.json").read_text())
    ways = Counter(way["case"].partition(",")[0] for way in written["contenders"])
    assert ways == {"one event of a run with four calls": 9, "durable runs on SQLite": 8}
    assert [budget["what"].split(": ")[1] for budget in written["budgets"]] == [
        "all live observers",
        "all, three of them broken",
        "all, and three more, broken",
    ]


@pytest.mark.long
@pytest.mark.parametrize(
    ("name", "budgets", "cases"),
    [
        ("http", 6, {"wait, one at a time", "wait, 32 at once", "wait, light client, 32 at once"}),
        ("sse", 2, {"the first event of a run", "1,000 followers of one run"}),
        ("startup", 6, {"start to the first answer"}),
    ],
)
def test_servers_are_started_as_users_start_them_and_measured_beside_the_empty_one(
    name: str, budgets: int, cases: set[str], tmp_path: Path
) -> None:
    done = bench(name, "--quick", "--results", tmp_path)

    assert (done.returncode, done.stderr) == (0, "")
    written = json.loads((tmp_path / f"{name}.json").read_text())
    assert written["notes"] == []
    for case in cases:
        assert len({way["name"] for way in written["contenders"] if way["case"] == case} - {"empty server"}) >= 1
        assert "empty server" in {way["name"] for way in written["contenders"] if way["case"] == case}
    assert len(written["budgets"]) == budgets
    assert all(budget["what"] in done.stdout for budget in written["budgets"])


@pytest.mark.long
def test_growth_of_every_line_is_fitted_on_each_database(tmp_path: Path) -> None:
    done = bench("growth", "--quick", "--results", tmp_path)

    assert (done.returncode, done.stderr) == (0, "")
    written = json.loads((tmp_path / "growth.json").read_text())
    growth = written["growth"]
    lines = [(title, name) for title, lines in growth.items() for name in lines]
    on = Counter(title.rpartition(", ")[2] for title, _ in lines)
    assert on == {"SQLite": 27, "PostgreSQL": 26, "in memory": 1}
    # Each is measured at two sizes.
    assert Counter(way["case"] for way in written["contenders"]) == dict.fromkeys(map(": ".join, lines), 2)
    assert written["budgets"][0]["what"].startswith(f"all {len(lines)} lines have an exponent at most 0.1 above")
    assert len(written["budgets"]) == 1 + len(growth) == 1 + len(written["plots"])
    assert all(f"| {name} " in done.stdout for _, name in lines)


@pytest.mark.parametrize("path", sorted((BENCHMARKS / "results").glob("*.json")), ids=lambda path: path.stem)
def test_committed_results_are_of_a_full_run_and_say_nothing_of_whose_machine_it_was(path: Path) -> None:
    written = json.loads(path.read_text())

    assert written["quick"] is False
    assert "/" not in json.dumps(written["machine"])


def test_quick_run_leaves_the_committed_results_alone() -> None:
    before = {path: path.read_bytes() for path in (BENCHMARKS / "results").glob("*")}

    assert bench("import_time", "--quick").returncode == 0

    assert {path: path.read_bytes() for path in (BENCHMARKS / "results").glob("*")} == before


def test_every_round_measures_each_contender_once_and_nobody_always_goes_first(rounds: ModuleType) -> None:
    order: list[str] = []

    def contender(name: str) -> Any:
        @asynccontextmanager
        async def opened() -> AsyncGenerator[Any]:
            order.append(name)

            async def work(times: int) -> None:
                for _ in range(times):
                    await asyncio.sleep(0)

            yield work

        return rounds.Contender(name, "case", opened)

    result = rounds.race([contender(name) for name in "abc"], rounds.Effort(rounds=3, seconds=0.001))

    measured = order[-9:]
    assert measured == ["a", "b", "c", "b", "c", "a", "c", "a", "b"]
    assert Counter(len(costs) for costs in result.costs.values()) == {3: 3}


def test_a_moment_in_which_all_stands_still_does_not_make_rounds_small(
    rounds: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[int] = []
    now = 0

    @asynccontextmanager
    async def opened() -> AsyncGenerator[Any]:
        async def work(times: int) -> None:
            nonlocal now
            done.append(times)
            now += times * 1_000_000 + (10_000_000_000 if len(done) == 2 else 0)

        yield work

    monkeypatch.setattr(rounds, "time", SimpleNamespace(perf_counter_ns=lambda: now, process_time_ns=int))

    rounds.race([rounds.Contender("ours", "case", opened)], rounds.Effort(rounds=3, seconds=0.5))

    assert done[-5::2] == [500] * 3  # a millisecond each; what stands between them is to warm up


def test_contenders_are_compared_within_a_round(rounds: ModuleType) -> None:
    ours, theirs = (rounds.Contender(name, "case", lambda: None) for name in ("ours", "theirs"))
    # The machine became ten times slower with each round, for both.
    result = rounds.Race(
        {
            ours: [rounds.Cost(cpu=3 * slower, wall=6 * slower) for slower in (1, 10, 100)],
            theirs: [rounds.Cost(cpu=1 * slower, wall=1 * slower) for slower in (1, 10, 100)],
        }
    )

    assert result.ratio(ours, theirs, "cpu") == rounds.Spread(3, 3, 3)
    assert result.ratio(ours, theirs, "wall") == rounds.Spread(6, 6, 6)
    assert result.difference(ours, theirs, "cpu").median == 20
    assert result.rate(ours, "cpu").median == pytest.approx(1e9 / 30)


@pytest.mark.parametrize(
    ("at_most", "cpu", "wall", "said"),
    [
        (True, 1.4, 1.5, "met: the loop: 1.40 by CPU time, 1.50 by wall clock"),
        (True, 1.4, 1.8, "**missed by 20%**: the loop: 1.40 by CPU time, 1.80 by wall clock"),
        (False, 1.5, 1.8, "met: the loop: 1.50 by CPU time, 1.80 by wall clock"),
        (False, 1.2, 1.8, "**missed by 20%**: the loop: 1.20 by CPU time, 1.80 by wall clock"),
    ],
)
def test_budget_is_met_only_if_both_clocks_say_so(
    report: ModuleType, at_most: bool, cpu: float, wall: float, said: str
) -> None:
    budget = report.Budget("the loop", 1.5, {"cpu": cpu, "wall": wall}, at_most=at_most)

    assert str(budget) == said
    assert budget.met is said.startswith("met")


@pytest.mark.parametrize("exponent", [-0.5, 0.0, 0.1, 1.0, 2.0])
def test_exponent_of_a_power_law_is_recovered_whatever_its_constant(growth_fit: ModuleType, exponent: float) -> None:
    for constant in (0.001, 1, 50_000):
        fit = growth_fit.Fit.of((size, constant * size**exponent) for size in (1, 10, 100, 1_000))

        assert fit.exponent == pytest.approx(exponent, abs=1e-9)
        assert fit.error == pytest.approx(0, abs=1e-7)


def test_exponent_of_noisy_rounds_is_within_a_few_standard_errors(growth_fit: ModuleType) -> None:
    chance = random.Random(3)
    within = 0
    for _ in range(200):
        noisy = [(size, size**0.5 * chance.lognormvariate(0, 0.2)) for size in (10, 100, 1_000) for _ in range(5)]
        fit = growth_fit.Fit.of(noisy)
        assert 0.01 < fit.error < 0.06
        within += abs(fit.exponent - 0.5) <= 2 * fit.error

    assert 175 <= within < 200  # 95 of 100 are expected, and not all of them


def test_two_points_have_an_exponent_and_no_error_and_one_size_has_none(growth_fit: ModuleType) -> None:
    assert growth_fit.Fit.of([(10, 3.0), (1_000, 300.0)]) == growth_fit.Fit(pytest.approx(1), None)
    with pytest.raises(statistics.StatisticsError):
        growth_fit.Fit.of([(10, 3.0), (10, 4.0)])


@pytest.mark.parametrize(
    ("must", "exponent", "met"), [(0, 0.05, True), (0, 0.15, False), (1, 1.05, True), (1, 1.2, False), (1, 0.2, True)]
)
def test_a_line_may_grow_a_tenth_faster_than_it_must(
    growth_fit: ModuleType, must: float, exponent: float, met: bool
) -> None:
    growth = growth_fit.Growth(must, [(size, [size**exponent] * 3) for size in (10, 100, 1_000)])

    assert growth.met is met
    assert growth.last_step == pytest.approx(exponent)


def test_a_round_that_seems_to_have_cost_less_than_nothing_says_nothing_of_growth(growth_fit: ModuleType) -> None:
    growth = growth_fit.Growth(0, [(10, [1.0, -5.0]), (100, [1.0, 1.0]), (1_000, [1.0, 0.0])])

    assert growth.fit.exponent == pytest.approx(0)


def test_a_line_that_bends_upwards_is_not_met_because_of_what_one_thing_alone_costs(growth_fit: ModuleType) -> None:
    sizes = {1: 2.0, 10: 4.5, 100: 26.0, 1_000: 291.0, 10_000: 6_830.0}
    growth = growth_fit.Growth(1, [(size, [cost]) for size, cost in sizes.items()])

    assert growth.fit.exponent < 1
    assert growth.upper.exponent == pytest.approx(1.21, abs=0.005)
    assert not growth.met


def test_a_cost_that_bends_upwards_shows_in_its_last_step(growth_fit: ModuleType) -> None:
    growth = growth_fit.Growth(0, [(10, [1.0, 1.0]), (100, [1.0, 1.0]), (1_000, [10.0, 10.0])])

    assert growth.fit.exponent == pytest.approx(0.5)
    assert growth.last_step == pytest.approx(1)
