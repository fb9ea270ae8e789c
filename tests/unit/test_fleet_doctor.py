"""What `trackside doctor` says of a fleet, and that it says nothing where there is none."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from trackside._version import __version__
from trackside.app.cli.serving.workers_watch import WorkersWatch
from trackside.app.settings import EngineSettings, Settings
from trackside.app.storage import Store
from trackside.app.storage.fleet import HeldDuty, QueueDepth, StoredWorker, UnservedRuns
from trackside.app.wiring.findings import Finding, Severity
from trackside.app.wiring.fleet_doctor import DUTIES, findings_of

NOW = datetime(2026, 1, 2, tzinfo=UTC)
FLEET = Settings(
    database_url="postgresql://trackside@db/runs",
    engine=EngineSettings(url="postgres"),
    sources={"engine.url": "--engine"},
)
INLINE = replace(FLEET, engine=EngineSettings())
HELD = [HeldDuty(name, "w", NOW, 3.0) for name in DUTIES]
WORKER = StoredWorker(
    worker_id="w",
    name="web-1:7",
    kind="worker",
    pools=("default",),
    agents=("chat",),
    version=None,
    capacity=4,
    running=1,
    draining=False,
    started_at=NOW - timedelta(hours=1),
    last_seen_at=NOW,
    seconds_left=9.0,
    address=None,
    isolated_in=None,
    release=__version__,
)
SERVER = replace(WORKER, worker_id="s", name="web-2:8", kind="server", capacity=0, running=0)


def found(*workers: StoredWorker, settings: Settings = FLEET, **more: Any) -> list[Finding]:
    queue = QueueDepth(pools=(), unserved=more.pop("unserved", ()))
    return [*findings_of(settings, workers, queue, more.pop("duties", HELD), now=NOW, **more)]


def test_a_fleet_that_is_well_gives_no_word() -> None:
    assert found(WORKER, SERVER) == []


def test_who_has_no_fleet_hears_of_none() -> None:
    inline = replace(WORKER, kind="inline", release="0.0.1")

    assert found(inline, settings=INLINE, duties=()) == []


def test_servers_without_a_worker_are_an_error_with_the_command_that_starts_one() -> None:
    gone = replace(WORKER, seconds_left=0.0)

    (only,) = found(SERVER, gone, flags=" --database postgresql://db/runs")

    assert (only.severity, only.what) == (Severity.error, "no worker is alive, so nobody executes what servers let in")
    assert only.fix == "start some: `trackside worker --engine postgres --database postgresql://db/runs`"


def test_a_fleet_that_has_not_begun_is_only_noted() -> None:
    (only,) = found(duties=())

    assert (only.severity, only.fix) == (Severity.note, "")


def test_runs_that_nobody_serves_are_named_with_their_version_and_who_could() -> None:
    waits = UnservedRuns(agent="my agent", version="v2", count=3, oldest_at=NOW - timedelta(hours=2))
    just_come = UnservedRuns(agent="chat", version=None, count=1, oldest_at=NOW - timedelta(seconds=1))

    (only,) = found(WORKER, unserved=(waits, just_come))

    assert only.severity is Severity.error
    assert only.what == "no live worker serves my agent in version v2: 3 runs wait, the oldest for 2 h"
    assert only.fix == "start one that has it, for its pool: `trackside worker 'my agent' --engine postgres`"


def test_who_could_serve_runs_of_a_pool_is_a_worker_of_that_pool() -> None:
    waits = UnservedRuns(agent="render", version=None, count=1, oldest_at=NOW - timedelta(hours=2))

    (only,) = found(WORKER, settings=replace(FLEET, pools={"render": "gpu"}), unserved=(waits,))

    assert only.fix == "start one that has it, for its pool: `trackside worker render --pool gpu --engine postgres`"


def test_a_worker_of_another_release_and_one_whose_clock_is_ahead_are_warnings() -> None:
    (release,) = found(WORKER, replace(SERVER, release="0.0.1"))
    (clock,) = found(replace(WORKER, started_at=NOW + timedelta(minutes=1)), settings=INLINE)

    assert (release.severity, release.where) == (Severity.warning, "server web-2:8")
    assert release.what == f"it is Trackside 0.0.1, and this command is {__version__}"
    assert "its clock is at least 60 s ahead of this machine's" in clock.what


def test_a_duty_that_nobody_has_is_a_warning() -> None:
    ended = [HELD[0], HELD[1]._replace(seconds_left=0.0)]

    first, second = found(WORKER, duties=ended)

    assert [first.what.split(";")[0], second.what.split(";")[0]] == [
        "nobody is the scheduler of the fleet",
        "nobody is the sweeper of the fleet",
    ]


def test_a_worker_that_leaves_is_noted() -> None:
    (only,) = found(replace(WORKER, draining=True))

    assert (only.severity, only.what) == (
        Severity.note,
        "it takes no more runs, and leaves when its last run is over",
    )


@pytest.mark.parametrize(("running", "when"), [(0, "within moments, as it has none"), (2, "when its 2 runs are over")])
def test_a_worker_that_leaves_is_said_to_have_the_runs_that_it_has(running: int, when: str) -> None:
    (only,) = found(replace(WORKER, draining=True, running=running))

    assert only.what == f"it takes no more runs, and leaves {when}"


async def test_a_server_says_how_a_worker_of_its_fleet_is_started(tmp_path: Path) -> None:
    sources = {**FLEET.sources, "database.url": "--database"}
    settings = replace(FLEET, agents={"chat": "agents.py:chat"}, pools={"chat": "gpu"}, sources=sources)
    said: list[str] = []
    spoke = asyncio.Event()

    def say(what: str, *, level: str, hint: str) -> None:
        said.append(hint)
        spoke.set()

    async with Store.open(f"sqlite:///{tmp_path / 'runs.db'}") as store, WorkersWatch(store, settings, say):
        await spoke.wait()

    flags = "--engine postgres --database postgresql://trackside@db/runs"
    assert said == [f"start one: `trackside worker --pool gpu {flags}`"]
