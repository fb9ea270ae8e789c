"""Many workers at once on one queue: each run is taken once, and no worker waits for another."""

import asyncio
import contextlib
from collections.abc import Generator
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from tests.integration.storage.conftest import held_up
from tests.property.queue_hands import AwayError, ForgetfulSession, ForgottenSession, Gate

from trackside.app.storage import Store
from trackside.app.storage._coordination.delays import PromoteDue
from trackside.app.storage._coordination.own_runs import OwnRuns
from trackside.app.storage._coordination.recovery import ListOwned
from trackside.app.storage.errors import StorageError
from trackside.app.storage.fleet import FleetMember, Taking
from trackside.harness.types import CancelAction, RunRecord, RunSpec, RunStatus

AGENT = "work"


class Host:
    """Notes what it is given."""

    agents = (AGENT,)

    def __init__(self) -> None:
        self.given: list[str] = []

    def on_adopted(self, record: RunRecord, spec: RunSpec, *, ready: bool) -> None:
        assert ready
        self.given.append(record.run_id)

    def __getattr__(self, name: str) -> Any:
        return lambda *_: None


class Worker:
    def __init__(self, store: Store) -> None:
        self.store = store
        self.host = Host()
        fleet = FleetMember(kind="worker", pool_of=lambda _: "default", pools=("default",))
        self.coordinator = store.coordinator(lease_seconds=3_600, fleet=fleet)
        # Attached, the coordinator would look after the queue whenever it likes.
        self.coordinator._host = self.coordinator._upkeep._host = self.host  # type: ignore[assignment]


async def admit(worker: Worker, run_id: str, thread_id: str | None = None, *, due_at: datetime | None = None) -> None:
    record = RunRecord(
        run_id=run_id,
        thread_id=thread_id or run_id,
        agent=AGENT,
        status=RunStatus.pending,
        created_at=datetime.now(UTC),
        due_at=due_at,
    )
    admission = await worker.coordinator.admit(record, spec=RunSpec(AGENT, "x"))
    assert (admission.elsewhere, admission.ready) == (True, False)


@pytest.fixture
async def workers(url: str) -> Any:
    async with AsyncExitStack() as stack:
        opened = [await stack.enter_async_context(Store.open(url)) for _ in range(8)]
        yield [Worker(store) for store in opened]


async def test_eight_workers_get_two_thousand_runs_each_of_them_once(workers: list[Worker], dialect: str) -> None:
    if dialect != "postgres":
        pytest.skip("who writes to an SQLite file is alone there, and eight would wait for each other for long")
    count = 2_000
    run_ids = [f"run-{n:04}" for n in range(count)]
    await asyncio.gather(*(admit(workers[n % 8], run_id) for n, run_id in enumerate(run_ids)))

    async def take_all(number: int, worker: Worker) -> None:
        if number % 2:  # these are all told of the same runs
            for first in range(0, count, 50):
                await worker.coordinator.take(run_ids[first : first + 50])
        left = True
        while left:
            await worker.coordinator.take_any(7)
            left = bool(await worker.store.fleet.ready(["default"], limit=1))

    await asyncio.gather(*(take_all(number, worker) for number, worker in enumerate(workers)))

    given = [run_id for worker in workers for run_id in worker.host.given]
    assert sorted(given) == run_ids
    assert len([worker for worker in workers if worker.host.given]) > 1


async def test_a_worker_passes_over_what_another_is_at(workers: list[Worker], dialect: str, database: Any) -> None:
    if dialect != "postgres":
        pytest.skip("who writes to an SQLite file is alone there")
    one, two, *_ = workers
    await admit(one, "a", thread_id="t")
    await admit(one, "b")
    await asyncio.to_thread(database.execute, "BEGIN; SELECT 1 FROM threads WHERE thread_id = 't' FOR NO KEY UPDATE")

    async with asyncio.timeout(20):
        assert await two.coordinator.take(["a"]) == {"a": Taking.locked}
        assert await two.coordinator.take_any(5) == ["b"]
    await asyncio.to_thread(database.execute, "ROLLBACK")
    assert await two.coordinator.take_any(5) == ["a"]


async def test_what_is_asked_for_at_once_is_taken_in_few_transactions(workers: list[Worker]) -> None:
    one, two, *_ = workers
    run_ids = [f"r{n}" for n in range(64)]
    await asyncio.gather(*(admit(one, run_id) for run_id in run_ids))
    await two.coordinator.take_any(0)
    before = two.store.writer_stats().batches_total

    takings = await asyncio.gather(*(two.coordinator.take([run_id]) for run_id in run_ids))

    assert takings == [{run_id: Taking.taken} for run_id in run_ids]
    assert two.host.given == run_ids
    assert two.store.writer_stats().batches_total - before < 10


async def test_a_run_that_is_due_gets_a_thread_that_another_gives_back_while_its_owner_looks_at_his_runs(
    workers: list[Worker], dialect: str, database: Any
) -> None:
    if dialect != "postgres":
        pytest.skip("who writes to an SQLite file is alone there")
    one, two, *_ = workers
    await admit(one, "holds", "t")
    assert await one.coordinator.take(["holds"]) == {"holds": Taking.taken}
    await admit(one, "due", "t", due_at=datetime.now(UTC) + timedelta(hours=1))
    database.execute("UPDATE active_runs SET due_at = '2000-01-01T00:00:00.000000Z' WHERE run_id = 'due'")
    gate = Gate()

    async with held_up(one.store):
        works = (ListOwned(owner=one.coordinator.worker_id), gate, PromoteDue(limit=10))
        writing = [asyncio.ensure_future(one.store._writer.write(work)) for work in works]
        while one.store.writer_stats().pending < len(works):
            await asyncio.sleep(0)
    await asyncio.to_thread(gate.reached.wait, 30)
    await two.coordinator.request_cancel("holds", CancelAction.interrupt)
    gate.opened.set()
    owned, _, promoted = await asyncio.gather(*writing)

    assert [(run.run_id, run.ready) for run in owned] == [("holds", True)]  # as before
    assert promoted == ["due"]
    assert await two.coordinator.take(["due"]) == {"due": Taking.taken}


@pytest.mark.parametrize("any_of_them", [False, True])
async def test_a_taking_whose_reply_was_lost_took_what_it_took(workers: list[Worker], any_of_them: bool) -> None:
    one, two, *_ = workers
    await admit(one, "r")
    await two.coordinator.take_any(0)
    session: Any = ForgetfulSession(two.store._writer._session)  # type: ignore[union-attr]
    two.store._writer._session = session  # type: ignore[union-attr]
    session.loses_in = 1

    if any_of_them:
        assert await two.coordinator.take_any(1) == ["r"]
    else:
        assert await two.coordinator.take(["r"]) == {"r": Taking.taken}
    assert two.host.given == ["r"]


async def test_an_admission_whose_reply_was_lost_finds_its_run_though_it_was_taken(workers: list[Worker]) -> None:
    one, two, *_ = workers
    await one.coordinator.take_any(0)
    await two.coordinator.take_any(0)
    taken: list[str] = []

    class Losing(ForgetfulSession):
        """Loses a reply, and lets another worker take the run before the transaction is repeated."""

        def transaction(self, **options: Any) -> Any:
            if self.loses_in == 0 and not taken:
                taking = asyncio.run_coroutine_threadsafe(two.coordinator.take_any(1), loop)
                taken.extend(taking.result(20))
            return super().transaction(**options)

    loop = asyncio.get_running_loop()
    session: Any = Losing(one.store._writer._session)  # type: ignore[union-attr]
    session.loses_in = 1
    one.store._writer._session = session  # type: ignore[union-attr]

    await admit(one, "r")
    assert taken == two.host.given == ["r"]


@pytest.mark.parametrize("damage", ["request = '{'", "request = '[1]'", "metadata = 'no'"])
async def test_a_run_that_cannot_be_read_keeps_no_other_from_being_taken(
    workers: list[Worker], database: Any, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    one, two, *_ = workers
    for run_id in ("damaged", "r"):
        await admit(one, run_id)
    database.execute(f"UPDATE runs SET {damage} WHERE run_id = 'damaged'")

    assert await two.coordinator.take_any(2) == ["r"]
    assert "run damaged cannot be read here" in caplog.text
    assert await two.coordinator.take(["damaged"]) == {"damaged": Taking.foreign}
    assert two.host.given == ["r"]


class AwaySession(ForgetfulSession):
    """Cannot even begin its next transaction."""

    @contextlib.contextmanager
    def transaction(self, **options: Any) -> Generator[None]:
        self.loses_in -= 1
        if self.loses_in == 0:
            raise AwayError(database="it", why="it is away")
        with self._session.transaction(**options):
            yield


async def test_runs_are_taken_again_after_a_taking_that_the_database_never_heard_of(workers: list[Worker]) -> None:
    one, two, *_ = workers
    await admit(one, "r")
    await two.coordinator.take_any(0)
    session: Any = AwaySession(two.store._writer._session)  # type: ignore[union-attr]
    two.store._writer._session = session  # type: ignore[union-attr]
    session.loses_in = 1
    with pytest.raises(StorageError, match="it is away"):
        await two.coordinator.take(["r"])

    assert await two.coordinator.take(["r"]) == {"r": Taking.taken}
    assert two.host.given == ["r"]


async def test_what_a_worker_has_taken_without_ever_hearing_of_it_is_given_back(workers: list[Worker]) -> None:
    one, two, *_ = workers
    await admit(one, "r")
    await two.coordinator.take_any(0)
    session: Any = ForgottenSession(two.store._writer._session)  # type: ignore[union-attr]
    two.store._writer._session = session  # type: ignore[union-attr]
    session.loses_in = 1
    with pytest.raises(StorageError, match="nobody has heard"):
        await two.coordinator.take(["r"])
    assert two.host.given == []
    news: list[Any] = []
    two.store.fleet.on_news.append(news.append)

    await two.coordinator._upkeep.disown()
    assert await one.store.fleet.ready(["default"]) == []
    await two.coordinator._upkeep.disown()
    assert [run.run_id for run in news[0].ready] == ["r"]
    assert await one.coordinator.take(["r"]) == {"r": Taking.taken}
    await two.coordinator._upkeep.disown()
    assert one.host.given == ["r"]


async def test_a_worker_that_gives_back_what_it_hears_of_meanwhile_says_that_it_is_lost(workers: list[Worker]) -> None:
    one, two, *_ = workers
    await admit(one, "r")
    upkeep = two.coordinator._upkeep
    lost: list[str] = []
    two.host.on_lost = lost.append  # type: ignore[attr-defined]
    assert await two.coordinator.take(["r"]) == {"r": Taking.taken}
    known, upkeep._own = upkeep._own, OwnRuns(on_due=lambda _: None)  # while the reply is on its way
    await upkeep.disown()
    writer, write = two.store._writer, two.store._writer.write

    async def hear_of_it(work: Any) -> Any:
        upkeep._own = known
        return await write(work)

    writer.write = hear_of_it  # type: ignore[method-assign]
    await upkeep.disown()
    await upkeep.look()
    assert lost == ["r"]
    assert await one.coordinator.take(["r"]) == {"r": Taking.taken}


async def test_a_worker_that_was_taken_for_dead_is_known_again_with_the_first_run_that_it_takes(
    workers: list[Worker], database: Any
) -> None:
    def known_workers() -> list[str]:
        return [worker_id for (worker_id,) in database.execute("SELECT worker_id FROM workers").fetchall()]

    one, two, *_ = workers
    await two.coordinator.take_any(0)
    database.execute("UPDATE workers SET lease_until = 0")
    two.coordinator._enrolment._known_until = 0.0  # it could not reach its database for as long as its lease
    await one.store.fleet.reap(one.coordinator.worker_id)
    assert two.coordinator.worker_id not in known_workers()
    await admit(one, "r")

    assert await two.coordinator.take(["r"]) == {"r": Taking.taken}

    assert two.coordinator.worker_id in known_workers()
