"""Text from agents, clients and others stays text on a terminal: it moves no cursor, sets no title, forges no line."""

from __future__ import annotations

import asyncio
import fcntl
import os
import pty
import struct
import sys
import termios
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Self

import pytest
from blockbuster import BlockBuster
from commands_here import commands_here

from trackside.app.cli import main
from trackside.app.server.log import ServerLog
from trackside.app.storage import Store
from trackside.harness.types import RunStatus
from trackside.testing import make_run

STEERS = (
    "\x1b]0;title\x07",
    "\x1b[2J",
    "\x1b[8m",
    "\x1bP",
    "\x1b_",
    "\x9b2J",
    "\x9d0;x\x9c",
    "\x08\x08\x08",
    "\u202e",
    "\u2066",
)
HOSTILE = f"seen {' '.join(STEERS)}\r\nFORGED line\rFORGED again\u2028FORGED\x0bFORGED\x85FORGED"
ON_ONE_LINE = HOSTILE.replace("\r", "").replace("\n", "")
NEVER = [text.encode() for text in (*STEERS, "\u2028", "\x0b", "\x85")]


def assert_is_text(shown: bytes) -> None:
    assert [text for text in NEVER if text in shown] == []
    assert not [line for line in shown.replace(b"\r\n", b"\n").splitlines() if line.startswith(b"FORGED")], shown


async def store_hostile_things(url: str) -> None:
    async with Store.open(url) as store:
        for status in (RunStatus.success, RunStatus.error, RunStatus.interrupted):
            run = make_run(f"run-{status.value}", thread_id=f"thread-{status.value}", status=status)
            for event in run:
                payload = dict(event.payload)
                if "agent" in payload:
                    payload |= {"agent": ON_ONE_LINE, "metadata": {HOSTILE: HOSTILE}}
                if "completion_data" in payload:
                    payload |= {"title": HOSTILE, "completion_data": {**payload["completion_data"], HOSTILE: HOSTILE}}
                if status is RunStatus.error and "completion_data" in payload:
                    payload |= {"error": HOSTILE, "error_type": HOSTILE, "traceback": f"Traceback\n  {HOSTILE}"}
                if event.event_type.value == "human_message":
                    payload |= {"content": HOSTILE}
                await store.append([replace(event, payload=payload)])
        await store.subscriptions.open("mail", start="beginning")
        consumer = await store.subscriptions.acquire("mail", consumer=HOSTILE[:100], lease_seconds=600)
        for event in (await consumer.read()).events[:2]:
            await consumer.park(event.position, HOSTILE, attempts=2)
        await consumer.note_failure(HOSTILE, attempts=2)


COMMANDS = [
    ("runs",),
    ("runs", "--json"),
    ("runs", "run-error"),
    ("runs", "run-success"),
    ("runs", "run-interrupted"),
    ("runs", "run-error", "--json"),
    ("threads",),
    ("threads", "thread-interrupted"),
    ("threads", "thread-error", "--json"),
    ("events",),
    ("events", "--json"),
    ("stats",),
    ("stats", "--json"),
    ("subscriptions",),
    ("subscriptions", "--json"),
    ("parked", "mail"),
    ("parked", "mail", "--json"),
    ("doctor",),
    ("db", "check"),
    ("runs", HOSTILE),
    ("runs", "--agent", HOSTILE),
    ("run", f"{HOSTILE}.py:agent", "hello"),
    (HOSTILE,),
    ("runs", f"--{HOSTILE}"),
]


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> str:
    url = f"sqlite:///{tmp_path_factory.mktemp('hostile') / 'trackside.db'}"
    asyncio.run(store_hostile_things(url))
    return url


class Screen:
    """A terminal of 200 columns in place of this process's streams, and what was written to it."""

    def __init__(self) -> None:
        self.shown = b""
        self._reads, self._writes = pty.openpty()
        fcntl.ioctl(self._writes, termios.TIOCSWINSZ, struct.pack("HHHH", 50, 200, 0, 0))
        self._reader = threading.Thread(target=self._read, name="screen")
        self._own = sys.stdout, sys.stderr

    def __enter__(self) -> Self:
        self._reader.start()
        sys.stdout, sys.stderr = (
            os.fdopen(os.dup(self._writes), "w", encoding="utf-8", errors="backslashreplace") for _ in self._own
        )
        return self

    def __exit__(self, *_: object) -> None:
        for stream in (sys.stdout, sys.stderr):
            stream.close()
        sys.stdout, sys.stderr = self._own
        os.close(self._writes)
        self._reader.join()
        os.close(self._reads)

    def _read(self) -> None:
        try:
            while data := os.read(self._reads, 65_536):
                self.shown += data
        except OSError:  # how Linux says that the other side has gone
            return


@pytest.fixture
def at_a_terminal(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, database: str, blockbuster: BlockBuster
) -> Iterator[None]:
    """Commands are typed in an empty folder, and know of the database."""
    blockbuster.deactivate()  # a command imports what it needs in its event loop, before anything else happens there
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.startswith("TRACKSIDE_") or name in {"NO_COLOR", "COLUMNS"}]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("TRACKSIDE_DATABASE_URL", database)
    monkeypatch.setenv("TERM", "xterm-256color")
    with commands_here():
        yield


@pytest.mark.parametrize("words", COMMANDS, ids=lambda words: ascii(" ".join(words))[:40])
@pytest.mark.usefixtures("at_a_terminal")
def test_no_command_lets_a_text_steer_the_terminal(words: tuple[str, ...]) -> None:
    with Screen() as screen:
        main(list(words))
    assert screen.shown
    assert_is_text(screen.shown)


def test_no_request_forges_a_line_of_a_servers_log(tmp_path: Path) -> None:
    """Senders choose the path of a request, and the name of the client."""
    with (tmp_path / "log").open("w", encoding="utf-8") as file, ServerLog(file, as_json=False) as log:
        log.say("request", {"path": f"/{HOSTILE}", "principal": HOSTILE, "thread_id": HOSTILE})
        log.say(HOSTILE, {"why": HOSTILE, "exception": f"Traceback:\n  {HOSTILE}"}, level="warning")
    shown = (tmp_path / "log").read_bytes()
    assert shown.count(b"seen") == 6
    assert b"Traceback:\n" in shown
    assert_is_text(shown)


def test_a_servers_log_for_programs_has_one_object_a_line(tmp_path: Path) -> None:
    with (tmp_path / "log").open("w", encoding="utf-8") as file, ServerLog(file, as_json=True) as log:
        log.say("request", {"path": f"/{HOSTILE}", "principal": HOSTILE})
    (line,) = (tmp_path / "log").read_bytes().split(b"\n")[:-1]
    assert line.startswith(b"{")
    assert line.endswith(b"}")
