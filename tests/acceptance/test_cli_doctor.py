"""`trackside doctor`: each possible fault is made for real, and doctor finds it and says what to do about it."""

from __future__ import annotations

import json
import re
import sqlite3
import subprocess
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

Trackside = Callable[..., "subprocess.CompletedProcess[str]"]
Piped = Callable[..., "subprocess.Popen[str]"]
type Found = list[dict[str, str]]

AGENTS = """
import asyncio, resource

async def echo(input):
    return input

async def sleep(input):
    await asyncio.Event().wait()

async def fills(input):
    # Less than one page in the log of the database, wherever that goes, and enough for the spool.
    resource.setrlimit(resource.RLIMIT_FSIZE, (4_096, resource.RLIM_INFINITY))
    return "the answer"

def hide(kind, payload):
    return payload
"""


@pytest.fixture(autouse=True)
def agents(tmp_path: Path) -> None:
    (tmp_path / "agents.py").write_text(AGENTS)


def findings(done: subprocess.CompletedProcess[str], *, code: int = 1) -> Found:
    assert (done.returncode, done.stderr) == (code, "")
    return [json.loads(line) for line in done.stdout.splitlines()]


def only(found: Found) -> dict[str, str]:
    (finding,) = [finding for finding in found if finding["severity"] != "note"]
    assert finding["fix"].endswith("`"), "a command that can be copied stands at the end"
    return finding


def change(folder: Path, statement: str) -> None:
    with closing(sqlite3.connect(folder / "trackside.db")) as database, database:
        assert database.execute(statement).rowcount == 1


def test_of_a_folder_without_a_database_one_thing_is_said(here: Trackside) -> None:
    done = here("doctor")

    assert (done.returncode, done.stderr) == (0, "")
    (line,) = done.stdout.splitlines()
    assert "nothing recorded at sqlite:///trackside.db yet" in line


def test_where_all_is_well_it_says_so_and_leaves_nothing_behind(here: Trackside, tmp_path: Path) -> None:
    toml = '[agents]\necho = "agents.py:echo"\n[runs]\nredact = "agents.py:hide"\n'
    (tmp_path / "trackside.toml").write_text(toml)
    here("run", "echo", "hello")
    before = sorted(path.name for path in tmp_path.iterdir())

    done = here("doctor")

    assert (done.returncode, done.stdout, done.stderr) == (0, "All is well.\n", "")
    assert findings(here("doctor", "--json"), code=0) == []
    assert sorted(path.name for path in tmp_path.iterdir() if path.name != "__pycache__") == [
        name for name in before if name != "__pycache__"
    ]


def test_a_run_whose_process_was_killed_is_found_until_the_next_run_has_ended_it(piped: Piped, here: Trackside) -> None:
    process = piped("run", "agents.py:sleep", "hello", "--thread", "t-1")
    assert process.stdout is not None
    while "human" not in process.stdout.readline():
        pass
    (note,) = findings(here("doctor", "--json"), code=0)
    process.kill()
    process.wait()
    finding = only(findings(here("doctor", "--json")))
    here("run", "agents.py:echo", "hello")

    assert note["severity"] == "note"
    assert note["what"].startswith("it looks after 1 run, and its lease lasts another ")
    assert finding["severity"] == "warning"
    assert finding["where"].endswith("thread t-1")
    assert finding["what"].startswith("agents.py:sleep is recorded as running, but its process (")
    assert here("doctor").returncode == 0


def test_what_the_database_did_not_take_is_found_until_it_is_delivered(trackside: Trackside, here: Trackside) -> None:
    trackside("run", "agents.py:fills", "hello")
    kept = [finding for finding in findings(here("doctor", "--json")) if "trackside.db-spool" in finding["where"]]
    here("run", "agents.py:echo", "hello")

    assert [finding["what"] for finding in kept] == ["1 end of a run is kept here that the database has not taken"]
    assert here("doctor").returncode == 0


def test_what_a_database_did_not_take_that_has_another_address_now_is_found_and_can_be_brought(
    trackside: Trackside, here: Trackside, tmp_path: Path
) -> None:
    """As after a failover, or a restore into a database of another name."""
    (tmp_path / "trackside.toml").write_text('[database]\nspool = "spools"\n')
    trackside("run", "agents.py:fills", "hello", "--database", "sqlite:///old.db")
    for path in tmp_path.glob("old.db*"):  # with what is in the journal beside it
        path.rename(tmp_path / path.name.replace("old", "new"))
    new = ("--database", "sqlite:///new.db")
    (kept,) = (tmp_path / "spools").iterdir()

    checked = here("serve", "--check", "agents.py:echo", *new)
    found = [finding for finding in findings(here("doctor", "--json", *new)) if finding["where"] == str(kept)]
    finding = only(found)
    subprocess.run(finding["fix"].split("`")[1], shell=True, check=True)
    brought = here("run", "agents.py:echo", "hello", *new)

    assert finding["what"].startswith(
        "1 end of a run is kept here for a database at another address, and by no process"
    )
    assert f"warning: 1 end of a run waits in {kept} for a database at another address; " in checked.stderr
    assert "had kept of 1 earlier run is in the database now" in brought.stderr
    assert [
        finding for finding in findings(here("doctor", "--json", *new), code=0) if finding["severity"] != "note"
    ] == []


def test_records_that_nobody_could_use_are_found(here: Trackside, tmp_path: Path) -> None:
    here("run", "agents.py:echo", "hello")
    spool = tmp_path / "trackside.db-spool"
    spool.mkdir()
    (spool / "waiting-01.jsonl").write_text("torn\n")
    (spool / "refused.jsonl").write_text("{}\n{}\n")
    here("run", "agents.py:echo", "hello")

    found = findings(here("doctor", "--json"))

    assert [finding["what"] for finding in found] == [
        "2 ends of runs do not fit what the database has",
        "1 records could not be read",
    ]
    assert "refused.jsonl" in found[0]["fix"]
    assert "damaged.lines" in found[1]["fix"]


def test_a_spool_that_cannot_be_looked_at_is_found(here: Trackside, tmp_path: Path) -> None:
    (tmp_path / "trackside.toml").write_text(f'[database]\nspool = "{"a" * 300}"\n')

    finding = only(findings(here("doctor", "--json")))

    assert finding["severity"] == "error"
    assert finding["what"] == "it cannot be read: File name too long"


def test_a_spool_that_could_not_keep_anything_is_found(here: Trackside, tmp_path: Path) -> None:
    (tmp_path / "trackside.db-spool").write_text("in the way")

    finding = only(findings(here("doctor", "--json")))

    assert finding["severity"] == "error"
    assert "is no folder that can be written" in finding["what"]
    assert "database.spool" in finding["fix"]
    in_the_way = tmp_path / "trackside.db-spool"
    assert finding["fix"].endswith(f"`mv {in_the_way} {in_the_way}.old`")


@pytest.mark.parametrize(
    ("reference", "says"),
    [
        ("agents.py:ech", "agents.py has no ech (did you mean echo?)"),
        ("agent.py:echo", "there is no file agent.py"),
        ("broken.py:agent", "ZeroDivisionError: division by zero"),
        ("leaves.py:agent", "SystemExit: 3"),
        ("dies.py:agent", "the process that imported it ended with 7"),
    ],
)
def test_an_agent_that_cannot_be_loaded_is_found_whatever_its_module_does(
    here: Trackside, tmp_path: Path, reference: str, says: str
) -> None:
    (tmp_path / "broken.py").write_text("print('loud')\n1 / 0")
    (tmp_path / "leaves.py").write_text("raise SystemExit(3)")
    (tmp_path / "dies.py").write_text("import os; os._exit(7)")
    (tmp_path / "trackside.toml").write_text(f'[agents]\ngood = "agents.py:echo"\nbad = "{reference}"\n')

    finding = only(findings(here("doctor", "--json")))

    assert (finding["severity"], finding["where"]) == ("error", "trackside.toml, agents.bad")
    assert finding["what"].startswith(f"{reference} cannot be loaded: ")
    assert says in finding["what"]


def test_code_is_not_blamed_for_a_database_that_only_a_flag_says(here: Trackside, tmp_path: Path) -> None:
    toml = '[agents]\necho = "agents.py:echo"\n[runs]\nredact = "agents.py:hide"\n[engine]\nurl = "postgres"\n'
    (tmp_path / "trackside.toml").write_text(toml)

    (found,) = findings(here("doctor", "--json", "-d", "postgresql://me:secret@127.0.0.1:1/runs"))

    assert "127.0.0.1:1" in found["where"]


def test_a_redaction_hook_that_cannot_be_loaded_is_found(here: Trackside) -> None:
    finding = only(findings(here("doctor", "--json", TRACKSIDE_RUNS_REDACT="agents.py:echo")))

    assert finding["where"] == "TRACKSIDE_RUNS_REDACT, runs.redact"
    assert "is asynchronous" in finding["what"]
    assert finding["fix"].endswith("`trackside serve AGENT --check`")


@pytest.mark.parametrize(
    ("table", "key", "says"),
    [
        ('auth = "nosuch.py:f"', "auth", "there is no file nosuch.py"),
        ('auth = "broken.py:f"', "auth", "ZeroDivisionError: division by zero"),
        ('auth = "jwt"', "jwt_", "set either jwt_key or jwt_jwks"),
        ('auth = "jwt"\njwt_key = "env:NOPE"', "jwt_key", "the environment has no variable NOPE"),
        ('auth = "jwt"\njwt_key = "short"', "jwt_key", ""),
        ('auth = "jwt"\njwt_key = "@"\njwt_algorithms = ["none"]', "jwt_algorithms", "none"),
        ('auth = "jwt"\njwt_key = "@"\njwt_algorithms = ["RS256"]', "jwt_", ""),
        ('auth = "jwt"\njwt_jwks = "https://example.org/keys"', "jwt_", ""),
        ('jwt_key = "@"', "jwt_key", "it has no effect without"),
        ('app = "agents.py:nosuch"', "app", "agents.py has no nosuch"),
        ('app = "dies.py:app"', "app", "the process that imported it ended with 7"),
        ('app = "web.py:app"', "app", "its middleware cannot be made: TypeError: "),
        ('webhook_secret = "abc"', "webhook_secret", "its Base64 stands for 2 bytes"),
        ('host = "0.0.0.0"', "host", "has no authentication"),
    ],
)
def test_what_keeps_a_server_from_starting_is_found(
    here: Trackside, tmp_path: Path, table: str, key: str, says: str
) -> None:
    (tmp_path / "broken.py").write_text("print('loud')\n1 / 0")
    (tmp_path / "dies.py").write_text("import os; os._exit(7)")
    (tmp_path / "web.py").write_text(
        "from starlette.applications import Starlette\n"
        "from starlette.middleware import Middleware\n"
        "app = Starlette(middleware=[Middleware(dict, 1, 2)])\n"
    )
    table = table.replace("@", "s" * 64)
    (tmp_path / "trackside.toml").write_text(f'[agents]\necho = "agents.py:echo"\n[server]\n{table}\n')

    finding = only(findings(here("doctor", "--json")))

    assert finding["severity"] == "error"
    assert f"server.{key}" in finding["where"]
    assert says in finding["what"]
    assert finding["fix"].endswith("`trackside serve --check`")
    if "dies.py" not in table:  # which would end this process
        assert here("serve", "--check").returncode == 2


def test_a_server_that_asks_for_keys_and_has_none_is_found(here: Trackside, tmp_path: Path) -> None:
    (tmp_path / "trackside.toml").write_text('[agents]\necho = "agents.py:echo"\n[server]\nauth = "keys"\n')
    before = only(findings(here("doctor", "--json")))
    here("run", "echo", "hello")

    finding = only(findings(here("doctor", "--json")))
    assert finding == before
    assert (finding["severity"], finding["where"]) == ("warning", "trackside.toml, server.auth")
    assert finding["what"] == "no API key is valid here, so nobody is let in"
    here("auth", "create", "laptop")
    assert here("doctor").stdout == "All is well.\n"


def test_tables_of_another_version_are_found(here: Trackside, tmp_path: Path) -> None:
    here("run", "agents.py:echo", "hello")
    change(tmp_path, "UPDATE alembic_version SET version_num = '0001'")
    older = only(findings(here("doctor", "--json")))
    change(tmp_path, "UPDATE alembic_version SET version_num = '9999'")
    newer = only(findings(here("doctor", "--json")))

    assert (older["severity"], older["fix"]) == ("warning", "bring them up to date: `trackside db upgrade`")
    assert (newer["severity"], newer["fix"]) == ("error", "upgrade Trackside: `pip install --upgrade trackside`")


def test_a_thread_that_is_busy_with_nothing_is_found(here: Trackside, tmp_path: Path) -> None:
    here("run", "agents.py:echo", "hello", "--thread", "t-1")
    change(tmp_path, "UPDATE threads SET status = 'busy'")

    finding = only(findings(here("doctor", "--json")))
    here("run", "agents.py:echo", "hello", "--thread", "t-1")

    assert (finding["where"], finding["what"]) == ("thread t-1", "it is busy, but no run of it goes on")
    assert here("doctor").returncode == 0, "what it said to do helps"


def test_a_file_that_is_damaged_or_no_database_is_found(here: Trackside, tmp_path: Path) -> None:
    for number in range(20):
        here("run", "agents.py:echo", "hello" * 500, "--thread", f"t-{number}")
    file = tmp_path / "trackside.db"
    with closing(sqlite3.connect(file)) as database:
        database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        (page,) = database.execute("SELECT rootpage FROM sqlite_master WHERE name = 'ix_runs_agent'").fetchone()
    content = bytearray(file.read_bytes())
    content[(page - 1) * 4096 + 100 : page * 4096] = b"\xff" * 3996
    file.write_bytes(content)
    damaged = here("doctor", "--json")
    file.write_text("no database at all, but a text that is longer than a header of SQLite" * 10)
    other = only(findings(here("doctor", "--json")))

    assert damaged.returncode == 1
    assert "error" in {json.loads(line)["severity"] for line in damaged.stdout.splitlines()}
    assert other["severity"] == "error"
    assert "is not an SQLite database" in other["what"]


def test_a_person_is_shown_what_to_do(here: Trackside, tmp_path: Path) -> None:
    (tmp_path / "trackside.toml").write_text('[agents]\nbad = "nowhere.py:agent"\n')

    lines = here("doctor").stdout.splitlines()

    assert lines[0].startswith(
        "✗ error    trackside.toml, agents.bad: nowhere.py:agent cannot be loaded: there is no file"
    )
    assert lines[1].strip().startswith("correct the reference or the module")


def test_a_mistake_in_the_settings_is_a_usage_error(here: Trackside, tmp_path: Path) -> None:
    (tmp_path / "trackside.toml").write_text("[runs]\nmax_runing = 3\n")

    assert here("doctor").returncode == 2


def test_each_command_that_is_told_is_about_the_database_that_was_typed(here: Trackside, tmp_path: Path) -> None:
    (tmp_path / "trackside.toml").write_text('[agents]\necho = "agents.py:ech"\n[server]\napp = "agents.py:no"\n')
    (tmp_path / "folder.db").mkdir()

    for name in ("folder", "new"):
        other = f" --database sqlite:///{name}.db"
        found = findings(here("doctor", "--json", *other.split()))
        told = re.findall("`(trackside [^`]*)`", "".join(finding["what"] + finding["fix"] for finding in found))

        assert len(told) == 3
        assert [command for command in told if not command.endswith(other)] == []
