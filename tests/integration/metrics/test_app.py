"""An app configured for scraping: everything that it knows of itself is in its metrics."""

import asyncio
import socket
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from tests.integration.metrics.conftest import shown

from trackside.app.observers.metrics import MetricsObserver
from trackside.app.observers.metrics.definitions import DEFINITIONS
from trackside.app.settings import Settings, SettingsError, load_settings
from trackside.app.wiring import App, open_app
from trackside.harness import RunSpec

HOOK = """
class Mail:
    delivery = "durable"

    async def on_event(self, event):
        pass
"""


async def agent(input: Any) -> Any:
    return input


@pytest.fixture
def configured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[int], Settings]:
    """Settings of an app that exposes metrics at a port and has a durable observer."""
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "metrics_mail", raising=False)
    return partial(_configured, tmp_path)


def _configured(folder: Path, port: int) -> Settings:
    (folder / "metrics_mail.py").write_text(HOOK)
    (folder / "trackside.toml").write_text(
        f"""
        [database]
        url = "sqlite:///{folder}/runs.db"

        [[observers]]
        type = "metrics"
        port = {port}

        [[observers]]
        name = "mail"
        type = "metrics_mail:Mail"
        start = "beginning"
        """
    )
    return load_settings(folder=folder, environ={})


def metrics_of(app: App) -> MetricsObserver:
    (found,) = (each.observer for each in app.observers if isinstance(each.observer, MetricsObserver))
    return found


async def test_an_app_shows_its_runs_its_storage_its_observers_and_its_subscriptions(
    configured: Callable[[int], Settings],
) -> None:
    settings = await asyncio.to_thread(configured, 0)
    async with open_app(settings, {"agent": agent}) as app:
        metrics = metrics_of(app)
        assert metrics.port
        before = await asyncio.to_thread(shown, metrics)
        for _ in range(3):
            await (await app.manager.start(RunSpec("agent"))).result()
        await app.manager.observers.flush(60.0)
        await app.dispatcher.drain(60.0)
        values = await asyncio.to_thread(shown, metrics)

    assert {before["trackside_runs_total"]["agent", status] for status in ("success", "error")} == {0}
    assert values["trackside_runs_total"]["agent", "success"] == 3
    assert values["trackside_storage_batch_events_sum"] == {(): 12}
    assert values["trackside_observer_accepted_events_total"] == {("metrics",): 12}
    assert values["trackside_subscription_handled_events_total"] == {("mail",): 12}
    assert values["trackside_subscription_active"] == {("mail",): 1}
    assert values["trackside_spooled_runs"] == {(): 0}
    of_fleets = ("trackside_engine", "trackside_worker", "trackside_duty", "trackside_queue_")
    here = [definition for definition in DEFINITIONS if not definition.name.startswith(of_fleets)]
    missing = {definition.name for definition in here if definition.series[0] not in values}
    assert missing == {
        "trackside_run_failures_total",
        "trackside_run_tokens_total",
        "trackside_model_cost_usd_total",
    }
    assert metrics.port is None


async def test_an_app_does_not_start_at_a_port_that_is_taken(configured: Callable[[int], Settings]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        settings = await asyncio.to_thread(configured, port)
        with pytest.raises(SettingsError, match=rf"trackside\.toml.*127\.0\.0\.1:{port} is taken by another program"):
            async with open_app(settings, {"agent": agent}):
                pass
