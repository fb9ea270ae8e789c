"""Whatever is wrong with the command line: one clear line says what and how to fix it, with the right exit code."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

Trackside = Callable[..., "subprocess.CompletedProcess[str]"]

AGENTS = """
from os.path import join
from json import JSONDecoder

async def graph(input): return input
async def echo(input): return input
def _private(input): ...
def _make(): return echo
number = 3
decoder = JSONDecoder
"""


@pytest.fixture(autouse=True)
def agents(tmp_path: Path) -> None:
    (tmp_path / "agents.py").write_text(AGENTS)


def the_one_line(done: subprocess.CompletedProcess[str], code: int = 2) -> str:
    """The single line on standard error, with nothing on standard output."""
    assert done.returncode == code, done.stderr
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: ")
    return line.removeprefix("error: ")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["run", "agnts.py:graph"], "agnts.py:graph is no agent: there is no file agnts.py (did you mean agents.py?)."),
        (["run", "lib/agents.py:graph"], "lib/agents.py:graph is no agent: there is no folder lib."),
        (["run", f"{'a' * 300}.py:graph"], "aaa.py cannot be looked at: File name too long."),
        (["run", "nosuch.part:graph"], "there is no module nosuch, neither in this folder nor installed."),
        (
            ["run", "agent:graph"],
            "there is no module agent, neither in this folder nor installed (did you mean agents?).",
        ),
        (["run", "agents.py:grph"], "agents.py has no grph (did you mean graph?); it has graph, echo."),
        (["run", "agents:missing"], "agents has no missing; it has graph, echo."),
        (["run", "agents.py"], "say which object in it is meant, as agents.py:NAME; it has graph, echo."),
        (["run", "agents.py:"], "write path/file.py:name or package.module:name"),
        (["run", "chat"], "or name it in trackside.toml under [agents]."),
        (
            ["run", "agents.py:number"],
            "agents.py:number is no agent: it is an int (3); point at a function of the input",
        ),
        (["run", "agents.py:_make"], "if it makes an agent, point at what it returns."),
        (["run", "agents.py:decoder"], "it is a class; pass an instance of it"),
        (["run", "agents.py:graph", '{"question": }'], "INPUT: it is not valid JSON: Expecting value"),
        (["run", "agents.py:graph", "@question.txt"], "INPUT: question.txt cannot be read: No such file or directory."),
        (
            ["run", "agents.py:graph", "x", "--timeout", "soon"],
            "--timeout: 'soon' is not a length of time; write 90, 30s",
        ),
        (["run", "agents.py:graph", "x", "--metadata", "team"], "--metadata: 'team' is not of the form key=value."),
        (["run", "agents.py:graph", "x", "--stream", "all"], "'all' is not one of 'values', 'updates'"),
        (["run", "agents.py:graph", "x", "--json", "--stream", "values"], "--stream: --json prints events alone"),
        (["run", "agents.py:graph", "x", "--databse", "y"], "No such option: --databse"),
        (
            ["run", "agents.py:graph", "x", "-d", "runs.db"],
            "--database: 'runs.db' is not a database URL; a file is written",
        ),
        (["run", "agents.py:graph", "x", "-d", "sqlite:///no/runs.db"], "--database: There is no folder no"),
        (["run"], "Missing argument 'AGENT' (see `trackside run --help`)"),
        (["rnu"], "No such command 'rnu'"),
        (["runs"], "nothing recorded at sqlite:///trackside.db yet; `trackside run AGENT INPUT` makes it."),
        (["threads"], "nothing recorded at sqlite:///trackside.db yet"),
        (["events"], "nothing recorded at sqlite:///trackside.db yet"),
        (["stats"], "nothing recorded at sqlite:///trackside.db yet"),
        (["resume", "t-1", "yes"], "nothing recorded at sqlite:///trackside.db yet"),
        (["runs", "--since", "yesterday"], "--since: 'yesterday' is not a time; write 2h, 3d, 2026-01-31"),
        (["runs", "--status", "done"], "'done' is not one of 'pending', 'running', 'success'"),
        (["runs", "--status", "done"], "'cancelled'; did you mean 'success'? (see"),
        (["runs", "--status", "failed"], "; did you mean 'error'? (see"),
        (["events", "--type", "failed"], "; did you mean 'run_failed'? (see"),
        (["runs", "--status", "waiting"], "; did you mean 'interrupted'? (see"),
        (["threads", "--status", "intrrupted"], "; did you mean 'interrupted'? (see"),
        (["runs", "--status", "zzz"], "'interrupted', 'cancelled' (see"),
        (["tail", "--agent", "a", "--agent", "b"], "--agent takes one value, and was typed 2 times (see"),
        (["runs", "-n", "1", "--limit", "2"], "--limit takes one value, and was typed 2 times (see"),
        (["auth", "create", "x", "--owner", "a", "--owner=b"], "--owner takes one value, and was typed 2 times"),
        (["events", "--type", "started"], "'started' is not one of 'run_started'"),
        (["run", "", "x"], "AGENT is empty; write path/file.py:name or package.module:name."),
        (["run", "agents.py:graph", "@"], "INPUT: @ needs the name of a file."),
        (["run", "agents.py:graph", "[URGENT] x"], "and so is a text in double quotes."),
        (["runs", "--limit", "abc"], "'abc' is not a whole number"),
        (["runs", "--limit", "9" * 40], "'--limit' / '-n': it is too large"),
        (["runs", "--limit", "0"], "'0' is not a whole number from 1 up (see"),
    ],
    ids=lambda value: " ".join(value)[:40] if isinstance(value, list) else "",
)
def test_a_mistake_is_answered_in_one_line(here: Trackside, tmp_path: Path, arguments: list[str], says: str) -> None:
    said = the_one_line(here(*arguments))

    assert says in said
    assert "secret" not in said
    assert not list(tmp_path.glob("*.db*")), "nothing was made by a command that did nothing"


def test_a_server_that_is_away_is_named_without_the_password(here: Trackside) -> None:
    said = the_one_line(here("runs", "-d", "postgresql://me:secret@localhost:1/x"))

    assert said.startswith("--database: The server of postgresql://me@localhost:1/x cannot be reached")
    assert "secret" not in said


def test_a_module_that_does_not_import_shows_its_own_traceback_and_nothing_of_ours(
    trackside: Trackside, tmp_path: Path
) -> None:
    (tmp_path / "broken.py").write_text("import json\nimport no_such_package\n")
    (tmp_path / "outer.py").write_text("import broken\n")

    for reference in ("outer.py:graph", "outer:graph"):
        done = trackside("run", reference, "hello")

        *traceback, line = done.stderr.splitlines()
        assert done.returncode == 2
        assert line.startswith(f"error: {reference} cannot be loaded: importing outer")
        assert line.endswith("raised ModuleNotFoundError: No module named 'no_such_package'. [agent-import]")
        frames = [text.split('"')[1] for text in traceback if text.startswith("  File ")]
        assert frames == [str(tmp_path / "outer.py"), str(tmp_path / "broken.py")]


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ("def graph(:\n", "SyntaxError: invalid syntax (broken.py, line 1)"),
        ("import sys; sys.exit(3)\n", "SystemExit: 3"),
        (
            "import sys; sys.modules['langgraph'] = None; import langgraph\n",
            "ModuleNotFoundError: import of langgraph halted; None in sys.modules; pip install 'trackside[langgraph]'",
        ),
        (
            "import sys; sys.modules['pydantic_ai'] = None; import pydantic_ai\n",
            "ModuleNotFoundError: import of pydantic_ai halted; None in sys.modules; pip install 'trackside[pydantic-ai]'",
        ),
        (
            "import sys; sys.modules['agents'] = None; import agents\n",
            "ModuleNotFoundError: import of agents halted; None in sys.modules; pip install 'trackside[openai-agents]'",
        ),
        ("raise ValueError('two\\nlines')\n", "ValueError: two lines"),
    ],
)
def test_a_module_may_fail_in_any_way(trackside: Trackside, tmp_path: Path, source: str, says: str) -> None:
    (tmp_path / "broken.py").write_text(source)
    (tmp_path / "agents.py").unlink()  # which would hide the package of that name

    done = trackside("run", "broken.py:graph", "hello")

    assert done.returncode == 2
    assert done.stderr.startswith("Traceback (most recent call last):\n  File ")
    assert done.stderr.count("File ") == 1
    assert f"error: broken.py:graph cannot be loaded: importing broken.py raised {says}." in done.stderr


@pytest.mark.parametrize(
    ("raises", "says"),
    [
        ("BrokenPipeError(32, 'Broken pipe')", "BrokenPipeError: [Errno 32] Broken pipe"),
        ("OSError(28, 'No space left on device')", "OSError: [Errno 28] No space left on device"),
        ("SystemExit(3)", "SystemExit: 3"),
        ("LookupError('no such thing')", "LookupError: no such thing"),
    ],
)
def test_an_object_that_cannot_be_looked_at_is_no_agent(
    here: Trackside, tmp_path: Path, raises: str, says: str
) -> None:
    (tmp_path / "odd.py").write_text(f"class Odd:\n    def __getattr__(self, name): raise {raises}\n\nodd = Odd()\n")

    assert the_one_line(here("run", "odd.py:odd", "hello"), 2) == (
        f"odd.py:odd is no agent: looking at it raised {says}. [agent-reference]"
    )
    assert "odd.py has no agent; nothing in it can be run" in the_one_line(here("run", "odd.py:agent", "hello"), 2)


def test_a_wrong_setting_names_its_file_and_key(here: Trackside, tmp_path: Path) -> None:
    settings = tmp_path / "trackside.toml"

    settings.write_text('[database]\nulr = "sqlite:///x.db"\n')
    assert (
        the_one_line(here("runs")) == "trackside.toml: unknown key database.ulr; did you mean database.url? [settings]"
    )
    settings.write_text('[database]\nurl = "sqlite:///no/x.db"\n')
    assert the_one_line(here("runs")).startswith("trackside.toml, database.url: There is no folder no")
    settings.write_text('[agents]\nchat = "agents.py:grph"\n')
    assert the_one_line(here("run", "chat")).startswith("agents.chat = agents.py:grph is no agent: agents.py has no")
    assert the_one_line(here("run", "chta")).startswith("chta is no agent: it is not among the configured names")
    settings.unlink()
    said = the_one_line(here("runs", TRACKSIDE_DATABASE="sqlite:///x.db"))
    assert said.startswith("TRACKSIDE_DATABASE: there is no such setting; did you mean TRACKSIDE_DATABASE_URL?")


def test_a_file_that_is_no_database_or_another_programs_stays_as_it_is(here: Trackside, tmp_path: Path) -> None:
    notes, foreign = tmp_path / "notes.db", tmp_path / "foreign.db"
    notes.write_text("My notes, which are no database, but longer than a header. " * 10)
    with closing(sqlite3.connect(foreign)) as connection, connection:
        connection.execute("CREATE TABLE invoices (number)")
    before = notes.read_bytes(), foreign.read_bytes()

    for command in (["run", "agents.py:graph", "x"], ["runs"]):
        assert "is not an SQLite database and stays as it is" in the_one_line(
            here(*command, "-d", "sqlite:///notes.db")
        )
        assert "is a database of another program and stays as it is" in the_one_line(
            here(*command, "-d", "sqlite:///foreign.db")
        )
    assert (notes.read_bytes(), foreign.read_bytes()) == before


def test_a_database_of_a_newer_version_says_to_upgrade(here: Trackside, tmp_path: Path) -> None:
    assert here("run", "agents.py:graph", "x").returncode == 0
    with closing(sqlite3.connect(tmp_path / "trackside.db")) as connection, connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")

    for command in (["run", "agents.py:graph", "x"], ["runs"]):
        said = the_one_line(here(*command))
        assert "was written by a newer version of Trackside (schema 9999" in said
        assert "upgrade Trackside" in said


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs a folder in which nobody can write, not even root")
def test_a_read_only_folder_is_named(here: Trackside) -> None:
    said = the_one_line(here("run", "agents.py:graph", "x", "-d", "sqlite:////proc/self/runs.db"))

    assert said.startswith("--database: The database /proc/self/runs.db cannot be written")


def damage(path: Path) -> None:
    """Scramble the first page of each table and index, as a bad disk might, but not what says that they exist."""
    with closing(sqlite3.connect(path)) as database:
        (size,) = database.execute("PRAGMA page_size").fetchone()
        of_the_schema = database.execute("SELECT rootpage FROM sqlite_master WHERE tbl_name = 'alembic_version'")
        spared = {1, *(page for (page,) in of_the_schema)}
        pages = {page for (page,) in database.execute("SELECT rootpage FROM sqlite_master WHERE rootpage > 1")} - spared
    content = bytearray(path.read_bytes())
    for page in pages:
        place = slice((page - 1) * size, page * size)
        content[place] = bytes(byte ^ 0x5A for byte in content[place])
    path.write_bytes(content)


@pytest.mark.parametrize("options", [[], ["--json"]], ids=["rows", "json"])
def test_a_run_that_cannot_be_recorded_is_not_started_and_says_so_in_one_line(
    trackside: Trackside, tmp_path: Path, options: list[str]
) -> None:
    trackside("run", "agents.py:echo", "x")
    damage(tmp_path / "trackside.db")

    said = the_one_line(trackside("run", "agents.py:echo", "x", *options), 1)

    assert said.startswith("the run was not started, because it could not be recorded: the database trackside.db is")
    assert "damaged" in said


def test_what_goes_on_inside_is_logged_only_when_asked_for(trackside: Trackside, tmp_path: Path) -> None:
    trackside("run", "agents.py:echo", "x")
    damage(tmp_path / "trackside.db")

    said = trackside("run", "agents.py:echo", "x", TRACKSIDE_DEBUG="1").stderr

    assert "trackside.db is damaged" in said.partition("error:")[0]


def test_an_id_that_fits_nothing_or_more_than_one_says_so(here: Trackside) -> None:
    for thread in ("alpha-1", "alpha-2", "beta"):
        assert here("run", "agents.py:graph", "x", "--thread", thread).returncode == 0

    assert "No thread here has an id that begins with 'gamma'" in the_one_line(here("threads", "gamma"))
    ambiguous = the_one_line(here("threads", "alpha"))
    assert ambiguous.startswith("'alpha' is the beginning of the ids of more than one thread: alpha-2, alpha-1;")
    assert here("threads", "be").returncode == 0
    assert the_one_line(here("runs", "\udcff")).startswith("'\\udcff': it is a text, without half characters")
    assert "Thread 'beta' does not wait for an answer, it is idle" in the_one_line(here("resume", "beta", "yes"))


def test_a_bug_of_ours_is_called_one_and_shows_where_only_when_asked(trackside: Trackside) -> None:
    # No command is prepared for a working directory that is gone.
    gone = 'mkdir gone && cd gone && rmdir ../gone && exec "$0" "$@"'

    calm = trackside("runs", shell=gone)
    debug = trackside("runs", shell=gone, TRACKSIDE_DEBUG="1")

    assert the_one_line(calm, 1).startswith("this is a bug in Trackside (FileNotFoundError: ")
    assert debug.returncode == 1
    assert debug.stderr.startswith("Traceback")


def test_the_module_ends_as_the_command_does(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "trackside", "runs", "-n", "x"], cwd=tmp_path, capture_output=True, check=False
    )
    assert done.returncode == 2


@pytest.mark.parametrize("command", [("run", "INPUT"), ("serve", "--check")])
@pytest.mark.parametrize(("name", "key"), [("chat", "chat"), ("my agent", '"my agent"')])
def test_who_gives_an_agent_a_name_as_it_is_typed_is_told_what_works(
    trackside: Trackside, tmp_path: Path, command: tuple[str, str], name: str, key: str
) -> None:
    verb, rest = command
    said = the_one_line(trackside(verb, f"{name}=agents.py:echo", rest))

    line = f'{key} = "agents.py:echo"'
    assert f"is no agent: write agents.py:echo, or give it a name in trackside.toml, under [agents]: {line}." in said
    assert trackside(verb, "agents.py:echo", rest).returncode == 0
    (tmp_path / "trackside.toml").write_text(f"[agents]\n{line}\n")
    assert trackside(verb, name, rest).returncode == 0


def test_a_folder_may_have_what_looks_like_a_name_in_its_own(trackside: Trackside, tmp_path: Path) -> None:
    (tmp_path / "rate=1").mkdir()
    (tmp_path / "rate=1" / "agents.py").write_text(AGENTS)

    assert trackside("run", "rate=1/agents.py:echo", "x").returncode == 0
    assert "there is no file rate=1/agnts.py" in the_one_line(trackside("run", "rate=1/agnts.py:echo", "x"))
