"""Several graphs take turns on one thread: each leaves alone what another one has in its state."""

import asyncio
import operator
from collections.abc import Awaitable, Callable, Sequence
from typing import Annotated, Any, TypedDict

import pytest
from langgraph.channels.delta import DeltaChannel
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import END, START, StateGraph
from langgraph.types import Command, StateUpdate, interrupt

from trackside import ObserverBinding, RunManager, RunSpec, RunStatus
from trackside.app.observers.storage import StorageObserver
from trackside.app.storage import Store

TEXT = "x" * 1_000  # has a row of its own, as the cart has; numbers and short texts do not


def joined(state: Sequence[Any], changes: Sequence[Sequence[Any]]) -> list[Any]:
    return [*(state or ()), *(one for change in changes for one in change)]


class Booking(TypedDict, total=False):
    log: Annotated[list[str], operator.add]
    steps: Annotated[list[str], DeltaChannel(joined, snapshot_frequency=4)]
    count: Annotated[int, operator.add]
    name: str
    paid: bool
    none: None
    cart: dict[str, int]
    text: str


class Talk(TypedDict, total=False):
    log: Annotated[list[str], operator.add]
    mood: str


def booking(saver: Any) -> Any:
    """A graph that counts, and finally asks a question."""

    async def book(state: Booking) -> Any:
        changed = {"log": ["booked"], "steps": ["book"], "count": 1, "cart": {"tea": 1 + state.get("count", 0)}}
        if "text" in state:
            return changed
        name = "nobody" if state.get("log") else "Ada"
        return {**changed, "name": name, "paid": True, "none": None, "text": TEXT}

    async def ask(state: Booking) -> Any:
        return {"log": [interrupt("Really?")], "steps": ["asked"]}

    builder = StateGraph(Booking).add_sequence([("book", book), ("ask", ask)]).add_edge(START, "book")
    return builder.compile(checkpointer=saver)


def talk(saver: Any, before: Callable[[], Awaitable[object]] | None = None) -> Any:
    """A graph that knows few of the other graph's channels."""

    async def say(state: Talk) -> Any:
        if before is not None:
            await before()
        return {"log": ["said"], "mood": "good" if "mood" not in state else "better"}

    async def nod(state: Talk) -> Any:
        return {"log": ["nodded"]}

    return StateGraph(Talk).add_sequence([("say", say), ("nod", nod)]).add_edge(START, "say").compile(saver)


def thread(thread_id: str = "t", **more: Any) -> Any:
    return {"configurable": {"thread_id": thread_id, **more}}


async def listed(saver: Any, thread_id: str = "t") -> list[Any]:
    return [found async for found in saver.alist(thread(thread_id))]


async def booked(saver: Any) -> Any:
    await booking(saver).ainvoke({}, thread())
    return await booking(saver).ainvoke(Command(resume="yes"), thread())


async def taking_turns(saver: Any) -> Any:
    yield await booked(saver)
    yield await talk(saver).ainvoke({}, thread())
    yield await booked(saver)
    yield await talk(saver).ainvoke({}, thread())
    yield await talk(saver).ainvoke({}, thread())
    yield await booked(saver)


async def at_the_end_only(saver: Any) -> Any:
    await booked(saver)
    for graph in (talk, booking, talk):
        yield await graph(saver).ainvoke({}, thread(), durability="exit")
    yield await booked(saver)


async def beside_a_question(saver: Any) -> Any:
    yield await booking(saver).ainvoke({}, thread())
    yield await talk(saver).ainvoke({}, thread())
    yield await booking(saver).ainvoke(None, thread())
    yield await booking(saver).ainvoke(Command(resume="yes"), thread())


async def forked(saver: Any) -> Any:
    await booked(saver)
    first = (await listed(saver))[0].config
    await booked(saver)
    yield await talk(saver).ainvoke({}, first)
    yield await booked(saver)
    yield await talk(saver).ainvoke(None, first)


async def updated(saver: Any) -> Any:
    await booked(saver)
    for update in (
        {"values": {"mood": "new"}},
        {"values": None, "as_node": "__copy__"},
        {"values": None, "as_node": END},
    ):
        config = await talk(saver).aupdate_state(thread(), **update)
        yield (await booking(saver).aget_state(config)).values
        yield (await booking(saver).aget_state(thread())).values
    await talk(saver).abulk_update_state(thread(), [[StateUpdate({"log": [step]}, step)] for step in ("say", "nod")])
    yield await booked(saver)


async def while_others_look(saver: Any) -> Any:
    await booked(saver)
    first = (await listed(saver))[-1].config

    async def look() -> Any:
        return await saver.aget_tuple(first)

    yield await talk(saver, look).ainvoke({}, thread())
    yield await booked(saver)


async def with_another_state(saver: Any) -> Any:
    """The graph changes between its runs: one of its channels is gone, and comes back."""
    await booked(saver)
    yield (
        await StateGraph(Talk)
        .add_node("book", lambda _: {"mood": TEXT})
        .add_edge(START, "book")
        .compile(saver)
        .ainvoke({}, thread())
    )
    yield await talk(saver).ainvoke({}, thread())
    yield await booked(saver)


async def told(saver: Any, scenario: Callable[[Any], Any]) -> list[Any]:
    """What the calls of a scenario return, and then everything that the thread has, the newest first."""
    given = [{key: value for key, value in said.items() if key != "__interrupt__"} async for said in scenario(saver)]
    return [*given, *[(one.metadata, one.checkpoint["channel_values"]) for one in await listed(saver)]]


@pytest.mark.parametrize(
    "scenario",
    [taking_turns, at_the_end_only, beside_a_question, forked, updated, while_others_look, with_another_state],
)
async def test_a_thread_has_of_several_graphs_what_it_has_with_langgraph_s_saver(store: Store, scenario: Any) -> None:
    assert await told(store.checkpointer(), scenario) == await told(InMemorySaver(), scenario)


async def test_what_no_graph_changes_is_stored_once(store: Store, database: Any) -> None:
    saver = store.checkpointer()
    for _ in range(3):
        await booked(saver)
        await talk(saver).ainvoke({}, thread())
        await talk(saver).ainvoke({}, thread())
    rows = "SELECT channel, count(DISTINCT version), count(*) FROM graph_values GROUP BY channel"
    stored = {channel: (versions, count) for channel, versions, count in database.execute(rows).fetchall()}
    assert stored["text"] == stored["name"] == stored["paid"] == stored["none"] == (1, 1)
    assert stored["count"] == (3, 3)  # each turn has a new one


async def test_a_pruned_thread_has_all_that_its_newest_checkpoint_has(store: Store, database: Any) -> None:
    saver = store.checkpointer()
    for _ in range(2):
        await booked(saver)
        await talk(saver).ainvoke({}, thread())
    (newest, *_) = await listed(saver)
    await saver.aprune(["t"])
    assert [found.checkpoint["channel_values"] for found in await listed(saver)] == [
        newest.checkpoint["channel_values"]
    ]
    stored = [channel for (channel,) in database.execute("SELECT channel FROM graph_values").fetchall()]
    assert sorted(stored) == ["cart", "count", "log", "name", "none", "paid", "text"]
    again = await booked(saver)
    assert (again["count"], again["name"], again["cart"], again["text"]) == (3, "Ada", {"tea": 3}, TEXT)


async def test_the_copy_of_a_thread_has_it_too(store: Store, url: str) -> None:
    saver = store.checkpointer()
    await booked(saver)
    await talk(saver).ainvoke({}, thread())
    await saver.acopy_thread("t", "copy")
    await saver.adelete_thread("t")
    async with Store.open(url) as other:
        state = await booking(other.checkpointer()).ainvoke({}, thread("copy"))
    assert (state["count"], state["name"], state["cart"], state["text"]) == (2, "Ada", {"tea": 2}, TEXT)


async def test_a_run_of_one_graph_that_is_rolled_back_takes_nothing_of_the_others_along(store: Store) -> None:
    saver, reached = store.checkpointer(), asyncio.Event()
    before = await booked(saver)

    async def wait() -> None:
        reached.set()
        await asyncio.Event().wait()

    async with RunManager(
        {"talk": talk(None, wait), "booking": booking(None)},
        observers=[ObserverBinding(StorageObserver(store), required=True)],
        coordinator=store.coordinator(),
        checkpointer=saver,
    ) as manager:
        handle = await manager.start(RunSpec("talk", {"log": ["hello"]}, thread_id="t"))
        await reached.wait()
        await handle.cancel(action="rollback", wait=True)
        assert (await booking(saver).aget_state(thread())).values == before
        result = await (await manager.start(RunSpec("booking", {}, thread_id="t"))).result()
    assert result.status is RunStatus.interrupted
    state = (await booking(saver).aget_state(thread())).values
    assert (state["count"], state["name"], state["cart"]) == (2, "Ada", {"tea": 2})
