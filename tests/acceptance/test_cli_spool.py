"""A database that takes no more when a run ends: what its user is told, and that the next run puts it right."""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

type Trackside = Callable[..., subprocess.CompletedProcess[str]]

AGENTS = """
import os, resource

def fill_disk():
    size = os.path.getsize("trackside.db-wal")  # which is where the next commit goes
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))

async def fills(input):
    fill_disk()
    return "the answer"

async def echo(input):
    return input
"""


@pytest.fixture(autouse=True)
def agents(tmp_path: Path) -> None:
    (tmp_path / "agents.py").write_text(AGENTS)


def test_the_end_of_a_run_is_kept_said_and_delivered_by_the_next_one(trackside: Trackside, tmp_path: Path) -> None:
    failed = trackside("run", "agents.py:fills", "hi", "--thread", "t-1")
    run_id = failed.stdout.partition("run          ")[2].partition("\n")[0]

    assert failed.returncode == 1
    assert "a required observer did not take that" in failed.stdout
    assert failed.stderr == (
        f"how run {run_id} ended is not in the database yet, but kept in trackside.db-spool;"
        " the next `trackside run` delivers it, once the database takes it again\n"
    )
    assert "running" in trackside("runs").stdout
    assert len([*(tmp_path / "trackside.db-spool").iterdir()]) == 1, "looking delivers nothing"

    after = trackside("run", "agents.py:echo", "x", "--thread", "t-1")
    assert (after.returncode, after.stderr) == (
        0,
        "what trackside.db-spool had kept of 1 earlier run is in the database now\n",
    )
    assert not (tmp_path / "trackside.db-spool").exists()
    shown = [json.loads(line) for line in trackside("events", "--json", "--run", run_id).stdout.splitlines()]
    assert [event["sequence"] for event in shown] == [1, 2, 3, 4, 5]
    assert [event["event_type"] for event in shown][-2:] == ["run_failed", "thread_status_updated"]


def test_json_says_it_in_the_result_and_nothing_else_gets_between(trackside: Trackside, tmp_path: Path) -> None:
    failed = trackside("run", "agents.py:fills", "hi", "--json", TRACKSIDE_DATABASE_SPOOL="kept")

    *events, last = [json.loads(line) for line in failed.stdout.splitlines()]
    (folder,) = (tmp_path / "kept").iterdir()
    assert [event["event_type"] for event in events] == ["run_started", "thread_status_updated", "human_message"]
    assert last["result"]["status"] == "error"
    assert last["result"]["error"].endswith(f"kept for later in {folder}")
    assert f"kept in kept/{folder.name};" in failed.stderr


def test_a_spool_that_cannot_be_used_either_is_no_reason_for_silence(trackside: Trackside, tmp_path: Path) -> None:
    (tmp_path / "trackside.db-spool").write_text("in the way")

    failed = trackside("run", "agents.py:fills", "hi")

    assert failed.returncode == 1
    assert "a required observer did not take that" in failed.stdout
    assert "kept" not in failed.stdout + failed.stderr
