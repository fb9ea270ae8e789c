"""`./scripts/demo` as a user types it; what it did is read from its database with plain sqlite3."""

import json
import os
import re
import shlex
import sqlite3
import subprocess
from collections import defaultdict
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
MINUTES = 60  # seconds


@dataclass(frozen=True)
class Demo:
    """A demo that was run to its end."""

    exit_code: int
    output: str
    complaints: str
    database: Path

    def rows(self, query: str) -> list[sqlite3.Row]:
        with closing(sqlite3.connect(f"file:{self.database}?mode=ro", uri=True)) as connection:
            connection.row_factory = sqlite3.Row
            return connection.execute(query).fetchall()


def environment() -> dict[str, str]:
    """That of a user who has no model: 100 columns, no colour."""
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
    assert len(sequences) == len(demo.rows("SELECT run_id FROM runs")) == 7
    assert all(sequence == list(range(1, len(sequence) + 1)) for sequence in sequences.values())
    assert set(ends.values()) == {1}


def test_positions_have_no_gap(demo: Demo) -> None:
    positions = [row["position"] for row in demo.rows("SELECT position FROM events ORDER BY position")]
    assert positions == list(range(1, len(positions) + 1))


def test_runs_end_in_every_way_there_is(demo: Demo) -> None:
    statuses = [row["status"] for row in demo.rows("SELECT status FROM runs ORDER BY status")]
    assert statuses == ["cancelled", "error", "interrupted", "success", "success", "success", "timeout"]


def test_three_threads_work_at_the_same_time(demo: Demo) -> None:
    runs = demo.rows("SELECT thread_id, min(started_at) AS began, max(ended_at) AS ended FROM runs GROUP BY thread_id")
    assert len(runs) == 3
    assert max(run["began"] for run in runs) < min(run["ended"] for run in runs)


def test_the_paused_run_goes_on_after_the_answer_of_a_human(demo: Demo) -> None:
    (paused,) = demo.rows("SELECT * FROM runs WHERE status = 'interrupted'")
    first, second = demo.rows(f"SELECT * FROM runs WHERE thread_id = '{paused['thread_id']}' ORDER BY created_at")
    said = demo.rows(f"SELECT payload FROM events WHERE event_type = 'human_message' AND run_id = '{second['run_id']}'")
    assert first["run_id"] == paused["run_id"]
    assert second["status"] == "success"
    assert [json.loads(row["payload"])["message"]["content"] for row in said] == ["yes"]


def test_the_failed_run_names_the_document_that_nobody_can_read(demo: Demo) -> None:
    (failed,) = demo.rows("SELECT * FROM runs WHERE status = 'error'")
    assert failed["error_type"].endswith("DocumentError")
    assert re.search(r"/alembic\.md is not UTF-8 text", failed["error"])
    assert not Path(failed["error"].partition("/alembic.md")[0]).exists(), "the demo cleans up after itself"


def test_no_tokens_are_counted_where_no_model_was_asked(demo: Demo) -> None:
    (used,) = demo.rows(
        "SELECT sum(total_input_tokens) AS i, sum(total_output_tokens) AS o, sum(llm_call_count) AS calls FROM runs"
    )
    assert (used["i"], used["o"], used["calls"]) == (0, 0, 0)


def test_answers_cite_packages_that_are_installed(demo: Demo) -> None:
    answers = [json.loads(row["completion_data"]) for row in demo.rows("SELECT * FROM runs WHERE status = 'success'")]
    installed = {f"{package.metadata['Name']} {package.version}" for package in distributions()}
    for answer in answers:
        cited = re.findall(r"^\*\*(.+?)\*\* – ", answer["last_ai_message"], re.MULTILINE)
        assert cited
        assert set(cited) <= installed


def test_what_it_prints_is_what_the_database_has(demo: Demo) -> None:
    for kind, number in demo.rows("SELECT event_type, count(*) FROM events GROUP BY event_type"):
        assert f"{number} {kind}" in " ".join(demo.output.split())
    for row in demo.rows("SELECT payload FROM events WHERE event_type = 'human_message'"):
        assert json.loads(row["payload"])["message"]["content"] in " ".join(demo.output.split())


def printed_commands(output: str) -> Iterator[list[str]]:
    for line in output.splitlines():
        if line.startswith(".venv/bin/trackside "):
            yield shlex.split(line)


def test_the_commands_at_its_end_work_when_pasted(demo: Demo) -> None:
    shown: dict[str, list[Any]] = {}
    for command in printed_commands(demo.output):
        done = subprocess.run(command, cwd=ROOT, env=environment(), capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr) == (0, ""), command
        as_json = subprocess.run([*command, "--json"], cwd=ROOT, env=environment(), capture_output=True, check=True)
        shown[command[1]] = [json.loads(line) for line in as_json.stdout.splitlines()]
    assert set(shown) == {"runs", "threads", "events"}
    assert len(shown["runs"]) == 7
    assert len(shown["events"]) == 10


def test_a_folder_of_ones_own_is_searched_for_ones_own_question(tmp_path: Path) -> None:
    docs = tmp_path / "docs"
    docs.mkdir()
    (docs / "wheels.md").write_text("# Wheels\n\nA wheel turns because somebody pushes it.\n", encoding="utf-8")
    demo = run_demo(tmp_path, "--docs", "docs", "Why does a wheel turn?", cwd=tmp_path)
    assert (demo.exit_code, demo.complaints) == (0, "")
    assert "A wheel turns because somebody pushes it. [1]" in demo.output
    assert "[1] wheels.md, “Wheels”" in demo.output


def test_without_a_question_it_asks_what_the_folder_says_most_about(tmp_path: Path) -> None:
    text = "# Wheels\n\nA wheel turns because somebody pushes it. It stops when nobody does.\n"
    (tmp_path / "wheels.md").write_text(text, encoding="utf-8")
    demo = run_demo(tmp_path, "--docs", str(tmp_path))
    assert (demo.exit_code, demo.complaints) == (0, "")
    assert "What about Wheels?" in demo.output
    assert "A wheel turns because somebody pushes it. [1]" in demo.output


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--docs", "/nowhere"], "/nowhere is not a folder"),
        (["--database", "trackside.db"], "a file is written sqlite:///trackside.db"),
        (["--database", "sqlite:////nowhere/demo.db"], "/nowhere"),
        (["--frobnicate"], "--help lists the options"),
        (["what is it"], "nothing to search for in 'what is it'"),
    ],
)
def test_bad_input_is_one_clear_line(tmp_path: Path, arguments: list[str], said: str) -> None:
    demo = run_demo(tmp_path, *arguments)
    assert demo.exit_code == 2
    assert demo.output == ""
    assert demo.complaints.startswith("demo: ")
    assert said in demo.complaints
    assert demo.complaints.count("\n") == 1


def test_a_document_that_cannot_be_read_is_named_before_anything_runs(tmp_path: Path) -> None:
    (tmp_path / "letter.md").write_bytes("Grüße".encode("latin-1"))
    demo = run_demo(tmp_path, "--docs", str(tmp_path))
    assert demo.exit_code == 2
    assert "letter.md is not UTF-8 text (byte 0xfc at 2)" in demo.complaints
    assert not demo.database.exists()
