"""A listener to what a store does may fail: nothing else does, and what was committed is answered."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any

import pytest

from trackside.app.storage import Store

type Register = Callable[[Store, Callable[..., object]], object]


def fail(*_: Any) -> None:
    raise LookupError("of the listener")


LISTENERS: dict[str, Register] = {
    "of removals": lambda store, hear: store.on_removal(hear),
    "of commits, as a consumer": lambda store, hear: store.subscriptions.listen(hear),
}


@pytest.mark.parametrize("register", LISTENERS.values(), ids=LISTENERS)
async def test_a_listener_that_fails_is_logged_and_those_who_wrote_and_the_other_listeners_go_on(
    store: Store, script: Any, register: Register, caplog: pytest.LogCaptureFixture
) -> None:
    threads, heard = store.threads_of(None), []
    await threads.create("gone")
    free = store._writer._room._free_count  # type: ignore[union-attr]
    register(store, fail)
    register(store, lambda *said: heard.append(said))

    async with asyncio.timeout(30):
        await asyncio.gather(threads.remove("gone"), threads.create("new"), store.append(script().whole()))

    assert heard
    assert await store.thread("gone") is None
    assert await store.thread("new") is not None
    assert len(await store.events()) == 5
    assert store._writer._room._free_count == free  # type: ignore[union-attr]
    failures = [one for one in caplog.records if one.name == "trackside.storage" and one.levelno == logging.ERROR]
    assert failures
    assert all("of the listener" in str(one.exc_info) for one in failures)


async def test_a_listener_that_has_failed_hears_of_what_another_process_commits_next(
    store: Store, url: str, script: Any
) -> None:
    heard: asyncio.Queue[int] = asyncio.Queue()

    def hear() -> None:
        heard.put_nowait(1)
        fail()

    store.subscriptions.listen(hear)
    async with Store.open(url) as other, asyncio.timeout(30):
        for _ in range(3):
            while not heard.empty():
                heard.get_nowait()
            await other.append(script().whole())
            await heard.get()
    store.subscriptions.stop_listening(hear)
