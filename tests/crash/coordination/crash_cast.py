"""What happens to runs between their admission and their end, each thing once, in a process that may die at any step.

A life begins all scenes at once, in a random order, and closes its manager in the middle of what never ends by itself.
A life without scenes ends what others have left, and answers the questions that are open.
"""

import asyncio
import contextlib
import operator
import random
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, TypedDict

from crash_manager import Follower, Told, until_nothing_is_active
from crash_points import DeadlyPoint
from crash_steps import STEPS_OF_RUN, DeadlyStep
from crash_voice import Voice, digest_of
from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver
from langgraph.graph import START, StateGraph

from trackside import (
    AgentLimits,
    DispatchPolicy,
    ObserverBinding,
    RunContext,
    RunHandle,
    RunManager,
    RunSpec,
    StopPolicy,
)
from trackside.app.observers.storage import StorageObserver
from trackside.app.spool import Spool
from trackside.app.storage import Store
from trackside.app.storage.errors import DatabaseIOError
from trackside.harness import RunLifecycleEvent, current_run
from trackside.harness.errors import NoResultHereError, ThreadBusyError
from trackside.harness.lifecycle import is_terminal
from trackside.harness.types import RunStatus

ATTEMPTS = 3
QUESTION = "sure?"


class Turns(TypedDict):
    """What the graph keeps about its threads: which of its nodes have worked for which input."""

    input: str
    done: Annotated[list[str], operator.add]


class Cast:
    """The agents, which say when they are called. Where everything has to come to an end, `waits` is False."""

    def __init__(self, voice: Voice, saver: AsyncSqliteSaver, *, waits: bool) -> None:
        self._voice = voice
        self._waits = waits
        self.waiting: dict[str, asyncio.Event] = {}
        """One event for each run that waits for ever, set when that run has begun to wait."""
        self.by_name: dict[str, Any] = {
            "quick": self.quick,
            "tells": self.tells,
            "fails": self.fails,
            "asks": self.asks,
            "counts": self.counts,
            "spends": self.spends,
            "endless": self.endless,
            "lasting": self.lasting,
            "stubborn": self.stubborn,
            "graph": self._graph(saver),
        }

    def arrived(self, run_id: str) -> asyncio.Event:
        """Set when that run has begun to wait."""
        return self.waiting.setdefault(run_id, asyncio.Event())

    def _begin(self, run: RunContext) -> None:
        self._voice.say(f"begun {run.run_id}")

    async def quick(self, input: Any, run: RunContext) -> dict[str, Any]:
        """Use a model, and be done."""
        self._begin(run)
        run.record_usage("small", input_tokens=2, output_tokens=1, cost_usd=0.001)
        return {"said": str(input)}

    async def tells(self, input: Any, run: RunContext) -> None:
        """Say something before the end."""
        self._begin(run)
        run.message({"type": "human", "content": "wait"})
        await asyncio.sleep(0.01)
        run.set_title("Told")

    async def fails(self, input: Any, run: RunContext) -> None:
        """Fail after some work."""
        self._begin(run)
        run.record_usage("large", input_tokens=7, output_tokens=1)
        raise ValueError(str(input))

    async def asks(self, input: Any, run: RunContext) -> dict[str, Any]:
        """Go on only when a human has answered."""
        self._begin(run)
        return {"answer": run.interrupt(QUESTION)}

    async def counts(self, input: Any, run: RunContext) -> dict[str, Any]:
        """Remember how often the thread was here."""
        self._begin(run)
        return {"count": run.values.get("count", 0) + 1}

    async def spends(self, input: Any, run: RunContext) -> None:
        """Use more than it may, and go on."""
        self._begin(run)
        run.record_usage("large", input_tokens=1_000, output_tokens=1)
        await self._wait(run)

    async def endless(self, input: Any, run: RunContext) -> None:
        """Never end."""
        self._begin(run)
        await self._wait(run)

    async def lasting(self, input: Any, run: RunContext) -> dict[str, Any]:
        """Never end at the first attempt."""
        self._begin(run)
        if run.attempt == 1:
            await self._wait(run)
        return {"attempt": run.attempt}

    async def stubborn(self, input: Any, run: RunContext) -> None:
        """Take a while to stop."""
        self._begin(run)
        try:
            await self._wait(run)
        finally:
            await asyncio.sleep(0.1)

    async def unnamed(self, input: Any, run: RunContext) -> None:
        """What no other process can execute."""
        self._begin(run)

    async def _wait(self, run: RunContext) -> None:
        self.arrived(run.run_id).set()
        if self._waits:
            await asyncio.Event().wait()

    def _graph(self, saver: AsyncSqliteSaver) -> Any:
        async def first(state: Turns) -> dict[str, Any]:
            return {"done": [f"{state['input']} first"]}

        async def second(state: Turns) -> dict[str, Any]:
            run = current_run()
            assert run is not None
            self._begin(run)
            if state["input"] == "endless" and run.attempt == 1:
                await self._wait(run)
            return {"done": [f"{state['input']} second"]}

        graph = StateGraph(Turns)
        graph.add_node(first)
        graph.add_node(second)
        graph.add_edge(START, "first")
        graph.add_edge("first", "second")
        return graph.compile(checkpointer=saver)


class Scenes:
    """What a life does: each scene uses threads of its own, whose names begin with the life's."""

    def __init__(self, voice: Voice, manager: RunManager, cast: Cast, log: "MoodyLog", life: str) -> None:
        self._voice = voice
        self._manager = manager
        self._cast = cast
        self._log = log
        self._life = life
        self.all: Sequence[Callable[[], Awaitable[None]]] = (
            self.a_line,
            self.displaced,
            self.a_graph,
            self.later,
            self.twice_the_same,
            self.questions,
            self.counted,
            self.spent,
            self.stuck,
            self.out_of_time,
            self.spooled,
            self.others,
        )

    async def lasting(self) -> None:
        """Runs that go on until the manager closes, and others that wait behind them, or are not due by then."""
        first = await self._start("lasting", "lasting", max_attempts=ATTEMPTS)
        for number in range(3):
            await self._start("quick", "lasting", number, metadata=self._in_line("lasting", number))
        await self._start("quick", "later", after_seconds=0.4)
        await self._start("graph", "lasting-graph", {"input": "endless"}, max_attempts=ATTEMPTS)
        await self._cast.arrived(first.run_id).wait()

    async def a_line(self) -> None:
        """Runs one after another."""
        agents = ["quick", "tells", "fails", "quick"]
        runs = [
            await self._start(agent, "line", number, metadata=self._in_line("line", number))
            for number, agent in enumerate(agents)
        ]
        await self._end(*runs)

    async def displaced(self) -> None:
        """All four strategies on one thread."""
        for strategy in ("interrupt", "rollback"):
            running = await self._start("endless", "displaced")
            await self._cast.arrived(running.run_id).wait()
            waiting = await self._start("quick", "displaced")
            with contextlib.suppress(ThreadBusyError):
                await self._start("quick", "displaced", multitask="reject")
                self._voice.wrong("a busy thread took a run under `reject`")
            following = await self._start("quick", "displaced", multitask=strategy)
            await self._end(running, waiting, following)

    async def a_graph(self) -> None:
        """A graph that is rolled back in the middle, between two that are not."""
        await self._end(await self._start("graph", "graph", {"input": "one"}))
        running = await self._start("graph", "graph", {"input": "endless"})
        await self._cast.arrived(running.run_id).wait()
        await running.cancel(action="rollback", wait=True)
        await self._end(running, await self._start("graph", "graph", {"input": "two"}))

    async def later(self) -> None:
        """A run that comes when it is due, and one that is cancelled before."""
        due = await self._start("quick", "due", after_seconds=0.05)
        never = await self._start("quick", "due", after_seconds=0.8)
        await never.cancel(wait=True)
        await self._end(due, never)

    async def twice_the_same(self) -> None:
        """Two requests with one key, which are one run."""
        runs = [await self.keyed(f"{self._life}-key") for _ in range(2)]
        await self._end(*runs)

    async def keyed(self, key: str) -> RunHandle:
        """Get the run of a key, whoever started it."""
        run = await self._manager.start(RunSpec("quick", key, thread_id=key, idempotency_key=key))
        self._voice.say(f"key {key} {run.run_id}")
        return run

    async def questions(self) -> None:
        """One question that is answered, and one that stays open."""
        await self._end(await self._start("asks", "answered"), await self._start("asks", "open"))
        await self._end(await self._start("asks", "answered", command={"resume": "yes"}))

    async def counted(self) -> None:
        """Runs whose thread remembers something."""
        for _ in range(3):
            await self._end(await self._start("counts", "counted"))

    async def spent(self) -> None:
        """A run that uses more tokens than it may."""
        await self._end(await self._start("spends", "spent", max_tokens=10))

    async def stuck(self) -> None:
        """A run that does not stop at once."""
        run = await self._start("stubborn", "stuck")
        await self._cast.arrived(run.run_id).wait()
        await run.cancel(wait=True)
        await self._end(run)

    async def out_of_time(self) -> None:
        """A run that takes too long."""
        await self._end(await self._start("endless", "timeout", timeout=0.02))

    async def spooled(self) -> None:
        """A run whose end the store refuses at first."""
        run = await self._start("counts", "spooled")
        self._log.dislikes.add(run.run_id)
        with contextlib.suppress(NoResultHereError):
            await run.result()
        self._log.dislikes.clear()
        await self._log.observer.deliver_spooled()
        await self._end(await self._start("counts", "spooled"))

    async def others(self) -> None:
        """An agent without a name, and two runs at once that need the same place."""
        runs = [
            await self._start(agent, f"other-{n}") for n, agent in enumerate([self._cast.unnamed, "quick", "quick"])
        ]
        await self._end(*runs)

    async def answer_all(self, store: Store) -> None:
        """Check that every open question can be answered."""
        states = store.thread_states()
        for thread in await store.threads(agent="asks", limit=1_000):
            state = await states.load(thread.thread_id)
            is_open = state is not None and state.paused is not None
            if thread.status == "interrupted" and not is_open:
                self._voice.wrong(f"thread {thread.thread_id} waits for an answer, and nobody knows to what")
            if is_open:
                answer = RunSpec("asks", thread_id=thread.thread_id, command={"resume": "at last"})
                result = await (await self._manager.start(answer)).result()
                if result.status is not RunStatus.success:
                    self._voice.wrong(f"the question of thread {thread.thread_id} cannot be answered: {result.error}")

    async def _start(self, agent: Any, thread: str, input: Any = None, **options: Any) -> RunHandle:
        run = await self._manager.start(RunSpec(agent, input, thread_id=f"{self._life}-{thread}", **options))
        self._voice.say(f"admitted {run.run_id}")
        return run

    async def _end(self, *runs: RunHandle) -> None:
        for run in runs:
            with contextlib.suppress(NoResultHereError):
                result = await run.result()
                self._voice.say(f"ended {result.run_id} {result.status.value}")

    def _in_line(self, thread: str, number: int) -> Mapping[str, Any]:
        return {"caller": f"{self._life}-{thread}", "number": number, "in_line": True}


class MoodyLog:
    """A store that refuses the ends of some runs for a while."""

    def __init__(self, store: Store, spool: Path) -> None:
        self._store = store
        self.dislikes: set[str] = set()
        self.observer = StorageObserver(self, spool=Spool(spool))

    async def append(self, events: Sequence[RunLifecycleEvent]) -> None:
        """Append the events, or refuse them."""
        if any(event.run_id in self.dislikes and is_terminal(event.event_type) for event in events):
            raise DatabaseIOError(database="it", why="it is not in the mood")
        await self._store.append(events)


@contextlib.asynccontextmanager
async def _stage(
    voice: Voice, url: str, graphs: str, spool: str, life: str, *, lease: float = 15.0, waits: bool = True
) -> AsyncGenerator[tuple[Store, Scenes]]:
    async def acknowledge(event: RunLifecycleEvent) -> None:
        voice.say(f"event {event.event_id} {digest_of(event.payload)}")

    async with Store.open(url) as store, AsyncSqliteSaver.from_conn_string(graphs) as saver:
        log = MoodyLog(store, Path(spool))
        async with contextlib.aclosing(log.observer):
            await log.observer.deliver_spooled()
            cast = Cast(voice, saver, waits=waits)
            async with RunManager(
                cast.by_name,
                observers=[
                    ObserverBinding(log.observer, required=True),
                    ObserverBinding(Told(acknowledge), required=True),
                ],
                coordinator=store.coordinator(lease_seconds=lease),
                states=store.thread_states(),
                limits={"quick": AgentLimits(max_running=1)},
                stopping=StopPolicy(stuck_after=0.03),
                policy=DispatchPolicy(retry_for=0.05),
                shutdown_grace=0.05,
            ) as manager:
                yield store, Scenes(voice, manager, cast, log, life)


async def perform(
    number: int,
    url: str,
    *,
    graphs: str,
    spool: str,
    seed: int,
    fault: tuple[str, str, int] | None = None,
    lease: float = 15.0,
) -> None:
    """Play all scenes, and close in the middle of what never ends."""
    voice = Voice(number)
    if fault is not None:
        (DeadlyStep if fault[1] in STEPS_OF_RUN else DeadlyPoint)(*fault).install()
    async with _stage(voice, url, graphs, spool, f"life-{number}", lease=lease) as (_, scenes):
        played = [*scenes.all]
        random.Random(seed).shuffle(played)
        await asyncio.gather(scenes.lasting(), *(scene() for scene in played))
        voice.say("played")


async def clear_up(number: int, url: str, *, graphs: str, spool: str, keys: Sequence[str] = ()) -> None:
    """End what others have left, answer what is open, and ask again for the runs that have a key."""
    voice = Voice(number)
    async with _stage(voice, url, graphs, spool, "last", waits=False) as (store, scenes):
        follower = Follower(voice, store, 0)
        following = asyncio.create_task(follower.follow(), name="follower")
        await until_nothing_is_active(voice, store, follower)
        await scenes.answer_all(store)
        for key in keys:
            await (await scenes.keyed(key)).result()
        await until_nothing_is_active(voice, store, follower)
        following.cancel()
        await asyncio.wait({following})
    if Path(spool).exists() and any(Path(spool).iterdir()):
        voice.wrong(f"the spool keeps {sorted(Path(spool).iterdir())}")
