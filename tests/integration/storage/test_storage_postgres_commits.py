"""PostgreSQL: what becomes of a commit whose reply is lost, or in which the session or the server ends."""

import asyncio
import math
import socket
from collections.abc import AsyncIterator

import pytest
from asyncpg import PostgresError
from raw_postgres import RawConnection

from trackside.app.storage import Store
from trackside.app.storage._coordination.membership import Vouch
from trackside.app.storage._databases.postgres.backend import PostgresBackend
from trackside.app.storage._databases.postgres.connections import PostgresDatabase
from trackside.app.storage._databases.postgres.session import PostgresSession
from trackside.app.storage._databases.session import CollisionError
from trackside.app.storage._rows.encoding import encode_events
from trackside.app.storage._rows.tables import metadata
from trackside.app.storage._writing.appending import Append
from trackside.app.storage._writing.commits import commit_together
from trackside.app.storage.errors import ConnectionLostError, OutcomeUnknownError, ServerUnreachableError

DIALECTS = ["postgres"]
PATIENCE = 60.0


@pytest.fixture
async def session(url: str, store: Store) -> AsyncIterator[object]:
    """A session that the test drives itself, as the writer's thread does."""
    session = PostgresBackend(PostgresDatabase.from_url(url)).session()
    yield session
    await asyncio.to_thread(session.close)


async def test_a_commit_whose_reply_was_lost_is_found_by_its_ids(session, script, database: RawConnection) -> None:
    wait, commits = session._wait, []

    def lose_the_reply(doing):
        committing = doing.cr_frame is not None and doing.cr_frame.f_locals.get("query") == "COMMIT"
        done = wait(doing)
        if committing and not commits:
            commits.append(done)
            session._driver.terminate()
            raise ConnectionResetError("the reply is lost")
        return done

    session._wait = lose_the_reply
    rows = encode_events(script().whole())

    committed = await asyncio.to_thread(commit_together, session, [Append(rows)], patience=PATIENCE)

    assert commits == ["COMMIT"]
    assert [row.position for row in committed.outcomes[0]] == [1, 2, 3, 4, 5]
    assert committed.events == []
    assert database.execute("SELECT count(*) FROM events").fetchone() == (5,)


def commits_of(session: PostgresSession) -> list[str]:
    """The statements with which the session commits from now on."""
    wait, commits = session._wait, []

    def note(doing):
        statement = doing.cr_frame.f_locals.get("query", "")
        if "COMMIT" in statement.upper().split("; "):
            commits.append(statement)
        return wait(doing)

    session._wait = note
    return commits


async def test_a_commit_waits_for_the_disk_only_if_something_was_written(session, script) -> None:
    commits = commits_of(session)
    events = script().whole()
    first, all_of_them = encode_events(events[:2]), encode_events(events)

    for rows in (first, first, all_of_them):
        await asyncio.to_thread(commit_together, session, [Append(rows)])

    assert commits == ["COMMIT", "SET LOCAL synchronous_commit = off; COMMIT", "COMMIT"]


async def test_what_may_be_forgotten_has_nothing_forgotten_that_is_committed_with_it(session, script) -> None:
    commits = commits_of(session)
    sign_of_life = Vouch(worker_ids=["worker"], lease_seconds=15.0)
    append = Append(encode_events(script().whole()))

    for works in ([sign_of_life], [sign_of_life, append, sign_of_life]):
        await asyncio.to_thread(commit_together, session, works)

    assert commits == ["SET LOCAL synchronous_commit = off; COMMIT", "COMMIT"]


async def test_a_commit_that_was_cut_off_says_so_if_nobody_can_be_asked(session, script) -> None:
    wait = session._wait

    def cut_off(doing):
        if doing.cr_frame is not None and doing.cr_frame.f_locals.get("query") == "COMMIT":
            doing.close()
            session._driver.terminate()
            raise ConnectionResetError("cut off")
        return wait(doing)

    session._wait = cut_off

    with pytest.raises(OutcomeUnknownError) as unknown:
        await asyncio.to_thread(commit_together, session, [Append(encode_events(script().whole()))], patience=0.05)

    assert unknown.value.retryable


async def test_who_leaves_repeats_no_transaction_for_a_server_that_is_away(session, script, monkeypatch) -> None:
    leaves_at, tries = [math.inf], []

    async def refuse() -> None:
        tries.append(leaves_at[0])
        leaves_at[0] = 0.0  # told while it waits
        raise ConnectionRefusedError("nobody listens")

    monkeypatch.setattr(PostgresDatabase, "connect_writer", lambda _: refuse())
    works = [Append(encode_events(script().whole()))]

    for _ in range(2):
        with pytest.raises(ServerUnreachableError):
            await asyncio.to_thread(commit_together, session, works, patience=3_600, leaves_at=lambda: leaves_at[0])
        session.leave_by(0.0)

    assert tries == [math.inf, 0.0]


@pytest.mark.parametrize("is_told_before", [False, True])
async def test_who_leaves_does_not_wait_for_a_server_that_takes_a_connection_and_says_nothing(
    script, is_told_before: bool
) -> None:
    works = [Append(encode_events(script().whole()))]
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        database = PostgresDatabase.from_url(f"postgresql://me@127.0.0.1:{port}/runs?connect_timeout=3600")
        session = PostgresSession(database)
        if is_told_before:
            session.leave_by(0.0)
        writing = asyncio.create_task(
            asyncio.to_thread(commit_together, session, works, patience=3_600, leaves_at=lambda: 0.0)
        )
        async with asyncio.timeout(PATIENCE):
            asked, _ = await asyncio.to_thread(silent.accept)
            with asked:
                session.leave_by(0.0)
                with pytest.raises(ServerUnreachableError, match="does not answer"):
                    await writing
        await asyncio.to_thread(session.close)


@pytest.mark.parametrize("code", ["08006", "57P01", "57P05", "25P03", "25P04"])
def test_a_session_that_the_server_has_ended_is_lost(code: str) -> None:
    database = PostgresDatabase.from_url("postgresql://me@somewhere/runs")

    error = database.translate(PostgresError.new({"C": code, "M": "it was ended"}))

    assert isinstance(error, ConnectionLostError)
    assert error.retryable


async def test_a_collision_is_told_from_other_failures(session) -> None:
    def collide() -> None:
        with session.transaction():
            session.execute(metadata.tables["counters"].insert().values(name="position", value=1))

    with pytest.raises(CollisionError):
        await asyncio.to_thread(collide)
