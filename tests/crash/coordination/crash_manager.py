"""A process with a manager on a store: it starts runs of all kinds until it is killed, or told to let them finish."""

import asyncio
import contextlib
import random
import signal
from itertools import count
from pathlib import Path
from typing import Any

from crash_points import DeadlyPoint
from crash_troubles import have_a_full_disk, have_jumpy_clocks, have_read_only_media
from crash_voice import Voice, digest_of, on_word
from sqlalchemy import func, select

from trackside import DispatchPolicy, ObserverBinding, RunContext, RunHandle, RunManager, RunSpec
from trackside.app.observers.storage import StorageObserver
from trackside.app.spool import Spool
from trackside.app.storage import Store
from trackside.app.storage._rows.tables import active_runs
from trackside.app.storage.errors import StorageError
from trackside.harness import RunLifecycleEvent
from trackside.harness.errors import NoResultHereError, ThreadBusyError, TracksideError
from trackside.harness.lifecycle import is_final
from trackside.harness.types import MultitaskStrategy, RunStatus

OPEN = 4  # runs that one caller has under way
NOT_KNOWN = ("required observer", "could not be executed")
"""Words in the error of a result that tells nothing about how the run ended in the log."""

STRATEGIES = [*[MultitaskStrategy.enqueue] * 6, *MultitaskStrategy]


class Agents:
    """Agents that say when they are called."""

    def __init__(self, voice: Voice) -> None:
        self._voice = voice
        self.by_name = {"quick": self.quick, "slow": self.slow, "fails": self.fails, "asks": self.asks}

    async def quick(self, input: Any, run: RunContext) -> dict[str, Any]:
        """Use a model, and be done."""
        self._voice.say(f"begun {run.run_id}")
        run.record_usage("small", input_tokens=len(str(input)), output_tokens=3, cost_usd=0.001)
        return {"said": str(input)}

    async def slow(self, input: Any, run: RunContext) -> dict[str, Any]:
        """Take some time."""
        self._voice.say(f"begun {run.run_id}")
        run.set_title("Slow")
        await asyncio.sleep(random.uniform(0, 0.02))
        run.message({"type": "human", "content": "x" * random.choice([10, 3_000])})
        return {"said": str(input)}

    async def fails(self, input: Any, run: RunContext) -> None:
        """Fail after some work."""
        self._voice.say(f"begun {run.run_id}")
        run.record_usage("large", input_tokens=7, output_tokens=1)
        raise ValueError(str(input))

    async def asks(self, input: Any, run: RunContext) -> Any:
        """Wait for a human who never answers."""
        self._voice.say(f"begun {run.run_id}")
        return run.interrupt(input)

    async def unnamed(self, input: Any, run: RunContext) -> None:
        """Be an agent that no other process can execute."""
        self._voice.say(f"begun {run.run_id}")
        await asyncio.sleep(random.uniform(0, 0.01))


class Load:
    """Callers who start runs, wait for them or not, and cancel some."""

    def __init__(
        self, voice: Voice, store: Store, manager: RunManager, agents: Agents, *, threads: int, delays: bool
    ) -> None:
        self._voice = voice
        self._store = store
        self._manager = manager
        self._agents = agents
        self._threads = threads
        self._delays = [*[None] * 8, *([0.005, 0.1] if delays else [])]

    async def call(self, caller: str, until: asyncio.Event) -> None:
        """Act as one caller, with a few runs at a time."""
        under_way: list[asyncio.Task[None]] = []
        for number in count(1):
            if until.is_set():
                break
            handle = await self._start(caller, number)
            if handle is not None:
                under_way.append(asyncio.create_task(self._watch(handle)))
            elif random.random() < 0.5:
                await asyncio.sleep(0.001)
            if len(under_way) >= OPEN:
                await under_way.pop(0)
        for task in under_way:
            await task

    async def _start(self, caller: str, number: int) -> RunHandle | None:
        spec = self._keyed() if random.random() < 0.1 else self._plain(caller, number)
        try:
            handle = await self._manager.start(spec)
        except ThreadBusyError:
            return None
        except StorageError as exc:
            self._complain(exc)
            return None
        if spec.idempotency_key is not None:
            self._voice.say(f"key {spec.idempotency_key} {handle.run_id}")
        self._voice.say(f"admitted {handle.run_id}")
        return handle

    def _plain(self, caller: str, number: int) -> RunSpec:
        strategy = random.choice(STRATEGIES)
        delay = random.choice(self._delays)
        agent: Any = random.choice(["quick", "quick", "slow", "slow", "fails", "asks", self._agents.unnamed])
        return RunSpec(
            agent,
            f"{caller} {number}",
            thread_id=f"thread-{random.randrange(self._threads)}",
            metadata={"caller": caller, "number": number, "in_line": delay is None},
            multitask=strategy,
            after_seconds=delay,
            timeout=random.choice([None, None, None, 0.01]),
        )

    def _keyed(self) -> RunSpec:
        name = random.randrange(200)
        return RunSpec(
            "quick", f"key {name}", thread_id=f"thread-{name % self._threads}", idempotency_key=f"key-{name}"
        )

    async def _watch(self, handle: RunHandle) -> None:
        if random.random() < 0.15:
            await asyncio.sleep(random.uniform(0, 0.01))
            await self._cancel(handle.run_id)
        if random.random() < 0.05:
            await self._cancel_somebody()
        try:
            result = await handle.result()
        except NoResultHereError:  # another process has it now
            return
        if not any(words in (result.error or "") for words in NOT_KNOWN):
            self._voice.say(f"ended {result.run_id} {result.status.value}")

    async def _cancel_somebody(self) -> None:
        with contextlib.suppress(StorageError):
            found = await self._store.runs(status=[RunStatus.pending, RunStatus.running], limit=20)
            if found:
                await self._cancel(random.choice(found).run_id)

    async def _cancel(self, run_id: str) -> None:
        try:
            record = await self._manager.cancel(run_id, action=random.choice(["interrupt", "rollback"]))
        except StorageError as exc:
            self._complain(exc)
            return
        if is_final(record.status):
            self._voice.say(f"ended {run_id} {record.status.value}")

    def _complain(self, exc: TracksideError) -> None:
        self._voice.say(f"refused {type(exc).__name__} {exc.retryable} {exc}")


class Follower:
    """Follows the log next to the manager: each position once, in order."""

    def __init__(self, voice: Voice, store: Store, after: int) -> None:
        self._voice = voice
        self._store = store
        self._last = after
        self.moved = asyncio.Event()

    async def follow(self) -> None:
        """Follow for ever, whatever the database does."""
        while True:
            try:
                async for stored in self._store.follow(self._last):
                    if stored.position != self._last + 1:
                        self._voice.wrong(f"a follower saw position {stored.position} after {self._last}")
                    self._last = stored.position
                    self.moved.set()
            except StorageError as exc:
                if not exc.retryable:
                    self._voice.wrong(f"a follower failed: {exc}")
                await asyncio.sleep(0.02)


async def until_nothing_is_active(voice: Voice, store: Store, follower: Follower) -> None:
    """Wait until the queue is empty: its last row goes with an event."""
    query = select(func.count()).select_from(active_runs)
    while True:
        follower.moved.clear()
        try:
            left = await store._readers.run(lambda connection: connection.execute(query).scalar_one())
        except StorageError:
            await asyncio.sleep(0.02)
            continue
        if not left:
            return
        voice.say(f"left {left}")
        await follower.moved.wait()


async def manage_runs(
    number: int,
    url: str,
    *,
    callers: int = 6,
    threads: int = 4,
    after: int = 0,
    fault: tuple[str, str, int] | None = None,
    trouble: str | None = None,
    delays: bool = True,
    spool: str | None = None,
    lease: float = 3.0,
    busy: float = 5.0,
    retry_for: float = 2.0,
) -> None:
    """Start runs until SIGTERM; then wait until no process has one any more. With SIGINT leave at once."""
    random.seed()
    if fault is not None:
        DeadlyPoint(*fault).install()
    done, leave = on_word(signal.SIGTERM, signal.SIGINT)
    voice = Voice(number)
    agents = Agents(voice)

    async def acknowledge(event: RunLifecycleEvent) -> None:
        voice.say(f"event {event.event_id} {digest_of(event.payload)}")

    async with contextlib.AsyncExitStack() as stack:
        match trouble:
            case "jumpy clocks":
                await stack.enter_async_context(have_jumpy_clocks())
            case "full disk":
                have_a_full_disk(url)
            case "read-only media":
                have_read_only_media()
        store = await stack.enter_async_context(Store.open(url, busy_timeout=busy))
        observer = StorageObserver(store, spool=None if spool is None else Spool(Path(spool)))
        stack.push_async_callback(observer.aclose)
        await observer.deliver_spooled()
        manager = await stack.enter_async_context(
            RunManager(
                agents.by_name,
                observers=[ObserverBinding(observer, required=True), ObserverBinding(Told(acknowledge), required=True)],
                coordinator=store.coordinator(lease_seconds=lease),
                states=store.thread_states(),
                max_running=8,
                shutdown_grace=0.05 if callers else 5.0,
                policy=DispatchPolicy(retry_for=retry_for),
            )
        )
        follower = Follower(voice, store, after)
        following = asyncio.create_task(follower.follow())
        load = Load(voice, store, manager, agents, threads=threads, delays=delays)
        calling = [asyncio.create_task(load.call(f"{number}.{caller}", done)) for caller in range(callers)]
        voice.say("ready")
        leaving = asyncio.create_task(leave.wait())
        finishing = asyncio.create_task(_finish(calling, done, voice, store, follower))
        await asyncio.wait({leaving, finishing}, return_when=asyncio.FIRST_COMPLETED)
        for task in (*calling, leaving, finishing, following):
            task.cancel()
        for outcome in await asyncio.gather(*calling, finishing, following, return_exceptions=True):
            if isinstance(outcome, Exception):
                voice.wrong(f"{type(outcome).__name__}: {outcome}")


async def _finish(
    calling: list[asyncio.Task[None]], done: asyncio.Event, voice: Voice, store: Store, follower: Follower
) -> None:
    if calling:
        await done.wait()
    await asyncio.gather(*calling)
    await until_nothing_is_active(voice, store, follower)


class Told:
    """An observer after the one that stores: what it hears is in the log (I11)."""

    def __init__(self, tell: Any) -> None:
        self._tell = tell

    async def on_event(self, event: RunLifecycleEvent) -> None:
        """Pass the event on."""
        await self._tell(event)
