"""Events taken out and in, as files and through pipes, and what breaks that off: from the command line."""

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
from pathlib import Path
from typing import IO, Any

import pytest
from aged_runs import OTHER, recorded_in, rows

type Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return recorded_in(tmp_path_factory.mktemp("recorded"))


@pytest.fixture(autouse=True)
def database(recorded: Path, tmp_path: Path) -> Path:
    return Path(shutil.copy(recorded, tmp_path / "trackside.db"))


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


def test_parquet_without_its_package(trackside: Run, tmp_path: Path) -> None:
    (tmp_path / "pyarrow.py").write_text("raise ImportError")
    said = trackside("export", "events.parquet", shell='exec "$0" "$@"', PYTHONPATH=str(tmp_path))

    assert (said.returncode, said.stdout) == (2, "")
    assert "pip install 'trackside[parquet]'" in said.stderr
    assert not (tmp_path / "events.parquet").exists()
