"""Before what cannot be undone, commands ask, with numbers; unattended they need `--yes`; `--dry-run` only says it."""

from __future__ import annotations

import asyncio
import json
import sqlite3
import subprocess
from collections.abc import Awaitable, Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from log_check import look_into
from prepared_databases import make_old_tables

from trackside.app.storage import Store, _schema
from trackside.testing import make_run

type Run = Callable[..., subprocess.CompletedProcess[str]]


def in_store[T](folder: Path, do: Callable[[Store], Awaitable[T]]) -> T:
    async def main() -> T:
        async with Store.open(f"sqlite:///{folder / 'trackside.db'}") as store:
            return await do(store)

    return asyncio.run(main())


@pytest.fixture
def filled(here: Run, tmp_path: Path) -> Run:
    """A run of five events, long over; `mail` has gone past two of them, and parked the first."""

    async def prepare(store: Store) -> None:
        await store.append(make_run())
        await store.subscriptions.open("mail", start="beginning")
        async with await store.subscriptions.acquire("mail") as consumer:
            await consumer.read()
            await consumer.park(1, "no such user", attempts=5)
            await consumer.acknowledge(2)

    in_store(tmp_path, prepare)
    return here


def make_old(path: Path) -> None:
    """The tables of the first version, with an event in them."""
    make_old_tables(f"sqlite:///{path}", "0001")
    with closing(sqlite3.connect(path)) as database, database:
        columns = ("event_id", "run_id", "thread_id", "sequence", "event_type", "occurred_at", "payload", "position")
        values = ("e", "r", "t", 1, "run_started", "2026-01-31T09:30:00.000000Z", "{}", 7)
        database.execute(f"INSERT INTO events ({', '.join(columns)}) VALUES ({', '.join('?' * 8)})", values)


MAIL = {
    ("subscriptions", "mail", "delete"): (
        "mail with its place (3 positions before the end) and 1 parked event would be deleted for good",
        "Delete mail with its place (3 positions before the end) and 1 parked event for good? [y/N]",
        "mail would be deleted with its place",
        "Nothing was deleted.",
    ),
    ("replay", "mail", "--from", "5"): (
        "2 positions that mail was not given yet would be left out",
        "Leave out 2 positions that mail was not given yet? [y/N]",
        "mail would leave out 2 positions.",
        "Nothing was left out.",
    ),
    ("replay", "mail", "--from", "1"): (
        "up to 2 events that mail was given already would be delivered again",
        "Deliver up to 2 events that mail was given already again? [y/N]",
        "mail would go back 2 positions, and be given them again.",
        "Nothing is delivered again.",
    ),
    ("parked", "mail", "drop"): (
        "1 event that mail has parked would be given up for good",
        "Give up 1 event that mail has parked, for good? [y/N]",
        "mail would give up 1 event.",
        "Nothing was given up.",
    ),
}


def standing(here: Run) -> list[dict[str, Any]]:
    return [json.loads(line) for line in here("subscriptions", "--json").stdout.splitlines()]


@pytest.mark.parametrize("typed", [*MAIL], ids=" ".join)
def test_where_nobody_sits_it_takes_a_yes(filled: Run, typed: tuple[str, ...]) -> None:
    would, _, dry, _ = MAIL[typed]
    before = standing(filled)

    refused, foretold = filled(*typed), filled(*typed, "--dry-run")
    assert (refused.returncode, refused.stdout) == (2, "")
    assert refused.stderr == f"error: --yes: nobody is here to confirm it; {would}.\n"
    assert (foretold.returncode, foretold.stderr) == (0, "")
    assert foretold.stdout.startswith(dry)
    assert standing(filled) == before

    assert filled(*typed, "--yes").returncode == 0
    assert standing(filled) != before


@pytest.mark.parametrize("typed", [*MAIL], ids=" ".join)
def test_on_a_terminal_it_asks_and_does_only_what_is_wanted(filled: Run, terminal: Any, typed: tuple[str, ...]) -> None:
    _, question, _, left = MAIL[typed]
    before = standing(filled)
    for answer, code, changed in ((b"\n", 130, False), (b"n\n", 130, False), (b"yes\n", 0, True)):
        shown = terminal(*typed, columns=160)
        shown.wait_for(question)
        shown.press(answer)
        assert shown.wait() == code
        assert (left in shown.text) is not changed
        assert (standing(filled) != before) is changed


@pytest.mark.parametrize("kind", ["run", "thread"])
def test_what_is_named_twice_is_deleted_once_and_so_is_what_follows(here: Run, tmp_path: Path, kind: str) -> None:
    async def prepare(store: Store) -> None:
        for name in ("alpha", "beta"):
            await store.append(make_run(f"{name}-1", thread_id=f"{name}-1"))

    in_store(tmp_path, prepare)
    done = here("delete", kind, "alpha-1", "alpha-1", "beta-1", "--yes", "--json")

    assert (done.returncode, done.stderr) == (0, "")
    assert [json.loads(line) for line in done.stdout.splitlines()] == [
        {f"{kind}_id": f"{name}-1", "deleted": True, "was_deleted_before": False} for name in ("alpha", "beta")
    ]
    assert all(json.loads(line)["removed_at"] for line in here(f"{kind}s", "--json").stdout.splitlines())


@pytest.mark.parametrize("command", ["delete thread", "delete run", "prune --older-than 0d --thread"])
def test_who_names_one_that_is_gone_removes_no_other_whose_id_is_longer(
    here: Run, tmp_path: Path, command: str
) -> None:
    """Ask as a script does that forgets somebody, and is run twice."""

    async def prepare(store: Store) -> None:
        for name in ("anna@example.org", "joanna@example.org"):
            await store.append(make_run(name, thread_id=name))

    in_store(tmp_path, prepare)
    for done in (
        here("delete", "thread", "anna@example.org", "--yes"),
        here("prune", "--older-than", "0d", "--thread", "anna@example.org", "--yes"),
    ):
        assert done.returncode == 0, done.stderr
    for typed in ("anna@example.org", "joanna@", "…@example.org"):
        refused = here(*command.split(), typed, "--yes")
        kind = "run" if command.endswith("run") else "thread"
        assert (refused.returncode, refused.stdout) == (2, "")
        assert f"No {kind} here has the id {typed!r}; joanna@example.org would fit" in refused.stderr

    threads = [json.loads(line) for line in here("threads", "--json").stdout.splitlines()]
    assert [(thread["thread_id"], thread["removed_at"]) for thread in threads] == [("joanna@example.org", None)]
    assert [json.loads(line)["removed_at"] for line in here("runs", "--json").stdout.splitlines()] == [None]


@pytest.mark.parametrize("command", ["delete thread", "delete run", "prune --older-than 0d --thread"])
def test_where_somebody_is_asked_a_part_of_an_id_will_do(
    here: Run, terminal: Any, tmp_path: Path, command: str
) -> None:
    in_store(tmp_path, lambda store: store.append(make_run("joanna", thread_id="joanna")))

    asked = terminal(*command.split(), "jo", columns=160)
    asked.wait_for("joanna")
    asked.wait_for("[y/N]")
    asked.press(b"y\n")

    assert asked.wait() == 0
    left = [json.loads(line)["removed_at"] for line in here("runs", "--json").stdout.splitlines()]
    assert None not in left


def test_a_run_that_is_named_twice_is_cancelled_once(here: Run, tmp_path: Path) -> None:
    in_store(tmp_path, lambda store: store.append(make_run("alpha-1")))

    assert here("cancel", "alpha-1", "alp").stdout.splitlines() == ["Run alpha-1 had ended already: success."]


def test_a_run_that_nobody_looks_after_is_cancelled_and_deleted(here: Run, tmp_path: Path) -> None:
    in_store(tmp_path, lambda store: store.append(make_run("alpha-1", thread_id="t-1")[:3]))

    refused = here("delete", "thread", "t-1", "--yes")
    assert (refused.returncode, "trackside cancel alpha-1 --wait" in refused.stderr) == (2, True)
    assert here("cancel", "alpha-1", "--wait").stdout == "Run alpha-1 has ended: cancelled.\n"
    assert here("delete", "thread", "t-1", "--yes").returncode == 0


def test_of_threads_of_which_one_cannot_be_deleted_none_is(here: Run, tmp_path: Path) -> None:
    """A killed script left a run on the thread, and a later run has ended: the thread is at rest."""

    async def prepare(store: Store) -> None:
        await store.append(make_run("left-1", thread_id="b")[:3])
        await store.append(make_run("whole-2", thread_id="b"))
        await store.append(make_run("whole-3", thread_id="a"))

    in_store(tmp_path, prepare)
    refused = here("delete", "thread", "a", "b", "--yes")

    assert (refused.returncode, refused.stdout) == (2, "")
    assert "Run left-1 of thread b has not ended; cancel it first: trackside cancel left-1 --wait" in refused.stderr
    threads = [json.loads(line) for line in here("threads", "--json").stdout.splitlines()]
    assert [(thread["status"], thread["removed_at"]) for thread in threads] == [("idle", None)] * 2
    assert here("cancel", "left-1", "--wait").returncode == 0
    assert here("delete", "thread", "a", "b", "--yes").returncode == 0


def test_nobody_is_asked_about_a_place_that_is_not_there_or_where_it_stands(filled: Run) -> None:
    beyond = filled("replay", "mail", "--from", "9")
    assert (beyond.returncode, beyond.stderr) == (2, "error: --from: the last position in the log is 5.\n")
    assert filled("replay", "mail", "--from", "3").returncode == 0


def test_who_upgrades_tables_that_others_use_hears_before_what_that_means_to_them(
    here: Run, postgres_with_tables: str
) -> None:
    async def prepare() -> None:
        async with Store.open(postgres_with_tables) as store:
            await store.append(make_run())

    asyncio.run(prepare())
    with look_into(postgres_with_tables) as database:
        database.execute("UPDATE alembic_version SET version_num = '0001'")
    refused = here("db", "upgrade", "--database", postgres_with_tables)
    assert refused.returncode == 2
    assert "servers and workers that are up start no run" in refused.stderr.partition("error: --yes")[0]


def test_tables_with_events_are_upgraded_only_if_somebody_says_so(here: Run, terminal: Any, tmp_path: Path) -> None:
    make_old(tmp_path / "trackside.db")
    refused, foretold = here("db", "upgrade"), here("db", "upgrade", "--dry-run")
    steps = len(_schema.REVISIONS) - 1
    what = f"bring the tables of sqlite:///trackside.db, with 7 events, from version 0001 to {_schema.REVISIONS[-1]}"
    assert refused.returncode == 2
    assert f"error: --yes: nobody is here to confirm it; it would {what} in {steps} steps.\n" == refused.stderr
    assert foretold.stdout == f"Would {what} in {steps} steps.\n"
    told = json.loads(here("db", "upgrade", "--dry-run", "--json").stdout)
    assert told == {"found": "0001", "known": _schema.REVISIONS[-1], "steps": steps}

    shown = terminal("db", "upgrade", columns=160)
    shown.wait_for("An older Trackside cannot use them afterwards. [y/N]")
    shown.press(b"n\n")
    assert shown.wait() == 130
    assert "Nothing was changed." in shown.text
    assert here("db", "current").stdout.startswith("0001 ")
    assert here("db", "current").stdout.endswith("; `trackside db upgrade` brings them up to date)\n")
    typed = ("-d", "sqlite:///trackside.db")
    assert "`trackside db upgrade --database sqlite:///trackside.db` brings it up" in here("runs", *typed).stderr

    shown = terminal("db", "upgrade", "--yes", columns=160)
    assert shown.wait() == 0
    assert f"{steps} steps" in shown.text, "a bar has shown how far it was"
    assert shown.lines[-1] == f"Brought the tables from version 0001 to {_schema.REVISIONS[-1]}."
    assert here("db", "upgrade", "--dry-run").stdout == "Would do nothing: the tables are up to date.\n"


def test_without_events_nobody_is_asked(here: Run) -> None:
    assert here("db", "upgrade", "--dry-run").stdout == "Would make the tables.\n"
    assert here("db", "upgrade").stdout.startswith("Made the tables")


def test_whoever_deletes_is_told_how_long_the_events_stay(filled: Run, terminal: Any) -> None:
    asked = terminal("delete", "thread", "thread-1", columns=200)
    asked.wait_for("A running server or worker removes their events within a minute")
    asked.press(b"n\n")
    assert asked.wait() == 130

    run, thread = filled("delete", "run", "run-1", "--yes"), filled("delete", "thread", "thread-1", "--yes")
    assert "Their events stay in the log, until `trackside prune` removes them for good." in run.stdout
    assert "A running server or worker removes their events within a minute; otherwise" in thread.stdout
