"""The how-tos about the log are worked through from top to bottom, each in an empty folder, and show what they say.

On SQLite and on PostgreSQL. In a page

* a `py` or `toml` block that begins with the name of a file is put into that file; a `py` block that calls `asyncio.run` is
  a program; any other stands in an `async with Store.open(…) as store`. A `text` block that follows is what it prints;
* a `console` block has commands, and below each, if anything, what it shows; `export NAME=value` goes for all that follow;
* other languages are there to be read;
* `…` stands for anything, and alone in its line for any lines.
"""

import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from signal import SIGKILL
from typing import Any

import pytest

DOCS = Path(__file__).parents[2] / "docs"
PAGES = sorted(
    str(path.relative_to(DOCS))
    for path in DOCS.rglob("*.md")
    if path.name not in {"cli.md", "conformance.md", "settings.md"}
)
# The former pytest works through; of the latter, which tells of no steps, the settings are read in their own tests.
SQLITE = "sqlite:///trackside.db"
POSTGRES = "postgresql://trackside:secret@db.example/runs"
ONLY_SQLITE = "trackside db compact"
DONE = {"py", "toml", "console"}
READ = {"go", "ini", "js", "json", "sh", "yaml"}

type Do = Callable[[dict[str, Any]], int]


@dataclass(frozen=True)
class Step:
    """A block or a command to be worked through, and what it shows, if the page says so."""

    place: str
    language: str
    text: str
    shown: str | None


def steps(page: str) -> list[Step]:
    document = (DOCS / page).read_text(encoding="utf-8")
    found: list[Step] = []
    for fence in re.finditer(r"^```(\w+)\n(.*?)^```$(?:\n\n```text\n(.*?)^```$)?", document, re.MULTILINE | re.DOTALL):
        language, text, shown = fence.groups()
        place = f"{page}:{document[: fence.start()].count('\n') + 1}"
        assert language in DONE | READ, f"{place} is in a language that nobody knows"
        if language in READ:
            continue
        if language != "console":
            found.append(Step(place, language, text, shown))
            continue
        for command in re.split(r"^\$ ", text, flags=re.MULTILINE)[1:]:
            line, _, below = command.partition("\n")
            found.append(Step(place, language, line, below or None))
    return found


@dataclass(frozen=True)
class Reader:
    """Somebody who does what a page says, in a folder, with one database or another."""

    folder: Path
    database: str
    server: str
    """The address of a database on a PostgreSQL server, where the page has one."""
    do: Do
    exported: dict[str, str]

    def work_through(self, step: Step) -> None:
        text = self._here(step.text)
        name = re.match(r"# (\w+\.(?:py|toml))\n", text)
        if name is not None:
            (self.folder / name[1]).write_text(text, encoding="utf-8")
            return
        assert step.language != "toml", f"{step.place} has settings of no file; begin with # trackside.toml"
        if (exported := re.match(r"export (\w+)=(\S+)", text)) is not None:
            self.exported[exported[1]] = exported[2]
            return
        output = self.folder / "output"
        what = {"kind": "command", "words": shlex.split(text, comments=True)}
        if step.language == "py":
            what = {"kind": "program"} if "asyncio.run(" in text else {"kind": "excerpt", "url": self.database}
        environment = {"TRACKSIDE_DATABASE_URL": self.database, "COLUMNS": "120", **self.exported}
        where = {"folder": str(self.folder), "environment": environment, "output": str(output)}
        code = self.do({"place": step.place, "text": text, **what, **where})
        self._check(step, code, output.read_text(encoding="utf-8"))

    def _check(self, step: Step, code: int, output: str) -> None:
        if code == -SIGKILL:
            output, code = f"{output}Killed\n", 0  # as a shell says it
        said = f"{step.place} ends with {code} and shows\n{output}"
        assert code == 0, said
        if step.shown is not None:
            shown = re.escape(_narrow(self._here(step.shown))).replace("\\\n", "\n")
            pattern = re.sub(r"^…\n", "(?s:.*)", shown, flags=re.MULTILINE).replace("…", ".*")
            assert re.fullmatch(pattern, _narrow(output)), f"{said}\nand not\n{step.shown}"

    def _here(self, text: str) -> str:
        return text.replace(SQLITE, self.database).replace(POSTGRES, self.server)


def _narrow(text: str) -> str:
    """With one space where there are several: columns are as wide as what is in them."""
    return re.sub(r" +", " ", re.sub(r" +$", "", text, flags=re.MULTILINE))


@pytest.fixture(scope="module")
def do() -> Iterator[Do]:
    """Does a step in a process of its own, and gives the exit code."""
    command = [sys.executable, "-W", "error", str(Path(__file__).with_name("forked.py"))]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("TRACKSIDE_")}
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment, text=True, process_group=0
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        asked, answers = process.stdin, process.stdout

        def do(step: dict[str, Any]) -> int:
            print(json.dumps(step), file=asked, flush=True)
            return int(answers.readline())

        yield do
        os.killpg(process.pid, SIGKILL)  # also a step that hangs


@pytest.mark.parametrize("page", PAGES)
@pytest.mark.parametrize("dialect", ["sqlite", "postgres"])
def test_a_page_does_what_it_says(page: str, dialect: str, tmp_path: Path, postgres_url: str, do: Do) -> None:
    reader = Reader(tmp_path, SQLITE if dialect == "sqlite" else postgres_url, postgres_url, do, {})
    for step in steps(page):
        if dialect == "sqlite" or not step.text.startswith(ONLY_SQLITE):
            reader.work_through(step)
