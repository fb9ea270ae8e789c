"""The checks of these tests notice each thing that they are for: in what is right, one thing is changed."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from served_check import Seen, wrong_with
from served_lives import Lives

pytestmark = [
    pytest.mark.filterwarnings("ignore:Request failed, attempting reconnect"),
    pytest.mark.filterwarnings("ignore:Reconnecting without a Last-Event-ID"),
]

SPOILERS = {
    "was acknowledged, and is lost": "UPDATE runs SET run_id = 'another' WHERE run_id = '{talked}'",
    "and is on elsewhere": "UPDATE runs SET thread_id = 'elsewhere' WHERE run_id = '{talked}'",
    "had not started, and is lost": "UPDATE runs SET started_at = NULL, error_type = 'worker_lost'",
    "and never executed": "UPDATE runs SET started_at = NULL WHERE run_id = '{talked}'",
    "and it ended as error": "UPDATE runs SET status = 'error' WHERE status = 'success'",
    "and it ended as cancelled": "UPDATE runs SET status = 'cancelled' WHERE status = 'success'",
    "and it failed with other": "UPDATE runs SET error_type = 'other' WHERE status = 'error'",
    "has 2 ends": "UPDATE events SET event_type = 'run_failed' WHERE event_type = 'thread_status_updated'",
    "the positions have a gap": "DELETE FROM events WHERE position = 5",
    "has the sequences": "UPDATE events SET sequence = sequence + 100 WHERE event_type = 'run_completed'",
    "is busy for ever": "UPDATE threads SET status = 'busy'",
    "and has {}": "UPDATE threads SET metadata = '{{}}' WHERE metadata IS NOT NULL",
    "thread is lost": "UPDATE threads SET removed_at = '2026-01-01T00:00:00.000000Z' WHERE thread_id = '{thread}'",
    "of the stateless run": "UPDATE threads SET removed_at = NULL WHERE ends",
    "item ": "UPDATE items SET value = '{{}}'",
    "cron {cron} was acknowledged, and is lost": "DELETE FROM crons",
    "has started 0 runs": "UPDATE runs SET metadata = '{{}}'",
}


@pytest.fixture(scope="module")
def lived(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Seen]:
    """A database that was served to clients through a kill, and what these were told."""
    folder = tmp_path_factory.mktemp("lived")
    lives = Lives(f"sqlite:///{folder}/runs.db", folder, seed=1)
    asyncio.run(lives.go_through(["by chance"], trouble=lambda server, load: load.until_all_were_here()))
    return folder / "runs.db", lives.seen[0]


@pytest.fixture
def copy(lived: tuple[Path, Seen], tmp_path: Path) -> Iterator[Any]:
    path = tmp_path / "spoiled.db"
    with closing(sqlite3.connect(lived[0])) as database, closing(sqlite3.connect(path, isolation_level=None)) as copy:
        database.backup(copy)
        copy.execute("DROP INDEX uq_events_one_end")
        yield copy


@pytest.mark.parametrize("what", SPOILERS)
def test_what_is_wrong_in_the_database_is_found(what: str, lived: tuple[Path, Seen], copy: Any) -> None:
    words = lived[1].words
    names = {
        "talked": next(run_id for run_id in words.tokens if words.runs[run_id].thread_id is not None),
        "thread": next(one for one in words.threads if one not in words.deleted),
        "cron": next(iter(words.crons)),
    }
    assert copy.execute(SPOILERS[what].format(**names)).rowcount > 0
    wanted = what.replace("thread is lost", "thread {thread} was acknowledged, and is lost")
    wanted = wanted if wanted.endswith("{}") else wanted.format(**names)
    assert [said for said in wrong_with(copy, lived[1]) if wanted in said]


def _executed_twice(seen: Seen) -> Seen:
    return replace(seen, executions=[*seen.executions, seen.executions[0]])


def _never_executed(seen: Seen) -> Seen:
    return replace(seen, executions=[])


def _not_told(seen: Seen) -> Seen:
    return replace(seen, webhooks=[])


def _told_otherwise(seen: Seen) -> Seen:
    return replace(seen, webhooks=[dict(body, status="pending") for body in seen.webhooks])


def _twice(seen: Seen) -> Seen:
    numbers = max(seen.words.followed.values(), key=len)
    numbers.append(numbers[-1])
    return seen


def _another_answer(seen: Seen) -> Seen:
    seen.words.answers[next(iter(seen.words.tokens))] = {"token": "another"}
    return seen


def _made_twice(seen: Seen) -> Seen:
    seen.words.asked_again.append(("one", "two"))
    return seen


def _still_there(seen: Seen) -> Seen:
    seen.words.deleted.add(next(one for one in seen.words.threads if one not in seen.words.deleted))
    return seen


def _hangs(seen: Seen) -> Seen:
    seen.words.wrong.append("a client hangs")
    return seen


@pytest.mark.parametrize(
    ("plant", "wanted"),
    [
        (_executed_twice, "was executed 2 times"),
        (_never_executed, "and was never executed"),
        (_not_told, "was never told of its end"),
        (_told_otherwise, "was told pending"),
        (_twice, "got the parts"),
        (_another_answer, "and not "),
        (_made_twice, "has made the runs one and two"),
        (_still_there, "was said to be removed, and is there"),
        (_hangs, "a client hangs"),
    ],
)
def test_what_others_saw_otherwise_is_found(
    plant: Callable[[Seen], Seen], wanted: str, lived: tuple[Path, Seen], copy: Any
) -> None:
    assert wrong_with(copy, lived[1]) == []
    assert [said for said in wrong_with(copy, plant(deepcopy(lived[1]))) if wanted in said]
