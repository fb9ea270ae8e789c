"""How many events a second a durable subscription posts to a receiver in another process, beside a bare aiohttp loop."""

import asyncio
import subprocess
import sys
import tempfile
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from functools import partial
from itertools import count, islice
from pathlib import Path
from time import perf_counter_ns
from typing import Any

import aiohttp
import msgspec
import uvloop
from _report import Budget, Report, options_of, publish, rate_and_cpu, table, times
from _rounds import Contender, Effort, Race, Work, race
from append import events

from trackside.app.delivery import Order
from trackside.app.observers.webhook import WebhookObserver
from trackside.app.storage import Store
from trackside.app.storage.dispatcher import Dispatcher, DurableObserver
from trackside.app.storage.feeding import FeedPolicy
from trackside.harness.observer import RunLifecycleEvent

RECEIVER = Path(__file__).parents[1] / "tests" / "servers" / "webhook_receiver.py"
SECRET = "whsec_" + "dHJhY2tzaWRl" * 3
EFFORT = Effort(rounds=9, seconds=1.0)
AT_ONCE = 32
BARE = "aiohttp, the same bodies"
ALONE = "WebhookObserver alone"
UNORDERED, BY_RUN, IN_ORDER = (f"durable, order {order}" for order in (Order.none, Order.run, Order.log))
SIDE_BY_SIDE, SINGLY = f"{AT_ONCE} at once", "one at a time"
ON_UVLOOP = f"{SIDE_BY_SIDE}, uvloop"
WAYS = {
    SIDE_BY_SIDE: (BARE, ALONE, UNORDERED, BY_RUN),
    ON_UVLOOP: (BARE, ALONE, UNORDERED),
    SINGLY: (BARE, ALONE, IN_ORDER),
}
BUDGET = 2_000
APPENDED_AT_ONCE = 500

type Send = Callable[[RunLifecycleEvent], Awaitable[object]]


@contextmanager
def receiver() -> Generator[str]:
    """A receiver in another process, which answers 200 to everything; gives its address."""
    command = [sys.executable, str(RECEIVER)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        yield f"http://127.0.0.1:{int(process.stdout.readline())}/hook"
        process.communicate()


def sending(send: Send, at_once: int) -> Work:
    """Send as this many senders, each of which waits for the answer before it sends the next."""
    source = events()

    async def work(number: int) -> None:
        left = islice(source, number)

        async def one() -> None:
            for event in left:
                await send(event)

        await asyncio.gather(*(one() for _ in range(at_once)))

    return work


@asynccontextmanager
async def bare(url: str, at_once: int) -> AsyncGenerator[Work]:
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:

        async def send(event: RunLifecycleEvent) -> None:
            body = {"type": event.event_type, "timestamp": event.occurred_at, "data": event}
            async with session.post(url, data=msgspec.json.encode(body)) as response:
                assert response.status == 200

        yield sending(send, at_once)


def observer_at(url: str) -> WebhookObserver:
    return WebhookObserver(url=url, secret=SECRET, allow_private_addresses=True)


@asynccontextmanager
async def alone(url: str, at_once: int) -> AsyncGenerator[Work]:
    observer = observer_at(url)
    yield sending(observer.on_event, at_once)
    await observer.aclose()


@asynccontextmanager
async def durable(url: str, at_once: int, databases: Iterator[str], order: Order) -> AsyncGenerator[Work]:
    source = events()
    policy = FeedPolicy(order=order, concurrency=at_once)
    subscribed = DurableObserver(name="hook", observer=observer_at(url), policy=policy)
    async with (
        Store.open(next(databases)) as store,
        Dispatcher(store.subscriptions, [subscribed]) as dispatching,
    ):

        async def work(number: int) -> None:
            for begun in range(0, number, APPENDED_AT_ONCE):
                await store.append([*islice(source, min(APPENDED_AT_ONCE, number - begun))])
            assert (await dispatching.drain(600)).complete

        yield work


def contenders(url: str, databases: Iterator[str]) -> list[Contender]:
    made: list[Contender] = []
    for case, names in WAYS.items():
        at_once = 1 if case == SINGLY else AT_ONCE
        opened: dict[str, Callable[[], AbstractAsyncContextManager[Work]]] = {
            BARE: partial(bare, url, at_once),
            ALONE: partial(alone, url, at_once),
            UNORDERED: partial(durable, url, at_once, databases, Order.none),
            BY_RUN: partial(durable, url, at_once, databases, Order.run),
            IN_ORDER: partial(durable, url, at_once, databases, Order.log),
        }
        loop_factory = uvloop.new_event_loop if case == ON_UVLOOP else None
        made += [Contender(name, case, opened[name], loop_factory) for name in names]
    return made


def table_of(result: Race, case: str) -> str:
    def row(name: str) -> list[str]:
        way, beside = result.contender(name, case), result.contender(BARE, case)
        return [
            name,
            *rate_and_cpu(result, way, digits=0),
            *(times(result.ratio(way, beside, clock).median) for clock in ("wall", "cpu")),
        ]

    header = [case, "deliveries/s by wall clock", "µs of CPU time", "× aiohttp's time, wall", "CPU"]
    return table(header, map(row, WAYS[case]))


def signing_microseconds() -> float:
    """How long the signature of one event takes, made by the Standard Webhooks library."""
    signer: Any = observer_at("http://127.0.0.1/")._poster._signer
    now, body = WebhookObserver.clock.now(), msgspec.json.encode(next(events()))
    begun = perf_counter_ns()
    for _ in range(10_000):
        signer.signatures("0198c1d2-7f00-7000-8000-000000000000", now, body)
    return (perf_counter_ns() - begun) / 1e7


def main() -> None:
    options = options_of(__doc__, EFFORT)
    with tempfile.TemporaryDirectory() as folder, receiver() as url:
        databases = (f"sqlite:///{folder}/{number}.db" for number in count())
        result = race(contenders(url, databases), options.effort)
    signing = signing_microseconds()
    said = f"Of one event, the signature by `standardwebhooks` takes {signing:.1f} µs."
    report = Report(
        name="webhooks",
        unit="nanoseconds for one delivery",
        race=result,
        tables=[*(table_of(result, case) for case in WAYS), said],
        budgets=[
            Budget.of(
                f"{UNORDERED}: at least {BUDGET:,} deliveries/s ({SIDE_BY_SIDE})",
                BUDGET,
                partial(result.rate, result.contender(UNORDERED, SIDE_BY_SIDE)),
            )
        ],
        ours=[ALONE, UNORDERED, BY_RUN, IN_ORDER],
        packages=["aiohttp", "standardwebhooks", "sqlalchemy"],
        extra={"signing_microseconds": round(signing, 2)},
    )
    publish(report, options)


if __name__ == "__main__":
    main()
