"""The processes that work on a database next to a test, what they said, and how they die."""

import json
import os
import signal
import subprocess
import sys
from collections import Counter
from contextlib import suppress
from pathlib import Path
from threading import Condition, Thread
from typing import Any

from log_check import Told

PATIENCE = 60.0  # seconds after which processes of which none says anything count as stuck
_SCRIPT = Path(__file__).with_name("crash_child.py")


class Child:
    """One process: the test tells it something, waits for what it says, and lets it die."""

    def __init__(self, news: Condition) -> None:
        self._news = news
        self.pid = 0
        self.exit_code: int | None = None
        self.said: Counter[str] = Counter()
        """How many lines it has said of each kind."""
        self.last: dict[str, str] = {}
        """The last line of each kind."""
        self.refusals: Counter[str] = Counter()
        """The errors of the store that it met."""

    def hear(self, kind: str, rest: str) -> None:
        """Take in a line of what it says."""
        self.said[kind] += 1
        self.last[kind] = rest
        if kind == "born":
            self.pid = int(rest)
        elif kind == "dead":
            self.exit_code = int(rest)
        elif kind == "refused":
            self.refusals[rest.split(" ", maxsplit=1)[0]] += 1

    def wait_for(self, kind: str, count: int = 1, *, patience: float | None = None) -> bool:
        """Wait until it has said this many lines or is dead; returns whether that came in time.

        Without `patience` it may take as long as any process says something, however slow all of them are.
        """

        def came() -> bool:
            return self.said[kind] >= count or self.exit_code is not None

        with self._news:
            if patience is not None:
                return self._news.wait_for(came, patience)
            while not came():
                if not self._news.wait(PATIENCE):
                    return came()
            return True

    def signal(self, word: signal.Signals) -> None:
        """Send it a signal, if it still lives."""
        self.wait_for("born")
        with self._news:
            if self.exit_code is None:
                with suppress(ProcessLookupError):  # it may be dead already, and the report may not be here yet
                    os.kill(self.pid, word)

    def kill(self) -> bool:
        """Kill it by SIGKILL; returns whether it died of that."""
        self.signal(signal.SIGKILL)
        return self.wait() == -signal.SIGKILL

    def let_finish(self) -> None:
        """Tell it to finish what it does, and to begin nothing more."""
        self.wait_for("ready")
        self.signal(signal.SIGTERM)

    def finish(self) -> None:
        """Let it finish what it does, and fail if it cannot."""
        self.let_finish()
        assert self.wait() == 0, self.last

    def wait(self) -> int | None:
        """Wait for its death; returns its exit code, or None if it is stuck."""
        self.wait_for("dead")
        return self.exit_code


class Children:
    """Makes processes that work on one database after another, and gathers what they say.

    `script` calls `fork_for_orders` with the kinds of work that there are.
    """

    def __init__(self, script: Path = _SCRIPT) -> None:
        self._process = subprocess.Popen(
            [sys.executable, script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
        )
        self._news = Condition()
        self._children: list[Child] = []
        self.told = Told()
        """What they have said of the database that they work on now."""
        self._listening = Thread(target=self._listen, name="crash-children")
        self._listening.start()

    def make(self, kind: str, url: str, **options: Any) -> Child:
        """Make a process that does this kind of work; see `crash_child`."""
        assert self._process.stdin is not None
        with self._news:
            order = {"order": len(self._children), "kind": kind, "url": url, **options}
            child = Child(self._news)
            self._children.append(child)
        self._process.stdin.write(json.dumps(order) + "\n")
        return child

    def begin_anew(self) -> None:
        """Go on to another database."""
        with self._news:
            self.told = Told()

    def kill_all(self) -> None:
        """End the processes that still live, so that nothing they say gets into what others say next."""
        for child in self._children:
            if child.exit_code is None:
                child.kill()

    def close(self) -> None:
        """End the processes that still live, and the process that makes them."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait()  # all that it has made ends with it
        self._listening.join()
        self._process.stdout.close()

    def _listen(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            number, kind, *rest = line.rstrip("\n").split(" ", 2)
            with self._news:
                self._hear(self._children[int(number)], kind, *rest)
                self._news.notify_all()

    def _hear(self, child: Child, kind: str, rest: str = "") -> None:
        child.hear(kind, rest)
        words = rest.split(" ")
        match kind:
            case "event":
                event_id, digest, *position = words
                self.told.events[event_id] = digest
                if position:
                    self.told.positions[event_id] = int(position[0])
            case "admitted":
                self.told.admitted.append(words[0])
            case "begun":
                self.told.begun.append(words[0])
            case "ended":
                self.told.ended[words[0]] = words[1]
            case "key":
                if self.told.keys.setdefault(words[0], words[1]) != words[1]:
                    self.told.wrong.append(f"key {words[0]} names two runs")
            case "wrong":
                self.told.wrong.append(rest)
