"""What clients are told of failures that are not their fault: what to do, and nothing of the server's insides."""

from __future__ import annotations

import pytest

from trackside.app.server.failures import answer_of
from trackside.app.storage.errors import (
    DatabaseBusyError,
    DatabaseFullError,
    NoSchemaError,
    NoSuchDatabaseError,
    StateTooLargeError,
    StorageError,
)
from trackside.harness.errors import TracksideError

SECRET = "/srv/private/runs.db"


@pytest.mark.parametrize(
    ("failure", "status"),
    [
        (StorageError(database=SECRET, why=f"no room in {SECRET}"), 500),
        (DatabaseBusyError(database=SECRET, seconds=5.0), 503),
        (DatabaseFullError(database=SECRET, why="no space left on device"), 503),
        (NoSuchDatabaseError(database=SECRET, name="runs"), 503),  # as while somebody restores a backup
        (NoSchemaError(database=SECRET), 503),
    ],
)
def test_a_failing_database_does_not_say_where_it_is(
    failure: TracksideError, status: int, caplog: pytest.LogCaptureFixture
) -> None:
    told = answer_of(failure)

    assert (told.status, SECRET in told.detail, told.code) == (status, False, None)
    assert ("Retry-After" in told.headers) == (status == 503)
    assert SECRET in caplog.text


def test_a_database_without_room_is_not_said_to_be_busy() -> None:
    assert "has no room" in answer_of(DatabaseFullError(database=SECRET, why="no space left on device")).detail
    assert "is busy" in answer_of(DatabaseBusyError(database=SECRET, seconds=5.0)).detail


def test_what_the_caller_can_mend_is_said_to_him() -> None:
    told = answer_of(StateTooLargeError(thread_id="t", size=20_000_000, limit=16_000_000))

    assert (told.status, told.code) == (413, "state-too-large")
    assert "16000000" in told.detail
