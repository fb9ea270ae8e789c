"""I24: what a forked child may open of what its parent had open, and that nothing it then records is lost."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")

PROGRAM = """
import asyncio, json, os, sys, warnings
from datetime import UTC, datetime
from trackside.app.storage import Store
from trackside.harness.errors import TracksideError
from trackside.harness.observer import LifecycleEventType, RunLifecycleEvent

warnings.simplefilter("ignore")  # of Python: it does not like a fork beside threads
mode, urls = sys.argv[1], sys.argv[2:]

def say(**what):
    os.write(1, (json.dumps(what) + "\\n").encode())

async def record(store, run_id):
    now = datetime.now(UTC)
    await store.append([RunLifecycleEvent(f"e-{run_id}", LifecycleEventType.RUN_STARTED, run_id, run_id, 1, now, {})])

async def opened(url, run_id, **options):
    try:
        async with Store.open(url, **options) as store:
            if not options:
                await record(store, run_id)
            say(opened=run_id)
    except TracksideError as exc:
        say(refused=run_id, code=exc.code)

def child(work, *, then=None):
    if not (pid := os.fork()):
        asyncio.run(work())
        if then is not None:
            then()
        os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0

async def each():
    for number, url in enumerate(urls):
        await opened(url, f"child-{number}")

async def looks():
    await opened(urls[0], "child", read_only=True)

async def main():
    if mode == "closed before":
        await opened(urls[0], "parent")
        child(each)
        return
    async with Store.open(urls[0]) as store:
        await record(store, "parent")
        if mode == "looks":
            child(looks)
        elif mode == "grandchild":
            async def nothing(): pass
            child(nothing, then=lambda: child(each))
        elif mode == "open":
            child(each)
        await record(store, "parent-again")

if mode == "forked before":
    if not (pid := os.fork()):
        asyncio.run(each())
        os._exit(0)
asyncio.run(main())
if mode == "forked before":
    assert os.waitpid(pid, 0)[1] == 0
elif mode == "open":
    asyncio.run(opened(urls[0], "parent-at-last"))

async def log():
    async with Store.open(urls[0]) as store:
        say(log=sorted(run.run_id for run in await store.runs()))

asyncio.run(log())
"""


def run(mode: str, *urls: str) -> list[dict[str, Any]]:
    """What parent and child said, and what the log has at the end."""
    command = [sys.executable, "-c", PROGRAM, mode, *urls]
    result = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert (result.stderr, result.returncode) == ("", 0)
    return [json.loads(line) for line in result.stdout.splitlines()]


REFUSED = {"refused": "child-0", "code": "forked-database"}


def test_a_file_that_was_open_at_a_fork_is_refused_to_the_child(path: Path) -> None:
    link = path.with_name("link.db")
    link.symlink_to(path)

    said = run("open", f"sqlite:///{path}", f"sqlite:///{link}")

    assert said == [
        REFUSED,
        {"refused": "child-1", "code": "forked-database"},
        {"opened": "parent-at-last"},
        {"log": ["parent", "parent-again", "parent-at-last"]},
    ]


def test_a_child_may_not_even_look_into_a_file_that_was_open_at_the_fork(path: Path) -> None:
    assert run("looks", f"sqlite:///{path}")[0] == {"refused": "child", "code": "forked-database"}


def test_a_child_of_a_child_may_not_open_it_either(path: Path) -> None:
    assert run("grandchild", f"sqlite:///{path}") == [REFUSED, {"log": ["parent", "parent-again"]}]


def test_a_child_may_open_another_file(path: Path) -> None:
    said = run("open", f"sqlite:///{path}", f"sqlite:///{path.with_name('other.db')}")

    assert said[:2] == [REFUSED, {"opened": "child-1"}]


def test_a_child_may_open_what_was_closed_again_before_the_fork(url: str) -> None:
    said = run("closed before", url)

    assert said == [{"opened": "parent"}, {"opened": "child-0"}, {"log": ["child-0", "parent"]}]


def test_what_is_opened_after_the_fork_is_open_to_both(url: str) -> None:
    assert run("forked before", url) == [{"opened": "child-0"}, {"log": ["child-0", "parent", "parent-again"]}]


def test_a_child_may_open_a_database_on_a_server_that_its_parent_has_open(postgres_url: str) -> None:
    said = run("open", postgres_url)

    assert said[0] == {"opened": "child-0"}
    assert said[-1] == {"log": ["child-0", "parent", "parent-again", "parent-at-last"]}
