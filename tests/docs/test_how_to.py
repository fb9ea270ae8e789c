"""The tests work through pages of docs/ from top to bottom, each in an empty folder; the pages show what they say.

This happens on SQLite, and for reference pages on PostgreSQL, too. In a page

* a block whose first line is a comment with a file's name goes into that file (`# agents.py`, `// client.mjs`); where a
  language has no comments, a comment of the page in front of the block names it: `<!-- file: langgraph.json -->`;
* a `py` block that calls `asyncio.run` is a program; any other stands in an `async with Store.open(…) as store`. `sql` is
  run on the database; one that begins with `-- SQLite` or `-- PostgreSQL` only there. A `text` block that follows at once
  is what is printed;
* a `console` block has commands after `$`, and below each, if anything, what it shows. `export NAME=value` goes for all
  that follow; `&` starts something that goes on, and the test waits until a server of ours is ready; `kill -9 $!` or
  `kill %1` ends it, else the end of the page does. The ports 2024, 8080 and 9464 are others that are free. What installs is
  read, not done;
* other blocks, including those of `sh`, are only there to be read;
* `…` stands for anything, and alone on its line for any number of lines.
"""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from signal import SIGKILL
from typing import Any

import pytest
from blocks import DOCS, ROOT
from reading import SQLITE, Do, Reader, Step, steps
from strictness import STRICT

PAGES = sorted(
    str(path.relative_to(DOCS))
    for path in DOCS.rglob("*.md")
    if path.name not in {"cli.md", "conformance.md", "settings.md"}
)
# The former pytest works through; of the latter, which tells of no steps, the settings are read in their own tests.
ON_SQLITE_ALONE = ("quickstart.md", "tutorials/", "howto/", "explain/")
"""Pages that themselves say where they store things; the other pages show that PostgreSQL gives the same output."""
ON_BOTH = ("log.md", "upkeep.md")
"""Pages about what a database has: that is tried on PostgreSQL each time, and what the others say only at length."""
ONLY_SQLITE = ("trackside db compact", "-- SQLite\n")
ONLY_POSTGRES = ("-- PostgreSQL\n",)


def cases() -> Iterator[Any]:
    """Pages that tell of steps, and the databases to work through them on."""
    for page in filter(steps, PAGES):
        yield page, "sqlite"
        if not page.startswith(ON_SQLITE_ALONE):
            yield pytest.param(page, "postgres", marks=() if page in ON_BOTH else pytest.mark.long)


@pytest.fixture(scope="module")
def do() -> Iterator[Do]:
    """Does a step in a process of its own, and returns the exit code, or the id of a process that goes on."""
    command = [sys.executable, *STRICT, str(Path(__file__).with_name("forked.py"))]
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
        os.killpg(process.pid, SIGKILL)  # even if a step hangs


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An empty folder beside the checkout."""
    (tmp_path / "trackside").symlink_to(ROOT)
    (tmp_path / "work").mkdir()
    return tmp_path / "work"


@pytest.mark.parametrize(("page", "dialect"), [*cases()])
def test_a_page_does_what_it_says(page: str, dialect: str, folder: Path, postgres_url: str, do: Do) -> None:
    reader = Reader(folder, SQLITE if dialect == "sqlite" else postgres_url, postgres_url, do)
    try:
        for step in steps(page):
            if not step.text.startswith(ONLY_POSTGRES if dialect == "sqlite" else ONLY_SQLITE):
                reader.work_through(step)
    finally:
        reader.leave()


def test_a_reader_starts_a_server_and_kills_it(tmp_path: Path, do: Do) -> None:
    reader = Reader(tmp_path, SQLITE, "", do)
    agents = "async def greet(input):\n    return input\n"
    ask = "curl -s -o /dev/null -w '%{http_code}\\n' http://127.0.0.1:2024/ok"
    try:
        reader.work_through(Step("page:1", "py", agents, file="agents.py"))
        reader.work_through(Step("page:2", "console", "trackside serve agents.py:greet &"))
        reader.work_through(Step("page:3", "console", ask, "200\n"))
        reader.work_through(Step("page:4", "sql", "SELECT count(*) FROM runs", "0\n"))
        reader.work_through(Step("page:5", "console", "kill -9 $!"))
        reader.work_through(Step("page:6", "console", f"{ask} || true", "000\n"))
        with pytest.raises(AssertionError, match="page:7 shows"):
            reader.work_through(Step("page:7", "console", "trackside runs --json", "something else\n"))
    finally:
        reader.leave()
