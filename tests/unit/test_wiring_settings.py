"""What the settings say of runs applies to an app's runs."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest

from trackside.app.settings import Settings, SettingsError, load_settings
from trackside.app.wiring import open_app
from trackside.app.wiring.agents import AgentImportError
from trackside.harness import NotAnObserverError, RunContext, RunResult, RunSpec, RunStatus, TracksideError
from trackside.harness.errors import InvalidSpecError, NotAgentsError, NotObserversError
from trackside.testing import RecordingObserver

type Load = Callable[..., Awaitable[Settings]]


async def spend(input: object, run: RunContext) -> str:
    run.record_usage("mine", input_tokens=1_000, output_tokens=100)
    await asyncio.sleep(0)
    return "spent"


@pytest.fixture
def load(tmp_path: Path) -> Load:
    def read(toml: str, files: dict[str, str]) -> Settings:
        for name, text in files.items():
            (tmp_path / f"{name}.py").write_text(text, encoding="utf-8")
        head = f'[database]\nurl = "sqlite:///{tmp_path / "log.db"}"\n[agents]\nspend = "agents.py:spend"\n'
        (tmp_path / "trackside.toml").write_text(head + toml, encoding="utf-8")
        return load_settings(environ={}, folder=tmp_path)

    async def load(toml: str = "", **files: str) -> Settings:
        return await asyncio.to_thread(read, toml, files)

    return load


async def result_of(settings: Settings, agent: str = "spend") -> RunResult:
    async with open_app(settings, {agent: spend}) as app:
        return await (await app.manager.start(RunSpec(agent, "my secret"))).result()


@pytest.mark.parametrize(
    ("agents", "observers", "refusal"),
    [
        ([spend], [], NotAgentsError),
        (spend, [], NotAgentsError),
        ({"\ud800": spend}, [], InvalidSpecError),
        ({"spend": spend}, RecordingObserver(), NotObserversError),
        ({"spend": spend}, [spend, 5], NotAnObserverError),
    ],
    ids=["a list of agents", "an agent", "half a character", "an observer", "no observer"],
)
async def test_an_app_of_what_is_none_is_refused_before_there_is_a_database(
    load: Load, tmp_path: Path, agents: Any, observers: Any, refusal: type[TracksideError]
) -> None:
    settings = await load()

    with pytest.raises(refusal):
        async with open_app(settings, agents, observers=observers):
            pass

    assert not await asyncio.to_thread((tmp_path / "log.db").exists)


@pytest.mark.parametrize("settings", ["trackside.toml", {"database_url": "sqlite:///x.db"}, None, Settings])
async def test_an_app_of_no_settings_is_refused(settings: Any) -> None:
    with pytest.raises(SettingsError, match=r"open_app: it takes what load_settings\(\)"):
        async with open_app(settings):
            pass


async def test_a_run_that_uses_more_than_its_agent_may_is_stopped(load: Load) -> None:
    result = await result_of(await load("[limits.spend]\nmax_tokens = 1_099"))

    assert result.status is RunStatus.error
    assert result.error == "the run used 1100 tokens, and max_tokens is 1099"
    assert (await result_of(await load("[limits.spend]\nmax_tokens = 1_100"))).status is RunStatus.success


async def test_the_limits_of_all_agents_hold_for_one_without_its_own(load: Load) -> None:
    settings = await load("[limits]\nmax_llm_calls = 1\nmax_tokens = 10\n[limits.spend]\nmax_tokens = 2_000")

    assert (await result_of(settings)).status is RunStatus.success
    assert "max_tokens is 10" in str((await result_of(settings, "another.py:spend")).error)


async def test_prices_of_ones_own_make_a_cost_that_a_budget_can_limit(load: Load) -> None:
    prices = "[prices.mine]\ninput_per_million = 2\noutput_per_million = 10\n"

    result = await result_of(await load(prices))
    assert result.completion_data["cost_usd"] == pytest.approx(0.003)
    dear = await result_of(await load(prices + "[limits]\nmax_cost_usd = 0.0029"))
    assert dear.error == "the run cost 0.003 USD, and max_cost_usd is 0.0029"


HIDE = """
def hide(kind, payload):
    if "message" in payload:
        payload["message"]["content"] = "[hidden]"
    if "completion_data" in payload:
        payload["completion_data"]["first_human_message"] = "[hidden]"
    return payload

async def later(kind, payload): return payload
def one(payload): return payload
number = 3
"""


async def test_the_redaction_hook_sees_to_it_that_a_text_is_not_stored(load: Load, tmp_path: Path) -> None:
    settings = await load(f'[runs]\nredact = "{tmp_path}/privacy.py:hide"', privacy=HIDE)

    async with open_app(settings, {"spend": spend}) as app:
        run = await (await app.manager.start(RunSpec("spend", "my secret"))).result()
        events = await app.store.events(run_id=run.run_id)

    assert "[hidden]" in repr(events)
    assert "my secret" not in repr(events) + repr(run)


@pytest.mark.parametrize(
    ("hook", "says"),
    [
        ("privacy.py:hid", "privacy.py has no hid"),
        ("privat.py:hide", "there is no file"),
        ("privacy.py:number", "is no function but 3"),
        ("privacy.py:later", "is asynchronous"),
        ("privacy.py:one", "cannot be called with two arguments"),
    ],
)
async def test_what_is_no_redaction_hook_is_refused_before_anything_runs(
    load: Load, tmp_path: Path, hook: str, says: str
) -> None:
    settings = await load(f'[runs]\nredact = "{tmp_path}/{hook}"', privacy=HIDE)

    with pytest.raises(SettingsError, match="runs.redact: ") as caught:
        await result_of(settings)

    assert says in str(caught.value)
    assert not (tmp_path / "log.db").exists()


async def test_a_redaction_hook_whose_module_fails_is_its_authors_to_see(load: Load, tmp_path: Path) -> None:
    settings = await load(f'[runs]\nredact = "{tmp_path}/privacy.py:hide"', privacy="1 / 0")

    with pytest.raises(AgentImportError, match="ZeroDivisionError"):
        await result_of(settings)


@pytest.mark.parametrize("redacts", [False, True])
async def test_what_was_asked_for_is_not_kept_where_events_are_redacted(
    load: Load, tmp_path: Path, *, redacts: bool
) -> None:
    hook = f'[runs]\nredact = "{tmp_path}/privacy.py:hide"' if redacts else ""
    settings = await load(hook, privacy=HIDE)

    await result_of(settings)

    kept = b"".join(await asyncio.to_thread(lambda: [path.read_bytes() for path in tmp_path.glob("log.db*")]))
    assert (b"my secret" in kept) is not redacts


WATCH = """
class Seen:
    def __init__(self):
        self.events, self.closed = [], False
    async def on_event(self, event):
        assert not self.closed
        self.events.append(event.event_type)
    async def aclose(self):
        self.closed = True

class Durable(Seen):
    delivery = "durable"
"""


async def test_an_app_tells_its_observers_everything_before_it_closes_them(load: Load, tmp_path: Path) -> None:
    tables = [f'[[observers]]\ntype = "{tmp_path}/watch.py:{kind}"\nname = "{kind}"\n' for kind in ("Seen", "Durable")]
    settings = await load("".join(tables), watch=WATCH)

    async with open_app(settings, {"spend": spend}) as app:
        await (await app.manager.start(RunSpec("spend", "hi"))).result()
        live, durable = (configured.observer for configured in app.observers)
        assert [*app.vitals.observers()] == ["Seen"]
        assert [stats.subscription for stats in app.vitals.feeds()] == ["Durable"]
        assert app.dispatcher.failures == {}

    whole = ["run_started", "thread_status_updated", "human_message", "run_completed", "thread_status_updated"]
    assert (live.events, durable.events) == (whole, whole)  # type: ignore[attr-defined]
    assert (live.closed, durable.closed) == (True, True)  # type: ignore[attr-defined]
    assert app.deliveries.left == []


async def test_an_observer_that_cannot_be_made_stops_the_start_before_there_is_a_database(
    load: Load, tmp_path: Path
) -> None:
    settings = await load(f'[[observers]]\ntype = "{tmp_path}/watch.py:Sean"', watch=WATCH)

    with pytest.raises(SettingsError, match=r"has no Sean \(did you mean Seen\?\); it has Seen, Durable"):
        await result_of(settings)

    assert not (tmp_path / "log.db").exists()


async def test_observers_are_closed_where_the_database_cannot_be_opened(load: Load, tmp_path: Path) -> None:
    settings = await load('[[observers]]\ntype = "logging"\nformat = "json"\nloggers = ["mine"]\n')
    (tmp_path / "log.db").write_text("no database, but long enough for the header of one. " * 10, encoding="utf-8")
    with pytest.raises(SettingsError, match=r"log\.db"):
        async with open_app(settings, {"spend": spend}):
            pass
    assert logging.getLogger("mine").handlers == []


SAYING = """
import logging

class Durable:
    delivery = "durable"
    async def on_event(self, event): ...
    async def aclose(self):
        logging.getLogger("mine").warning("closed")
"""


@pytest.mark.parametrize("opens", [True, False])
async def test_a_durable_observer_is_closed_once_whether_or_not_the_database_can_be_opened(
    load: Load, tmp_path: Path, caplog: pytest.LogCaptureFixture, *, opens: bool
) -> None:
    settings = await load(f'[[observers]]\ntype = "{tmp_path}/watch.py:Durable"\n', watch=SAYING)
    if not opens:
        (tmp_path / "log.db").write_text("no database, but long enough for the header of one. " * 10, encoding="utf-8")
    with nullcontext() if opens else pytest.raises(SettingsError, match=r"log\.db"):
        async with open_app(settings, {"spend": spend}):
            pass
    assert [record.getMessage() for record in caplog.records if record.name == "mine"] == ["closed"]
