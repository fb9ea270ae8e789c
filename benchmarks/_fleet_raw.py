"""What a fleet does, written by hand on asyncpg and nats-py: `trackside` on NATS is measured beside it.

A run takes the same rows in the same commits: it is let in and a hint goes into a work queue of JetStream; a worker
with a free place pulls the hint, claims the run, says that it begins, says that it has ended, and acknowledges. All
that waits in a process goes into one transaction. Nothing is checked, nothing is renewed, and nobody is told.

As a program it is one of the workers: `_fleet_raw.py DATABASE NATS BOOK`.
"""

import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncGenerator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, override

import nats
import nats.errors
from _fleet_book import Book
from _fleet_place import Place, Runs, cpu_of
from _raw_postgres_runs import _ADMIT_ACTIVE, RawPostgresRuns
from nats.js import JetStreamContext
from nats.js.api import AckPolicy, ConsumerConfig, RetentionPolicy, StreamConfig

from trackside.app.storage import Store
from trackside.harness.ids import new_id

PLACES: Final = 16
_STREAM, _SUBJECT, _CONSUMER = "RAW_RUNS", "raw.runs", "raw"
_CLAIM: Final = """
    UPDATE active_runs a SET owner = 'me' FROM runs r
    WHERE a.run_id = ANY($1::text[]) AND a.owner IS NULL AND r.run_id = a.run_id
    RETURNING a.run_id, a.thread_id, r.request"""


class RawFleetRuns(RawPostgresRuns):
    """The same, for runs that nobody owns until they are claimed."""

    steps = ("admit", "claim", "start", "end")
    admit_active = _ADMIT_ACTIVE.replace("'me'", "NULL")

    @override
    async def _begin(self, steps: set[str]) -> None:
        if steps == {"claim"}:  # as ours does: it is in doubt only until the next commit
            await self._driver.execute("SET LOCAL synchronous_commit = off")

    async def _claim(self, runs: Sequence[tuple[str, str]], when: str) -> None:
        await self._driver.fetch(_CLAIM, [run_id for run_id, _ in runs])


async def _work(database: str, url: str, book: Book) -> None:
    """Be a worker: one pull for each place."""
    async with RawFleetRuns.at(database) as runs:
        connection = await nats.connect(url)
        pulls = [await connection.jetstream().pull_subscribe_bind(_CONSUMER, _STREAM) for _ in range(PLACES)]
        print("ready", flush=True)
        await asyncio.gather(*(_place(pull, runs, book) for pull in pulls))


async def _place(pull: Any, runs: RawFleetRuns, book: Book) -> None:
    while True:
        try:
            (message,) = await pull.fetch(1, timeout=30)
        except nats.errors.TimeoutError:
            continue
        run_id, thread_id, place = message.data.decode().split()
        await runs.do("claim", run_id, thread_id)
        await runs.do("start", run_id, thread_id)
        book.note(int(place))
        await runs.do("end", run_id, thread_id)
        await message.ack()


@dataclass(slots=True)
class RawFleet(Runs):
    """Lets runs in for the workers that it has started."""

    pids: Sequence[int]
    _runs: RawFleetRuns
    _jetstream: JetStreamContext

    async def start(self, place: int) -> None:
        """Let a run in; a worker notes at this place of the book when it begins."""
        run_id, thread_id = new_id(), new_id()
        await self._runs.do("admit", run_id, thread_id)
        # As in ours, nobody waits for the answer; a missing one would be noticed later.
        await self._jetstream.publish_async(_SUBJECT, f"{run_id} {thread_id} {place}".encode())

    def cpu(self) -> float:
        """Seconds of CPU time that the whole fleet has used."""
        return sum(self.place.store_cpu().values()) + cpu_of([os.getpid(), *self.pids])


@asynccontextmanager
async def raw_fleet(where: Place, *, workers: int) -> AsyncGenerator[RawFleet]:
    """This many worker processes of this kind on a database of their own, which has the store's tables."""
    async with where.database() as database, AsyncExitStack() as stack:
        async with Store.open(database):
            pass
        connection = await nats.connect(where.nats.url)
        stack.push_async_callback(connection.close)
        jetstream = connection.jetstream(publish_async_max_pending=20_000)
        await jetstream.add_stream(
            StreamConfig(name=_STREAM, subjects=[_SUBJECT], retention=RetentionPolicy.WORK_QUEUE)
        )
        stack.push_async_callback(jetstream.delete_stream, _STREAM)
        consumer = ConsumerConfig(
            durable_name=_CONSUMER, ack_policy=AckPolicy.EXPLICIT, ack_wait=30, max_ack_pending=-1
        )
        await jetstream.add_consumer(_STREAM, consumer)
        started = [_begin(where, database, stack) for _ in range(workers)]
        for worker in started:
            assert worker.stdout is not None
            if not await asyncio.to_thread(worker.stdout.readline):
                raise RuntimeError("a worker by hand did not start")
        runs = await stack.enter_async_context(RawFleetRuns.at(database))
        yield RawFleet(where, database, [worker.pid for worker in started], runs, jetstream)


def _begin(where: Place, database: str, stack: AsyncExitStack) -> subprocess.Popen[bytes]:
    command = [sys.executable, __file__, database, where.nats.url, str(where.folder / "book")]
    worker = subprocess.Popen(command, stdout=subprocess.PIPE)
    stack.callback(_end, worker)
    return worker


def _end(worker: subprocess.Popen[bytes]) -> None:
    worker.kill()
    worker.wait()
    assert worker.stdout is not None
    worker.stdout.close()


if __name__ == "__main__":
    with suppress(KeyboardInterrupt):
        asyncio.run(_work(sys.argv[1], sys.argv[2], Book(Path(sys.argv[3]))))
