"""What keeping its thread costs a run of a no-op LangGraph graph: the store's checkpointer beside LangGraph's own savers."""

from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from functools import partial
from itertools import count
from typing import Annotated, Any, TypedDict

from _databases import Databases, PostgresDatabases, SqliteFiles
from _report import Budget, Report, figure, options_of, publish, table
from _rounds import Clock, Contender, Effort, Race, Spread, Work, race
from langchain_core.messages import AIMessage, HumanMessage
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.checkpoint.postgres.aio import AsyncPostgresSaver
from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver
from langgraph.graph import START, StateGraph
from runs import at_once

from trackside import ObserverBinding, RunManager, RunSpec
from trackside.app.observers.storage import StorageObserver
from trackside.app.storage import Store

EFFORT = Effort(rounds=5, seconds=0.7)
CONCURRENT = (1, 32)
LONG = 200
NOTHING, MEMORY, OURS, LANGGRAPHS = "no checkpointer", "InMemorySaver", "store.checkpointer()", "LangGraph's saver"
NAMES = (NOTHING, MEMORY, OURS, LANGGRAPHS)
MOST = 0.3
"""Milliseconds of CPU time that a run may take beyond what it takes with LangGraph's saver in memory."""

type Measured = tuple[Databases, int, int]
"""On which databases, how many at once, and how many messages the thread has; 0 means a new thread for each run."""


def newest(messages: list[Any], more: list[Any]) -> list[Any]:
    """Both lists together, cut to the newest messages that a long thread holds, so that it does not grow."""
    return [*messages, *more][-LONG:]


class State(TypedDict):
    """What a thread holds."""

    messages: Annotated[list[Any], newest]


async def answer(state: State) -> State:
    return {"messages": [AIMessage("Trains run on rails, and have done so for two hundred years.", id="answer")]}


def graph() -> Any:
    return StateGraph(State).add_node("answer", answer).add_edge(START, "answer").compile()


@asynccontextmanager
async def saver_of(name: str, url: str, store: Store) -> AsyncGenerator[Any]:
    if name == LANGGRAPHS and url.startswith("sqlite"):
        async with AsyncSqliteSaver.from_conn_string(url.removeprefix("sqlite:///")) as sqlite:
            await sqlite.setup()
            yield sqlite
    elif name == LANGGRAPHS:
        async with AsyncPostgresSaver.from_conn_string(url) as postgres:
            await postgres.setup()
            yield postgres
    else:
        yield {NOTHING: None, MEMORY: InMemorySaver()}.get(name, store.checkpointer())


@asynccontextmanager
async def durable(name: str, measured: Measured) -> AsyncGenerator[Work]:
    """Runs of a manager on a store, from their start to their result."""
    databases, concurrent, messages = measured
    async with (
        databases.new(with_tables=True) as url,
        Store.open(url) as store,
        saver_of(name, url, store) as saver,
        RunManager(
            {"graph": graph()},
            observers=[ObserverBinding(StorageObserver(store), required=True)],
            coordinator=store.coordinator(),
            checkpointer=saver,
        ) as manager,
    ):
        run = start_and_wait(manager, "long" if messages else None)
        if messages:
            await run(messages)
        yield at_once(run, concurrent)


def start_and_wait(manager: RunManager, thread_id: str | None) -> Callable[..., Awaitable[object]]:
    numbers = count()

    async def run(messages: int = 1) -> object:
        said = [HumanMessage("What about trains?", id=f"question {next(numbers)}") for _ in range(messages)]
        result = await (await manager.start(RunSpec("graph", {"messages": said}, thread_id=thread_id))).result()
        assert result.error is None, result.error
        return result

    return run


def case_of(measured: Measured) -> str:
    databases, concurrent, messages = measured
    if messages:
        return f"{databases.name}, a thread of {messages} messages"
    return f"{databases.name}, one at a time" if concurrent == 1 else f"{databases.name}, {concurrent} at once"


def table_of(result: Race, case: str) -> str:
    memory = result.contender(MEMORY, case)

    def row(name: str) -> list[str]:
        way = result.contender(name, case)
        return [
            f"`{name}`" if name in {MEMORY, OURS} else name,
            figure(result.rate(way, "wall")),
            figure(result.cost(way, "wall").scaled(1e-6), digits=1),
            figure(result.cost(way, "cpu").scaled(1e-6), digits=2),
            figure(result.difference(way, memory, "cpu").scaled(1e-6), digits=2),
        ]

    return table([case, "runs/s", "ms each", "ms of CPU time", "more than in memory"], map(row, NAMES))


def more_than_in_memory(result: Race, case: str, clock: Clock) -> Spread:
    ours, memory = result.contender(OURS, case), result.contender(MEMORY, case)
    return result.difference(ours, memory, clock).scaled(1e-6)


def main() -> None:
    options = options_of(__doc__, EFFORT)
    with PostgresDatabases() as server:
        each: list[Databases] = [SqliteFiles()] if options.quick else [SqliteFiles(), server]
        measured: list[Measured] = [(of, concurrent, 0) for of in each for concurrent in CONCURRENT]
        measured += [(of, 1, LONG) for of in each]
        cases: Mapping[str, Measured] = {case_of(one): one for one in measured}
        contenders = [
            Contender(name, case, partial(durable, name, one), server_cpu_ns=one[0].cpu_ns)
            for case, one in cases.items()
            for name in NAMES
        ]
        result = race(contenders, options.effort)
    budgets = [
        Budget.of(
            f"{case}: at most {MOST} ms more than in memory",
            MOST,
            partial(more_than_in_memory, result, case),
            at_most=True,
        )
        for case in cases
        if case.endswith("at once")
    ]
    report = Report(
        name="checkpoints",
        unit="nanoseconds for one run",
        race=result,
        tables=[table_of(result, case) for case in cases],
        budgets=budgets,
        ours=[OURS],
        packages=["langgraph", "langgraph-checkpoint-sqlite", "langgraph-checkpoint-postgres"],
    )
    publish(report, options)


if __name__ == "__main__":
    main()
