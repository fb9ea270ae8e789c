"""`trackside runs`, `threads`, `events`, `stats`: what was recorded, for people and for programs."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from trackside.app.storage import Store
from trackside.harness import LifecycleEventType, RunLifecycleEvent
from trackside.testing import make_run

Trackside = Callable[..., "subprocess.CompletedProcess[str]"]

AGENTS = """
async def talk(input, run):
    run.record_usage("gpt-5-mini", input_tokens=1000, output_tokens=200, cost_usd=0.01)
    run.record_usage("house-model", input_tokens=30, output_tokens=4, caller="researcher")
    run.message({"type": "ai", "content": f"About {input}: nothing."})
    run.set_title(f"On {input}")

async def fail(input):
    raise LookupError("no such thing")

async def ask(input, run):
    run.interrupt({"question": "Publish?"})
"""


@pytest.fixture
def recorded(here: Trackside, tmp_path: Path) -> Trackside:
    """A database with five runs on three threads: two talks on t-1, a failure on t-2, a question on t-3 after a talk."""
    (tmp_path / "agents.py").write_text(AGENTS)
    for agent, thread in (("talk", "t-1"), ("talk", "t-1"), ("fail", "t-2"), ("talk", "t-3"), ("ask", "t-3")):
        here("run", f"agents.py:{agent}", "trains", "--thread", thread)
    return here


def objects(done: subprocess.CompletedProcess[str]) -> list[dict[str, Any]]:
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def titles_and_rows(done: subprocess.CompletedProcess[str]) -> tuple[list[str], list[str]]:
    assert done.returncode == 0, done.stderr
    title, *rows = done.stdout.splitlines()
    return title.split(), rows


def test_runs(recorded: Trackside) -> None:
    titles, rows = titles_and_rows(recorded("runs"))
    assert titles == ["RUN", "STATUS", "AGENT", "STARTED", "TOOK", "TOKENS", "COST", "THREAD", "ABOUT"]
    assert len(rows) == 5
    assert "? interrupted" in rows[0]
    assert all(part in rows[1] for part in ("✓ success", "agents.py:talk", "1,234", "$0.0100", "t-3", "On trains"))
    assert "✗ error" in rows[2]

    every = objects(recorded("runs", "--json"))
    assert [run["status"] for run in every] == ["interrupted", "success", "error", "success", "success"]
    newest = every[0]
    assert [datetime.fromisoformat(newest[key]).utcoffset() is not None for key in ("created_at", "ended_at")]
    assert newest["completion_data"]["first_human_message"] == "trains"

    def statuses(*filters: str) -> list[str]:
        return [run["status"] for run in objects(recorded("runs", "--json", *filters))]

    assert statuses("--status", "error") == ["error"]
    assert statuses("--status", "error", "--status", "interrupted") == ["interrupted", "error"]
    assert statuses("--agent", "agents.py:talk", "--limit", "2") == ["success", "success"]
    assert statuses("--thread", "t-3") == ["interrupted", "success"]
    assert len(statuses("--since", "1h")) == 5
    assert statuses("--since", every[1]["created_at"]) == ["interrupted", "success"]
    assert statuses("--status", "timeout") == []
    nothing = recorded("runs", "--status", "timeout")
    assert (nothing.returncode, nothing.stdout) == (0, "Nothing matches.\n")

    # A single run, by the beginning of its id.
    talk = every[1]
    beginning = talk["run_id"][:23]
    shown = recorded("runs", beginning).stdout
    for part in (
        talk["run_id"],
        "agents.py:talk",
        "✓ success",
        "1,234 tokens (1,030 in, 204 out) · 2 model calls · $0.0100",
        "gpt-5-mini: 1,000 in, 200 out",
        "researcher: 30 in, 4 out",
        "▸ started      agents.py:talk",
        "◆ human        trains",
        "◇ agent        About trains: nothing.",
        "✓ completed",
    ):
        assert part in shown
    (whole,) = objects(recorded("runs", beginning, "--json"))
    assert whole["run_id"] == talk["run_id"]
    assert [event["sequence"] for event in whole["events"]] == list(range(1, whole["last_sequence"] + 1))
    (whole,) = objects(recorded("runs", beginning, "--json", "--limit", "2"))
    assert [event["sequence"] for event in whole["events"]] == [1, 2]
    *_, left_out = recorded("runs", beginning, "--limit", "2").stdout.splitlines()
    assert left_out == f"… and {whole['last_sequence'] - 2} more"


def test_a_run_that_never_started_took_no_time(here: Trackside) -> None:
    said = {"cancel_mode": "interrupt", "completion_data": {"duration_seconds": 0.714}}
    cancelled = RunLifecycleEvent("e", LifecycleEventType.RUN_CANCELLED, "r", "t", 1, datetime.now(UTC), said)

    async def record() -> None:
        async with Store.open("sqlite:///trackside.db") as store:
            await store.append([cancelled])

    asyncio.run(record())

    titles, (row,) = titles_and_rows(here("runs"))
    assert "TOOK" not in titles, "a column without a cell is left out"
    assert row.startswith("r ")
    assert "took" not in here("runs", "r").stdout


def test_the_runs_that_a_run_has_started(here: Trackside) -> None:
    kind, now = LifecycleEventType.RUN_STARTED, datetime.now(UTC)
    runs: list[tuple[str, dict[str, Any]]] = [("parent", {}), ("first", {"parent_run_id": "parent"}), ("other", {})]
    events = [RunLifecycleEvent(f"e-{id_}", kind, id_, f"t-{id_}", 1, now, payload) for id_, payload in runs]

    async def record() -> None:
        async with Store.open("sqlite:///trackside.db") as store:
            await store.append(events)

    asyncio.run(record())

    assert [run["run_id"] for run in objects(here("runs", "--json", "--parent", "par"))] == ["first"]
    assert objects(here("runs", "--json", "--parent", "par", "--text", "nowhere")) == []
    assert objects(here("runs", "--json", "--parent", "first")) == []
    assert "nobody" in here("runs", "--parent", "nobody").stderr
    assert here("runs", "first", "--parent", "par").returncode == 2


def test_threads(recorded: Trackside) -> None:
    titles, rows = titles_and_rows(recorded("threads"))
    assert titles == ["THREAD", "STATUS", "CHANGED", "BEGUN", "LAST", "RUN", "TITLE"]
    assert [row.split()[0] for row in rows] == ["t-3", "t-2", "t-1"]
    assert "? interrupted" in rows[0]

    every = objects(recorded("threads", "--json"))
    assert [(thread["thread_id"], thread["status"]) for thread in every] == [
        ("t-3", "interrupted"),
        ("t-2", "error"),
        ("t-1", "idle"),
    ]
    assert [thread["thread_id"] for thread in objects(recorded("threads", "--json", "--status", "idle"))] == ["t-1"]
    assert len(objects(recorded("threads", "--json", "-n", "1"))) == 1

    def found(*filters: str) -> list[str]:
        return [thread["thread_id"] for thread in objects(recorded("threads", "--json", *filters))]

    assert found("--agent", "agents.py:talk") == ["t-3", "t-1"], "of t-3 it was not the last one"
    assert found("--agent", "agents.py:talk", "--status", "idle") == ["t-1"]
    assert found("--thread", "t-2") == ["t-2"]
    assert found("--thread", "t-2", "--status", "idle") == []
    assert found("--since", every[1]["updated_at"]) == ["t-3", "t-2"]

    waiting = recorded("threads", "t-3").stdout
    assert 'asks     {"question": "Publish?"}' in waiting
    assert "trackside resume t-3 'ANSWER'" in waiting
    (whole,) = objects(recorded("threads", "t-3", "--json"))
    assert [interrupt["value"] for interrupt in whole["interrupts"]] == [{"question": "Publish?"}]
    assert [run["status"] for run in whole["runs"]] == ["interrupted", "success"]
    (newest,) = objects(recorded("threads", "t-3", "--json", "--limit", "1"))
    assert [run["status"] for run in newest["runs"]] == ["interrupted"]
    (idle,) = objects(recorded("threads", "t-1", "--json"))
    assert idle["interrupts"] == []


def test_a_thread_without_a_run_is_shown_in_full(here: Trackside, tmp_path: Path) -> None:
    async def make() -> None:
        async with Store.open(f"sqlite:///{tmp_path / 'trackside.db'}") as store:
            await store.threads_of(None).create("t-new")

    asyncio.run(make())

    shown = here("threads", "t-new")
    assert (shown.returncode, shown.stderr) == (0, "")
    assert [line.split()[0] for line in shown.stdout.splitlines()] == ["thread", "status", "begun", "changed"]
    assert objects(here("threads", "t-new", "--json"))[0]["runs"] == []


def test_events(recorded: Trackside) -> None:
    titles, rows = titles_and_rows(recorded("events"))
    assert titles == ["POSITION", "TIME", "RUN", "#", "EVENT", "WHAT"]
    every = objects(recorded("events", "--json", "--limit", "1000"))
    positions = [event["position"] for event in every]
    assert positions == list(range(1, len(rows) + 1))
    assert list(every[0]) == [
        "position",
        "event_id",
        "event_type",
        "run_id",
        "thread_id",
        "sequence",
        "occurred_at",
        "payload",
    ]

    def found(*filters: str) -> list[int]:
        return [event["position"] for event in objects(recorded("events", "--json", *filters))]

    assert found("--limit", "3") == positions[-3:], "the newest, oldest first"
    assert found("--after", "2", "--limit", "3") == [3, 4, 5]
    assert found("--type", "run_failed") == [
        event["position"] for event in every if event["event_type"] == "run_failed"
    ]
    assert found("--thread", "t-2") == [event["position"] for event in every if event["thread_id"] == "t-2"]
    run_id = every[-1]["run_id"]
    assert found("--run", run_id[:30]) == [event["position"] for event in every if event["run_id"] == run_id]
    assert found("--since", "1h") == positions
    since = every[4]["occurred_at"]
    assert found("--since", since) == [event["position"] for event in every if event["occurred_at"] >= since]
    assert found("--since", since, "--after", "0", "--limit", "2") == found("--since", since)[:2]

    runs = objects(recorded("runs", "--json"))

    def events_of(**fields: str) -> list[int]:
        fitting = {run["run_id"] for run in runs if fields.items() <= run.items()}
        return [event["position"] for event in every if event["run_id"] in fitting]

    assert found("--agent", "agents.py:fail") == events_of(agent="agents.py:fail")
    assert found("--status", "success") == events_of(status="success")
    both = ("--status", "success", "--thread", "t-3")
    assert found(*both) == events_of(status="success", thread_id="t-3")
    assert found(*both, "--limit", "2") == events_of(status="success", thread_id="t-3")[-2:]
    assert found("--agent", "agents.py:ask", "--status", "success") == []


def test_stats(recorded: Trackside) -> None:
    shown = recorded("stats").stdout
    assert shown.startswith("5 runs  ✓ success 3  ")
    assert "3,702 tokens (3,090 in, 612 out) · 6 model calls · $0.0300" in shown
    assert "agents.py:talk     3  ✓ 3" in shown
    assert [line.split() for line in shown.splitlines() if line.startswith(("gpt-5", "house-"))] == [
        ["gpt-5-mini", "3,000", "600", "$0.0300"],
        ["house-model", "90", "12"],
    ]

    (stats,) = objects(recorded("stats", "--json"))
    assert stats["total"]["runs"] == 5
    assert stats["total"]["by_status"] == {"success": 3, "error": 1, "interrupted": 1}
    assert stats["by_model"]["house-model"]["input_tokens"] == 90
    (none,) = objects(recorded("stats", "--json", "--since", "2999-01-01"))
    assert none["total"]["runs"] == 0


@pytest.mark.parametrize(
    "filters",
    [
        ["--agent", "agents.py:talk"],
        ["--thread", "t-3"],
        ["--status", "success", "--status", "error"],
        ["--since", "2999-01-01"],
        ["--agent", "agents.py:talk", "--thread", "t-3", "--status", "success", "--since", "1h"],
    ],
    ids=" ".join,
)
def test_stats_and_runs_agree_under_the_same_filters(recorded: Trackside, filters: list[str]) -> None:
    runs = objects(recorded("runs", "--json", *filters))
    (stats,) = objects(recorded("stats", "--json", *filters))

    assert stats["total"]["runs"] == len(runs)
    assert stats["total"]["by_status"] == Counter(run["status"] for run in runs)
    assert stats["total"]["total_input_tokens"] == sum(run["total_input_tokens"] for run in runs)
    assert set(stats["by_agent"]) == {run["agent"] for run in runs}


def test_the_tables_of_stats_have_as_many_rows_as_was_asked_for_the_biggest_first(recorded: Trackside) -> None:
    shown = recorded("stats", "--limit", "1").stdout

    assert [
        line.split()[0] for line in shown.splitlines() if line.startswith(("agents.py", "gpt-5", "lead", "res"))
    ] == [
        "agents.py:talk",
        "gpt-5-mini",
        "lead_agent",
    ]
    assert shown.count("… and 2 more") == 1
    assert shown.count("… and 1 more") == 2
    (stats,) = objects(recorded("stats", "--limit", "1", "--json"))
    assert len(stats["by_agent"]) == 3


def test_one_record_is_not_filtered(recorded: Trackside) -> None:
    for command in (
        ["runs", "0", "--status", "error"],
        ["threads", "t-1", "--agent", "x"],
        ["threads", "t", "--since", "1h"],
    ):
        refused = recorded(*command)
        kind = command[0].removesuffix("s")
        assert refused.returncode == 2
        assert refused.stderr == f"error: {command[2]}: one {kind} cannot be filtered; leave this out, or the ID.\n"


def test_a_reader_that_goes_away_makes_no_noise(recorded: Trackside, trackside: Trackside) -> None:
    assert objects(recorded("runs", "--json", "-n", "1"))
    read, write = os.pipe()
    os.close(read)
    try:
        for command in (["runs"], ["runs", "--json"], ["stats"], ["--help"]):
            done = trackside(*command, stdout=write)
            assert (done.stderr, done.returncode) == ("", 141), command
    finally:
        os.close(write)


def test_the_program_says_its_version_and_helps(trackside: Trackside, here: Trackside) -> None:
    version = trackside("--version", shell='exec "$0" "$@"')
    assert (version.returncode, version.stderr) == (0, "")
    assert version.stdout.startswith("trackside ")
    for command in ([], ["run"], ["resume"], ["runs"], ["threads"], ["events"], ["stats"]):
        assert here(*command, "--help").returncode == 0
    for command in ("runs", "threads", "events", "stats"):
        shown = here(command, "--help").stdout
        assert all(f"--{name} " in shown for name in ("status", "agent", "thread", "since", "limit")), command
        assert "interrupted" in shown, "the statuses there are"


@pytest.mark.parametrize("columns", ["0", "00", "²", "-1", "wide"])
def test_what_is_no_width_is_none(recorded: Trackside, columns: str) -> None:
    assert recorded("events", COLUMNS=columns).stdout == recorded("events").stdout


def test_a_table_is_never_so_narrow_that_nothing_is_left(recorded: Trackside) -> None:
    lines = recorded("runs", COLUMNS="1").stdout.splitlines()

    assert {len(line) for line in lines[1:]} == {20}


def test_stats_of_nothing(recorded: Trackside) -> None:
    nothing = recorded("stats", "--agent", "nobody")

    assert (nothing.returncode, nothing.stdout, nothing.stderr) == (0, "Nothing matches.\n", "")
    assert objects(recorded("stats", "--agent", "nobody", "--json"))[0]["total"]["runs"] == 0


def test_a_long_title_is_cut_for_people_and_whole_for_programs(here: Trackside, tmp_path: Path) -> None:
    (tmp_path / "agents.py").write_text(AGENTS)
    here("run", "agents.py:talk", "x" * 5_000)

    for command in ("runs", "threads"):
        shown = here(command)
        assert max(map(len, shown.stdout.splitlines())) < 400
        assert "… (5,003 characters)" in shown.stdout
        assert objects(here(command, "--json"))[0]["title"] == f"On {'x' * 5_000}"


def test_ids_are_whole_for_programs_and_leave_room_for_the_rest_in_80_columns(here: Trackside, tmp_path: Path) -> None:
    (tmp_path / "agents.py").write_text(AGENTS)
    for what in ("one", "another"):
        here("run", "agents.py:talk", what)
    runs = objects(here("runs", "--json"))

    for run, row in zip(runs, here("runs").stdout.splitlines()[1:], strict=True):
        assert {run["run_id"], run["thread_id"]} < set(row.split())
    header, *rows = here("runs", COLUMNS="80").stdout.splitlines()
    assert header.split() == ["RUN", "STATUS", "AGENT", "STARTED", "TOOK", "TOKENS", "COST"]
    assert max(map(len, rows)) <= 80
    for run, row in zip(runs, rows, strict=True):
        shown = row.split()[0]
        assert run["run_id"].startswith(shown)
        assert objects(here("runs", shown, "--json"))[0]["run_id"] == run["run_id"]
    assert "LAST RUN" in here("threads", COLUMNS="80").stdout
    assert "WHAT" in here("events", COLUMNS="80").stdout


def test_a_run_of_somebody_elses_emitter_is_shown_with_what_can_be_understood(here: Trackside, tmp_path: Path) -> None:
    used = {
        "text": {"cost_usd": "0.12", "total_tokens": "9 k", "llm_call_count": 2},
        "nulls": {"token_usage_by_model": {"m": {"input_tokens": None, "output_tokens": 3}, "n": 1}},
        "list": [1, 2],
    }

    async def record() -> None:
        async with Store.open(f"sqlite:///{tmp_path / 'trackside.db'}") as store:
            for run_id, completion in used.items():
                *_, end = events = make_run(run_id, thread_id=f"of-{run_id}", messages=0)[:3]
                events[-1] = replace(end, payload={**end.payload, "completion_data": completion})
                await store.append(events)

    asyncio.run(record())
    shown = {run_id: here("runs", run_id) for run_id in used}
    assert {run_id: (done.returncode, done.stderr) for run_id, done in shown.items()} == dict.fromkeys(used, (0, ""))
    assert "2 model calls" in shown["text"].stdout
    assert "m: 0 in, 3 out" in shown["nulls"].stdout
