"""What agents do to the world outside, written down in order: a file to which each call of an agent is appended.

It is fenced: who enters a thread gets a token that is higher than all before, and a write with an older one is refused. So
a worker that was taken for dead, and goes on, changes nothing any more; that it tried is written down, too. No code of ours.

    hold = FencedJournal(folder).enter(run_id, thread_id, attempt)
    hold.write("something")
    hold.leave("done")
"""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Literal

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
    """The journal in a folder, which all processes of this machine may use at once."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "journal"
        self._tokens = folder / "tokens"

    def enter(self, run_id: str, thread_id: str, attempt: int = 1) -> Hold:
        """Begin to execute a run; whoever was at its thread before has no say any more."""
        with self._locked() as file:
            token = self._token_of(thread_id) + 1
            self._tokens.mkdir(exist_ok=True)
            (self._tokens / thread_id).write_text(str(token), "ascii")
            hold = Hold(self, run_id, thread_id, attempt, token)
            hold.append(file, "enter")
        return hold

    def entries(self) -> list[Entry]:
        """All lines so far."""
        if not self._path.exists():
            return []
        with self._path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH)
            return [Entry(**json.loads(line)) for line in file]

    def act(self, hold: Hold, what: Doing, detail: str) -> None:
        """Do something with a token.

        Raises:
            FencedOff: it is not the newest.
        """
        with self._locked() as file:
            is_newest = self._token_of(hold.thread_id) == hold.token
            hold.append(file, what if is_newest else "refused", detail if is_newest else f"{what} {detail}")
        if not is_newest:
            raise FencedOff(hold.run_id)

    @contextmanager
    def _locked(self) -> Iterator[IO[bytes]]:
        with self._path.open("ab", buffering=0) as file:
            fcntl.flock(file, fcntl.LOCK_EX)  # let go of as the file is closed, or the process killed
            yield file

    def _token_of(self, thread_id: str) -> int:
        path = self._tokens / thread_id
        return int(path.read_text("ascii") or 0) if path.exists() else 0


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

    def append(self, file: IO[bytes], what: Doing, detail: str = "") -> None:
        """Write a line: one small write happens whole or not at all."""
        entry = Entry(
            what, self.run_id, self.thread_id, self.attempt, os.getpid(), self.token, time.monotonic(), detail
        )
        file.write(f"{json.dumps(asdict(entry))}\n".encode())
