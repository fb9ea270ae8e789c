"""`./scripts/demo observers` as a user types it: every receiver gets all that the log has, and nothing is left running."""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from left_processes import processes_left
from prometheus_server import NoPrometheusError, program

ROOT = Path(__file__).parents[2]
MINUTE = 60  # seconds

type Done = tuple[subprocess.CompletedProcess[str], Path]
"""A demo that has run to its end, and the folder that it had for temporary files."""


def environment(folder: Path, **others: str) -> dict[str, str]:
    """The environment of a user without a home: 100 columns, no colour, a private folder for temporary files."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("OPENAI_", "LANGSMITH_"))}
    here = {"COLUMNS": "100", "NO_COLOR": "1", "TMPDIR": str(folder), "PYTHONUNBUFFERED": "1"}
    return kept | here | {"HOME": str(folder / "home")} | others


def checks(output: str) -> dict[str, tuple[str, str, str]]:
    """What it says of each receiver at the end: whether it got all, how many, and how many it should have got."""
    lines = output.partition("What the log has, and what arrived")[2].splitlines()
    found = (re.match(r"(✓|✗)  (\w+) +(\d+) of (\d+) ", line) for line in lines)
    return {line[2]: (line[1], line[3], line[4]) for line in found if line is not None}


def broker_at(port: str) -> str | None:
    """The id of the NATS server there, which greets every client; another server may have the port by now."""
    try:
        with socket.create_connection(("127.0.0.1", int(port)), timeout=5) as probe:
            greeting = probe.makefile("rb").readline().decode()
    except OSError:
        return None
    found = re.search(r'"server_id":"(\w+)"', greeting)
    return None if found is None else found[1]


@contextmanager
def demo_without_prometheus(folder: Path, *options: str) -> Iterator[subprocess.Popen[str]]:
    """The demo where there is neither a Prometheus nor a way to fetch one."""
    for name in ("examples", "tests/servers"):
        shutil.copytree(ROOT / name, folder / "copy" / name, ignore=shutil.ignore_patterns("__pycache__", ".*"))
    tools = folder / "bin"
    tools.mkdir()
    (tools / "rm").symlink_to(shutil.which("rm") or "/bin/rm")
    temporary = folder / "temporary"
    temporary.mkdir()
    paths = f"{folder}/copy/examples:{folder}/copy/tests/servers"
    with subprocess.Popen(
        [sys.executable, "-P", "-m", "demo", "observers", *options],
        cwd=folder,
        env=environment(temporary, PATH=str(tools), PYTHONPATH=paths),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Done:
    """The demo with a Prometheus."""
    try:
        program("prometheus")
    except NoPrometheusError as exc:
        pytest.skip(str(exc))
    folder = tmp_path_factory.mktemp("demo")
    command = [ROOT / "scripts" / "demo", "observers"]
    where = environment(folder)
    return subprocess.run(command, env=where, capture_output=True, text=True, timeout=2 * MINUTE, check=False), folder


def test_everybody_gets_all_that_the_log_has(demo: Done) -> None:
    done, _ = demo
    assert (done.returncode, done.stderr) == (0, "")
    events, spans = (checks(done.stdout)[who][2] for who in ("crm", "collector"))
    assert int(events) > 50
    assert int(spans) > 1 + 11, "one of the program, one of each run, and those of calls"
    assert checks(done.stdout) == {
        "Prometheus": ("✓", "18", "18"),
        "crm": ("✓", events, events),
        "billing": ("✓", "11", "11"),
        "collector": ("✓", spans, spans),
        "NATS": ("✓", events, events),
        "mailbox": ("✓", "2", "2"),
        "log": ("✓", events, events),
    }


def test_an_endpoint_that_is_down_delays_nobody_and_gets_the_same_events_later(
    demo: Done,
) -> None:
    done, _ = demo
    events = checks(done.stdout)["crm"][2]
    assert f"crm took {events} events in {events} requests, {events} of them while billing took nothing" in done.stdout
    tried = re.findall(r"…(\w{12}) +(\d) +(hung up|500|503|200) +✓ new ✓ old", done.stdout)
    answers = [answered for _, _, answered in tried]
    assert answers[:3] == ["hung up", "500", "503"]
    assert answers.count("200") == 11
    assert answers.index("200") == len(answers) - 11, "it took nothing until it was up again"


def test_prometheus_and_the_trace_tell_what_the_runs_did(
    demo: Done,
) -> None:
    done, _ = demo
    said = " ".join(done.stdout.split())
    assert "sum by (agent, status) (trackside_runs_total) > 0" in said
    assert "research success 3" in said
    assert re.search(r"how many ran at once [1-9]", said)
    assert re.search(r"the program that asks +[\d.]+ m?s +█", done.stdout)
    assert re.search(r"├ execute_tool classify +lead_agent +\d+ ms", done.stdout)
    assert re.search(r"invoke_agent expenses +✓ expenses +↩", done.stdout)
    assert "research: error" in said, "which a mail is about"


def test_it_leaves_no_file_and_no_server(demo: Done) -> None:
    done, folder = demo
    introduction = done.stdout.partition("Runs, as the database has them")[0]
    ports = re.findall(r"127\.0\.0\.1:(\d+)", introduction)
    assert len(ports) == 7
    assert processes_left(folder) == []
    assert [path.name for path in folder.iterdir() if path.name != "home"] == []


def test_without_a_prometheus_it_says_so_and_shows_the_rest_until_ctrl_c(tmp_path: Path) -> None:
    with demo_without_prometheus(tmp_path, "--keep") as process:
        assert process.stdout is not None
        output = ""
        for line in process.stdout:
            output += line
            if "trackside stats" in line:
                break
        broker = re.findall(r"nats://127\.0\.0\.1:(\d+)", output)[0]
        server_id = broker_at(broker)
        assert server_id is not None, "it is kept until somebody ends it"
        process.send_signal(signal.SIGINT)
        rest, complaints = process.communicate(timeout=MINUTE)
    assert process.returncode == 0, rest
    assert "there is no Prometheus here, and no apt-get" in output
    assert "Prometheus" not in checks(output)
    assert {symbol for symbol, _, _ in checks(output).values()} == {"✓"}
    assert len(checks(output)) == 6
    assert broker_at(broker) != server_id
    (kept,) = (tmp_path / "temporary").glob("trackside-demo-*")
    assert {path.name for path in kept.iterdir()} >= {"trackside.toml", "runs.db", "log.jsonl"}
    assert complaints.count("\n") <= 1, complaints


def test_ctrl_c_while_agents_run_leaves_nothing_behind(tmp_path: Path) -> None:
    with demo_without_prometheus(tmp_path) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith("log "):
                break
        process.send_signal(signal.SIGINT)
        _, complaints = process.communicate(timeout=MINUTE)
    assert process.returncode == 130, complaints
    assert complaints.splitlines()[-1] == "demo: stopped"
    assert processes_left(tmp_path / "temporary") == []
    assert [path.name for path in (tmp_path / "temporary").iterdir() if path.name != "home"] == []


def test_help_tells_of_both_demos() -> None:
    done = subprocess.run([ROOT / "scripts" / "demo", "--help"], capture_output=True, text=True, check=True)
    assert "./scripts/demo observers" in done.stdout
    assert "--database" in done.stdout
