"""Old runs removed, events taken out and in, tables looked after: from the command line."""

import asyncio
import fcntl
import gzip
import json
import os
import shutil
import signal
import sqlite3
import stat
import subprocess
import sys
import termios
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import IO, Any

import pytest

from trackside.app.storage import Store, maintenance
from trackside.harness.ids import new_id
from trackside.harness.observer import LifecycleEventType, RunLifecycleEvent

type Run = Callable[..., subprocess.CompletedProcess[str]]

OTHER = "--database=sqlite:///other.db"


async def record(url: str, *, runs: int, ago: timedelta = timedelta(0)) -> None:
    async with Store.open(url) as store:
        for _ in range(runs):
            run_id, thread_id, when = new_id(), new_id(), datetime.now(UTC) - ago
            ends = [
                (LifecycleEventType.RUN_STARTED, {"agent": "chat", "metadata": {"ago": ago.days}}),
                (LifecycleEventType.RUN_COMPLETED, {"status": "success", "completion_data": {}}),
            ]
            await store.append(
                RunLifecycleEvent(new_id(), kind, run_id, thread_id, number, when, payload)
                for number, (kind, payload) in enumerate(ends, 1)
            )


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("recorded") / "trackside.db"
    asyncio.run(record(f"sqlite:///{path}", runs=3, ago=timedelta(days=40)))
    asyncio.run(record(f"sqlite:///{path}", runs=2))
    return path


@pytest.fixture(autouse=True)
def database(recorded: Path, tmp_path: Path) -> Path:
    return Path(shutil.copy(recorded, tmp_path / "trackside.db"))


def rows(path: Path, query: str) -> list[tuple[Any, ...]]:
    with closing(sqlite3.connect(path)) as database:
        return database.execute(query).fetchall()


def test_prune_without_a_terminal_removes_only_what_was_agreed_to(here: Run, database: Path) -> None:
    asked = here("prune", "--older-than", "30d")
    dry = here("prune", "--older-than", "30d", "--dry-run")
    assert (asked.returncode, asked.stdout) == (2, "")
    assert asked.stderr == (
        "error: --yes: nobody is here to confirm it; 3 runs with 6 events, and 3 threads would be removed for good.\n"
    )
    assert (dry.returncode, dry.stdout) == (0, "Would remove 3 runs with 6 events, and 3 threads.\n")
    assert rows(database, "SELECT count(*) FROM runs") == [(5,)]

    done = here("prune", "--older-than", "30d", "--yes")
    again = here("prune", "--older-than", "30d", "--yes")

    assert (done.returncode, done.stdout) == (0, "Removed 3 runs with 6 events, and 3 threads.\n")
    assert (again.returncode, again.stdout) == (0, "There is nothing to remove.\n")
    assert rows(database, "SELECT count(*) FROM runs") == [(2,)]
    assert here("db", "check", "--all").stdout == "All is well.\n"


def test_prune_says_what_it_kept_and_for_whom(here: Run, database: Path) -> None:
    with closing(sqlite3.connect(database)) as open_database, open_database:
        names = "name, filter, cursor, on_failure, state, created_at, updated_at, token, failures"
        row = "'hook', '{}', 3, 'block', 'active', '2026', '2026', 0, 0"
        open_database.execute(f"INSERT INTO subscriptions ({names}) VALUES ({row})")

    done = here("prune", "--older-than", "30d", "--yes")
    told = here("prune", "--older-than", "0d", "--dry-run", "--json")

    assert done.stdout == (
        "Removed 1 run with 2 events, and 1 thread.\nKept 2 runs that subscription 'hook' has not finished with.\n"
    )
    report = {"runs": 0, "events": 0, "threads": 0, "kept_for": {"hook": 4}, "kept_waiting": 0}
    assert json.loads(told.stdout) == report


def traces_of(path: Path, word: str) -> list[str]:
    """The tables that have the word in some row."""
    tables = [name for (name,) in rows(path, "SELECT name FROM sqlite_master WHERE type = 'table'")]
    return [name for name in tables if any(word in repr(row) for row in rows(path, f'SELECT * FROM "{name}"'))]


def test_a_thread_that_is_deleted_is_forgotten_where_no_server_is(here: Run, database: Path, tmp_path: Path) -> None:
    (tmp_path / "agents.py").write_text("async def note(text, run): return {'heard': text}\n")
    assert here("run", "agents.py:note", "I am Ada", "--thread", "visit").returncode == 0
    assert "thread_states" in traces_of(database, "I am Ada")

    assert here("delete", "thread", "visit", "--yes").returncode == 0
    assert "thread_states" not in traces_of(database, "I am Ada")
    pruned = here("prune", "--older-than", "0d", "--thread", "visit", "--yes")

    assert pruned.stdout == "Removed 1 run with 5 events, and 1 thread.\n"
    assert traces_of(database, "I am Ada") == traces_of(database, "visit") == []


def test_a_prune_forgets_threads_that_were_deleted_before(here: Run, database: Path, tmp_path: Path) -> None:
    (tmp_path / "agents.py").write_text("async def note(text, run): return {'heard': text}\n")
    assert here("run", "agents.py:note", "I am Ada", "--thread", "visit").returncode == 0

    async def delete() -> None:
        async with Store.open(f"sqlite:///{database}") as store:
            await store.threads_of(None).remove("visit")

    asyncio.run(delete())
    assert here("prune", "--older-than", "30d", "--yes").returncode == 0
    assert "thread_states" not in traces_of(database, "I am Ada")
    assert here("prune", "--older-than", "0d", "--yes").returncode == 0
    assert traces_of(database, "I am Ada") == traces_of(database, "visit") == []


@pytest.mark.parametrize("asked", [True, False])
def test_a_thread_whose_time_is_over_and_that_nobody_swept_is_cleared_away_by_a_prune(
    here: Run, database: Path, tmp_path: Path, *, asked: bool
) -> None:
    (tmp_path / "agents.py").write_text("async def ask(text, run): return {'answer': run.interrupt('Sure?')}\n")

    async def make() -> None:
        async with Store.open(f"sqlite:///{database}") as store:
            await store.threads_of(None).create("visit", ttl_minutes=60)

    def run() -> str:
        return here("run", "agents.py:ask", "I am Ada", "--thread", "visit").stderr

    asyncio.run(make())
    if asked:
        run()
    with closing(sqlite3.connect(database)) as connection, connection:
        connection.execute("UPDATE threads SET expires_at = '2020-01-01T00:00:00.000000Z' WHERE thread_id = 'visit'")
    assert "There is no thread 'visit'" in run()

    assert here("prune", "--older-than", "0d", "--thread", "visit", "--yes").returncode == 0
    assert traces_of(database, "visit") == []
    assert "There is no thread 'visit'" not in run()
    assert rows(database, "SELECT status FROM runs WHERE thread_id = 'visit'") == [("interrupted",)]


def test_a_prune_that_has_no_run_to_ask_about_forgets_threads_whose_time_is_over(
    terminal: Any, here: Run, database: Path, tmp_path: Path
) -> None:
    (tmp_path / "agents.py").write_text("async def note(text, run): return {'heard': text}\n")
    assert here("run", "agents.py:note", "I am Ada", "--thread", "visit").returncode == 0
    with closing(sqlite3.connect(database)) as connection, connection:
        connection.execute("UPDATE threads SET expires_at = '2020-01-01T00:00:00.000000Z' WHERE thread_id = 'visit'")

    assert here("prune", "--older-than", "3000d", "--dry-run").stdout == "There is nothing to remove.\n"
    assert "thread_states" in traces_of(database, "I am Ada")
    one = terminal("prune", "--older-than", "3000d")
    assert one.wait() == 0
    assert one.text.strip() == "There is nothing to remove."
    assert "thread_states" not in traces_of(database, "I am Ada")
    assert rows(database, "SELECT count(*) FROM runs WHERE thread_id = 'visit'") == [(1,)]


@pytest.mark.parametrize(("answer", "left", "code"), [(b"y\r", 2, 0), (b"no\r", 5, 130), (b"\r", 5, 130)])
def test_prune_asks_on_a_terminal(terminal, database: Path, answer: bytes, left: int, code: int) -> None:
    one = terminal("prune", "--older-than", "30d", columns=120)
    one.wait_for("for good? [y/N]")
    one.press(answer)

    assert one.wait() == code
    assert rows(database, "SELECT count(*) FROM runs") == [(left,)]


async def test_what_has_ended_since_prune_asked_stays(terminal: Any, database: Path) -> None:
    one = terminal("prune", "--older-than", "0d", columns=120)
    await asyncio.to_thread(one.wait_for, "Remove 5 runs with 10 events, and 5 threads")
    await record(f"sqlite:///{database}", runs=4)
    one.press(b"y\r")

    assert await asyncio.to_thread(one.wait) == 0
    assert "Removed 5 runs with 10 events, and 5 threads." in one.text
    assert rows(database, "SELECT count(*) FROM runs") == [(4,)]


@pytest.mark.parametrize("age", ["30", "soon", "-3d", "99999999999999w"])
def test_an_age_that_is_none(here: Run, age: str) -> None:
    said = here("prune", f"--older-than={age}", "--yes")

    assert (said.returncode, said.stdout) == (2, "")
    assert "--older-than: " in said.stderr


@pytest.mark.parametrize(
    ("options", "what"),
    [
        (["--older-than", "0d", "--status", "running"], "--status: only runs that have ended are removed"),
        (["--older-than", "9999999d"], "--older-than: '9999999d' is longer ago than the year 1"),
    ],
)
def test_what_cannot_be_removed_is_said_as_it_was_typed(here: Run, options: list[str], what: str) -> None:
    said = here("prune", *options, "--yes")

    assert (said.returncode, said.stdout, said.stderr) == (2, "", f"error: {what}.\n")


@pytest.mark.parametrize("name", ["events.jsonl", "events.jsonl.gz", "events.parquet"])
def test_out_and_in_again(here: Run, tmp_path: Path, name: str) -> None:
    exported = here("export", name)
    imported = here("import", name, OTHER)
    again = here("import", name, OTHER, "--json")
    file, other = tmp_path / name, tmp_path / f"other-{name}"

    assert exported.stderr == f"Exported 10 events of the log up to position 10 to {name}.\n"
    assert (
        imported.stdout
        == "Imported 10 events at the positions that they had; 0 events of the file were there already.\n"
    )
    assert json.loads(again.stdout) == {"imported": 0, "known": 10, "kept_positions": True, "unfinished": 0}
    assert here("export", other.name, OTHER).returncode == 0
    assert other.read_bytes() == file.read_bytes()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert here("db", "check", "--all", OTHER).stdout == "All is well.\n"


def unread(pipe: IO[str]) -> int:
    """How many bytes of what has been written nobody has read yet."""
    return int.from_bytes(fcntl.ioctl(pipe, termios.FIONREAD, bytes(4)), sys.byteorder)


def test_ctrl_c_ends_an_import_from_a_pipe_in_which_nothing_more_comes(
    trackside: Run, terminal: Any, tmp_path: Path
) -> None:
    export = trackside("export").stdout
    os.mkfifo(tmp_path / "pipe")
    one = terminal("import", "pipe", "-d", "sqlite:///other.db", columns=120)
    with (tmp_path / "pipe").open("w", encoding="utf-8") as writer:
        writer.write(export[: len(export) // 2])
        writer.flush()
        one.wait_for("Importing")
        while unread(writer):
            one.wait_for_more(1)  # the spinner turns
        one.press(b"\x03")
        assert one.wait() == 130
    assert one.lines[-1].removeprefix("^C").startswith("Broken off: 0 events of the file are in the database;")


def test_through_a_pipe(trackside: Run, tmp_path: Path) -> None:
    piped = trackside(shell='"$0" export | gzip | "$0" import - --database sqlite:///other.db')

    assert piped.stdout.startswith("Imported 10 events ")
    assert rows(tmp_path / "other.db", "SELECT count(*) FROM events") == [(10,)]


def test_some_events_as_lines(here: Run) -> None:
    said = here("export", "--from", "5", "--to", "8", "--type", "run_completed", "--agent", "chat", "--since", "100d")
    lines = [json.loads(line) for line in said.stdout.splitlines()]

    assert [line["position"] for line in lines[1:-1]] == [6, 8]
    assert lines[0]["chosen"].keys() == {"from", "types", "agent", "since"}


def test_events_of_somebody_who_is_gone_are_nobody_elses(here: Run, database: Path, tmp_path: Path) -> None:
    (whole,) = rows(database, "SELECT thread_id FROM threads LIMIT 1")[0]

    said = here("export", "theirs.jsonl", "--thread", whole[:-1])

    assert said.returncode == 2
    assert said.stderr.startswith(f"error: No thread here has the id '{whole[:-1]}'; {whole} would fit, but you are")
    assert not (tmp_path / "theirs.jsonl").exists()
    assert here("export", "theirs.jsonl", "--thread", whole).returncode == 0


def test_a_reader_that_goes_away_is_no_error(trackside: Run) -> None:
    said = trackside(shell='"$0" export | head -n 1')

    assert (said.returncode, len(said.stdout.splitlines())) == (0, 1)


def test_a_file_that_is_there_stays_unless_it_may_be_replaced(here: Run, tmp_path: Path) -> None:
    file = tmp_path / "events.jsonl"
    file.write_text("mine")

    refused = here("export", "events.jsonl")
    assert (refused.returncode, refused.stderr) == (
        2,
        "error: FILE: events.jsonl is there already; --force replaces it.\n",
    )
    assert file.read_text() == "mine"

    assert here("export", "events.jsonl", "--force").returncode == 0
    assert len(file.read_text().splitlines()) == 12


@pytest.mark.parametrize(
    ("name", "code", "what"),
    [
        ("/dev/full", 1, "error: /dev/full cannot be written: No space left on device. [file-not-usable]\n"),
        ("none/events.jsonl", 2, "error: FILE: none/events.jsonl cannot be written: No such file or directory.\n"),
        (".", 2, "error: FILE: . is a folder.\n"),
        ("a" * 300, 1, f"error: {'a' * 300} cannot be written: File name too long. [file-not-usable]\n"),
    ],
)
def test_a_place_that_takes_no_export(here: Run, tmp_path: Path, name: str, code: int, what: str) -> None:
    before = {*tmp_path.iterdir()}

    said = here("export", name)

    assert (said.returncode, said.stderr) == (code, what)
    assert {*tmp_path.iterdir()} == before


@pytest.mark.parametrize("options", [[], ["--format", "parquet"]], ids=["by its name", "as it was said"])
def test_parquet_is_not_packed_once_more(here: Run, tmp_path: Path, options: list[str]) -> None:
    said = here("export", "events.parquet.gz", *options)

    assert said.returncode == 2
    assert said.stderr == "error: FILE: Parquet is compressed already; leave .gz out of its name.\n"
    assert not (tmp_path / "events.parquet.gz").exists()


@pytest.mark.parametrize("name", ["events.csv", "events.CSV.gz", "events.jsonl.zst"])
def test_no_file_is_written_whose_name_promises_something_else(here: Run, tmp_path: Path, name: str) -> None:
    said = here("export", name)

    assert said.returncode == 2
    assert "call it .jsonl or .parquet, or say which it is with --format" in said.stderr
    assert not (tmp_path / name).exists()
    assert here("export", name, "--format", "jsonl").returncode == 0
    assert (tmp_path / name).exists()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP], ids=lambda number: number.name)
@pytest.mark.parametrize(
    ("command", "shown", "said"),
    [
        (("export", "events.jsonl"), "Exporting", "Broken off: events.jsonl was not written,"),
        (("import", "out.jsonl"), "Importing", "Broken off: 0 events of the file are in the database;"),
        (("prune", "--older-than", "0d", "--yes"), "Removing", "Broken off: 0 runs removed,"),
    ],
    ids=lambda value: value[0] if isinstance(value, tuple) else "",
)
def test_who_stops_it_leaves_nothing_behind_and_is_told_as_with_ctrl_c(
    here: Run,
    terminal: Any,
    database: Path,
    tmp_path: Path,
    number: signal.Signals,
    command: tuple[str, ...],
    shown: str,
    said: str,
) -> None:
    assert here("export", "out.jsonl").returncode == 0
    with closing(sqlite3.connect(database, isolation_level=None)) as other:
        other.execute("PRAGMA locking_mode=EXCLUSIVE")
        other.execute("BEGIN EXCLUSIVE")  # so that it is under way, and gets nowhere
        one = terminal(*command, columns=120)
        one.wait_for(shown)
        one.signal(number)
        one.wait_for_more(1)
    code = one.wait()

    assert (code, one.lines[-1].startswith(said)) == (130, True)
    assert not [*tmp_path.glob(".*"), *tmp_path.glob("events*")]


def test_an_export_that_fails_leaves_nothing_behind(here: Run, database: Path, tmp_path: Path) -> None:
    with closing(sqlite3.connect(database)) as open_database, open_database:
        open_database.execute("DROP TABLE events")

    assert here("export", "events.jsonl").returncode == 1
    assert {file.name for file in tmp_path.iterdir()} == {"trackside.db"}


@pytest.mark.parametrize(
    ("content", "code", "what"),
    [
        (b"hello\n", 2, "error: This is not an export of Trackside's: "),
        (b"PAR1 or so", 2, "error: This is not an export of Trackside's: "),
        (gzip.compress(b"hello\n", mtime=0), 2, "error: This is not an export of Trackside's: "),
        (b'{"format":"trackside.events","version":7,"to":1,"chosen":{}}\n', 2, "error: This export is of version 7"),
        (b'{"format":"trackside.events","version":1,"to":1,"chosen":{}}\n', 2, "error: Line 1 of the export is wrong"),
    ],
)
def test_a_file_that_cannot_be_imported(here: Run, tmp_path: Path, content: bytes, code: int, what: str) -> None:
    (tmp_path / "file").write_bytes(content)

    said = here("import", "file", OTHER)

    assert (said.returncode, said.stdout) == (code, "")
    assert said.stderr.startswith(what)
    assert (tmp_path / "other.db").exists() is (b'"version":1' in content)


def test_an_import_of_a_file_that_is_not_there_makes_no_database(here: Run, tmp_path: Path) -> None:
    said = here("import", "evnts.jsonl", OTHER)

    assert (said.returncode, said.stderr) == (
        2,
        "error: FILE: evnts.jsonl cannot be read: No such file or directory.\n",
    )
    assert not (tmp_path / "other.db").exists()


@pytest.mark.parametrize("name", ["trackside.db", "./trackside.db", "link.db", "hard.db", "trackside.db-wal"])
def test_an_export_never_replaces_its_own_database(here: Run, database: Path, tmp_path: Path, name: str) -> None:
    (tmp_path / "link.db").symlink_to(database)
    (tmp_path / "hard.db").hardlink_to(database)
    before = database.read_bytes()

    said = here("export", name, "--force")

    assert (said.returncode, said.stdout) == (2, "")
    assert said.stderr == f"error: FILE: {name} belongs to the database that is exported; choose another name.\n"
    assert database.read_bytes() == before
    assert not (tmp_path / "trackside.db-wal").exists()


@pytest.mark.parametrize(
    ("options", "what"),
    [
        (["--from", "0"], "'0' is not a whole number from 1 up"),
        (["--from", "100"], "--from: the log ends at 10"),
        (["--from", "5", "--to", "3"], "--to: it is not before the first position, 5"),
        (["--to", "1000"], "--to: the log ends at 10"),
    ],
)
def test_positions_that_the_log_does_not_have(here: Run, tmp_path: Path, options: list[str], what: str) -> None:
    said = here("export", "events.jsonl", *options)

    assert (said.returncode, said.stdout) == (2, "")
    assert what in said.stderr
    assert not (tmp_path / "events.jsonl").exists()


def test_an_import_tells_of_runs_that_nobody_executes(here: Run, tmp_path: Path) -> None:
    here("export", "events.jsonl", "--to", "9")

    first, second = here("import", "events.jsonl", OTHER).stdout.splitlines()

    assert first.startswith("Imported 9 events at the positions that they had")
    assert second == "1 run without an end in the file: nobody executes it here."


@pytest.mark.parametrize(
    "command",
    [
        ["runs"],
        ["prune", "--older-than=0d", "--yes"],
        ["db", "check"],
        ["db", "current"],
        ["db", "upgrade"],
        ["db", "compact"],
    ],
    ids=" ".join,
)
def test_a_file_that_is_no_database_is_named_with_who_chose_it(here: Run, database: Path, command: list[str]) -> None:
    database.write_bytes(b"no database at all" * 1_000)

    said = here(*command, "--database=sqlite:///trackside.db")

    assert (said.returncode, said.stdout) == (2, "")
    assert said.stderr.startswith("error: --database: trackside.db is not an SQLite database")


def test_a_database_that_is_locked_is_not_blamed_on_its_address(
    here: Run, database: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(maintenance, "BUSY_TIMEOUT", 0.0)
    with closing(sqlite3.connect(database)) as other:
        other.execute("BEGIN IMMEDIATE")
        said = here("db", "compact", "--database=sqlite:///trackside.db")

    assert (said.returncode, said.stdout) == (1, "")
    assert said.stderr.startswith("error: The database trackside.db stayed locked by another process")


def test_parquet_without_its_package(trackside: Run, tmp_path: Path) -> None:
    (tmp_path / "pyarrow.py").write_text("raise ImportError")
    said = trackside("export", "events.parquet", shell='exec "$0" "$@"', PYTHONPATH=str(tmp_path))

    assert (said.returncode, said.stdout) == (2, "")
    assert "pip install 'trackside[parquet]'" in said.stderr
    assert not (tmp_path / "events.parquet").exists()


def test_the_version_of_the_tables(here: Run, database: Path, tmp_path: Path) -> None:
    (version,) = rows(database, "SELECT version_num FROM alembic_version")[0]

    assert here("db", "current").stdout == f"{version} (up to date)\n"
    assert here("db", "upgrade").stdout == f"Nothing to do: the tables are of version {version}.\n"
    assert here("db", "upgrade", OTHER).stdout == f"Made the tables, of version {version}.\n"
    assert json.loads(here("db", "current", OTHER, "--json").stdout) == {"found": version, "known": version}
    missing = here("db", "current", "--database=sqlite:///none.db")
    assert (missing.returncode, missing.stderr.startswith("error: nothing recorded at")) == (2, True)


def test_the_version_of_newer_tables_is_shown_beside_ours(here: Run, database: Path) -> None:
    (version,) = rows(database, "SELECT version_num FROM alembic_version")[0]
    with closing(sqlite3.connect(database)) as open_database, open_database:
        open_database.execute("UPDATE alembic_version SET version_num = '9999'")

    said, told = here("db", "current"), here("db", "current", "--json")

    expected = f"9999 (this Trackside works with {version}; a newer one made them: upgrade Trackside)\n"
    assert (said.returncode, said.stdout) == (0, expected)
    assert json.loads(told.stdout) == {"found": "9999", "known": version}
    refused, foretold = here("db", "upgrade", "--yes"), here("db", "upgrade", "--dry-run")
    assert "written by a newer version of Trackside (schema 9999" in foretold.stderr
    assert (foretold.returncode, foretold.stdout, foretold.stderr) == (2, "", refused.stderr)


def test_space_is_given_back(here: Run, database: Path) -> None:
    asyncio.run(record(f"sqlite:///{database}", runs=200, ago=timedelta(days=40)))
    before = database.stat().st_size
    here("prune", "--older-than", "30d", "--yes")

    assert database.stat().st_size == before
    assert here("db", "compact").returncode == 0
    assert database.stat().st_size < before / 2
    assert here("db", "check", "--all").stdout == "All is well.\n"
    assert here("db", "compact", "--database=sqlite:///none.db").returncode == 2


def test_what_is_wrong_with_a_database_is_told_by_lines_and_exit_code(here: Run, database: Path) -> None:
    assert (here("db", "check").returncode, here("db", "check", "--json").stdout) == (0, "")
    with closing(sqlite3.connect(database)) as open_database, open_database:
        open_database.execute("UPDATE counters SET value = 1 WHERE name = 'position'")

    said, told = here("db", "check"), here("db", "check", "--json")

    assert (said.returncode, told.returncode) == (1, 1)
    assert said.stdout == "counters: the last position given is 1, and an event has 10\n"
    assert json.loads(told.stdout) == {"where": "counters", "what": "the last position given is 1, and an event has 10"}
