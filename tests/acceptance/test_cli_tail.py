"""`trackside tail`: events as they come from other processes, until somebody stops it or stops reading."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from postgres_server import PostgresServer, RunningServer

from trackside import RunContext, RunSpec
from trackside.app.settings import Settings
from trackside.app.wiring import open_app

Trackside = Callable[..., "subprocess.CompletedProcess[str]"]
Piped = Callable[..., "subprocess.Popen[str]"]

AGENTS = """
async def talk(input, run):
    run.set_title(f"On {input}")

async def fail(input):
    raise LookupError("no such thing")
"""


@pytest.fixture
def recorded(here: Trackside, tmp_path: Path) -> Trackside:
    """A database with one run of five events, which this process has recorded and may go on with."""
    (tmp_path / "agents.py").write_text(AGENTS)
    assert here("run", "agents.py:talk", "trains", "--thread", "t-1").returncode == 0
    return here


def positions(tail: subprocess.Popen[str], count: int) -> list[int]:
    assert tail.stdout is not None
    return [json.loads(tail.stdout.readline())["position"] for _ in range(count)]


def test_tail_begins_with_the_newest_and_goes_on_with_what_another_process_records(
    recorded: Trackside, piped: Piped
) -> None:
    tail = piped("tail", "-n", "2", "--json")
    assert positions(tail, 2) == [4, 5]

    recorded("run", "agents.py:fail", "boats", "--thread", "t-2")
    assert positions(tail, 5) == [6, 7, 8, 9, 10]
    recorded("run", "agents.py:talk", "planes", "--thread", "t-1")
    assert positions(tail, 5) == [11, 12, 13, 14, 15]

    tail.send_signal(signal.SIGINT)
    assert tail.communicate() == ("", "")
    assert tail.returncode == 130


def test_tail_shows_people_a_line_for_each_event_that_fits(recorded: Trackside, piped: Piped) -> None:
    tail = piped(
        "tail", "--thread", "t-1", "--agent", "agents.py:talk", "--type", "run_started", "--type", "run_completed"
    )
    assert tail.stdout is not None
    assert "▸ started    agents.py:talk" in tail.stdout.readline()
    assert "✓ completed" in tail.stdout.readline()

    recorded("run", "agents.py:fail", "boats", "--thread", "t-1")
    recorded("run", "agents.py:talk", "planes", "--thread", "t-2")
    recorded("run", "agents.py:talk", "ships", "--thread", "t-1")

    line = tail.stdout.readline()
    assert line.split()[0] == "16"
    assert "▸ started    agents.py:talk" in line
    tail.send_signal(signal.SIGTERM)
    assert tail.wait() == 130


def test_tail_begins_where_it_is_told_to(recorded: Trackside, piped: Piped) -> None:
    (run,) = [json.loads(line) for line in recorded("runs", "--json").stdout.splitlines()]

    assert positions(piped("tail", "--json", "--after", "3"), 2) == [4, 5]
    assert positions(piped("tail", "--json", "--since", "1h"), 5) == [1, 2, 3, 4, 5]
    assert positions(piped("tail", "--json", "--since", "1h", "-n", "1"), 1) == [5]
    assert positions(piped("tail", "--json", "--run", run["run_id"][:23]), 5) == [1, 2, 3, 4, 5]
    only_new = piped("tail", "--json", "-n", "0", "--type", "run_failed")
    everything = piped("tail", "--json")
    assert positions(everything, 5) == [1, 2, 3, 4, 5]
    recorded("run", "agents.py:fail", "boats")
    assert positions(everything, 5) == [6, 7, 8, 9, 10]
    recorded("run", "agents.py:fail", "boats")
    assert positions(only_new, 1)[0] in {9, 14}  # it does not say whether it had begun at the first


def test_tail_shows_what_gives_runs_a_status(recorded: Trackside, piped: Piped) -> None:
    recorded("run", "agents.py:fail", "boats", "--thread", "t-2")  # fails at 9
    tail = piped("tail", "--status", "error", "--status", "running", "--thread", "t-2", "--json")
    assert positions(tail, 2) == [6, 9]
    recorded("run", "agents.py:talk", "planes", "--thread", "t-2")  # starts at 11, and ends well
    recorded("run", "agents.py:fail", "boats", "--thread", "t-2")
    assert positions(tail, 3) == [11, 16, 19]


def test_tail_begins_with_the_newest_that_give_a_status_however_far_back_they_are(
    here: Trackside, piped: Piped, tmp_path: Path
) -> None:
    async def talk(input: str) -> None: ...

    async def ask(input: str, run: RunContext) -> None:
        run.interrupt("which?")

    async def record() -> None:
        settings = Settings(database_url=f"sqlite:///{tmp_path}/trackside.db")
        async with open_app(settings, {"talk": talk, "ask": ask}) as app:
            for agent in ["talk"] * 3 + ["ask"] * 120:
                await (await app.manager.start(RunSpec(agent, input="trains"))).result()

    asyncio.run(record())
    completed = ("events", "--json", "--type", "run_completed", "-n", "1000")
    ends = [json.loads(line)["position"] for line in here(*completed).stdout.splitlines()]

    def begins(*arguments: str, count: int) -> list[int]:
        return positions(piped("tail", "--json", "--status", *arguments), count)

    assert len(ends) == 123
    assert begins("success", count=3) == ends[:3]
    assert begins("success", "-n", "2", count=2) == ends[1:3]
    assert begins("interrupted", "-n", "2", count=2) == ends[-2:]
    assert begins("success", "--status", "interrupted", "-n", "122", count=122) == ends[1:]


def test_tail_ends_with_its_reader_also_while_nothing_happens(recorded: Trackside, trackside: Trackside) -> None:
    done = trackside("tail", "--json", shell='"$0" "$@" | head -n 1')

    assert json.loads(done.stdout.splitlines()[0])["position"] == 1
    assert done.stderr == ""


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--after", "99"), "error: --after: the log ends at 5"),
        (("--thread", "t-9"), "No thread here has an id that begins with 't-9'"),
        (("--type", "run_begun"), "run_begun"),
        (("-n", "-1"), "not a whole number from 0 up"),
        (("--status", "pending"), "--status: no event gives a run the status pending"),
        (
            ("--status", "error", "--type", "run_started"),
            "--status: no event of type run_started gives a run the status error",
        ),
    ],
)
def test_what_cannot_be_followed_is_refused(recorded: Trackside, arguments: tuple[str, ...], said: str) -> None:
    done = recorded("tail", *arguments)

    assert (done.returncode, done.stdout) == (2, "")
    assert said in done.stderr


def test_nothing_can_be_followed_where_nothing_was_recorded(trackside: Trackside) -> None:
    done: Any = trackside("tail")

    assert done.returncode == 2
    assert "nothing recorded" in done.stderr


def test_tail_says_that_the_server_is_away_and_goes_on_when_it_is_back(
    trackside: Trackside, piped: Piped, own_postgres_server: PostgresServer, tmp_path: Path
) -> None:
    (tmp_path / "agents.py").write_text(AGENTS)
    url = own_postgres_server.create_database("runs")
    assert trackside("run", "agents.py:talk", "trains", "-d", url).returncode == 0
    tail = piped("tail", "--json", "-d", url)
    assert tail.stderr is not None
    assert positions(tail, 5) == [1, 2, 3, 4, 5]

    own_postgres_server.stop("immediate")
    said = tail.stderr.readline()
    own_postgres_server.start()

    assert said.startswith("waiting: The server of ")
    assert said.endswith("This command continues when that is over.\n")
    assert trackside("run", "agents.py:talk", "boats", "-d", url).returncode == 0
    assert positions(tail, 5) == [6, 7, 8, 9, 10]
    tail.send_signal(signal.SIGINT)
    assert tail.communicate() == ("", "")


def test_a_signal_to_stop_ends_tail_also_before_it_follows(
    trackside: Trackside, piped: Piped, postgres_server: RunningServer, postgres_url: str, tmp_path: Path
) -> None:
    (tmp_path / "agents.py").write_text(AGENTS)
    assert trackside("run", "agents.py:talk", "trains", "-d", postgres_url).returncode == 0
    name = postgres_url.rpartition("/")[2].partition("?")[0]
    database = postgres_server.connect(name)
    waits = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
    try:
        database.execute("BEGIN")
        database.execute("LOCK TABLE events")
        tail = piped("tail", "--json", "-n", "2", "-d", postgres_url)
        while postgres_server.execute(waits, database=name) != [(1,)]:
            assert tail.poll() is None
        tail.send_signal(signal.SIGTERM)

        assert tail.communicate() == ("", "")
        assert tail.returncode == 130
    finally:
        database.close()
