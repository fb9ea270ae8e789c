"""Commands of `trackside` that are forked, and whose output can be read while they run."""

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
        forkery: forks the command.
        arguments: those of the program.
        folder: where it runs.
        environment: the whole of it.
        stdin: the text of its standard input.
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
            subprocess.TimeoutExpired: it still runs.
        """
        self.returncode = self._process.wait(timeout)
        return self.returncode

    def communicate(self, timeout: float = 60.0) -> tuple[str, str]:
        """Read everything it still writes, and wait for its end.

        Raises:
            subprocess.TimeoutExpired: it still runs.
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
        """Send it a signal, if it still runs."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        """Kill it, if it still runs."""
        self.send_signal(signal.SIGKILL)


def _pipe() -> tuple[IO[str], IO[bytes]]:
    read, write = os.pipe()
    return os.fdopen(read, encoding="utf-8"), os.fdopen(write, "wb")


def _rest_of(file: Any) -> str:
    """Everything up to the end of the file, which is then closed."""
    if file is None or file.closed:
        return ""
    with file:
        return str(file.read())
