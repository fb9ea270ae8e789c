"""A reader who does what a page of docs/ says, step by step; `test_how_to.py` says how to read pages."""

from __future__ import annotations

import os
import re
import select
import shlex
import shutil
import socket
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from signal import SIGKILL, Signals
from typing import Any, Final

import pytest
from blocks import DOCS, blocks_of, console
from interpreters import php

from javascript import PACKAGES, node

SQLITE: Final = "sqlite:///trackside.db"
POSTGRES: Final = "postgresql://trackside:secret@db.example/runs"
DONE: Final = frozenset({"py", "toml", "console", "sql"})

_READ_ONLY: Final = frozenset({"pip", "npm", "git", "docker", "systemctl"})
"""Programs whose commands the reader only reads: they change more than a folder, or need a network."""
_PORTS: Final = re.compile(r"\b(?:2024|8080|9464)\b(?!-)")
_KILL: Final = re.compile(r"kill(?: -(\w+))? (?:\$!|%(\d+))\s*(?:#.*)?")
_PATIENCE: Final = 60.0  # seconds, for what was started in the background

type Do = Callable[[dict[str, Any]], int]


@dataclass(frozen=True)
class Step:
    """A block or command to work through, and what it shows, if the page says so."""

    place: str
    language: str
    text: str
    shown: str | None = None
    file: str | None = None


def steps(page: str) -> list[Step]:
    """What a page says to do, in order."""
    found: list[Step] = []
    blocks = [*blocks_of(DOCS / page)]
    for block, after in zip(blocks, [*blocks, None][1:], strict=True):
        place = f"{page}:{block.line}"
        if block.language == "console" and block.unchecked is None:
            found += [Step(place, "console", typed, shown or None) for typed, shown in console(block.text)]
        elif (block.file is not None or block.language in DONE) and block.unchecked is None:
            is_output = after is not None and after.follows and after.language == "text"
            shown = after.text if is_output and after is not None else None
            found.append(Step(place, block.language, block.text, shown, block.file))
    return found


@dataclass
class Reader:
    """Somebody who does what a page says, in a folder, with one database or another."""

    folder: Path
    database: str
    server: str
    """The address of a database on a PostgreSQL server, used where the page names one."""
    do: Do
    exported: dict[str, str] = field(default_factory=dict)
    ports: dict[str, str] = field(default_factory=dict)
    """The free port here for each port that the page names."""
    kept: list[socket.socket] = field(default_factory=list)
    """Sockets that are bound to these, so that no other program here gets one before the page's server listens."""
    started: list[int] = field(default_factory=list)
    """The process ids of what runs in the background, in the order of its start; 0 for what was killed."""
    pipes: list[int] = field(default_factory=list)
    """The pipes that its output comes from."""

    def work_through(self, step: Step) -> None:
        """Do the step, and check that it shows what the page says it shows."""
        text = self._here(step.text)
        if step.file is not None:
            path = self.folder / step.file
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
        elif step.language == "console":
            self._type(step, text)
        elif step.language == "py":
            what = {"kind": "program"} if "asyncio.run(" in text else {"kind": "excerpt", "url": self.database}
            self._finish(step, {"text": text, **what})
        elif step.language == "sql":
            self._finish(step, {"text": text, "kind": "sql", "url": self.database})
        else:
            raise AssertionError(f"{step.place} is of no file; begin it with a comment that names one")

    def leave(self) -> None:
        """End what the reader started in the background."""
        for number in range(1, len(self.started) + 1):
            self._kill(number, SIGKILL)
        for pipe in self.pipes:
            os.close(pipe)
        for kept in self.kept:
            kept.close()

    def _type(self, step: Step, text: str) -> None:
        words = shlex.split(text, comments=True)
        if (exported := re.fullmatch(r"export (\w+)=(\S+)", text)) is not None:
            self.exported[exported[1]] = exported[2]
        elif (kill := _KILL.fullmatch(text)) is not None:
            signal = Signals(int(kill[1])) if (kill[1] or "TERM").isdigit() else Signals[f"SIG{kill[1] or 'TERM'}"]
            self._kill(int(kill[2] or len(self.started)), signal)
        elif words[0] in _READ_ONLY:
            pass
        elif words[-1] == "&":
            self._provide(words[0])
            self._start(step, words[:-1])
        elif words[0] in {"trackside", "python"} and not {"|", "||", ">", "&&"} & {*words}:
            self._finish(step, {"text": text, "kind": "command", "words": words})
        else:
            self._provide(words[0])
            self._finish(step, {"text": text, "kind": "shell"})

    def _provide(self, program: str) -> None:
        """Check that a program is there; our own programs need no check."""
        if program == "node":
            node()
            if not (self.folder / "node_modules").exists():
                (self.folder / "node_modules").symlink_to(PACKAGES)
        elif program == "php":
            php()
        elif program == "curl" and shutil.which(program) is None:
            pytest.skip("curl is not installed")

    def _finish(self, step: Step, what: dict[str, Any]) -> None:
        output = self.folder / "output"
        code = self.do({**self._asked(step, what), "output": str(output)})
        said = output.read_text(encoding="utf-8")
        if code == -SIGKILL:
            said, code = f"{said}Killed\n", 0  # as a shell reports it
        assert code == 0, f"{step.place} ends with {code} and shows\n{said}"
        if step.shown is not None:
            self._compare(step, said)

    def _start(self, step: Step, words: list[str]) -> None:
        """Start something in the background. A server or worker of ours is ready then; others show what they show."""
        kind = "command" if words[0] in {"trackside", "python"} else "shell"
        pipe = self.folder / f"output-{len(self.started)}"
        os.mkfifo(pipe)
        self.pipes.append(os.open(pipe, os.O_RDONLY | os.O_NONBLOCK))
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notices:
            notices.bind(address := f"\0{self.folder}-{len(self.started)}"[:100])
            notices.settimeout(_PATIENCE)
            what = {"text": f"exec {shlex.join(words)}", "kind": kind, "words": words, "background": True}
            asked = self._asked(step, what)
            asked["environment"] |= {"NOTIFY_SOCKET": address.replace("\0", "@")}
            self.started.append(self.do({**asked, "output": str(pipe)}))
            if words[:2] in (["trackside", "serve"], ["trackside", "worker"]):
                while b"READY=1" not in notices.recv(4_096):
                    pass
        if step.shown is not None:
            self._compare(step, _read_until(self.pipes[-1], step.shown.count("\n")))

    def _kill(self, number: int, signal: Signals) -> None:
        process, self.started[number - 1] = self.started[number - 1], 0
        if process:
            self.do({"kind": "kill", "process": process, "signal": int(signal)})

    def _asked(self, step: Step, what: dict[str, Any]) -> dict[str, Any]:
        environment = {"TRACKSIDE_DATABASE_URL": self.database, "COLUMNS": "120", "PYTHONUNBUFFERED": "1"}
        environment |= {"TRACKSIDE_SERVER_PORT": self._port("2024"), **self.exported}
        return {"place": step.place, "folder": str(self.folder), "environment": environment, **what}

    def _compare(self, step: Step, output: str) -> None:
        assert step.shown is not None
        shown = re.escape(_narrow(self._here(step.shown))).replace("\\\n", "\n")
        pattern = re.sub(r"^…\n", "(?s:.*)", shown, flags=re.MULTILINE).replace("…", ".*")
        matches = re.fullmatch(pattern, _narrow(output))
        assert matches, f"{step.place} shows\n{output}\nand not\n{step.shown}"

    def _here(self, text: str) -> str:
        text = text.replace(SQLITE, self.database).replace(POSTGRES, self.server)
        return _PORTS.sub(lambda port: self._port(port[0]), text)

    def _port(self, named: str) -> str:
        if named not in self.ports:
            kept = socket.socket()
            kept.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as servers do: they may listen there as well
            kept.bind(("127.0.0.1", 0))
            self.kept.append(kept)
            self.ports[named] = str(kept.getsockname()[1])
        return self.ports[named]


def _read_until(pipe: int, lines: int) -> str:
    """This many lines of what comes out of a pipe, or everything up to its end."""
    read = b""
    while read.count(b"\n") < lines:
        ready, _, _ = select.select([pipe], [], [], _PATIENCE)
        assert ready, f"nothing more comes after {read.decode()}"
        if not (more := os.read(pipe, 65_536)):
            break
        read += more
    return "".join(read.decode().splitlines(keepends=True)[:lines])


def _narrow(text: str) -> str:
    """The text with one space for several: columns are as wide as their content."""
    return re.sub(r" +", " ", re.sub(r" +$", "", text, flags=re.MULTILINE))
