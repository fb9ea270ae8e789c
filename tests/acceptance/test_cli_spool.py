"""A database that takes no more when a run ends: what the user is told, and that the next run puts it right."""

import json
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from trackside.app.storage.errors import DatabaseIOError

type Trackside = Callable[..., subprocess.CompletedProcess[str]]

AGENTS = """
import resource

def fill_disk():
    # Less than one page in the log of the database, wherever that goes, and enough for the spool.
    resource.setrlimit(resource.RLIMIT_FSIZE, (4_096, resource.RLIM_INFINITY))

async def fills(input):
    fill_disk()
    return "the answer"

async def fills_all(input):
    with open("disk/filler", "wb", buffering=0) as filler:
        for size in (4096, 1):
            try:
                while True:
                    filler.write(b"x" * size)
            except OSError:
                pass
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


@pytest.mark.parametrize(
    ("failure", "said"),
    [
        (DatabaseIOError(database="trackside.db", why="disk I/O error"), "The database trackside.db could not be read"),
        (ValueError("of ours"), "of ours\n"),
    ],
)
def test_how_a_run_ended_is_said_though_what_it_streamed_cannot_be_read(
    here: Trackside, monkeypatch: pytest.MonkeyPatch, failure: Exception, said: str
) -> None:
    async def unreadable(*_: object) -> None:
        raise failure

    monkeypatch.setattr("trackside.app.cli.actions.running._show_stream", unreadable)

    done = here("run", "agents.py:echo", "hi")

    assert done.returncode == 0
    assert "✓ completed" in done.stdout
    assert done.stderr.startswith(f"what the run streamed cannot be shown: {said}")
    assert done.stderr.count("\n") == 1


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
    assert "could not be kept for later either, and is lost: The spool " in failed.stdout
    assert "is lost: neither the database nor trackside.db-spool took it" in failed.stderr


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A small disk of its own; skips the test where that takes more rights than there are."""
    folder = tmp_path / "disk"
    folder.mkdir()
    made = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", folder], capture_output=True, check=False)
    if made.returncode:
        pytest.skip(f"a file system can be mounted by root only: {made.stderr.decode().strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


def test_an_end_that_a_full_disk_kept_nowhere_is_said_to_be_lost_and_leaves_no_empty_file(
    trackside: Trackside, disk: Path
) -> None:
    there = ("-d", "sqlite:///disk/t.db")
    failed = trackside("run", "agents.py:fills_all", "hi", "--thread", "t-1", *there)
    run_id = failed.stdout.partition("run          ")[2].partition("\n")[0]

    lost, database, spool = failed.stderr.splitlines()
    assert failed.returncode == 1
    assert "it could not be kept for later either, and is lost: The spool " in failed.stdout
    assert lost == (
        f"how run {run_id} ended is lost: neither the database nor disk/t.db-spool took it;"
        " the next `trackside run` records that its process went away (worker_lost)"
    )
    assert database.startswith("  the database: There is no room left for the database disk/t.db")
    assert spool.startswith("  disk/t.db-spool: The spool ")
    assert "No space left on device" in spool
    assert not [*disk.glob("t.db-spool/*")]

    (disk / "filler").unlink()
    assert trackside("run", "agents.py:echo", "x", "--thread", "t-1", *there).returncode == 0
    shown = [json.loads(line) for line in trackside("events", "--json", "--run", run_id, *there).stdout.splitlines()]
    ends = [event["payload"] for event in shown if event["event_type"] == "run_failed"]
    assert [(end["error_type"], end["completion_data"]["first_human_message"]) for end in ends] == [
        ("worker_lost", "hi")
    ]
