"""Functions that open a context for a graph: it is left when the graph's run has ended, whatever becomes of that."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import pytest
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph.state import CompiledStateGraph
from tests.contract.ways_to_run import ByManager, required, told, virtual
from tests.integration.langgraph.saying_graphs import Said, nothing, saying

from trackside import RunStatus, as_agent
from trackside.harness.states import ThreadPlace
from trackside.testing import RecordingObserver


class Opened:
    """Notes what becomes of a context."""

    def __init__(self, node: Any = None) -> None:
        self.events: list[str] = []
        self._node = node
        self._task: Any = None

    def _enter(self) -> Any:
        self.events.append("open")
        self._task = asyncio.current_task()
        return saying("open", node=self._node).compile()

    def _leave(self, exc: BaseException | None) -> None:
        assert asyncio.current_task() is self._task, "as anyio's scopes demand it"
        self.events.append("closed" if exc is None else f"closed after {exc}")

    def async_factory(self) -> Any:
        @asynccontextmanager
        async def make() -> AsyncIterator[Any]:
            graph = self._enter()
            try:
                yield graph
            except BaseException as exc:
                self._leave(exc)
                raise
            await asyncio.sleep(0)
            self._leave(None)

        return make

    def sync_factory(self) -> Any:
        @contextmanager
        def make() -> Iterator[Any]:
            graph = self._enter()
            try:
                yield graph
            except BaseException as exc:
                self._leave(exc)
                raise
            self._leave(None)

        return make


@pytest.fixture(params=["async_factory", "sync_factory"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


async def test_a_context_is_left_when_its_run_has_ended(kind: str, stage: Any) -> None:
    opened = Opened()
    outcome = await stage.play(getattr(opened, kind)(), {})
    assert outcome.values == {"said": "open"}
    assert opened.events == ["open", "closed"]


async def test_a_context_hears_of_the_failure_of_its_run(kind: str, stage: Any) -> None:
    def fail(state: Said) -> Said:
        raise ValueError("it cannot be done")

    opened = Opened(fail)
    outcome = await stage.play(getattr(opened, kind)(), {})
    assert (outcome.status, outcome.result.error) == (RunStatus.error, "it cannot be done")
    assert opened.events == ["open", "closed after it cannot be done"]


async def test_a_context_is_left_when_its_run_is_cancelled(kind: str, stage: Any) -> None:
    started = asyncio.Event()

    async def hang(state: Said) -> Said:
        started.set()
        await asyncio.Event().wait()
        return {}

    opened = Opened(hang)
    handle = await stage.start(getattr(opened, kind)(), {})
    await started.wait()
    await handle.cancel(wait=True)
    assert opened.events == ["open", "closed"]


@virtual
async def test_a_run_whose_context_never_opens_can_be_cancelled_and_gives_its_thread_back() -> None:
    @asynccontextmanager
    async def hanging() -> AsyncIterator[CompiledStateGraph]:
        await asyncio.Event().wait()
        yield nothing()

    seen = RecordingObserver()
    async with ByManager(required(seen), checkpointer=InMemorySaver()) as runs:
        run = await runs.start(hanging, run_id="r", thread_id="t")
        await asyncio.sleep(5)
        await run.cancel()
        await asyncio.wait({run.waits}, timeout=60)
        assert told(seen.events, "r")[2:] == ["run_cancelled interrupt", "thread_status_updated idle"]
        assert (await runs.run(nothing, {}, thread_id="t")).status is RunStatus.success


@virtual
async def test_a_context_that_heeds_no_cancel_while_it_opens_is_cancelled_again_by_who_asks_again() -> None:
    cancels: list[float] = []

    @asynccontextmanager
    async def stubborn() -> AsyncIterator[CompiledStateGraph]:
        while len(cancels) < 3:
            try:
                await asyncio.sleep(1_000)
            except asyncio.CancelledError:
                cancels.append(asyncio.get_running_loop().time())
        raise asyncio.CancelledError
        yield nothing()

    async with ByManager() as runs:
        run = await runs.start(stubborn)
        for _ in range(3):
            await asyncio.sleep(5)
            await run.cancel()
        await run.ended()
        assert cancels == [5.0, 10.0, 15.0]


@virtual
async def test_a_context_that_opens_although_it_was_cancelled_is_closed_at_once() -> None:
    events: list[str] = []

    @asynccontextmanager
    async def persistent() -> AsyncIterator[CompiledStateGraph]:
        if not events:  # the first time only, not for a look at the thread afterwards
            try:
                await asyncio.sleep(1_000)
            except asyncio.CancelledError:
                events.append("cancelled")
        yield nothing()
        events.append("closed")

    async with ByManager() as runs:
        run = await runs.start(persistent)
        await asyncio.sleep(5)
        await run.cancel()
        await run.ended()
        assert (events, asyncio.get_running_loop().time()) == (["cancelled", "closed", "closed"], 5.0)


async def test_a_context_that_opens_in_the_turn_of_the_cancel_is_closed_before_that_is_raised(run_context: Any) -> None:
    events: list[str] = []

    @asynccontextmanager
    async def opens() -> AsyncIterator[CompiledStateGraph]:
        opening.cancel("enough")
        events.append("open")
        try:
            yield nothing()
        finally:
            await asyncio.sleep(0)
            events.append("closed")

    opening = asyncio.create_task(as_agent(opens).human_messages(run_context({})))
    with pytest.raises(asyncio.CancelledError, match="enough"):
        await opening
    assert events == ["open", "closed"]


async def test_a_context_is_left_when_its_run_was_asked_for_wrongly(kind: str, stage: Any) -> None:
    opened = Opened()
    outcome = await stage.play(getattr(opened, kind)(), {}, config={"colour": "red"})
    assert outcome.status is RunStatus.error
    assert opened.events == ["open", "closed"]


async def test_a_context_is_left_when_nobody_may_know_of_its_run(kind: str, open_stage: Any) -> None:
    class Refusing:
        async def on_event(self, event: Any) -> None:
            raise ValueError("not stored")

    stage = await open_stage()
    stage.manager.observers.add(Refusing(), required=True)
    opened = Opened()
    handle = await stage.start(getattr(opened, kind)(), {})
    assert (await handle.result()).status is RunStatus.error
    assert opened.events == ["open", "closed"]


async def test_a_context_that_cannot_be_closed_does_not_hide_why_the_run_failed(
    stage: Any, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(state: Said) -> Said:
        raise ValueError("it cannot be done")

    @asynccontextmanager
    async def unclosable() -> AsyncIterator[Any]:
        try:
            yield saying("x", node=fail).compile()
        finally:
            raise ConnectionError("cannot say goodbye")

    outcome = await stage.play(unclosable, {})
    assert outcome.result.error == "it cannot be done"
    assert "cannot say goodbye" in caplog.text


class Saver(InMemorySaver):
    """A saver that a factory opens for its graph, and that is useless once closed."""

    def __init__(self) -> None:
        super().__init__()
        self.is_open = False

    async def aget_tuple(self, config: Any) -> Any:
        assert self.is_open
        return await super().aget_tuple(config)

    def alist(self, *args: Any, **kwargs: Any) -> Any:
        assert self.is_open
        return super().alist(*args, **kwargs)

    def factory(self, builder: Any, *, closing: asyncio.Event | None = None, go_on: asyncio.Event | None = None) -> Any:
        @asynccontextmanager
        async def make() -> AsyncIterator[Any]:
            self.is_open = True
            yield builder.compile(checkpointer=self)
            self.is_open = False
            if closing is not None and go_on is not None:
                closing.set()
                await go_on.wait()

        return make


@pytest.mark.parametrize("how", ["hangs", "returns", "raises"])
@pytest.mark.parametrize("action", ["rollback", "interrupt"])
async def test_what_a_factory_has_opened_stays_open_until_a_stopped_run_is_put_right(
    action: Any, how: str, stage: Any, caplog: pytest.LogCaptureFixture
) -> None:
    started = asyncio.Event()

    async def say(state: Said) -> Said:
        if state["said"] == "hang":
            started.set()
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                if how == "raises":
                    raise ValueError("stopped") from None
                if how == "hangs":
                    raise
        return {"said": f"{state['said']}!"}

    saver = Saver()
    factory = saver.factory(saying("", node=say))
    await stage.play(factory, {"said": "hello"}, thread_id="t")

    handle = await stage.start(factory, {"said": "hang"}, thread_id="t")
    await started.wait()
    await handle.cancel(action=action, wait=True)

    assert (await handle.result()).status is RunStatus.cancelled
    assert "could not be found out" not in caplog.text
    assert not saver.is_open
    if action == "rollback":
        state = await as_agent(factory).state(ThreadPlace(thread_id="t"))  # type: ignore[attr-defined]  # it keeps threads
        assert state.values == {"said": "hello!"}


async def test_a_run_that_is_stopped_while_its_context_is_closed_is_rolled_back_too(stage: Any) -> None:
    closing, go_on = asyncio.Event(), asyncio.Event()
    saver = Saver()
    builder = saying("", node=lambda state: {"said": f"{state['said']}!"})
    await stage.play(saver.factory(builder), {"said": "hello"}, thread_id="t")
    factory = saver.factory(builder, closing=closing, go_on=go_on)

    handle = await stage.start(factory, {"said": "again"}, thread_id="t")
    await closing.wait()
    cancelling = asyncio.create_task(handle.cancel(action="rollback", wait=True))
    await asyncio.sleep(0)
    go_on.set()
    await cancelling

    assert (await handle.result()).status is RunStatus.cancelled
    assert not saver.is_open
    state = await as_agent(factory).state(ThreadPlace(thread_id="t"))  # type: ignore[attr-defined]  # it keeps threads
    assert state.values == {"said": "hello!"}
