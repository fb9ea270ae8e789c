"""A server that stops, sessions that are ended, locks that others hold: managers survive, and nothing is lost or doubled."""

from collections.abc import Iterator
from pathlib import Path

import asyncpg
import pytest
from crash_children import Child, Children
from log_check import assert_whole, look_into
from postgres_server import PostgresServer

from trackside.app.storage._databases.postgres.connections import PostgresDatabase
from trackside.app.storage.errors import ConnectionLostError

MANAGERS = 2
RETRYABLE = {
    "ConnectionLostError",
    "DatabaseBusyError",
    "OutcomeUnknownError",
    "ReadBlockedError",
    "ReadConflictError",
    "ReadLostError",
    "ReadersBusyError",
    "ServerUnreachableError",
    "TransactionConflictError",
}

END_COMMITS = """
    SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
    WHERE application_name = 'trackside' AND pid != pg_backend_pid() AND state = 'active' AND query LIKE 'COMMIT%'"""
END_TRANSACTIONS = """
    SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
    WHERE application_name = 'trackside' AND pid != pg_backend_pid() AND xact_start IS NOT NULL"""


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    """A server whose commits are on disk, and that may be stopped."""
    with PostgresServer(fsync=True) as server:
        yield server


@pytest.fixture
def url(server: PostgresServer, postgres_names: Iterator[str]) -> str:
    return server.create_database(next(postgres_names))


@pytest.fixture
def managers(url: str, children: Children, tmp_path: Path) -> list[Child]:
    """Two processes with managers; what they cannot store they keep on this machine's disk."""
    children.make("manage", url, callers=0).wait()
    options = {"callers": 4, "spool": str(tmp_path / "spool"), "lease": 5.0}
    return [children.make("manage", url, **options) for _ in range(MANAGERS)]


def go_on(url: str, managers: list[Child], events: int = 30) -> None:
    """Wait until each of them has stored this many more events."""
    for child in managers:
        has_gone_on = child.wait_for("event", child.said["event"] + events, patience=60) and child.exit_code is None
        assert has_gone_on, "\n".join(map(str, [*child.last.items(), *queue_in(url)]))


def queue_in(url: str) -> list[tuple[object, ...]]:
    with look_into(url) as database:
        query = (
            "SELECT thread_id, run_id, state, holds, owner, cancel_requested, at_rest FROM active_runs ORDER BY ordinal"
        )
        return list(database.execute(query).fetchall())


def finish(url: str, managers: list[Child], children: Children) -> None:
    for child in managers:
        child.let_finish()
    assert [child.wait() for child in managers] == [0] * len(managers), [child.last for child in managers]
    assert_whole(url, children.told)
    assert {kind for child in managers for kind in child.refusals} <= RETRYABLE


def stop_again_and_again(
    url: str, server: PostgresServer, managers: list[Child], children: Children, *, times: int
) -> None:
    for _ in range(times):
        go_on(url, managers)
        server.stop("immediate")
        server.start()
    go_on(url, managers)
    finish(url, managers, children)


def test_managers_go_on_after_the_server_was_stopped(
    url: str, server: PostgresServer, managers: list[Child], children: Children
) -> None:
    stop_again_and_again(url, server, managers, children, times=2)


@pytest.mark.long
def test_the_server_is_stopped_fifty_times(
    url: str, server: PostgresServer, managers: list[Child], children: Children
) -> None:
    stop_again_and_again(url, server, managers, children, times=50)
    print(f"{len(children.told.events)} events acknowledged, refused: {[child.refusals for child in managers]}")


@pytest.mark.parametrize("ending", [END_COMMITS, END_TRANSACTIONS], ids=["commits", "transactions"])
def test_sessions_are_ended_in_the_middle(ending: str, url: str, managers: list[Child], children: Children) -> None:
    ended = 0
    go_on(url, managers)
    with look_into(url) as database:
        for _ in range(20):
            go_on(url, managers, 3)
            for _ in range(100):
                (count,) = database.execute(ending).fetchone()
                ended += count
                if count:
                    break
    go_on(url, managers)
    finish(url, managers, children)
    assert ended


def test_a_driver_that_lost_count_of_what_a_broken_connection_did_has_lost_it() -> None:
    database = PostgresDatabase.from_url("postgresql://me@127.0.0.1/runs")
    confused = asyncpg.InternalClientError("cannot switch to state 15; another operation (2) is in progress")

    assert isinstance(database.translate(confused), ConnectionLostError)


@pytest.mark.long  # where others want the processor, too, the processes need longer than the test waits
@pytest.mark.parametrize("table", ["counters", "events"])
def test_a_lock_that_somebody_holds_for_too_long(table: str, url: str, children: Children, tmp_path: Path) -> None:
    children.make("manage", url, callers=0).wait()
    options = {"callers": 4, "spool": str(tmp_path / "spool"), "busy": 0.1, "retry_for": 0.2}
    managers = [children.make("manage", url, **options) for _ in range(MANAGERS)]
    go_on(url, managers)
    with look_into(url) as database:
        database.execute("BEGIN")
        database.execute(f"LOCK TABLE {table}")
        managers[0].wait_for("dead", patience=1.0)  # it does not die: this is how long nobody can write, or read
        database.execute("ROLLBACK")
    go_on(url, managers)
    finish(url, managers, children)
