"""A real Prometheus scrapes an observer, and answers the dashboard's queries."""

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest
from prometheus_client import CollectorRegistry, Metric
from prometheus_server import NoPrometheusError, PrometheusServer
from tests.integration.metrics.conftest import Open, WatchedApp
from tests.integration.metrics.test_dashboard import ALERTS, expressions

from trackside.harness import RunManager, RunSpec

PATIENCE = 60.0  # seconds


class Scrapes:
    """Tells when a registry has been scraped."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._loop = asyncio.get_running_loop()
        self._next = asyncio.Event()
        registry.register(self)  # type: ignore[arg-type]  # it has the method that the registry calls

    def collect(self) -> list[Metric]:
        self._loop.call_soon_threadsafe(self._next.set)
        return []

    def describe(self) -> list[Metric]:
        return []

    async def next(self) -> None:
        """Wait for the next scrape from now on."""
        self._next.clear()
        await self._next.wait()


@pytest.fixture
def prometheus_for() -> Iterator[Any]:
    """Starts a Prometheus that scrapes an address."""
    started: list[PrometheusServer] = []

    def start(port: int) -> PrometheusServer:
        try:
            started.append(PrometheusServer({"trackside": f"127.0.0.1:{port}"}, rules=[ALERTS]))
        except NoPrometheusError as exc:
            pytest.skip(str(exc))
        return started[-1]

    yield start
    for server in started:
        server.close()


async def test_prometheus_knows_what_runs_came_to_and_takes_every_query_of_the_dashboard(
    open_metrics: Open, prometheus_for: Any
) -> None:
    async def chat(input: str) -> str:
        if input == "no":
            raise LookupError(input)
        return input

    registry = CollectorRegistry()
    metrics = open_metrics(port=0, registry=registry)
    scrapes = Scrapes(registry)
    metrics.watch(WatchedApp(spooled=2).vitals())
    prometheus: PrometheusServer = await asyncio.to_thread(prometheus_for, metrics.port)

    async def until(expression: str, expected: list[tuple[dict[str, str], float]]) -> None:
        """Ask after each scrape until this is the answer."""
        answer: Any = None
        try:
            async with asyncio.timeout(PATIENCE):
                while (answer := await asyncio.to_thread(prometheus.query, expression)) != expected:
                    await scrapes.next()
        except TimeoutError:
            raise AssertionError(f"{expression} is {answer} and not {expected}") from None

    async with RunManager({"chat": chat}, observers=[metrics]) as manager:
        for said in ("yes", "no", "yes", "yes"):
            await (await manager.start(RunSpec("chat", said))).result()

    await until("up", [({"__name__": "up", "instance": f"127.0.0.1:{metrics.port}", "job": "trackside"}, 1.0)])
    await until(
        'sum by (status) (trackside_runs_total{status=~"success|error"})',
        [({"status": "error"}, 1.0), ({"status": "success"}, 3.0)],
    )
    await until("sum (trackside_run_duration_seconds_count)", [({}, 4.0)])
    await until("sum by (error_type) (trackside_run_failures_total)", [({"error_type": "LookupError"}, 1.0)])
    await until("sum (trackside_spooled_runs)", [({}, 2.0)])
    for expression in expressions():
        chosen = expression.replace("$__rate_interval", "1m").replace("$job", ".*").replace("$agent", ".*")
        await asyncio.to_thread(prometheus.query, chosen)
