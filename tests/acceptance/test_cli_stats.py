"""`trackside stats` draws: what runs added up to over time, on a terminal and nowhere else."""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from trackside.app.storage import Store
from trackside.harness.ids import new_id
from trackside.harness.observer import LifecycleEventType, RunLifecycleEvent

type Run = Callable[..., subprocess.CompletedProcess[str]]

END = datetime(2026, 3, 4, 12, tzinfo=UTC)
BLOCKS = "▁▂▃▄▅▆▇█"


def used(model: str, tokens: int, cost: float) -> dict[str, Any]:
    usage = {"input_tokens": tokens, "output_tokens": 0, "total_tokens": tokens, "cost_usd": cost}
    return {
        "total_tokens": tokens,
        "total_input_tokens": tokens,
        "total_output_tokens": 0,
        "cost_usd": cost,
        "duration_seconds": 2.0,
        "token_usage_by_model": {model: usage},
    }


async def record(url: str) -> None:
    """Record two days with four runs at the end of every third hour, the first of which fails."""
    async with Store.open(url) as store:
        for hours in range(45, -1, -3):
            for number in range(4):
                run_id, thread_id, when = new_id(), new_id(), END - timedelta(hours=hours)
                failed = LifecycleEventType.RUN_FAILED, {"status": "error", "error": "no", "error_type": "ValueError"}
                done = (
                    LifecycleEventType.RUN_COMPLETED,
                    {
                        "status": "success",
                        "completion_data": used("large" if number == 1 else "small", 100, number / 10),
                    },
                )
                ends = [(LifecycleEventType.RUN_STARTED, {"agent": "chat"}), done if number else failed]
                await store.append(
                    RunLifecycleEvent(new_id(), kind, run_id, thread_id, at, when + timedelta(seconds=2 * at), payload)
                    for at, (kind, payload) in enumerate(ends, 1)
                )


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("recorded") / "trackside.db"
    asyncio.run(record(f"sqlite:///{path}"))
    return path


@pytest.fixture(autouse=True)
def database(recorded: Path, tmp_path: Path) -> Path:
    return Path(shutil.copy(recorded, tmp_path / "trackside.db"))


WHEN = ("--since", "2026-03-02T13:00Z", "--until", "2026-03-04T13:00Z")


def row(lines: list[str], label: str) -> str:
    (found,) = [line for line in lines if line.startswith(label) and "up to" in line]
    return found


@pytest.mark.parametrize("columns", [60, 110])
def test_a_terminal_shows_what_runs_came_to_over_time(terminal: Any, columns: int) -> None:
    shown = terminal("stats", *WHEN, "--by", "3h", columns=columns, TZ="UTC")

    assert shown.wait() == 0
    lines = shown.lines
    assert max(map(len, lines)) <= columns
    assert any(
        line.startswith("FROM 2026-03-02 12:00 TO 2026-03-04 15:00, EACH BLOCK 3 h"[: columns - 1]) for line in lines
    )
    assert row(lines, "✓ success").count("█") == 16
    assert row(lines, "✗ error").count("▃") == 16
    assert row(lines, "median").endswith("up to 2.0 s")
    assert row(lines, "cost").endswith("up to $0.6000")


def test_the_blocks_are_as_long_as_fits(terminal: Any) -> None:
    narrow = terminal("stats", *WHEN, columns=70)
    wide = terminal("stats", *WHEN, columns=200)

    assert (narrow.wait(), wide.wait()) == (0, 0)
    assert "EACH BLOCK 2 h" in narrow.text
    assert "EACH BLOCK 20 min" in wide.text or "EACH BLOCK 30 min" in wide.text


def test_no_colour_and_no_unicode_where_the_terminal_has_none(terminal: Any) -> None:
    plain = terminal("stats", *WHEN, NO_COLOR="1")
    ascii_only = terminal("stats", *WHEN, PYTHONUTF8="0", PYTHONIOENCODING="ascii", TERM="dumb")
    coloured = terminal("stats", *WHEN)

    assert (plain.wait(), ascii_only.wait(), coloured.wait()) == (0, 0, 0)
    assert b"\x1b[32m" in coloured.output
    assert b"\x1b[32m" not in plain.output
    assert ascii_only.output.isascii()
    assert b"\x1b" not in ascii_only.output
    assert "SHARE OF COST" in ascii_only.text
    assert "@" in row(ascii_only.lines, "+ success")


def test_where_there_is_no_terminal_a_chart_is_shown_to_who_asks_for_one(here: Run) -> None:
    text, asked, told = here("stats", *WHEN), here("stats", *WHEN, "--by", "3h"), here("stats", *WHEN, "--json")

    assert not set(BLOCKS) & set(text.stdout)
    assert "EACH BLOCK" not in text.stdout
    assert "EACH BLOCK 3 h" in asked.stdout
    assert row(asked.stdout.splitlines(), "✓ success").count("█") == 16
    (object_,) = map(json.loads, told.stdout.splitlines())
    assert object_["total"]["runs"] == 64
    by = [json.loads(line) for line in here("stats", *WHEN, "--by", "day", "--json").stdout.splitlines()]
    assert [(one["start"], one["width"], one["total"]["runs"]) for one in by] == [
        ("2026-03-02T00:00:00+00:00", 86_400.0, 12),
        ("2026-03-03T00:00:00+00:00", 86_400.0, 32),
        ("2026-03-04T00:00:00+00:00", 86_400.0, 20),
    ]


def test_without_a_beginning_it_begins_with_the_first_run(here: Run) -> None:
    lines = here("stats", "--until", "2026-03-04T13:00Z", "--by", "day", "--json").stdout.splitlines()
    assert [json.loads(line)["total"]["runs"] for line in lines][-1] == 20
    assert sum(json.loads(line)["total"]["runs"] for line in lines) == 64


@pytest.mark.parametrize(
    "when", [("--until", "1960-01-01"), ("--until", "2026-01-01T00:30Z"), ("--since", "2100-01-01T00:30Z")]
)
def test_before_the_first_run_and_in_the_future_nothing_happened(here: Run, when: tuple[str, str]) -> None:
    """And nobody is told that the other end of the time, which he has not typed, is wrong."""
    done = here("stats", *when, "--by", "day", "--json")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_the_first_run_is_the_earliest_one_wherever_it_stands_in_the_log(here: Run) -> None:
    async def bring_older() -> None:
        when, started = END - timedelta(days=60), LifecycleEventType.RUN_STARTED
        async with Store.open("sqlite:///trackside.db") as store:
            await store.append([RunLifecycleEvent(new_id(), started, "older", "t", 1, when, {"agent": "chat"})])

    asyncio.run(bring_older())
    lines = here("stats", "--until", "2026-03-04T13:00Z", "--by", "day", "--json").stdout.splitlines()
    first, *later = [(one["start"], one["total"]["runs"]) for one in map(json.loads, lines)]
    assert first == ("2026-01-03T00:00:00+00:00", 1)
    assert sum(runs for _, runs in later) == 64


def test_runs_that_never_started_are_those_of_an_agent_without_a_name(here: Run) -> None:
    async def cancel_one() -> None:
        cancelled = RunLifecycleEvent(new_id(), LifecycleEventType.RUN_CANCELLED, "never", "t", 1, END, {})
        async with Store.open("sqlite:///trackside.db") as store:
            await store.append([cancelled])

    asyncio.run(cancel_one())
    by_agent = json.loads(here("stats", "--json").stdout)["by_agent"]
    assert {agent: total["runs"] for agent, total in by_agent.items()} == {"chat": 64, "": 1}


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--by", "7m"), "--by: '7m' is neither whole hours nor minutes that divide one"),
        (("--by", "hour", "--thread", "x"), "--by: one thread has no totals by time"),
        (("--until", "soon"), "--until: 'soon' is not a time"),
        (("--since", "2026-03-05", "--until", "2026-03-04"), "--until: "),
        (("--by", "minute", "--since", "2026-01-01", "--json"), "--by: it divides the time into"),
    ],
)
def test_nonsense_is_refused_by_name(here: Run, options: tuple[str, ...], says: str) -> None:
    refused = here("stats", *options)
    assert refused.returncode == 2
    assert says in refused.stderr


def test_an_empty_time_says_so(terminal: Any) -> None:
    shown = terminal("stats", "--since", "2027-01-01")
    assert shown.wait() == 0
    assert shown.lines == ["Nothing matches."]
