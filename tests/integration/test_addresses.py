"""Test processes take turns: some show pages, which a browser gives up when an address changes; some change addresses."""

from __future__ import annotations

import asyncio
import fcntl
import threading
from collections.abc import Iterator
from pathlib import Path

import addresses
import pytest
from addresses import changing, unchanged


@pytest.fixture(autouse=True)
def own_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Others show pages meanwhile."""
    monkeypatch.setattr(addresses, "_NEXT", tmp_path / "next")
    monkeypatch.setattr(addresses, "_NOW", tmp_path / "now")


class Change:
    """Somebody who changes addresses, in a thread, until he is told to be done."""

    def __init__(self) -> None:
        self.begun, self.done = threading.Event(), threading.Event()

    def __call__(self) -> None:
        with changing():
            self.begun.set()
            self.done.wait()


@pytest.fixture
def change() -> Iterator[Change]:
    made = Change()
    yield made
    made.done.set()


async def somebody_comes(next_: Path) -> None:
    """Return when somebody has asked to change addresses, whether he may already or not."""
    with next_.open("ab") as file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return
            fcntl.flock(file, fcntl.LOCK_UN)
            await asyncio.sleep(0.01)


async def show() -> None:
    async with unchanged():
        pass


async def test_an_address_changes_when_the_last_page_is_gone_and_before_the_next_comes(
    change: Change, tmp_path: Path
) -> None:
    async with unchanged():
        doing = asyncio.create_task(asyncio.to_thread(change))
        await somebody_comes(tmp_path / "next")
        await show()  # what a test shows beside its page does not wait for those who wait for the test
        assert not change.begun.is_set()
    await asyncio.to_thread(change.begun.wait)
    next_page = asyncio.create_task(show())
    await asyncio.sleep(0.1)
    assert not next_page.done()
    change.done.set()
    await next_page
    await doing
