"""What agents do to the world outside, written down in order: a file to which each call of an agent is appended.

It is fenced: whoever enters a thread gets a token higher than all before, and a write with an older one is refused.
So a worker taken for dead that goes on changes nothing any more; that it tried is written down, too. No code of ours.

    hold = FencedJournal(folder).enter(run_id, thread_id, attempt)
    hold.write("something")
    hold.leave("done")
"""

from __future__ import annotations

import fcntl
import json
import os
import time
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from threading import Lock
from typing import BinaryIO, Final, Literal

_BLOCK: Final = 1 << 20  # bytes
_ENTERED: Final = b'"what": "enter"'

type Doing = Literal["enter", "write", "refused", "leave"]


class FencedOff(Exception):
    """Somebody else has entered the thread since."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One line of the journal: what a process did for a run, and when by this machine's monotonic clock."""

    what: Doing
    run_id: str
    thread_id: str
    attempt: int
    pid: int
    token: int
    at: float
    detail: str = ""


class FencedJournal:
    """The journal in a folder, which all processes of this machine may use at once.

    A process opens it when it is told to or first writes, and then needs no further descriptor: what its agents do is
    written down even when the process has none left.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / "journal"
        self._opened: _OpenedJournal | None = None

    def open(self) -> _OpenedJournal:
        """Open it in this process, before something takes its descriptors. Threads that do so at once have one each."""
        opened = self._opened
        if opened is None or opened.pid != os.getpid():  # a child shares its parent's lock
            opened = self._opened = _OpenedJournal(self._path)
        return opened

    def enter(self, run_id: str, thread_id: str, attempt: int = 1) -> Hold:
        """Begin to execute a run; whoever was at its thread before can no longer write."""
        with self._locked() as opened:
            hold = Hold(self, run_id, thread_id, attempt, opened.tokens.get(thread_id, 0) + 1)
            opened.append(hold.entry("enter"))
        return hold

    def entries(self) -> list[Entry]:
        """All lines so far."""
        with self.held() as file:
            return [Entry(**json.loads(line)) for line in file]

    @contextmanager
    def held(self) -> Iterator[BinaryIO]:
        """Keep all processes from writing meanwhile, and read what they have written."""
        with self._path.open("a+b") as file:
            fcntl.flock(file, fcntl.LOCK_SH)
            file.seek(0)
            yield file

    def act(self, hold: Hold, what: Doing, detail: str) -> None:
        """Do something with a token.

        Raises:
            FencedOff: it is not the newest.
        """
        with self._locked() as opened:
            is_newest = opened.tokens.get(hold.thread_id) == hold.token
            opened.append(hold.entry(what, detail) if is_newest else hold.entry("refused", f"{what} {detail}"))
        if not is_newest:
            raise FencedOff(hold.run_id)

    @contextmanager
    def _locked(self) -> Iterator[_OpenedJournal]:
        opened = self.open()  # another thread may reopen the journal meanwhile, and have read other lines
        with opened.locked():
            yield opened


class _OpenedJournal:
    """The journal as one process has it open, with the newest token of each thread, as of the last time it was locked."""

    def __init__(self, path: Path) -> None:
        self.pid: Final = os.getpid()
        self.tokens: dict[str, int] = {}
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        weakref.finalize(self, os.close, self._file)
        self._read = 0  # bytes
        self._among_threads = Lock()

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the journal alone, among all threads and processes, knowing what they have written."""
        with self._among_threads:
            fcntl.flock(self._file, fcntl.LOCK_EX)  # the system also releases it when the process is killed
            try:
                self._read_on()
                yield
            finally:
                fcntl.flock(self._file, fcntl.LOCK_UN)

    def append(self, entry: Entry) -> None:
        """Write a line: one small write happens whole or not at all."""
        os.write(self._file, f"{json.dumps(asdict(entry))}\n".encode())

    def _read_on(self) -> None:
        written = b"".join(iter(self._block, b""))
        for line in written.splitlines():
            if _ENTERED in line:
                entry = json.loads(line)
                self.tokens[entry["thread_id"]] = entry["token"]

    def _block(self) -> bytes:
        block = os.pread(self._file, _BLOCK, self._read)
        self._read += len(block)
        return block


@dataclass(frozen=True, slots=True)
class Hold:
    """The right to do something for a thread, until somebody else has it."""

    journal: FencedJournal
    run_id: str
    thread_id: str
    attempt: int
    token: int

    def write(self, detail: str = "") -> None:
        """Do something.

        Raises:
            FencedOff: it is somebody else's turn.
        """
        self.journal.act(self, "write", detail)

    def leave(self, how: str) -> None:
        """Come to an end.

        Raises:
            FencedOff: it is somebody else's turn.
        """
        self.journal.act(self, "leave", how)

    def entry(self, what: Doing, detail: str = "") -> Entry:
        """A line about something that is done under this hold."""
        return Entry(what, self.run_id, self.thread_id, self.attempt, os.getpid(), self.token, time.monotonic(), detail)
