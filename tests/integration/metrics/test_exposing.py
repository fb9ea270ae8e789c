"""Metrics are exposed as Prometheus wants them: by their own HTTP server, in somebody's web app, or as text."""

import asyncio
import socket
import sys
from collections.abc import Iterable
from typing import Any
from urllib.request import ProxyHandler, Request, build_opener

import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.parser import text_string_to_metric_families
from prometheus_server import NoPrometheusError, promtool
from tests.integration.metrics.conftest import Open, WatchedApp, ended, in_a_fleet, shown
from tests.unit.full_executor import full_executor

from trackside.app.delivery import ObserverOptionError
from trackside.app.observers.metrics import MetricsObserver
from trackside.app.observers.metrics.definitions import DEFINITIONS
from trackside.app.vitals import FeedStats
from trackside.harness import RunManager, RunSpec, RunStatus
from trackside.harness.observing.buffered import BufferedObserver
from trackside.testing import RecordingObserver

CALLS = [{"kind": "chat", "seconds": 1.0}]


async def scrape(port: int | None, accept: str = "text/plain") -> tuple[str, str]:
    request = Request(f"http://127.0.0.1:{port}/metrics", headers={"Accept": accept})

    def get() -> tuple[str, str]:
        with build_opener(ProxyHandler({})).open(request, timeout=60) as answer:
            return answer.headers["Content-Type"], answer.read().decode()

    return await asyncio.to_thread(get)


async def everything(metrics: MetricsObserver) -> None:
    """Have something of every kind happen, so that every metric has a value."""
    buffer = BufferedObserver(RecordingObserver(), capacity=1, terminal_reserve=0, max_wait=0.0)
    await buffer.on_events(ended())
    feed = FeedStats(
        subscription="webhook",
        active=True,
        paused=False,
        read_total=1,
        handled_total=1,
        parked_total=0,
        returned_total=0,
        failed_calls_total=0,
        pending=0,
        behind_seconds=0.0,
    )
    metrics.watch(in_a_fleet(WatchedApp(observers={"mail": buffer.stats()}, feeds=[feed]).vitals()))
    usage = {"token_usage_by_model": {"small": {"input_tokens": 3, "cost_usd": 0.5}}, "calls": CALLS}
    await metrics.on_events([*ended("1", data=usage), *ended("2", status=RunStatus.error, error_type="OSError")])
    await buffer.aclose()


async def test_every_definition_has_series_with_its_labels_and_no_series_is_without_one(
    metrics: MetricsObserver,
) -> None:
    await everything(metrics)

    families = list(text_string_to_metric_families(metrics.render()[0].decode()))
    series = {sample.name: sample.labels.keys() - {"le"} for family in families for sample in family.samples}
    assert series == {
        name: {*definition.labels} for definition in DEFINITIONS for name in definition.series if name in series
    }
    active = {definition.name for definition in DEFINITIONS if not {*definition.series} <= series.keys()}
    assert active <= {"trackside_runs_active"}  # nothing runs
    helps = {family.documentation for family in families}
    assert helps >= {definition.help for definition in DEFINITIONS}


@pytest.mark.parametrize("definition", DEFINITIONS, ids=lambda definition: definition.name)
def test_names_follow_the_conventions(definition: Any) -> None:
    assert definition.name.startswith("trackside_")
    assert definition.name.endswith("_total") == (definition.kind == "counter")
    assert definition.name.removesuffix("_total").endswith(definition.unit)
    assert definition.help.endswith(".")


async def test_promtool_has_nothing_to_say_against_the_metrics(metrics: MetricsObserver) -> None:
    await everything(metrics)
    text = metrics.render()[0].decode()
    try:
        checked = await asyncio.to_thread(promtool, "check", "metrics", given=text)
    except NoPrometheusError as exc:
        pytest.skip(str(exc))
    wrong = await asyncio.to_thread(promtool, "check", "metrics", given=text.replace("_runs_total", "_runs_sum"))

    assert (checked.returncode, checked.stdout, checked.stderr) == (0, "", "")
    assert wrong.returncode != 0


async def test_plain_functions_that_fill_the_loops_threads_hold_up_neither_events_nor_closing(
    open_metrics: Open,
) -> None:
    metrics = open_metrics(port=0)
    async with full_executor():
        await metrics.on_events(ended())
        assert metrics.port is not None
        await metrics.aclose()
    assert metrics.port is None


async def test_an_app_that_is_watched_can_be_scraped_from_then_until_it_is_closed(open_metrics: Open) -> None:
    metrics = open_metrics(port=0)
    assert metrics.port is None
    metrics.watch(WatchedApp(spooled=3).vitals())
    port = metrics.port

    kind, text = await scrape(port)
    assert kind.startswith("text/plain; version=")
    assert "trackside_spooled_runs 3.0" in text
    await metrics.aclose()
    await metrics.aclose()

    assert metrics.port is None
    with pytest.raises(OSError, match="refused"):
        await scrape(port)
    metrics.serve()
    assert metrics.port is None


async def test_a_manager_with_an_observer_that_has_a_port_can_be_scraped_from_its_first_run_on(
    open_metrics: Open,
) -> None:
    metrics = open_metrics(port=0)

    async def agent(input: Any) -> None: ...

    async with RunManager({"agent": agent}, observers=[metrics]) as manager:
        await (await manager.start(RunSpec("agent"))).result()
        await manager.observers.flush(60.0)
        _, text = await scrape(metrics.port)

    assert 'trackside_runs_total{agent="agent",status="success"} 1.0' in text


async def test_an_event_whose_call_is_cancelled_while_it_begins_to_listen_may_come_again(open_metrics: Open) -> None:
    metrics = open_metrics(port=0)
    call = asyncio.create_task(metrics.on_event(ended()[0]), name="on_event")
    await asyncio.sleep(0)
    call.cancel()
    await asyncio.wait({call})
    await metrics.on_events(ended())
    await asyncio.to_thread(metrics.serve)

    assert call.cancelled()
    assert 'trackside_runs_started_total{agent="chat"} 1.0' in (await scrape(metrics.port))[1]


async def test_open_metrics_are_given_to_who_asks_for_them(open_metrics: Open) -> None:
    metrics = open_metrics(port=0)
    metrics.serve()
    kind, text = await scrape(metrics.port, "application/openmetrics-text; version=1.0.0")

    assert kind.startswith("application/openmetrics-text; version=1.0.0")
    assert text.endswith("# EOF\n")
    assert metrics.render("application/openmetrics-text; version=1.0.0") == (text.encode(), kind)


async def test_a_port_that_is_taken_stops_an_app_from_starting(open_metrics: Open) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        metrics = open_metrics(port=port)
        with pytest.raises(ObserverOptionError, match=rf"^port: 127\.0\.0\.1:{port} is taken by another program"):
            metrics.watch(WatchedApp().vitals())


async def test_a_port_that_an_observer_before_has_may_be_this_programs_own(open_metrics: Open) -> None:
    before = open_metrics(port=0)
    before.serve()
    again = open_metrics(port=before.port)
    with pytest.raises(
        ObserverOptionError, match=r"taken .* or by an observer of this one that was not closed; close it"
    ):
        again.serve()
    await before.aclose()
    again.serve()


@pytest.mark.parametrize("host", ["no such host.invalid", "x" * 100, "192.0.2.1"])
async def test_a_host_that_is_not_here_stops_an_app_from_starting(open_metrics: Open, host: str) -> None:
    metrics = open_metrics(port=0, host=host)
    with pytest.raises(ObserverOptionError, match="^host: .* is not an address of this machine"):
        await asyncio.to_thread(metrics.serve)


async def test_runs_are_counted_where_nobody_said_to_listen_and_nobody_can(
    open_metrics: Open, caplog: pytest.LogCaptureFixture
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        metrics = open_metrics(port=other.getsockname()[1])
        for number in range(3):
            await metrics.on_events(ended(str(number)))

    assert shown(metrics)["trackside_runs_started_total"] == {("chat",): 3}
    assert [record.message.partition(": ")[0] for record in caplog.records] == [
        "metrics are counted, but nobody can scrape them"
    ]


async def test_a_web_app_answers_with_the_metrics(metrics: MetricsObserver) -> None:
    await metrics.on_events(ended())
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    await metrics.asgi(
        {"type": "http", "method": "GET", "path": "/", "headers": [], "query_string": b""}, receive, send
    )

    assert sent[0]["status"] == 200
    assert sent[1]["body"] == metrics.render()[0]


async def test_metrics_are_in_a_registry_of_ones_own_until_they_are_closed(open_metrics: Open) -> None:
    registry = CollectorRegistry()
    first = open_metrics(registry=registry)
    with pytest.raises(ObserverOptionError, match="^registry: it has metrics of these names already"):
        MetricsObserver(registry=registry)
    await first.on_events(ended())
    assert registry.get_sample_value("trackside_runs_started_total", {"agent": "chat"}) == 1

    await first.aclose()
    assert open_metrics(registry=registry).render()[0].count(b"trackside_build_info{") == 1


@pytest.mark.parametrize(
    ("option", "values"),
    [
        ("port", [-1, 65_536, "9464", True, 1.5]),
        ("host", ["", 7]),
        ("max_labels", [0, -1, "many", True, 1.5]),
        ("buckets", [[], [1, 1], [2, 1], [0, 1], [-1], ["1"], [float("nan")], [float("inf")], "123", 5, None]),
        ("registry", ["mine", object()]),
    ],
)
def test_an_option_that_does_not_fit_is_named(option: str, values: Iterable[Any]) -> None:
    for value in values:
        with pytest.raises(ObserverOptionError, match=f"^{option}: "):
            MetricsObserver(**{option: value})


def test_without_its_package_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    room = "trackside.app.observers.metrics"
    for name in [*sys.modules]:
        if name.partition(".")[0] == "prometheus_client" or name.startswith(room):
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "prometheus_client", None)  # type: ignore[arg-type]  # as if it were not installed

    with pytest.raises(ImportError, match=r"pip install 'trackside\[metrics\]'"):
        __import__(room)
