"""Whether a server is ready, and why not."""

from __future__ import annotations

import asyncio
import errno
import itertools
import os
import shutil
import subprocess
import sys
import threading
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import pytest

from trackside.app.server import health
from trackside.app.storage.errors import ServerUnreachableError
from trackside.app.vitals import EngineStatus, EngineVitals

pytestmark = pytest.mark.usefixtures("any_pace")


async def echo(input: Any) -> Any:
    return input


async def ready(served: Any) -> httpx.Response:
    async with httpx.AsyncClient() as client:
        return await client.get(f"{served.url}/health/ready")


async def test_a_server_that_can_work_is_ready_and_lives(serve_agents: Any) -> None:
    async with serve_agents({"echo": echo}) as served, httpx.AsyncClient() as client:
        live = await client.get(f"{served.url}/health/live")
        answer = await ready(served)

    assert (live.status_code, live.json()) == (200, {"status": "live"})
    assert answer.status_code == 200
    inline = {"name": "inline", "connected": True, "since": None}
    assert answer.json() == {"status": "ready", "reasons": [], "warnings": [], "degraded": [], "engine": inline}


async def test_a_server_that_ends_is_not_ready_at_once_and_lives(serve_agents: Any) -> None:
    async with serve_agents({"echo": echo}) as served, httpx.AsyncClient() as client:
        assert (await ready(served)).status_code == 200
        served.app.parts.health.begin_ending("it stops")
        answer, live = await ready(served), await client.get(f"{served.url}/health/live")

    assert (answer.status_code, live.status_code) == (503, 200)
    assert answer.json()["reasons"] == [{"check": "closing", "why": "it stops"}]


async def test_a_server_that_begins_to_end_while_it_is_looked_at_is_not_ready(serve_agents: Any) -> None:
    async with serve_agents({"echo": echo}) as served:
        parts = served.app.parts

        class Ending:
            """A store slow enough for the server to end meanwhile."""

            async def run(self, run_id: str) -> None:
                parts.health.begin_ending("it stops")

        await parts.health.look(Ending(), parts.vitals, [])
        answer = await ready(served)
    assert answer.json()["reasons"] == [{"check": "closing", "why": "it stops"}]


async def test_a_server_whose_engine_is_cut_off_is_ready_and_says_so(
    serve_agents: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its neighbours have the same engine: a balancer that took them all out would have no server left."""
    monkeypatch.setattr(health, "_FRESH", 3_600.0)
    since = datetime(2026, 1, 31, 9, 30, tzinfo=UTC)
    status = EngineStatus(connected=True)
    async with serve_agents({"echo": echo}) as served:
        parts = served.app.parts
        vitals = replace(parts.vitals, engine=lambda: EngineVitals("nats", status))
        well = await parts.health.look(parts.store, vitals, [])
        status = EngineStatus(connected=False, why="10.1.2.3 closed the connection", since=since)
        parts.health._found = None
        await parts.health.look(parts.store, vitals, [])
        answer = await ready(served)  # answered from the look of a moment ago

    assert (well.degraded, well.engine.name, well.engine.connected) == ([], "nats", True)
    assert answer.status_code == 200
    said = answer.json()
    (found,) = said.pop("degraded")
    assert found["check"] == "engine"
    assert found["why"].startswith("nats is cut off since 2026-01-31 09:30:00 UTC: ")
    assert "10.1.2.3" not in answer.text, "it is for everybody"
    engine = {"name": "nats", "connected": False, "since": "2026-01-31T09:30:00Z"}
    assert said == {"status": "ready", "reasons": [], "warnings": [], "engine": engine}


async def test_a_database_that_is_away_counts_where_the_engine_is_there(serve_agents: Any) -> None:
    async with serve_agents({"echo": echo}) as served:
        parts = served.app.parts
        found = await parts.health.look(Away(), replace(parts.vitals, engine=lambda: EngineVitals("nats")), [])

    assert (found.status, [one.check for one in found.reasons], found.degraded) == ("unready", ["database"], [])


class Away:
    """A store whose database is away."""

    async def run(self, run_id: str) -> None:
        raise ServerUnreachableError(database="postgresql://ann:secret@db.example/runs", why="it takes no connections")


async def test_a_database_that_cannot_be_read_is_a_reason_without_its_address(
    serve_agents: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(health, "_FRESH", 3_600.0)
    async with serve_agents({"echo": echo}) as served:
        parts = served.app.parts
        found = await parts.health.look(Away(), parts.vitals, [])
        answer = await ready(served)  # answered from the look of a moment ago

    assert answer.status_code == 503
    assert [reason.check for reason in found.reasons] == ["database"]
    assert "cannot be read (ServerUnreachableError)" in answer.text
    assert "db.example" not in answer.text


async def test_a_database_that_does_not_answer_is_a_reason(serve_agents: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    class Silent:
        """A store whose database does not answer."""

        async def run(self, run_id: str) -> None:
            await asyncio.Event().wait()

    monkeypatch.setattr(health, "_PATIENCE", 0.01)
    async with serve_agents({"echo": echo}) as served:
        parts = served.app.parts
        found = await parts.health.look(Silent(), replace(parts.vitals, reads=int), [])

    assert found.status == "unready"
    assert found.reasons == [health.Finding("database", "it does not answer within 0.01 s")]


async def test_reads_that_wait_behind_others_that_succeed_are_a_warning(
    serve_agents: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The database answers, and a server to which requests would go instead has the same one."""

    class Long:
        """A store whose line of reads is long."""

        async def run(self, run_id: str) -> None:
            await asyncio.Event().wait()

    monkeypatch.setattr(health, "_PATIENCE", 0.01)
    async with serve_agents({"echo": echo}) as served:
        parts = served.app.parts
        vitals = replace(parts.vitals, reads=itertools.count().__next__)
        found = await parts.health.look(Long(), vitals, [])
        before = parts.vitals.reads()
        await parts.store.run("nobody's")
        after = parts.vitals.reads()

    assert found.status == "ready"
    assert health.Finding("database", "a read takes more than 0.01 s, though others succeed") in found.warnings
    assert after > before


async def test_a_disk_that_hangs_is_a_warning_and_keeps_one_thread(
    serve_agents: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers, looks = threading.Event(), 0

    def hang(path: Path) -> Usage:
        nonlocal looks
        looks += 1
        answers.wait()
        return Usage(2**40)

    class Well:
        """A store whose database answers at once."""

        async def run(self, run_id: str) -> None: ...

    async with serve_agents({"echo": echo}) as served:
        parts, health_of_it = served.app.parts, health.Health()
        monkeypatch.setattr(shutil, "disk_usage", hang)
        monkeypatch.setattr(health, "_FRESH", 0.0)
        monkeypatch.setattr(health, "_PATIENCE", 0.01)
        try:
            found = [await health_of_it.look(Well(), parts.vitals, ["/"]) for _ in range(3)]
        finally:
            answers.set()
        monkeypatch.setattr(health, "_PATIENCE", 60.0)
        well = await health_of_it.look(Well(), parts.vitals, ["/"])

    disk = health.Finding("disk", "how much is free is not known within 0.01 s")
    assert [(one.status, disk in one.warnings) for one in found] == [("ready", True)] * 3
    assert looks <= 2, "another look begins when the first one is over"
    assert [one for one in well.warnings if one.check == "disk"] == []


async def test_a_database_that_takes_nothing_while_something_waits_is_a_reason(serve_agents: Any) -> None:
    async with serve_agents({"echo": echo}) as served:
        parts, health_of_it = served.app.parts, health.Health()
        found = []
        for batches, pending in ((5, 2), (5, 2), (6, 2), (6, 0)):
            stats = replace(parts.vitals.writer(), batches_total=batches, failures_total=0, pending=pending)
            health_of_it._found = None
            looked = await health_of_it.look(parts.store, replace(parts.vitals, writer=lambda stats=stats: stats), [])
            found.append([(reason.check, reason.why.partition(" for ")[0]) for reason in looked.reasons])
            seen = health_of_it._writer
            assert seen is not None
            health_of_it._writer = seen._replace(since=seen.since - 7_200)  # two hours go by until the next look

    assert found == [[], [("database", "it has taken nothing")], [], []]


async def test_a_loop_that_gets_to_nothing_is_a_reason(serve_agents: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    async def lag() -> float:
        return 3_601.0

    monkeypatch.setattr(health, "_lag", lag)
    async with serve_agents({"echo": echo}) as served:
        answer = await ready(served)

    assert answer.status_code == 503
    assert answer.json()["reasons"] == [{"check": "event_loop", "why": "it takes 3601.0 s to get to anything"}]


async def test_however_many_ask_the_database_is_asked_once(serve_agents: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = 0
    async with serve_agents({"echo": echo}) as served:
        store = served.app.store
        found = type(store).run

        async def counted(self: Any, run_id: str, **more: Any) -> Any:
            nonlocal asked
            asked += 1
            return await found(self, run_id, **more)

        monkeypatch.setattr(type(store), "run", counted)
        monkeypatch.setattr(health, "_FRESH", 3_600.0)
        answers = await asyncio.gather(*(ready(served) for _ in range(10)))

    assert [answer.status_code for answer in answers] == [200] * 10
    assert asked == 1


async def database_answers(served: Any) -> httpx.Response:
    async with httpx.AsyncClient() as client:
        return await client.get(f"{served.url}/ok", params={"check_db": True})


async def test_whether_the_database_answers_is_looked_at_once_too(
    serve_agents: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(health, "_FRESH", 3_600.0)
    async with serve_agents({"echo": echo}) as served:
        parts = served.app.parts
        await parts.health.look(Away(), parts.vitals, [])
        answer = await database_answers(served)

    assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
    assert "cannot be read" in answer.json()["detail"]
    assert "db.example" not in answer.text


async def test_of_all_that_is_wrong_only_the_database_counts_where_it_is_asked_for(
    serve_agents: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with serve_agents({"echo": echo}) as served:
        monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(0))
        answers = [await ready(served), await database_answers(served)]

    assert [answer.status_code for answer in answers] == [503, 200]


class Usage(NamedTuple):
    free: int


@pytest.mark.parametrize(("free", "status", "where"), [(100 * 1_048_576, 200, "warnings"), (1_048_576, 503, "reasons")])
async def test_little_space_is_a_warning_and_hardly_any_a_reason(
    serve_agents: Any, monkeypatch: pytest.MonkeyPatch, free: int, status: int, where: str
) -> None:
    async with serve_agents({"echo": echo}) as served:
        monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(free))
        answer = await ready(served)

    assert answer.status_code == status
    assert answer.json()[where] == [{"check": "disk", "why": f"{free // 1_048_576} MiB are free"}]


async def test_ends_that_wait_on_disk_are_a_warning(serve_agents: Any, tmp_path: Path) -> None:
    async with serve_agents({"echo": echo}) as served:
        parts = served.app.parts
        vitals = type(parts.vitals)(
            **{
                **{name: getattr(parts.vitals, name) for name in ("manager", "observers", "writer", "feeds")},
                "spooled": lambda: 3,
            }
        )
        found = await parts.health.look(parts.store, vitals, [str(tmp_path / "not" / "there")])

    assert found.status == "ready"
    assert [warning.why for warning in found.warnings] == ["the ends of 3 runs wait on disk for the database"]


LOOKED_AT_BY_SOMEBODY_ELSE = """
import os, sys
from trackside.app.server.health import _space

if os.getuid() == 0:  # root may look everywhere
    os.setgid(65534), os.setuid(65534)
print(_space(sys.argv[1:]))
"""


def test_a_folder_that_this_user_cannot_get_to_is_no_reason_to_answer_nobody(tmp_path: Path) -> None:
    """Such as another user's home that would hold the spool: runs go on without it."""
    closed = tmp_path / "closed"
    closed.mkdir(mode=0)
    command = [sys.executable, "-c", LOOKED_AT_BY_SOMEBODY_ELSE, str(closed / "state" / "spool")]

    done = subprocess.run(command, check=False, capture_output=True, text=True)
    closed.chmod(0o700)

    assert (done.stdout, done.stderr) == ("[]\n", "")


@pytest.mark.parametrize("folder", ["a" * 300, "not/there"])
async def test_a_disk_that_cannot_be_looked_at_is_a_warning(
    serve_agents: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, folder: str
) -> None:
    def gone(path: Path) -> Usage:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    async with serve_agents({"echo": echo}) as served:
        parts = served.app.parts
        well = await parts.health.look(parts.store, parts.vitals, [str(tmp_path / folder)])
        monkeypatch.setattr(shutil, "disk_usage", gone)
        found = await health.Health().look(parts.store, parts.vitals, [str(tmp_path / folder)])

    assert (well.status, well.warnings) == ("ready", [])
    assert found.status == "ready"
    assert [warning.why for warning in found.warnings] == [f"how much is free cannot be seen: {os.strerror(errno.EIO)}"]


async def test_transactions_that_fail_are_a_reason_until_one_does_not(serve_agents: Any) -> None:
    """A refused transaction does not wait, so an empty queue says nothing."""
    async with serve_agents({"echo": echo}) as served:
        parts, health_of_it = served.app.parts, health.Health()
        found = []
        for batches, failures in ((5, 0), (6, 1), (6, 1), (8, 3), (9, 3)):
            stats = replace(parts.vitals.writer(), batches_total=batches, failures_total=failures, pending=0)
            health_of_it._found = None
            looked = await health_of_it.look(parts.store, replace(parts.vitals, writer=lambda stats=stats: stats), [])
            found.append([reason.check for reason in looked.reasons])

    assert found == [[], ["database"], ["database"], ["database"], []]


async def test_a_database_that_has_no_room_is_a_reason_though_it_takes_leases(serve_agents: Any) -> None:
    async with serve_agents({"echo": echo}) as served:
        parts = served.app.parts
        store, writer = parts.store, parts.vitals.writer
        await parts.health.look(store, parts.vitals, [])
        vitals = replace(parts.vitals, writer=lambda: replace(writer(), batches_total=10_000, full=True))
        parts.health._found = None
        found = await parts.health.look(store, vitals, [])
    assert found.status == "unready"
    assert [(one.check, one.why) for one in found.reasons] == [
        ("database", "it has no room for what is new; the log says what it said")
    ]
