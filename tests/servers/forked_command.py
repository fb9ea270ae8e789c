"""Commands of `trackside` that are forked, with what they write to be read while they run."""

from __future__ import annotations

import os
import signal
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO, Any

from forking import Forkery


class ForkedCommand:
    """One command, with those methods of `subprocess.Popen[str]` that tests use.

    Args:
        forkery: forks it.
        arguments: of the program.
        folder: where it runs.
        environment: all of it.
        stdin: what there is to read for it.
        stdout: where it writes, if that is not to be read here.
    """

    def __init__(
        self,
        forkery: Forkery,
        arguments: Sequence[str],
        *,
        folder: Path,
        environment: Mapping[str, str],
        stdin: str = "",
        stdout: int | None = None,
    ) -> None:
        self.returncode: int | None = None
        self.stdout, written = _pipe() if stdout is None else (None, os.fdopen(os.dup(stdout), "wb"))
        self.stderr, complained = _pipe()
        with tempfile.TemporaryFile() as read, written, complained:
            read.write(stdin.encode())
            read.seek(0)
            streams = (read, written, complained)
            self._process = forkery.start_on(streams, arguments, folder=folder, environment=environment)
        self.pid = self._process.pid

    def poll(self) -> int | None:
        """Its exit code, if it has ended."""
        self.returncode = self._process.poll()
        return self.returncode

    def wait(self, timeout: float = 60.0) -> int:
        """Wait so many seconds for its end; the exit code, or the number of the signal that killed it, negative.

        Raises:
            subprocess.TimeoutExpired: it goes on.
        """
        self.returncode = self._process.wait(timeout)
        return self.returncode

    def communicate(self, timeout: float = 60.0) -> tuple[str, str]:
        """Read all that it still writes, and wait for its end.

        Raises:
            subprocess.TimeoutExpired: it goes on.
        """
        with ThreadPoolExecutor(2) as readers:
            read = [readers.submit(_rest_of, file) for file in (self.stdout, self.stderr)]
            try:
                self.wait(timeout)
            except subprocess.TimeoutExpired:
                self.kill()
                raise
            out, err = (one.result() for one in read)
        return out, err

    def send_signal(self, number: int) -> None:
        """Send it a signal, if it is there still."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        """Kill it, if it is there still."""
        self.send_signal(signal.SIGKILL)


def _pipe() -> tuple[IO[str], IO[bytes]]:
    read, write = os.pipe()
    return os.fdopen(read, encoding="utf-8"), os.fdopen(write, "wb")


def _rest_of(file: Any) -> str:
    """What can be read to the end, after which the file is closed."""
    if file is None or file.closed:
        return ""
    with file:
        return str(file.read())
