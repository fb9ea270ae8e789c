"""A start that takes long, while whoever started the process waits for it: systemd, as `sd_notify(3)` has it."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from trackside_server import PATIENCE, TracksideProcess

from trackside.app.cli.serving import notifying
from trackside.app.cli.serving.process_life import ProcessLife

SLOW_TO_IMPORT = """
import time
from pathlib import Path

while not Path("go").exists():
    time.sleep(0.01)

async def echo(input):
    return input
"""
MORE_TIME = "EXTEND_TIMEOUT_USEC=60000000"


class Manager:
    """What listens to the process, as a service manager does."""

    def __init__(self, place: Path) -> None:
        self.address = str(place)
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(self.address)
        self._socket.settimeout(PATIENCE)

    def next(self) -> str:
        """The next thing that the process says."""
        return self._socket.recv(4_096).decode()

    def all(self) -> list[str]:
        """What the process has said and nobody has taken note of yet."""
        said = []
        self._socket.setblocking(False)
        with suppress(BlockingIOError):
            while True:
                said.append(self.next())
        self._socket.settimeout(PATIENCE)
        return said

    def close(self) -> None:
        """Stop listening."""
        self._socket.close()


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[Manager]:
    one = Manager(tmp_path / "notify")
    yield one
    one.close()


@contextmanager
def begun(folder: Path, manager: Manager, *arguments: str) -> Iterator[TracksideProcess]:
    """A process that does not get past its agents before a file `go` exists."""
    (folder / "agents.py").write_text(SLOW_TO_IMPORT, encoding="utf-8")
    command, *options = arguments
    typed = [command, "agents.py:echo", "--json", "--port", "0", *options]
    one = TracksideProcess(folder, typed, name=command, env={"NOTIFY_SOCKET": manager.address})
    one.begin()
    try:
        yield one
    finally:
        one.kill()


@pytest.mark.parametrize("command", ["serve", "worker"])
def test_who_waits_for_a_start_is_asked_for_more_time_until_it_is_ready(
    tmp_path: Path, manager: Manager, postgres_with_tables: str, command: str
) -> None:
    place = ("--database", postgres_with_tables, "--engine", "postgres")
    with begun(tmp_path, manager, command, *place) as process:
        asked = manager.next()
        (tmp_path / "go").touch()
        process.wait_until_ready()
        while (said := manager.next()) == MORE_TIME:
            pass
        ended = process.terminate()

    assert (asked, said, manager.next(), ended) == (MORE_TIME, "READY=1", "STOPPING=1", 0)


def test_a_start_that_takes_long_can_be_stopped(tmp_path: Path, manager: Manager) -> None:
    with begun(tmp_path, manager, "serve") as process:
        assert manager.next() == MORE_TIME
        assert process.terminate() == 0


async def test_a_start_that_is_told_to_stop_asks_for_no_more_time(
    manager: Manager, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise a stop would be waited for as long as the start that it ends."""
    monkeypatch.setenv("NOTIFY_SOCKET", manager.address)
    life = ProcessLife(1.0, lambda event, **facts: None)
    with notifying.starting():
        (asking,) = [thread for thread in threading.enumerate() if thread.name == "trackside-starting"]
        life._begin_to_end(False)
        await asyncio.to_thread(asking.join, PATIENCE)

        assert not asking.is_alive()


def test_more_time_is_asked_for_again_and_again_until_nobody_is_to_wait(
    manager: Manager, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", manager.address)
    monkeypatch.setattr(notifying, "_ASKS_EVERY", 0.001)

    with notifying.starting():
        again = [manager.next() for _ in range(3)]
        notifying.wait_no_longer()
    left = manager.all()  # so that there is room for one more
    notifying.tell_service_manager("the last word")

    assert {*again, *left} == {MORE_TIME}
    assert manager.all() == ["the last word"]


def test_a_start_that_hangs_is_left_to_who_waits_for_it(manager: Manager, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", manager.address)
    monkeypatch.setattr(notifying, "_LONGEST_START", 0.0)

    with notifying.starting():
        notifying.tell_service_manager("still there")
        assert manager.next() == "still there"
