"""A process is killed at any place between a thread's removal and its last trace; whoever sweeps next goes on from there."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import textwrap
from typing import Any

import pytest

from trackside.app.storage import Store
from trackside.app.storage.maintenance import check_database
from trackside.app.storage.threads import ThreadQuery

CHILD = textwrap.dedent("""
    import asyncio, os, signal, sys
    from trackside.app.observers.storage import StorageObserver
    from trackside.app.storage import Store, retention, sweeping
    from trackside.harness import ObserverBinding, RunManager, RunSpec

    def die(*args, **options):
        os.kill(os.getpid(), signal.SIGKILL)

    async def say(input):
        return {"said": input}

    async def forget(thread_ids):
        if place == "while forgetting":
            die()

    async def main(url):
        async with Store.open(url) as store:
            observer = ObserverBinding(StorageObserver(store), required=True)
            states = store.thread_states()
            own = store.coordinator()
            async with RunManager({"say": say}, observers=[observer], coordinator=own, states=states) as runs:
                for thread_id, ends in [("deleted", False), ("kept", False), ("ended", True)]:
                    for number in range(1 if ends else 3):
                        handle = await runs.start(RunSpec("say", number, thread_id=thread_id, thread_ends=ends))
                        await handle.result()
                await store.threads_of(None).change("deleted", metadata={"k": "v"})
                await store.threads_of(None).remove("deleted")
                print("removed", flush=True)
                if place == "before sweeping":
                    die()
                if place == "before the log":
                    sweeping.prune_threads = die
                if place == "within the log":
                    write, removed = retention._write, []

                    async def write_some(writer, work):
                        removed.append(work)
                        if len(removed) == 3:
                            die()
                        return await write(writer, work)

                    retention._write = write_some
                    sweeping.BATCH = 1
                await store.sweeper(forget=[forget]).sweep()
        print("swept", flush=True)

    url, place = sys.argv[1:]
    asyncio.run(main(url))
""")

PLACES = ["before sweeping", "while forgetting", "before the log", "within the log"]


@pytest.mark.parametrize("place", PLACES)
async def test_a_sweep_that_was_killed_is_gone_on_with(url: str, place: str) -> None:
    command = [sys.executable, "-c", CHILD, url, place]
    child: Any = await asyncio.to_thread(
        subprocess.run, command, capture_output=True, text=True, timeout=60, check=False
    )
    assert (child.returncode, child.stdout) == (-9, "removed\n"), child.stderr

    async with Store.open(url) as store:
        assert await store.thread("deleted") is None
        assert (await store.threads_of(None).search(ThreadQuery())).threads[0].thread_id == "kept"
        await store.sweeper().sweep()
        assert await store.thread("deleted", removed=True) is None
        assert await store.runs(thread_id="deleted", removed=True) == []
        assert await store.events(thread_id="deleted") == []
        assert [await store.thread_states().load(thread_id) for thread_id in ("deleted", "ended")] == [None, None]
        assert await store.thread_states().load("kept") is not None
        assert {len(await store.events(thread_id=thread_id)) for thread_id in ("ended", "kept")} == {4, 12}
        assert await store.sweeper().sweep() == (0, 0, 0)
    assert await asyncio.to_thread(check_database, url, sample=None) == []
