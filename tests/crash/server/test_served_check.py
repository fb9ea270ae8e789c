"""The checks of these tests notice each thing that they are for: each case changes one thing in what is right."""

from __future__ import annotations

import asyncio
import json
import sqlite3
from collections.abc import Callable, Mapping
from contextlib import closing
from copy import deepcopy
from pathlib import Path
from typing import Any, ClassVar

import pytest
from fenced_journal import FencedJournal
from fleet_check import Words, look_over
from forking import Forkery
from served_clients import Client, Turn
from served_lives import Lives
from served_load import Load

pytestmark = [
    pytest.mark.filterwarnings("ignore:Request failed, attempting reconnect"),
    pytest.mark.filterwarnings("ignore:Reconnecting without a Last-Event-ID"),
]

SPOILERS = {
    "was acknowledged, and is lost": "UPDATE runs SET run_id = 'another' WHERE run_id = '{talked}'",
    "and is on elsewhere": "UPDATE runs SET thread_id = 'elsewhere' WHERE run_id = '{talked}'",
    "had not started, and is lost": "UPDATE runs SET started_at = NULL, error_type = 'worker_lost'",
    "and never executed": "UPDATE runs SET started_at = NULL WHERE run_id = '{talked}'",
    "of talks ended as error (KeyError": "UPDATE runs SET status = 'error', error_type = 'KeyError' WHERE agent = 'talks'",
    "and it ended as error": "UPDATE runs SET status = 'error' WHERE status = 'success'",
    "and it ended as cancelled": "UPDATE runs SET status = 'cancelled' WHERE status = 'success'",
    "and it failed with other": "UPDATE runs SET error_type = 'other' WHERE status = 'error'",
    "has 2 ends": "UPDATE events SET event_type = 'run_failed' WHERE run_id = '{talked}' AND event_type = 'run_started'",
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


class Seen:
    """What a killed server has left, and what others have seen of it; a test may spoil it in a `folder` of its own."""

    def __init__(self, folder: Path, words: Words, bodies: list[Any]) -> None:
        self.folder = folder
        self.words = words
        self.bodies = bodies

    def look(self) -> list[str]:
        """What is wrong."""
        url = f"sqlite:///{self.folder}/runs.db"
        return look_over(url, FencedJournal(self.folder), self.words, self.bodies)[1]

    def change(self, sql: str) -> int:
        """Change the database behind everybody's back; returns how many rows."""
        with closing(sqlite3.connect(self.folder / "runs.db", isolation_level=None)) as database:
            database.execute("DROP INDEX IF EXISTS uq_events_one_end")
            return database.execute(sql).rowcount

    @property
    def talked(self) -> str:
        """A run of a thread that is kept, for which a client waited and got the right answer."""
        asked = [one for one in self.words.asked.values() if one.agent == "talks" and one.thread_id is not None]
        return next(
            one.run_id for one in asked if one.token and one.is_answered and one.token in json.dumps(one.answer)
        )


@pytest.fixture(scope="module")
def lived(tmp_path_factory: pytest.TempPathFactory, forkery: Forkery) -> Seen:
    """What a server has left that clients used through a kill."""
    folder = tmp_path_factory.mktemp("lived")
    lives = Lives(f"sqlite:///{folder}/runs.db", folder, seed=1, forkery=forkery)
    asyncio.run(lives.go_through(["by chance"], trouble=lambda server, load: load.until_all_were_here()))
    return Seen(folder, *lives.seen[0])


@pytest.fixture
def seen(lived: Seen, tmp_path: Path) -> Seen:
    with (
        closing(sqlite3.connect(lived.folder / "runs.db")) as database,
        closing(sqlite3.connect(tmp_path / "runs.db")) as copy,
    ):
        database.backup(copy)
    (tmp_path / "journal").write_bytes((lived.folder / "journal").read_bytes())
    return Seen(tmp_path, deepcopy(lived.words), [*lived.bodies])


@pytest.mark.parametrize("what", SPOILERS)
def test_what_is_wrong_in_the_database_is_found(what: str, seen: Seen) -> None:
    names = {
        "talked": seen.talked,
        "thread": next(one for one in seen.words.threads if one not in seen.words.deleted),
        "cron": next(iter(seen.words.crons)),
    }
    assert seen.change(SPOILERS[what].format(**names)) > 0
    wanted = what.replace("thread is lost", "thread {thread} was acknowledged, and is lost")
    wanted = wanted if wanted.endswith("{}") else wanted.format(**names)
    assert [said for said in seen.look() if wanted in said]


def _executed_twice(seen: Seen) -> None:
    first = next(one for one in FencedJournal(seen.folder).entries() if one.what == "enter")
    FencedJournal(seen.folder).enter(first.run_id, first.thread_id).leave("done")


def _never_executed(seen: Seen) -> None:
    (seen.folder / "journal").write_bytes(b"")


def _not_told(seen: Seen) -> None:
    seen.bodies.clear()


def _told_otherwise(seen: Seen) -> None:
    seen.bodies[:] = [dict(body, status="pending") for body in seen.bodies]


def _twice(seen: Seen) -> None:
    numbers = max((numbers for one in seen.words.asked.values() for numbers in one.followed), key=len)
    numbers.append(numbers[-1])


def _another_answer(seen: Seen) -> None:
    seen.words.asked[seen.talked].answer = {"token": "another"}


def _another_end(seen: Seen) -> None:
    followed = next(one for one in seen.words.asked.values() if one.end is not None and one.end[0] == "end")
    followed.end = ("error", {"error": "worker_lost", "message": ""})


def _made_twice(seen: Seen) -> None:
    seen.words.asked_again.append(("one", "two"))


def _still_there(seen: Seen) -> None:
    seen.words.deleted.add(next(one for one in seen.words.threads if one not in seen.words.deleted))


def _hangs(seen: Seen) -> None:
    seen.words.wrong.append("a client hangs")


@pytest.mark.parametrize(
    ("plant", "wanted"),
    [
        (_executed_twice, "was executed by"),
        (_never_executed, "no agent came to its end"),
        (_not_told, "was never told of its end"),
        (_told_otherwise, "was told pending"),
        (_twice, "got the parts"),
        (_another_answer, "and not "),
        (_another_end, "was told error"),
        (_made_twice, "has made the runs one and two"),
        (_still_there, "was said to be removed, and is there"),
        (_hangs, "a client hangs"),
    ],
)
def test_what_others_saw_otherwise_is_found(plant: Callable[[Seen], None], wanted: str, seen: Seen) -> None:
    assert seen.look() == []
    plant(seen)
    assert [said for said in seen.look() if wanted in said]


async def _crashes(client: Client) -> None:
    raise KeyError("tokens")


class Crashing(Client):
    KINDS: ClassVar[Mapping[str, Turn]] = {"crashes": _crashes}


async def test_a_client_that_crashes_is_wrong() -> None:
    async with Load(["http://127.0.0.1:9"], "", seed=1, make=Crashing) as load:
        while not load.words.wrong:
            await asyncio.sleep(0)
        await load.stop()
    assert "a client that crashes crashed: Traceback" in load.words.wrong[0]
    assert "KeyError: 'tokens'" in load.words.wrong[0]
