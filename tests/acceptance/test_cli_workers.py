"""`trackside workers`: who is there and what waits, from a database or a server, and how to have some leave."""

from __future__ import annotations

import asyncio
import json
import subprocess
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from forking import Forkery
from trackside_server import TracksideServer

from trackside._version import __version__
from trackside.app.observers.storage import StorageObserver
from trackside.app.storage import Store
from trackside.app.storage.fleet import FleetMember
from trackside.harness import ObserverBinding, RunManager, RunSpec

type Run = Callable[..., subprocess.CompletedProcess[str]]

POOLS = {"chat": "default", "draw": "gpu"}


async def chat(input: Any) -> Any:
    return input


@asynccontextmanager
async def member(url: str, kind: Any = "worker", **more: Any) -> AsyncGenerator[RunManager]:
    """A process of a fleet, as far as the database knows."""
    agents = {"chat": chat, "draw": chat}
    async with Store.open(url) as store:
        fleet = FleetMember(kind=kind, pool_of=lambda agent: POOLS.get(agent, "default"), agents=tuple(agents), **more)
        coordinator = store.coordinator(lease_seconds=60.0, fleet=None if kind == "inline" else fleet)
        observers = [ObserverBinding(StorageObserver(store), required=True)]
        async with RunManager(agents, observers=observers, coordinator=coordinator, log=store.run_log()) as manager:
            yield manager


async def read(run: Run, *arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    return await asyncio.to_thread(run, "workers", *arguments, **env)


async def until_listed(count: int, run: Run, *where: str) -> list[str]:
    """The lines of this many processes, once all are there: a server answers before it has said that it is there."""
    async with asyncio.timeout(30):
        while True:
            done = await read(run, "--json", *where)
            assert done.returncode == 0, done.stderr
            if len(lines := done.stdout.splitlines()) == count:
                return lines


async def test_workers_are_listed_with_their_places_and_agents(trackside: Run, postgres_with_tables: str) -> None:
    async with (
        member(postgres_with_tables, "server"),
        member(
            postgres_with_tables, pools=("default", "gpu"), capacity=4, version="v7", address="http://10.0.0.1:9000"
        ),
    ):
        listed = await read(trackside, "--json", TRACKSIDE_DATABASE_URL=postgres_with_tables)
        shown = await read(trackside, TRACKSIDE_DATABASE_URL=postgres_with_tables, COLUMNS="200")

    server, worker = (json.loads(line) for line in listed.stdout.splitlines())
    assert (server["kind"], worker["kind"]) == ("server", "worker")
    assert worker["pools"] == ["default", "gpu"]
    assert (worker["agents"], worker["version"]) == (["chat", "draw"], "v7")
    assert (worker["capacity"], worker["running"], worker["draining"]) == (4, 0, False)
    assert (worker["release"], worker["address"]) == (__version__, "http://10.0.0.1:9000")
    assert worker["seconds_left"] > 0
    assert (listed.returncode, shown.returncode, shown.stderr) == (0, 0, "")
    lines = shown.stdout.splitlines()
    assert lines[0].split()[:4] == ["NAME", "STATE", "KIND", "TAKEN"]
    assert worker["name"] in lines[2]
    assert "0/4" in lines[2]
    assert "default, gpu" in lines[2]


async def test_what_waits_is_shown_by_pool_and_what_nobody_serves_in_a_sentence(
    trackside: Run, postgres_with_tables: str
) -> None:
    async with (
        member(postgres_with_tables, "server") as manager,
        member(postgres_with_tables, pools=("default",), capacity=2),
    ):
        for _ in range(3):
            await manager.start(RunSpec(agent="draw", input={}))
        queue = await read(trackside, "--queue", "--json", TRACKSIDE_DATABASE_URL=postgres_with_tables)
        shown = await read(trackside, "--queue", TRACKSIDE_DATABASE_URL=postgres_with_tables)
        both = await read(trackside, TRACKSIDE_DATABASE_URL=postgres_with_tables)

    (said,) = (json.loads(line) for line in queue.stdout.splitlines())
    pools = {pool["pool"]: pool for pool in said["pools"]}
    assert (pools["gpu"]["ready"], pools["gpu"]["workers"]) == (3, 0)
    assert (pools["default"]["workers"], pools["default"]["places"], pools["default"]["free"]) == (1, 2, 2)
    assert [(one["agent"], one["count"]) for one in said["unserved"]] == [("draw", 3)]
    for text in (shown.stdout, both.stdout):
        assert "3 runs of draw wait" in text
        assert "no live worker serves it" in text


async def test_draining_asks_first_and_marks_the_worker(
    trackside: Run, terminal: Any, postgres_with_tables: str
) -> None:
    async with member(postgres_with_tables, pools=("default",), capacity=2):
        (line,) = (await read(trackside, "--json", TRACKSIDE_DATABASE_URL=postgres_with_tables)).stdout.splitlines()
        worker = json.loads(line)
        nobody = await read(trackside, "drain", worker["name"], TRACKSIDE_DATABASE_URL=postgres_with_tables)

        def answer(key: bytes) -> tuple[int, str]:
            shown = terminal(
                "workers", "drain", worker["worker_id"], TRACKSIDE_DATABASE_URL=postgres_with_tables, columns=250
            )
            shown.wait_for("[y/N]")
            shown.press(key + b"\n")
            return shown.wait(), shown.text

        refused = await asyncio.to_thread(answer, b"n")
        agreed = await asyncio.to_thread(answer, b"y")
        listed = await read(trackside, "--json", TRACKSIDE_DATABASE_URL=postgres_with_tables)
        again = await read(trackside, "drain", worker["name"], "--json", TRACKSIDE_DATABASE_URL=postgres_with_tables)
        shown = await read(trackside, TRACKSIDE_DATABASE_URL=postgres_with_tables)

    assert nobody.returncode == 2
    assert f"--yes: nobody is here to confirm it; {worker['name']} ({worker['worker_id']})" in nobody.stderr
    assert refused[0] == 130
    assert "No worker was drained." in refused[1]
    assert agreed[0] == 0
    assert "takes no more runs, and ends when its current runs are over." in agreed[1]
    assert json.loads(listed.stdout)["draining"]
    assert json.loads(again.stdout) == {"worker_id": worker["worker_id"], "name": worker["name"], "state": "draining"}
    assert "draining" in shown.stdout


async def test_who_cannot_be_drained_is_said(trackside: Run, postgres_with_tables: str) -> None:
    async with (
        member(postgres_with_tables, "server"),
        member(postgres_with_tables, pools=("a",)),
        member(postgres_with_tables, pools=("b",)),
    ):
        lines = (await read(trackside, "--json", TRACKSIDE_DATABASE_URL=postgres_with_tables)).stdout.splitlines()
        server, one, other = map(json.loads, lines)
        of_server = await read(
            trackside, "drain", server["worker_id"], "--yes", TRACKSIDE_DATABASE_URL=postgres_with_tables
        )
        # All in one process, so that they have the same name.
        ambiguous = await read(trackside, "drain", one["name"], "--yes", TRACKSIDE_DATABASE_URL=postgres_with_tables)
        unknown = await read(trackside, "drain", "elsewhere:1", "--yes", TRACKSIDE_DATABASE_URL=postgres_with_tables)

    assert (of_server.returncode, ambiguous.returncode, unknown.returncode) == (2, 2, 2)
    assert f"{server['name']} is a server, and takes no runs" in of_server.stderr
    assert one["worker_id"] in ambiguous.stderr
    assert other["worker_id"] in ambiguous.stderr
    assert "No live worker here has the name or id 'elsewhere:1'" in unknown.stderr


async def test_a_process_outside_a_fleet_is_not_said_to_take_no_runs(trackside: Run, postgres_with_tables: str) -> None:
    async with member(postgres_with_tables, "inline") as manager:
        await (await manager.start(RunSpec("chat", "hello"))).result()
        listed = await read(trackside, "--json", TRACKSIDE_DATABASE_URL=postgres_with_tables)
        name = json.loads(listed.stdout)["name"]
        refused = await read(trackside, "drain", name, "--yes", TRACKSIDE_DATABASE_URL=postgres_with_tables)

    assert refused.returncode == 2
    assert f"{name} is no worker of a fleet, and executes the runs that it lets in itself" in refused.stderr


async def test_what_a_process_outside_a_fleet_executes_is_counted(trackside: Run, postgres_with_tables: str) -> None:
    go_on = asyncio.Event()

    async def waits(input: Any) -> None:
        await go_on.wait()

    async with member(postgres_with_tables, "inline") as manager:
        run = await manager.start(RunSpec(waits))
        (listed,) = await until_listed(1, trackside, "--database", postgres_with_tables)
        go_on.set()
        await run.result()
    assert (json.loads(listed)["kind"], json.loads(listed)["running"]) == ("inline", 1)


async def test_ids_of_workers_are_completed(trackside: Run, postgres_with_tables: str) -> None:
    async with member(postgres_with_tables, "server"), member(postgres_with_tables, pools=("a",)):
        lines = (await read(trackside, "--json", TRACKSIDE_DATABASE_URL=postgres_with_tables)).stdout.splitlines()
        ids = [one["worker_id"] for one in map(json.loads, lines) if one["kind"] == "worker"]
        env = {"_TRACKSIDE_COMPLETE": "complete_bash", "COMP_WORDS": "trackside workers drain ", "COMP_CWORD": "3"}
        offered: list[str] = []
        while not offered:  # on a busy machine it may take longer than a person waits
            done = await asyncio.to_thread(trackside, TRACKSIDE_DATABASE_URL=postgres_with_tables, **env)
            offered = done.stdout.split()

    assert offered == ids


@pytest.mark.parametrize("arguments", [(), ("--queue",)])
def test_where_there_is_no_fleet_it_says_so(here: Run, tmp_path: Path, arguments: tuple[str, ...]) -> None:
    (tmp_path / "agents.py").write_text("async def chat(input):\n    return 'x'\n", encoding="utf-8")
    assert here("run", "agents.py:chat", "x").returncode == 0

    done = here("workers", *arguments)

    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout in {"No process looks after runs here.\n", "Nothing waits for workers.\n"}


async def test_a_server_is_asked_as_a_database_is(
    trackside: Run, tmp_path: Path, postgres_with_tables: str, forkery: Forkery
) -> None:
    (tmp_path / "agents.py").write_text("async def chat(input):\n    return 'x'\n", encoding="utf-8")
    server = TracksideServer(tmp_path, "agents.py:chat", database=postgres_with_tables, forkery=forkery)
    await asyncio.to_thread(server.start)
    try:
        await until_listed(1, trackside, "--url", server.url)
        async with member(postgres_with_tables, pools=("default",), capacity=2):
            here, there = [
                await until_listed(2, trackside, *where)
                for where in (("--database", postgres_with_tables), ("--url", server.url))
            ]
            queues = [
                json.loads((await read(trackside, "--queue", "--json", *where)).stdout)
                for where in (("--database", postgres_with_tables), ("--url", server.url))
            ]
            worker = json.loads(here[1])
            drained = await read(trackside, "drain", worker["name"], "--yes", "--url", server.url)
            listed = await read(trackside, "--json", "--url", server.url)
    finally:
        await asyncio.to_thread(server.kill)

    assert [set(json.loads(line)) for line in here] == [set(json.loads(line)) for line in there]
    assert [json.loads(line)["worker_id"] for line in here] == [json.loads(line)["worker_id"] for line in there]
    assert queues[0]["pools"] == queues[1]["pools"]
    assert drained.returncode == 0, drained.stderr
    assert [json.loads(line)["draining"] for line in listed.stdout.splitlines()] == [False, True]


async def test_who_waits_for_a_worker_goes_on_when_a_server_that_was_away_is_back(
    trackside: Run, piped: Any, tmp_path: Path, postgres_with_tables: str, forkery: Forkery
) -> None:
    (tmp_path / "agents.py").write_text("async def chat(input):\n    return 'x'\n", encoding="utf-8")
    server = TracksideServer(tmp_path, "agents.py:chat", database=postgres_with_tables, forkery=forkery)
    await asyncio.to_thread(server.start)
    try:
        async with member(postgres_with_tables, pools=("default",)):
            listed = map(json.loads, await until_listed(2, trackside, "--url", server.url))
            (worker,) = [one for one in listed if one["kind"] == "worker"]
            drain = await asyncio.to_thread(
                piped, "workers", "drain", worker["worker_id"], "--yes", "--wait", "--url", server.url
            )
            assert "Waiting until its runs are over" in await asyncio.to_thread(drain.stderr.readline)
            await asyncio.to_thread(server.kill)
            assert (await asyncio.to_thread(drain.stderr.readline)).startswith("waiting: No server answers at ")
            await asyncio.to_thread(server.restart)
        out, err = await asyncio.to_thread(drain.communicate, timeout=60)
    finally:
        await asyncio.to_thread(server.kill)

    assert (drain.returncode, out, err) == (0, f"{worker['name']} has left.\n", "")


async def test_the_doctor_names_what_nobody_serves_and_an_engine_that_is_not_there(
    trackside: Run, postgres_with_tables: str
) -> None:
    env = {"TRACKSIDE_DATABASE_URL": postgres_with_tables, "TRACKSIDE_ENGINE_URL": "nats://bob:sesame@127.0.0.1:1"}
    async with member(postgres_with_tables, "server") as manager:
        await manager.start(RunSpec(agent="draw", input={}))
        done = await asyncio.to_thread(trackside, "doctor", "--json", **env)
        without = await asyncio.to_thread(trackside, "doctor", "--json", TRACKSIDE_DATABASE_URL=postgres_with_tables)

    whats = [found["what"] for found in map(json.loads, done.stdout.splitlines()) if found["severity"] != "note"]
    assert done.returncode == 1
    assert "no worker is alive, so nobody executes what servers let in" in whats
    assert any(what.startswith("it cannot be reached: NATS") for what in whats)
    assert {f"nobody is the {duty} of the fleet" for duty in ("reaper", "scheduler", "sweeper")} <= {
        what.partition(";")[0] for what in whats
    }
    assert "sesame" not in done.stdout + done.stderr
    assert "cannot be reached" not in without.stdout
