"""Observers are built from the settings, or refused in one line that names the table and the key."""

import asyncio
import logging
import sys
from collections.abc import Callable, Iterator
from dataclasses import fields, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import pytest
from blockbuster import BlockBuster

from trackside.app.delivery import FEED_KEYS, Delivery, Order
from trackside.app.settings import ObserverSettings, SettingsError, load_settings
from trackside.app.storage.feeding import FeedPolicy
from trackside.app.vitals import Vitals
from trackside.app.wiring import _show
from trackside.app.wiring.observer_types import ObserverImportError
from trackside.app.wiring.observers import ConfiguredObserver, build_observers
from trackside.harness import CallbackObserver, LifecycleEventType

WATCH = """
from trackside.app.delivery import Delivery, ObserverOptionError, Order
from trackside.app.observers.storage import StorageObserver

class Mail:
    def __init__(self, *, to="nobody", password=None, headers=None, copies=()):
        self.given = {"to": to, "password": password, "headers": headers, "copies": copies}
        if "@" not in to and to != "nobody":
            raise ObserverOptionError(option="to", why=f"{to!r} is no address")
    async def on_event(self, event): ...

class Ledger(Mail):
    delivery = Delivery.durable
    order = Order.none
    concurrency = 8
    events = ("run_completed",)

class Bare:
    async def on_event(self, event): ...

class Strict:
    def __init__(self, url, *, agent): ...
    async def on_event(self, event): ...

class Needy:
    def __init__(self, url): ...
    async def on_event(self, event): ...

class Everything:
    def __init__(self, **options): self.given = options
    async def on_event(self, event): ...

class Picky:
    def __init__(self, secret): raise ValueError(f"{secret} is too short")
    async def on_event(self, event): ...

class Broken:
    def __init__(self): {}["x"]
    async def on_event(self, event): ...

class NoPackage:
    def __init__(self): import nowhere_to_be_found
    async def on_event(self, event): ...

class Asking(Bare): delivery = "sometimes"
class Ordered(Bare): delivery, order = "durable", "fifo"
class Eager(Bare): events = ("run_faild",)
class Keeping(Bare): events = []
class KeepingInASlot(Bare):
    __slots__ = ("events",)
class Remembering(Bare):
    def __init__(self): self.events = []
class Own(Bare):
    @property
    def events(self): return []
class Fragile(Bare):
    def watch(self, vitals): raise KeyError("runs")
    async def aclose(self): raise OSError("still in use")
class Nothing: ...
class Sync:
    def on_event(self, event): ...

class Two:
    async def on_event(self, event, extra): ...

async def watch(event): ...
async def watch_runs(run, event): ...
def plain(event): ...
ready = Mail(to="me@example.org")
booking = Ledger(to="me@example.org")
remembering = Remembering()
nobody = None
"""


@pytest.fixture
def build(tmp_path: Path) -> Iterator[Callable[..., list[ConfiguredObserver]]]:
    (tmp_path / "watch.py").write_text(WATCH, encoding="utf-8")
    (tmp_path / "failing.py").write_text("1 / 0", encoding="utf-8")
    path, modules = list(sys.path), set(sys.modules)

    def build(*tables: str, **environ: str) -> list[ConfiguredObserver]:
        text = "".join(f"[[observers]]\n{table}\n" for table in tables).replace("watch.py", f"{tmp_path}/watch.py")
        (tmp_path / "trackside.toml").write_text(text, encoding="utf-8")
        return build_observers(load_settings(environ={}, folder=tmp_path), environ)

    yield build
    sys.path[:] = path
    for name in set(sys.modules) - modules:
        if name.startswith("_trackside_agent"):
            del sys.modules[name]


Build = Callable[..., list[ConfiguredObserver]]


def test_a_class_gets_the_other_keys_of_its_table_as_keyword_arguments(build: Build) -> None:
    live, durable = build(
        """type = "watch.py:Mail"
        name = "mail"
        required = true
        to = "a@example.org"
        copies = ["env:BOSS", "c@example.org"]
        headers = { X-Key = "env:KEY", deep = { er = ["env:KEY"] } }""",
        'type = "watch.py:Ledger"\nname = "ledger"',
        KEY="k-e-y",
        BOSS="b@example.org",
    )

    assert live.observer.given == {  # type: ignore[attr-defined]
        "to": "a@example.org",
        "password": None,
        "headers": {"X-Key": "k-e-y", "deep": {"er": ["k-e-y"]}},
        "copies": ["b@example.org", "c@example.org"],
    }
    assert (live.name, live.delivery, live.binding().required) == ("mail", Delivery.live, True)
    assert (durable.name, durable.delivery, durable.events) == (
        "ledger",
        Delivery.durable,
        (LifecycleEventType.RUN_COMPLETED,),
    )


def test_a_child_process_of_a_worker_has_none_that_its_supervisor_feeds_or_that_is_scraped(
    build: Build, tmp_path: Path
) -> None:
    tables = ('type = "watch.py:Mail"\nname = "a"', 'type = "watch.py:Ledger"\nname = "b"')
    build(*tables, 'type = "watch.py:Bare"\nname = "c"\ndelivery = "durable"', 'type = "metrics"\nport = 9464')
    settings = load_settings(environ={}, folder=tmp_path)
    child = replace(settings, worker=replace(settings.worker, isolated_in="its supervisor"))

    assert [built.name for built in build_observers(child, {})] == ["a"]


@pytest.mark.parametrize(("role", "hears"), [("worker", 1), ("server", 1), ("supervisor", 0), (None, 1)])
def test_who_isolates_runs_counts_no_ends_alone(build: Build, role: str | None, hears: int) -> None:
    heard: list[object] = []
    store: Any = SimpleNamespace(on_end=heard.append)
    membership: Any = None if role is None else SimpleNamespace(role=role)
    vitals = Vitals(manager=Mock(), observers=dict, writer=Mock(), feeds=list, spooled=int, agents=[])
    _show(build('type = "metrics"'), vitals, store, membership)

    assert len(heard) == hears


def test_how_a_durable_observer_is_fed_its_class_says_and_the_settings_before_it(build: Build) -> None:
    as_its_class, as_set, in_order = (
        built.subscribed(grace=2.0)
        for built in build(
            'type = "watch.py:Ledger"\nname = "a"',
            """type = "watch.py:Ledger"
            name = "b"
            events = ["run_failed"]
            agent = "chat"
            start = 7
            order = "run"
            concurrency = 2
            attempts = 3
            longest_pause = "2m"
            call_limit = "5m"
            on_failure = "block" """,
            'type = "watch.py:Ledger"\nname = "c"\norder = "log"',
        )
    )

    assert as_its_class.policy is not None
    assert (as_its_class.policy.order, as_its_class.policy.concurrency, as_its_class.start) == (Order.none, 8, "now")
    assert as_set.policy is not None
    assert (as_set.policy.order, as_set.policy.concurrency, as_set.policy.attempts) == (Order.run, 2, 3)
    assert (as_set.policy.longest_pause, as_set.policy.grace, as_set.start) == (120.0, 2.0, 7)
    assert (as_set.policy.call_limit, as_its_class.policy.call_limit) == (300.0, 30.0)
    assert (as_set.filter.to_json(), as_set.on_failure) == ({"types": ["run_failed"], "agent": "chat"}, "block")
    assert in_order.policy is not None
    assert (in_order.policy.order, in_order.policy.concurrency) == (Order.log, 1)


def test_the_settings_make_a_live_class_durable_and_a_durable_one_live(build: Build) -> None:
    mail, ledger = build(
        'type = "watch.py:Mail"\nname = "mail"\ndelivery = "durable"',
        'type = "watch.py:Ledger"\nname = "ledger"\ndelivery = "live"\nrequired = true',
    )

    assert (mail.is_durable, ledger.is_durable) == (True, False)


def test_which_events_an_observer_wants_says_its_class_also_for_an_object(build: Build) -> None:
    tables = [f'type = "watch.py:{name}"' for name in ("Ledger", "booking", "remembering", "KeepingInASlot")]
    of_class, of_object, remembering, in_a_slot = build(*tables)

    assert of_class.events == of_object.events == (LifecycleEventType.RUN_COMPLETED,)
    assert remembering.events is None
    assert in_a_slot.events is None


def test_an_observer_may_be_an_object_or_a_function_or_take_whatever_it_is_given(build: Build) -> None:
    function, ready, anything, own = build(
        'type = "watch.py:watch"',
        'type = "watch.py:ready"',
        'type = "watch.py:Everything"\nx = 1',
        'type = "watch.py:Own"',
    )

    assert isinstance(function.observer, CallbackObserver)
    assert type(ready.observer).__name__ == "Mail"
    assert anything.observer.given == {"x": 1}  # type: ignore[attr-defined]
    assert own.events is None


REFUSED = [
    (
        'type = "webhok"',
        "(webhok).type: no observer is called 'webhok'; did you mean webhook? There are metrics, tracing, logging, webhook,",
    ),
    ('type = "kafka"', "(kafka).type: no observer is called 'kafka'; there are metrics,"),
    ('type = "wacht.py:Mail"', "(wacht.py:Mail).type: there is no file wacht.py."),
    ('type = "watch.py"', ".type: say which object in it is meant, as TMP/watch.py:NAME; it has Mail, Ledger, Bare"),
    ('type = "watch.py:Mial"', ".type: TMP/watch.py has no Mial (did you mean Mail?); it has Mail, Ledger, Bare"),
    ('type = "no_such_module:Mail"', ".type: there is no module no_such_module, neither in this folder nor installed."),
    ('type = "watch.py:Nothing"', ".type: TMP/watch.py:Nothing is no observer: it has no method on_event."),
    ('type = "watch.py:nobody"', ".type: TMP/watch.py:nobody is None, and no observer."),
    ('type = "watch.py:Sync"', ".type: Sync.on_event is not an observer: it is a plain function that returns None;"),
    ('type = "watch.py:plain"', ".type: plain is not an observer: it is a plain function that returns None;"),
    ('type = "watch.py:Two"', ".type: Two.on_event is not an observer: it is called with one argument: missing a req"),
    (
        'type = "watch.py:Two"\ndelivery = "durable"',
        ".type: Two.on_event is not an observer: it is called with one argument: missing a required argument: 'extra'",
    ),
    ('type = "watch.py:watch_runs"', ".type: watch_runs is not an observer: it is called with one argument: missing"),
    ('type = "watch.py:watch"\nurl = 1', ".url: TMP/watch.py:watch is not a class, and takes no options."),
    (
        'type = "watch.py:Mail"\nname = "mail"\npasword = 1',
        "(mail).pasword: there is no such key; did you mean password?",
    ),
    (
        'type = "watch.py:Mail"\nname = "mail"\nrequird = true',
        "(mail).requird: there is no such key; did you mean required?",
    ),
    (
        'type = "watch.py:Mail"\nname = "mail"\nzzz = 1',
        "(mail).zzz: there is no such key; TMP/watch.py:Mail takes the options to, password, headers, copies; all observers",
    ),
    ('type = "watch.py:Bare"\nzzz = 1', ".zzz: there is no such key; TMP/watch.py:Bare takes no options; all"),
    ('type = "watch.py:Needy"\nname = "n"', "observers[1] (n).url: it is missing, and TMP/watch.py:Needy needs it."),
    (
        'type = "watch.py:Strict"\nname = "s"\nurl = ""',
        "(s).agent: TMP/watch.py:Strict needs it, but never gets it: this",
    ),
    ('type = "watch.py:Mail"\nname = "mail"\nto = "me"', "trackside.toml, observers[1] (mail).to: 'me' is no address."),
    (
        'type = "watch.py:Mail"\nname = "mail"\nheaders = { X-Key = "env:KEY" }',
        "trackside.toml, observers[1] (mail).headers.X-Key: the environment has no variable KEY.",
    ),
    (
        'type = "watch.py:Mail"\nname = "m"\ncopies = ["a", "env:B"]',
        "(m).copies[2]: the environment has no variable B.",
    ),
    ('type = "watch.py:Mail"\nname = "m"\nto = "env:"', "(m).to: the environment has no variable (no name)."),
    ('type = "watch.py:Mail"\nname = "m"\nto = "env:SECRET"', "(m).to: 'env:SECRET' is no address."),
    ('type = "watch.py:Picky"\nname = "p"\nsecret = "env:SECRET"', "observers[1] (p): env:SECRET is too short."),
    (
        'type = "watch.py:Broken"\nname = "b"',
        "trackside.toml, observers[1] (b): TMP/watch.py:Broken raised KeyError: 'x'.",
    ),
    ('type = "watch.py:NoPackage"\nname = "n"', "observers[1] (n): No module named 'nowhere_to_be_found'."),
    (
        'type = "watch.py:Asking"\nname = "a"',
        "(a).delivery: TMP/watch.py:Asking says 'sometimes', which is neither live",
    ),
    (
        'type = "watch.py:Eager"\nname = "e"',
        "(e).events: TMP/watch.py:Eager says ('run_faild',), which is no list of types",
    ),
    ('type = "watch.py:Keeping"\nname = "k"', "(k).events: TMP/watch.py:Keeping says [], which is no list of types"),
    (
        'type = "watch.py:Keeping"\nname = "k"\ndelivery = "durable"',
        "(k).events: TMP/watch.py:Keeping says [], which is no list of types",
    ),
    ('type = "watch.py:Ordered"\nname = "o"', "(o).order: 'fifo': "),
    (
        'type = "watch.py:Ledger"\nname = "l"\nrequired = true',
        "(l).required: no run can wait for it: its delivery is durable, so it gets events from the log, after they are",
    ),
    (
        'type = "watch.py:Mail"\nname = "m"\nstart = "beginning"',
        '(m).start: it is for observers that are fed from the log: say delivery = "durable", or leave this out.',
    ),
    ('type = "watch.py:Mail"\nname = "m"\nattempts = 3', "(m).attempts: it is for observers that are fed from the log"),
    (
        'type = "watch.py:Mail"\nname = "m"\ndelivery = "durable"\nconcurrency = 4',
        "(m).concurrency: 4: in the order of the log there is one call at a time: take order run or none.",
    ),
    (
        'type = "watch.py:Mail"\nname = "m"\ndelivery = "durable"\nlongest_pause = "2d"',
        "(m).longest_pause: 172800.0: it is a number of seconds from 0 to 86400.",
    ),
]


@pytest.mark.parametrize(("table", "says"), REFUSED, ids=[table.replace("\n", " ")[8:] for table, _ in REFUSED])
def test_what_does_not_fit_is_refused_in_one_line(build: Build, tmp_path: Path, table: str, says: str) -> None:
    with pytest.raises(SettingsError) as caught:
        build(table, SECRET="hunter2")

    said = str(caught.value)
    assert said.startswith("trackside.toml, observers[1] (")
    assert says in said.replace(str(tmp_path), "TMP")
    assert "\n" not in said
    assert "hunter2" not in said


def test_a_secret_is_not_shown_as_python_writes_it_either(build: Build) -> None:
    with pytest.raises(SettingsError) as caught:
        build('type = "watch.py:Mail"\nname = "m"\nto = "env:SECRET"', SECRET="hunter\n2")

    assert str(caught.value) == "trackside.toml, observers[1] (m).to: 'env:SECRET' is no address."


def test_a_module_that_fails_is_its_authors_to_see(build: Build, tmp_path: Path) -> None:
    with pytest.raises(ObserverImportError) as caught:
        build(f'type = "{tmp_path}/failing.py:Mail"\nname = "mail"')

    assert str(caught.value).replace(str(tmp_path), "TMP") == (
        "trackside.toml, observers[1] (mail).type: TMP/failing.py:Mail cannot be loaded: importing TMP/failing.py raised"
        " ZeroDivisionError: division by zero."
    )
    assert isinstance(caught.value.__cause__, ZeroDivisionError)


def test_an_observer_that_cannot_watch_stops_the_start(build: Build) -> None:
    (fragile,) = build('type = "watch.py:Fragile"\nname = "f"')
    vitals: Any = None

    with pytest.raises(SettingsError, match=r"observers\[1\] \(f\): its method watch raised KeyError: 'runs'\."):
        fragile.watch(vitals)


async def test_an_observer_that_cannot_be_closed_holds_nobody_up(
    build: Build, caplog: pytest.LogCaptureFixture
) -> None:
    fragile, bare = await asyncio.to_thread(
        build, 'type = "watch.py:Fragile"\nname = "f"', 'type = "watch.py:Bare"\nname = "b"'
    )
    await bare.aclose()
    await fragile.aclose()

    assert [record.getMessage() for record in caplog.records] == ["observer f could not be closed: still in use"]


LOGGING = """type = "logging"
format = "json"
file = "FILE"
loggers = ["an_agent"]
"""


@pytest.mark.parametrize("has_loop", [False, True])
@pytest.mark.parametrize(
    "tables",
    [
        pytest.param([LOGGING, 'type = "watch.py:Mail"\nname = "mail"\nto = "nobody there"'], id="the next one"),
        pytest.param([LOGGING + 'start = "now"'], id="how it is told of events"),
        pytest.param([LOGGING + 'delivery = "durable"\nstart = "yesterday"'], id="from where on"),
    ],
)
def test_what_was_made_is_closed_if_something_does_not_fit(
    build: Build, tmp_path: Path, tables: list[str], has_loop: bool, blockbuster: BlockBuster
) -> None:
    blockbuster.deactivate()
    tables = [table.replace("FILE", f"{tmp_path}/lines") for table in tables]

    async def build_on_a_loop() -> None:
        build(*tables)

    with pytest.raises(SettingsError, match=r"to: |start: "):
        asyncio.run(build_on_a_loop()) if has_loop else build(*tables)

    logger = logging.getLogger("an_agent")
    assert (logger.handlers, logger.level) == ([], logging.NOTSET)


def test_what_a_class_says_of_how_it_is_fed_its_table_may_say_too() -> None:
    for kind in (FeedPolicy, ObserverSettings):
        assert {*FEED_KEYS} <= {field.name for field in fields(kind)}
