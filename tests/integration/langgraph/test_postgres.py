"""LangGraph's own saver on PostgreSQL, for those who choose it: the database with the log remembers threads, too."""

import asyncio
import builtins
import operator
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated, Any, TypedDict

import asyncpg
import pytest
from langgraph.checkpoint.base import empty_checkpoint
from langgraph.graph import START, StateGraph
from langgraph.types import interrupt
from leading_address import LeadingAddress
from postgres_server import PostgresServer, RunningServer
from psycopg_pool import PoolTimeout
from raw_postgres import RawConnection

from trackside import CancelAction, RunSpec, RunStatus
from trackside.app.settings import Settings
from trackside.app.storage.langgraph_savers import open_checkpoints
from trackside.app.wiring import App, MissingExtraError, open_app


class State(TypedDict, total=False):
    notes: Annotated[list[Any], operator.add]


def asking() -> Any:
    """A graph that asks once, compiled anew as in another process."""

    def ask(state: State) -> State:
        return {"notes": [interrupt("How many?")]}

    return StateGraph(State).add_node("ask", ask).add_edge(START, "ask").compile()


def counting(reached: asyncio.Event | None = None) -> Any:
    """A graph that counts its thread's notes; with `reached` it then waits for ever."""

    async def count(state: State) -> State:
        return {"notes": [len(state["notes"])]}

    async def wait(state: State) -> State:
        if reached is not None:
            reached.set()
            await asyncio.Event().wait()
        return {}

    return StateGraph(State).add_sequence([count, wait]).add_edge(START, "count").compile()


@asynccontextmanager
async def app_of(url: str, graph: Any) -> AsyncIterator[App]:
    async with open_app(Settings(database_url=url, checkpoints_saver="langgraph"), {"graph": graph}) as app:
        yield app


async def play(app: App, input: Any = None, **spec: Any) -> Any:
    return await (await app.manager.start(RunSpec("graph", input, thread_id="t", **spec))).result()


async def notes(app: App, graph: Any) -> list[Any]:
    bound = graph.copy({"checkpointer": app.checkpointer})
    return (await bound.aget_state({"configurable": {"thread_id": "t"}})).values["notes"]


async def test_a_question_is_answered_in_another_process(postgres_url: str) -> None:
    async with app_of(postgres_url, asking()) as app:
        assert (await play(app, {"notes": ["some"]})).status is RunStatus.interrupted
    async with app_of(postgres_url, graph := asking()) as app:
        assert (await play(app, command={"resume": 3})).status is RunStatus.success
        assert await notes(app, graph) == ["some", 3]


async def test_a_rollback_puts_the_thread_back(postgres_url: str) -> None:
    reached = asyncio.Event()
    async with app_of(postgres_url, graph := counting()) as app:
        await play(app, {"notes": ["a"]})
    async with app_of(postgres_url, counting(reached)) as app:
        handle = await app.manager.start(RunSpec("graph", {"notes": ["b"]}, thread_id="t"))
        await reached.wait()
        await handle.cancel(action=CancelAction.rollback)
        assert (await handle.result()).status is RunStatus.cancelled
        assert await notes(app, graph) == ["a", 1]


async def test_where_transactions_only_read_unless_they_say_otherwise_threads_are_remembered(postgres_url: str) -> None:
    reads = f"{postgres_url}{'&' if '?' in postgres_url else '?'}options=-c%20default_transaction_read_only%3Don"
    async with app_of(reads, graph := counting()) as app:
        assert (await play(app, {"notes": ["a"]})).status is RunStatus.success
        assert await notes(app, graph) == ["a", 1]


async def test_processes_that_begin_at_once_make_the_tables_once(postgres_url: str) -> None:
    async def one() -> RunStatus:
        async with app_of(postgres_url, counting()) as app:
            handle = await app.manager.start(RunSpec("graph", {"notes": []}))
            return (await handle.result()).status

    assert await asyncio.gather(*(one() for _ in range(4))) == [RunStatus.success] * 4


async def test_threads_go_on_after_the_server_has_closed_the_connection(
    postgres_server: RunningServer, postgres_url: str
) -> None:
    async with app_of(postgres_url, graph := counting()) as app:
        await play(app, {"notes": ["a"]})
        name = "application_name = 'trackside-checkpoints' AND datname = current_database()"
        close = f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE {name}"
        assert await asyncio.to_thread(executed, postgres_url, close)
        assert (await play(app, {"notes": ["b"]})).status is RunStatus.success
        assert await notes(app, graph) == ["a", 1, "b", 3]


async def test_threads_go_on_at_the_new_primary_after_the_address_has_led_to_a_standby(
    own_postgres_server: PostgresServer,
) -> None:
    with await asyncio.to_thread(PostgresServer, fsync=False) as primary:
        for server in (own_postgres_server, primary):
            await asyncio.to_thread(server.create_database, "runs")
            await asyncio.to_thread(server.execute, "CREATE ROLE me SUPERUSER LOGIN PASSWORD 'mine'")
        async with (
            open_checkpoints(f"postgresql://me:mine@127.0.0.1:{primary.port}/runs"),
            LeadingAddress(own_postgres_server.port) as address,
            open_checkpoints(f"postgresql://me:mine@127.0.0.1:{address.port}/runs") as saver,
        ):
            config: Any = {"configurable": {"thread_id": "t", "checkpoint_ns": ""}}
            await asyncio.to_thread(own_postgres_server.become_standby)
            saver.conn.timeout = 1.0
            with pytest.raises(PoolTimeout):
                await saver.aget(config)

            saver.conn.timeout = 60.0
            address.leads_to = primary.port
            await saver.aput(config, empty_checkpoint(), {}, {})
            assert await saver.aget(config) is not None


def executed(url: str, sql: str) -> Any:
    connection = RawConnection(url)
    try:
        return connection.execute(sql)
    finally:
        connection.close()


async def test_the_tables_are_in_the_schema_that_the_address_names(postgres_url: str) -> None:
    connection = await asyncpg.connect(postgres_url)
    await connection.execute("CREATE SCHEMA agents")
    joined = "&" if "?" in postgres_url else "?"
    named = f"{postgres_url.replace('postgresql://', 'postgresql+asyncpg://')}{joined}search_path=agents"
    async with app_of(named, counting()) as app:
        assert (await play(app, {"notes": []})).status is RunStatus.success
    found = await connection.fetchval("SELECT schemaname FROM pg_tables WHERE tablename = 'checkpoints'")
    await connection.close()
    assert found == "agents"


async def test_without_the_package_the_extra_is_named(postgres_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    imports = builtins.__import__

    def without(name: str, *arguments: Any, **options: Any) -> Any:
        if name.startswith("langgraph.checkpoint.postgres"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return imports(name, *arguments, **options)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(MissingExtraError, match=r"pip install 'trackside\[langgraph-postgres\]'"):
        async with app_of(postgres_url, counting()):
            pass
