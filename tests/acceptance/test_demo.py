"""`./scripts/demo` as a user types it; what it did is read from its database with plain sqlite3."""

import json
import os
import re
import shlex
import signal
import sqlite3
import subprocess
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

import pytest
from blockbuster import BlockBuster
from demo.command import main

ROOT = Path(__file__).parents[2]
MINUTES = 60  # seconds


@dataclass(frozen=True)
class Demo:
    """A demo that has run to its end."""

    exit_code: int
    output: str
    complaints: str
    database: Path

    def rows(self, query: str) -> list[sqlite3.Row]:
        with closing(sqlite3.connect(f"file:{self.database}?mode=ro", uri=True)) as connection:
            connection.row_factory = sqlite3.Row
            return connection.execute(query).fetchall()

    def payloads(self, where: str) -> list[Any]:
        return [json.loads(row["payload"]) for row in self.rows(f"SELECT payload FROM events WHERE {where}")]

    def human_messages(self, run_id: str = "%") -> list[str]:
        said = self.payloads(f"event_type = 'human_message' AND run_id LIKE '{run_id}' ORDER BY position")
        return [payload["message"]["content"] for payload in said]

    def answers(self, agent: str) -> list[str]:
        ended = self.rows(f"SELECT completion_data FROM runs WHERE status = 'success' AND agent = '{agent}'")
        return [json.loads(row["completion_data"])["last_ai_message"] for row in ended]

    @property
    def said(self) -> str:
        """What it printed, without borders and line breaks."""
        return " ".join(self.output.replace("│", " ").split())


def environment() -> dict[str, str]:
    """The environment of a user who has no model: 100 columns, no colour."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("OPENAI_", "LANGSMITH_"))}
    return kept | {"COLUMNS": "100", "NO_COLOR": "1"}


def run_demo(folder: Path, *arguments: str, cwd: Path = ROOT) -> Demo:
    database = folder / "demo.db"
    done = subprocess.run(
        [ROOT / "scripts" / "demo", "--database", f"sqlite:///{database}", *arguments],
        cwd=cwd,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=5 * MINUTES,
        check=False,
    )
    return Demo(done.returncode, done.stdout, done.stderr, database)


@pytest.fixture
def demo_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], blockbuster: BlockBuster
) -> Callable[..., Demo]:
    """Runs a demo in this process: its start takes seconds, most of the time of one that refuses its arguments."""
    blockbuster.deactivate()
    monkeypatch.setenv("COLUMNS", "100")

    def run(*arguments: str) -> Demo:
        database = tmp_path / "demo.db"
        monkeypatch.setattr("sys.argv", ["demo", "--database", f"sqlite:///{database}", *arguments])
        code = main()
        shown = capsys.readouterr()
        return Demo(code, shown.out, shown.err, database)

    return run


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Demo:
    return run_demo(tmp_path_factory.mktemp("demo"))


def test_it_succeeds_and_has_nothing_to_complain_about(demo: Demo) -> None:
    assert (demo.exit_code, demo.complaints) == (0, "")


def test_all_six_kinds_of_event_happen(demo: Demo) -> None:
    assert {row["event_type"] for row in demo.rows("SELECT DISTINCT event_type FROM events")} == {
        "run_started",
        "run_completed",
        "run_failed",
        "run_cancelled",
        "human_message",
        "thread_status_updated",
    }


def test_every_run_has_one_end_and_counts_its_events_without_a_gap(demo: Demo) -> None:
    sequences: dict[str, list[int]] = defaultdict(list)
    ends: dict[str, int] = defaultdict(int)
    for row in demo.rows("SELECT run_id, sequence, event_type FROM events ORDER BY position"):
        sequences[row["run_id"]].append(row["sequence"])
        ends[row["run_id"]] += row["event_type"] in {"run_completed", "run_failed", "run_cancelled"}
    assert len(sequences) == len(demo.rows("SELECT run_id FROM runs")) == 11
    assert all(sequence == list(range(1, len(sequence) + 1)) for sequence in sequences.values())
    assert set(ends.values()) == {1}


def test_positions_have_no_gap(demo: Demo) -> None:
    positions = [row["position"] for row in demo.rows("SELECT position FROM events ORDER BY position")]
    assert positions == list(range(1, len(positions) + 1))


def test_runs_end_in_every_way_there_is(demo: Demo) -> None:
    statuses = Counter(row["status"] for row in demo.rows("SELECT status FROM runs"))
    assert statuses == {"cancelled": 1, "error": 1, "interrupted": 3, "success": 5, "timeout": 1}


def test_agents_of_three_frameworks_run_beside_each_other(demo: Demo) -> None:
    runs = demo.rows("SELECT agent, count(*) AS runs, count(DISTINCT thread_id) AS threads FROM runs GROUP BY agent")
    assert {row["agent"]: (row["runs"], row["threads"]) for row in runs} == {
        "research": (7, 3),
        "support": (2, 1),
        "expenses": (2, 1),
    }


def test_five_threads_work_at_the_same_time(demo: Demo) -> None:
    runs = demo.rows("SELECT thread_id, min(started_at) AS began, max(ended_at) AS ended FROM runs GROUP BY thread_id")
    assert len(runs) == 5
    assert max(run["began"] for run in runs) < min(run["ended"] for run in runs)


@pytest.mark.parametrize(
    ("agent", "asked", "said"),
    [
        ("research", ["Shall I search for"], ["yes"]),
        (
            "support",
            [{"tool": "refund", "arguments": {"number": "1003", "amount": 24.5}, "agent": "Refunds"}],
            ["true"],
        ),
        (
            "expenses",
            [
                {"what": "hotel in Rome", "euros": "220.80", "limit": "180"},
                {"what": "dinner", "euros": "96.00", "limit": "60"},
            ],
            ["true", '{"approved": false, "message": "Not for one person."}'],
        ),
    ],
)
def test_what_a_human_is_asked_is_answered_by_another_run_of_the_thread(
    demo: Demo, agent: str, asked: list[Any], said: list[str]
) -> None:
    (paused,) = demo.rows(f"SELECT * FROM runs WHERE status = 'interrupted' AND agent = '{agent}'")
    first, second = demo.rows(f"SELECT * FROM runs WHERE thread_id = '{paused['thread_id']}' ORDER BY created_at")
    assert first["run_id"] == paused["run_id"]
    assert second["status"] == "success"
    assert demo.human_messages(second["run_id"]) == said
    (end,) = demo.payloads(f"event_type = 'run_completed' AND run_id = '{first['run_id']}'")
    questions = [interrupt["value"] for interrupt in end["interrupts"]]
    assert [_essence(question) for question in questions] == asked


def _essence(question: Any) -> Any:
    """The beginning of a question in words; for an exception to the limits, what it is for."""
    if isinstance(question, str):
        return question[:18]
    return question["arguments"] if question["tool"] == "grant_exception" else question


def test_the_customer_is_handed_over_and_gets_the_money_back(demo: Demo) -> None:
    callers = demo.rows("SELECT name FROM usage JOIN runs USING (run_id) WHERE kind = 'caller' AND agent = 'support'")
    assert {row["name"] for row in callers} == {"lead_agent", "Refunds"}
    assert "Front desk → transfer_to_refunds" in demo.said
    (answer,) = demo.answers("support")
    assert answer.startswith("Done: 24.50 € are on their way back to you.")
    assert answer in demo.said


def test_the_report_on_expenses_is_shown_as_a_table(demo: Demo) -> None:
    rows = [" ".join(line.strip("│ ").split()) for line in demo.output.splitlines()]
    report = rows[rows.index("what category euros paid remark") :]
    assert report[1] == "Taxi transport 38.50 True"
    assert report[2].startswith("hotel in Rome lodging 220.80 True hotel in Rome: 220.80 EUR granted")
    assert "dinner meals 96.00 False Not for one person." in report
    assert "total: 259.30" in report


def test_the_failed_run_names_the_document_that_nobody_can_read(demo: Demo) -> None:
    (failed,) = demo.rows("SELECT * FROM runs WHERE status = 'error'")
    assert failed["error_type"].endswith("DocumentError")
    assert re.search(r"/alembic\.md is not UTF-8 text", failed["error"])
    assert not Path(failed["error"].partition("/alembic.md")[0]).exists(), "the demo cleans up after itself"


def test_no_tokens_are_counted_where_no_model_was_asked(demo: Demo) -> None:
    used = demo.rows(
        "SELECT agent, sum(total_input_tokens + total_output_tokens) AS tokens, sum(llm_call_count) AS calls"
        " FROM runs GROUP BY agent"
    )
    calls = {row["agent"]: row["calls"] for row in used}
    tokens = {row["agent"]: row["tokens"] for row in used}
    assert calls == {"research": 0, "support": 4, "expenses": 6}
    assert (tokens["research"], tokens["support"]) == (0, 0)
    assert tokens["expenses"] > 0, "Pydantic AI estimates them"
    assert "Pydantic AI estimates" in demo.said


def test_answers_cite_packages_that_are_installed(demo: Demo) -> None:
    answers = demo.answers("research")
    assert len(answers) == 3
    installed = {f"{package.metadata['Name']} {package.version}" for package in distributions()}
    for answer in answers:
        cited = re.findall(r"^\*\*(.+?)\*\* – ", answer, re.MULTILINE)
        assert cited
        assert set(cited) <= installed


def test_what_it_prints_is_what_the_database_has(demo: Demo) -> None:
    for kind, number in demo.rows("SELECT event_type, count(*) FROM events GROUP BY event_type"):
        assert f"{number} {kind}" in demo.said
    for message in demo.human_messages():
        assert message in demo.said


def printed_commands(output: str) -> Iterator[list[str]]:
    for line in output.splitlines():
        if line.startswith(".venv/bin/trackside "):
            yield shlex.split(line)


def test_the_commands_at_its_end_work_when_pasted(
    demo: Demo, trackside: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    shown: dict[str, list[Any]] = {}
    for command in printed_commands(demo.output):
        done = subprocess.run(command, cwd=ROOT, env=environment(), capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr) == (0, ""), command
        as_json = trackside(*command[1:], "--json")
        assert (as_json.returncode, as_json.stderr) == (0, ""), command
        shown[command[1]] = [json.loads(line) for line in as_json.stdout.splitlines()]
    assert set(shown) == {"runs", "threads", "events", "stats"}
    assert len(shown["runs"]) == 11
    assert len(shown["events"]) == 11


def test_a_folder_of_ones_own_is_searched_for_ones_own_question(tmp_path: Path) -> None:
    docs = tmp_path / "docs"
    docs.mkdir()
    (docs / "wheels.md").write_text("# Wheels\n\nA wheel turns because somebody pushes it.\n", encoding="utf-8")
    demo = run_demo(tmp_path, "--docs", "docs", "Why does a wheel turn?", cwd=tmp_path)
    assert (demo.exit_code, demo.complaints) == (0, "")
    assert "A wheel turns because somebody pushes it. [1]" in demo.output
    assert "[1] wheels.md, “Wheels”" in demo.output


def test_without_a_question_it_asks_what_the_folder_says_most_about(
    tmp_path: Path, demo_here: Callable[..., Demo]
) -> None:
    text = "# Wheels\n\nA wheel turns because somebody pushes it. It stops when nobody does.\n"
    (tmp_path / "wheels.md").write_text(text, encoding="utf-8")
    demo = demo_here("--docs", str(tmp_path))
    assert (demo.exit_code, demo.complaints) == (0, "")
    assert "What about Wheels?" in demo.output
    assert "A wheel turns because somebody pushes it. [1]" in demo.output


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--docs", "/nowhere"], "/nowhere is not a folder"),
        (["--database", "trackside.db"], "a file is written sqlite:///trackside.db"),
        (["--database", "sqlite:////nowhere/demo.db"], "/nowhere"),
        (["what is it"], "nothing to search for in 'what is it'"),
    ],
)
def test_bad_input_is_one_clear_line(demo_here: Callable[..., Demo], arguments: list[str], said: str) -> None:
    complains(demo_here(*arguments), said)


def test_what_it_does_not_know_is_one_clear_line(tmp_path: Path) -> None:
    complains(run_demo(tmp_path, "--frobnicate"), "--help lists the options")


def complains(demo: Demo, said: str) -> None:
    assert demo.exit_code == 2
    assert demo.output == ""
    assert demo.complaints.startswith("demo: ")
    assert said in demo.complaints
    assert demo.complaints.count("\n") == 1


def test_a_document_that_cannot_be_read_is_named_before_anything_runs(
    tmp_path: Path, demo_here: Callable[..., Demo]
) -> None:
    (tmp_path / "letter.md").write_bytes("Grüße".encode("latin-1"))
    demo = demo_here("--docs", str(tmp_path))
    assert demo.exit_code == 2
    assert "letter.md is not UTF-8 text (byte 0xfc at 2)" in demo.complaints
    assert not demo.database.exists()


def test_ctrl_c_ends_every_run_and_says_so(tmp_path: Path) -> None:
    database = tmp_path / "demo.db"
    with subprocess.Popen(
        ["./scripts/demo", "--database", f"sqlite:///{database}"],
        cwd=ROOT,
        env=environment() | {"PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert any("desk lamp" in line for line in process.stdout)
        process.send_signal(signal.SIGINT)
        output, complaints = process.communicate(timeout=MINUTES)
    demo = Demo(process.returncode, output, complaints, database)
    # On a slow machine the loop's watchdog may have written something first.
    own = [line for line in demo.complaints.splitlines() if line.startswith("demo:")]
    assert (demo.exit_code, own, demo.complaints.endswith("demo: stopped\n")) == (130, ["demo: stopped"], True)
    assert "Traceback" not in demo.complaints
    statuses = {row["status"] for row in demo.rows("SELECT status FROM runs")}
    assert "cancelled" in statuses
    assert statuses.isdisjoint({"pending", "running"})
