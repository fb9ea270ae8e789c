"""What holds for every test: no blocking call on the loop, long tests only when asked for, one PostgreSQL server for all."""

import faulthandler
import gc
import logging
import os
import ssl
from collections import defaultdict
from collections.abc import Callable, Generator, Iterator
from functools import cache
from itertools import chain, count
from pathlib import Path
from typing import Any

import pytest
from blockbuster import BlockBuster, blockbuster_ctx
from forking import Forkery
from httpx import create_ssl_context
from httpx._config import DEFAULT_TIMEOUT_CONFIG
from hypothesis import HealthCheck, settings
from postgres_server import PostgresServer, RunningServer, running_at
from prepared_databases import EmptiedDatabase, make_tables

from trackside import current_run
from trackside.harness.context import bind_run

# A usual run plays the same examples each time: what it finds, a change has broken. Long ones look for what nobody knows,
# and keep what fails, which has to fail again when it is run alone.
settings.register_profile(
    "long",
    deadline=None,
    derandomize=False,
    max_examples=2_000,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.register_profile("default", settings.get_profile("long"), derandomize=True, max_examples=100)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--long", action="store_true", help="run the tests marked `long` too")


def wants_long(config: pytest.Config) -> bool:
    return bool(config.getoption("--long")) or os.environ.get("TRACKSIDE_LONG", "0") not in {"", "0"}


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("--hypothesis-profile", default=None) is None:
        settings.load_profile("long" if wants_long(config) else "default")


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Keep the garbage collector from ever looking at what lives for the whole run: modules, and a test for each case.

    One look would take some tenths of a second, and the collector would look ten times while these are made.
    """
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    long = [item for item in items if item.get_closest_marker("long")]
    if wants_long(config):
        for item in long:
            if item.get_closest_marker("timeout") is None:
                item.add_marker(pytest.mark.timeout(3_600))
    elif long:
        config.hook.pytest_deselected(items=long)
        left_out = set(long)
        items[:] = [item for item in items if item not in left_out]


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Give a test its time that may take minutes: what ends a run that not even a signal can stop would end it before."""
    own, ends = item.get_closest_marker("timeout"), float(item.config.getini("faulthandler_timeout"))
    if item.get_closest_marker("long") or (own is not None and own.args[0] >= ends):
        faulthandler.cancel_dump_traceback_later()


def cpu_time() -> float:
    """Seconds of CPU time of this process and of the children that it has started and seen end."""
    return sum(os.times()[:4])


SPENT = pytest.StashKey[float]()
COSTS_SHOWN = 10
SHARED = "(what tests share: browsers, brokers, who forks)"
"""What these have spent shows when they end, after the last test of a process, and is not that test's."""


def pytest_collection_finish(session: pytest.Session) -> None:
    session.config.stash[SPENT] = cpu_time()


def spent_since(item: pytest.Item) -> float:
    """Seconds of CPU time since the last call, or since the tests began."""
    now = cpu_time()
    before, item.config.stash[SPENT] = item.config.stash[SPENT], now
    return now - before


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> None:
    if nextitem is None:
        item.user_properties.append(("spent", spent_since(item)))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Have the last report of each test say what has been spent since the last report of the test before."""
    report = yield
    if call.when == "teardown":
        is_last = any(name == "spent" for name, _ in item.user_properties)
        report.user_properties.append(("spent by what is shared" if is_last else "spent", spent_since(item)))
    return report


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Show which files cost most, so that none grows unnoticed."""
    costs: dict[str, float] = defaultdict(float)
    for report in chain.from_iterable(terminalreporter.stats.values()):
        if isinstance(report, pytest.TestReport):
            for name, value in report.user_properties:
                if isinstance(value, float):
                    costs[SHARED if name == "spent by what is shared" else report.nodeid.partition("::")[0]] += value
    if len(costs) > COSTS_SHOWN:
        terminalreporter.section(f"{sum(costs.values()):.0f} s of CPU time, most of it in")
        for file in sorted(costs, key=costs.__getitem__, reverse=True)[:COSTS_SHOWN]:
            terminalreporter.write_line(f"{costs[file]:7.1f} s  {file}")


@pytest.fixture(scope="session", autouse=True)
def shared_authorities() -> Iterator[None]:
    """Have clients share the certificates of all authorities: each of thousands would read them for 15 ms, for nothing."""

    @cache
    def shared(*_: str | None) -> ssl.SSLContext:
        return create_ssl_context()

    def context(verify: Any = True, cert: Any = None, trust_env: bool = True) -> ssl.SSLContext:
        if verify is True and cert is None and trust_env:
            return shared(os.environ.get("SSL_CERT_FILE"), os.environ.get("SSL_CERT_DIR"))
        return create_ssl_context(verify, cert, trust_env)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("httpx._transports.default.create_ssl_context", context)
        yield


@pytest.fixture(scope="session", autouse=True)
def patient_clients() -> Iterator[None]:
    """Have clients that say nothing of it wait for a minute, not for httpx's five seconds, which a busy machine may take."""
    with pytest.MonkeyPatch.context() as patch:
        for of in ("connect", "read", "write", "pool"):
            patch.setattr(DEFAULT_TIMEOUT_CONFIG, of, 60.0)
        yield


@pytest.fixture(autouse=True)
def blockbuster() -> Iterator[BlockBuster]:
    """Raises `BlockingError` where Trackside's code (or what it calls) blocks a running event loop.

    A test in which blocking is the point takes this fixture and calls `deactivate()`.
    """
    with blockbuster_ctx("trackside") as blocker:
        # Coverage's tracer takes a lock for a moment, which another thread of the test may hold.
        for lock in ("threading.Lock.acquire", "threading.Lock.acquire_lock"):
            blocker.functions[lock].can_block_in("coverage/collector.py", "lock_data")
        # For each connection asyncpg looks on the local disk for this user's password file and certificates.
        for function in blocker.functions.values():
            function.can_block_in("asyncpg/connect_utils.py", "_parse_connect_dsn_and_args")
            # A loop in a thread of its own, where nobody else waits.
            function.can_block_in("app/storage/_databases/postgres/backend.py", "change_alone")
            # It takes any error for an empty folder and remembers that: later tests would find no package installed.
            function.can_block_in("importlib/metadata/__init__.py", "search")
        yield blocker


@pytest.fixture(autouse=True)
def nobody_runs() -> Iterator[None]:
    """Fails the test that leaves a run behind as the current one, rather than the tests after it in its process."""
    yield
    left = current_run()
    if left is not None:
        bind_run(None)
        pytest.fail(f"the test leaves run {left.run_id} of agent {left.agent!r} behind as the current one")


def log_handlers() -> set[logging.Handler]:
    """The handlers that get lines of Trackside's loggers, except pytest's."""
    handlers = chain(logging.getLogger().handlers, logging.getLogger("trackside").handlers)
    return {handler for handler in handlers if not type(handler).__module__.startswith("_pytest.")}


@pytest.fixture(autouse=True)
def nobody_hears_logs() -> Iterator[None]:
    """Fails the test that leaves a log handler behind.

    The handler's stream is closed with the test, and each line that comes to it from then on costs the text of a
    traceback: many lines take the time of some other test.
    """
    before = log_handlers()
    yield
    if left := log_handlers() - before:
        for handler in left:
            logging.getLogger().removeHandler(handler)
            logging.getLogger("trackside").removeHandler(handler)
        pytest.fail(f"the test leaves {', '.join(map(repr, left))} behind, which would hear what is logged in others")


def is_no_matter_of_speed(record: logging.LogRecord) -> bool:
    return record.name != "trackside.watchdog"


@pytest.fixture(autouse=True)
def caplog_has_no_lines_of_a_slow_machine(caplog: pytest.LogCaptureFixture) -> None:
    """Tests that compare lines see none that are there because the machine stood still for longer than the watchdog waits.

    What the watchdog says is heard by a handler of its own tests.
    """
    caplog.handler.addFilter(is_no_matter_of_speed)


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[RunningServer]:
    """A PostgreSQL server, started for the first test that needs it; or the one at `TRACKSIDE_TEST_POSTGRES`."""
    elsewhere = os.environ.get("TRACKSIDE_TEST_POSTGRES")
    with running_at(elsewhere) if elsewhere else PostgresServer(fsync=False) as server:
        yield server


@pytest.fixture(scope="session")
def postgres_names() -> Iterator[str]:
    """Names for databases that nobody else uses on this server."""
    return (f"trackside_test_{os.getpid()}_{number}" for number in count(1))


@pytest.fixture
def postgres_url(postgres_server: RunningServer, postgres_names: Iterator[str]) -> Iterator[str]:
    """The address of an empty PostgreSQL database."""
    name = next(postgres_names)
    yield postgres_server.create_database(name)
    postgres_server.drop_database(name)


@pytest.fixture(scope="session")
def postgres_template(postgres_server: RunningServer, postgres_names: Iterator[str]) -> Iterator[str]:
    """The name of a PostgreSQL database with our tables, to be copied."""
    name = next(postgres_names)
    make_tables(postgres_server.create_database(name))
    yield name
    postgres_server.drop_database(name)


@pytest.fixture
def own_postgres_with_tables(
    postgres_server: RunningServer, postgres_names: Iterator[str], postgres_template: str
) -> Iterator[str]:
    """The address of a PostgreSQL database with our tables for this test alone, which may leave processes in it."""
    name = next(postgres_names)
    yield postgres_server.create_database(name, template=postgres_template)
    postgres_server.drop_database(name)


# These are made once, and copied for each test or emptied after it.
@pytest.fixture(scope="session")
def sqlite_with_tables(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An SQLite file with our tables and nothing in them."""
    path = tmp_path_factory.mktemp("empty") / "runs.db"
    make_tables(f"sqlite:///{path}")
    return path


@pytest.fixture(scope="session")
def emptied_databases(
    postgres_server: RunningServer, postgres_names: Iterator[str]
) -> Iterator[Callable[[int], EmptiedDatabase]]:
    """PostgreSQL databases with our tables, by their numbers from 0 on; whoever has used one empties it."""
    made: list[tuple[str, EmptiedDatabase]] = []

    def of(number: int) -> EmptiedDatabase:
        while number >= len(made):
            name = next(postgres_names)
            made.append((name, EmptiedDatabase(postgres_server, name)))
        return made[number][1]

    yield of
    for name, database in made:
        database.close()
        postgres_server.drop_database(name)


@pytest.fixture
def postgres_with_tables(emptied_databases: Callable[[int], EmptiedDatabase]) -> Iterator[str]:
    """The address of a PostgreSQL database with our tables and nothing in them."""
    database = emptied_databases(0)
    yield database.url
    database.empty()


@pytest.fixture(scope="session")
def forkery() -> Iterator[Forkery]:
    """Starts servers and workers for a tenth of the CPU time."""
    with Forkery() as forkery:
        yield forkery


@pytest.fixture
def own_postgres_server() -> Iterator[PostgresServer]:
    """A PostgreSQL server that the test may stop."""
    with PostgresServer(fsync=False) as server:
        yield server
