"""A Prometheus that scrapes the app while its runs go on, and is asked afterwards what it knows."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from typing import override
from urllib.parse import urlencode

from prometheus_client import Metric
from prometheus_client.registry import Collector
from prometheus_server import PrometheusServer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from demo.observers.record import Arrival, Record
from demo.observers.servers import running
from demo.observers.stand import Stand, headline
from trackside import LifecycleEventType
from trackside.app.cli.formatting import count
from trackside.app.observers.metrics import MetricsObserver
from trackside.app.wiring import App

PATIENCE = 15.0  # seconds

QUESTIONS = {
    "how runs ended": "sum by (agent, status) (trackside_runs_total) > 0",
    "how many ran at once": "max_over_time(sum(trackside_runs_active)[1m:200ms])",
    "seconds that a run took on average": (
        "sum by (agent) (trackside_run_duration_seconds_sum) / sum by (agent) (trackside_run_duration_seconds_count)"
    ),
    "what failed": "sum by (error_type) (trackside_run_failures_total)",
    "calls": "sum by (kind) (trackside_call_duration_seconds_count)",
    "tokens": 'sum by (model, direction) (trackside_run_tokens_total{direction=~"input|output"}) > 0',
    "events that subscriptions delivered": "sum by (subscription) (trackside_subscription_handled_events_total)",
    "calls of receivers that failed": "sum by (subscription) (trackside_subscription_failed_calls_total) > 0",
}
"""The questions that the demo asks and shows."""

_RUNS = "sum by (agent, status) (trackside_runs_total)"
_HANDLED = "sum by (subscription) (trackside_subscription_handled_events_total)"
_MESSAGES = "sum by (agent) (trackside_human_messages_total)"
_TOKENS = 'sum by (direction) (trackside_run_tokens_total{direction=~"input|output"})'

type Answer = Sequence[tuple[Mapping[str, str], float]]


class PrometheusStand(Stand):
    """The server, and its answers at the end."""

    name = "prometheus"

    def __init__(self) -> None:
        self._subscribed: Mapping[str, Sequence[str] | None] = {}
        self._scrapes = 0
        self._scraped = asyncio.Event()
        self._server: PrometheusServer | None = None
        self._target = ""
        self._answers: dict[str, Answer] = {}
        self._counted = Counter[str]()

    @override
    def settings(self) -> str:
        return '[[observers]]\ntype = "metrics"\nport = 0  # any that is free\n'

    @property
    @override
    def place(self) -> str:
        if self._server is None:
            return "nobody asks"
        return f"http://127.0.0.1:{self._server.port}, scrapes {self._target} each 200 ms"

    @property
    def pages(self) -> tuple[str, ...]:
        """What to open in a browser: a query, and the list of what is scraped."""
        if self._server is None:
            return ()
        query = urlencode({"g0.expr": QUESTIONS["how runs ended"]})
        return (f"http://127.0.0.1:{self._server.port}/graph?{query}", f"http://{self._target}/metrics")

    @override
    def came(self) -> str:
        return count(self._scrapes, "scrape")

    @asynccontextmanager
    async def scraping(self, app: App) -> AsyncGenerator[None]:
        """Have an app scraped by a server that runs as long as the context."""
        (observer,) = (each.observer for each in app.observers if isinstance(each.observer, MetricsObserver))
        self._subscribed = {each.name: each.events for each in app.observers if each.is_durable}
        self._target = f"127.0.0.1:{observer.port}"
        loop = asyncio.get_running_loop()
        observer.registry.register(_Told(lambda: loop.call_soon_threadsafe(self._note_scrape)))
        async with running(lambda: PrometheusServer({"trackside": self._target})) as self._server:
            with suppress(TimeoutError):  # `arrivals` says what it missed
                async with asyncio.timeout(PATIENCE):
                    await self._scraped.wait()
            yield

    @override
    async def settle(self, app: App, record: Record) -> None:
        """Ask after each scrape, until Prometheus knows what the log has."""
        wanted = self._wanted(record)
        with suppress(TimeoutError):  # `arrivals` says what is missing
            async with asyncio.timeout(PATIENCE):
                while True:
                    self._scraped.clear()
                    self._counted = await self._count()
                    if self._counted == wanted:
                        break
                    await self._scraped.wait()
        self._answers = {question: await self._ask(query) for question, query in QUESTIONS.items()}

    @override
    def arrivals(self, record: Record) -> Sequence[Arrival]:
        wanted, counted = (
            [f"{labels} {value}" for labels, value in numbers.items()]
            for numbers in (self._wanted(record), self._counted)
        )
        return [
            Arrival.of("Prometheus", "series", wanted, counted, "of runs, messages, tokens, subscriptions; as the log")
        ]

    @override
    def show(self, console: Console, record: Record) -> None:
        headline(console, "Prometheus", f"asked after {self.came()}")
        table = Table.grid(padding=(0, 2, 0, 0), expand=True)
        table.add_column(overflow="fold", ratio=3)
        table.add_column(ratio=2)
        for question, answer in self._answers.items():
            values = Table.grid(padding=(0, 1, 0, 0), expand=True)
            values.add_column(overflow="fold", ratio=1)
            values.add_column(justify="right", no_wrap=True)
            for labels, value in answer:
                values.add_row(Text(" ".join(labels.values()), "dim"), f"{value:,.3f}".rstrip("0").rstrip("."))
            table.add_row(Text(question, "bold").append(f"\n{QUESTIONS[question]}", "not bold cyan"), values)
        console.print(table)

    def _note_scrape(self) -> None:
        self._scrapes += 1
        self._scraped.set()

    async def _ask(self, query: str) -> Answer:
        assert self._server is not None, "used outside of its context"
        return await asyncio.to_thread(self._server.query, query)

    async def _count(self) -> Counter[str]:
        """What Prometheus has counted, keyed by the labels."""
        counted = Counter[str]()
        for query in (_RUNS, _HANDLED, _MESSAGES, _TOKENS):
            for labels, value in await self._ask(query):
                counted[" ".join(value for _, value in sorted(labels.items()))] += round(value)
        return +counted

    def _wanted(self, record: Record) -> Counter[str]:
        """The same counts by the log."""
        agents = {run.run_id: run.agent for run in record.runs}
        wanted = Counter(f"{run.agent} {run.status}" for run in record.runs)
        wanted.update({name: len(record.ids(types)) for name, types in self._subscribed.items()})
        wanted.update(str(agents[event.run_id]) for event in record.of_type(LifecycleEventType.HUMAN_MESSAGE))
        wanted["input"] = sum(run.total_input_tokens for run in record.runs)
        wanted["output"] = sum(run.total_output_tokens for run in record.runs)
        return +wanted


class _Told(Collector):
    """Sits in a registry, which asks it at each scrape, and reports each scrape."""

    def __init__(self, tell: Callable[[], object]) -> None:
        self._tell = tell

    def describe(self) -> list[Metric]:
        """Nothing, so that the registry does not collect from it when it is registered."""
        return []

    @override
    def collect(self) -> list[Metric]:
        self._tell()
        return []
