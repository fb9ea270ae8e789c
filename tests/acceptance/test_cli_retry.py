"""`trackside retry`, and what `trackside runs` says of attempts: the real commands on agents in files."""

from __future__ import annotations

import asyncio
import json
import subprocess
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from trackside.app.settings import Settings
from trackside.app.storage import Store
from trackside.app.wiring import open_app
from trackside.harness.ids import new_id
from trackside.harness.types import RunRecord, RunSpec, RunStatus

Trackside = Callable[..., "subprocess.CompletedProcess[str]"]

AGENTS = """
async def moody(input, run):
    if run.attempt == 1:
        raise LookupError("not today")
    return {"attempt": run.attempt, "of": run.retry_of, "input": input, "customer": run.metadata.get("customer")}

async def refunds(input, run):
    for order in input["orders"]:
        run.interrupt(f"Refund {order}?")
    return "done"

async def ask(input, run):
    return f"You said {run.interrupt('May I?')!r}"
"""


@pytest.fixture(autouse=True)
def agents(tmp_path: Path) -> None:
    (tmp_path / "agents.py").write_text(AGENTS, encoding="utf-8")


def runs_of(here: Trackside, *arguments: str) -> list[dict[str, Any]]:
    """The runs, newest first."""
    return [json.loads(line) for line in here("runs", *arguments, "--json").stdout.splitlines()]


def test_a_run_that_failed_is_done_once_more(here: Trackside) -> None:
    here("run", "agents.py:moody", '{"order": 7}', "--thread", "t", "-m", "customer=acme", "-m", "n=1")
    (failed,) = runs_of(here)

    done = here("retry", failed["run_id"][:20], "-m", "n=2", "--json")

    assert (done.returncode, done.stderr) == (0, "")
    result = json.loads(done.stdout.splitlines()[-1])["result"]
    asked = {"attempt": 2, "of": failed["run_id"], "input": {"order": 7}, "customer": "acme"}
    assert (result["thread_id"], result["output"]) == ("t", asked)
    again, before = runs_of(here)
    assert before == failed
    assert (again["attempt"], again["retry_of"], again["status"]) == (2, failed["run_id"], "success")
    assert again["metadata"] == {"customer": "acme", "n": 2}

    shown = here("runs", failed["run_id"]).stdout
    assert ["retries", again["run_id"]] in [line.split() for line in shown.splitlines()]
    shown = here("runs", again["run_id"]).stdout
    assert f"retry of  {failed['run_id']}" in shown
    assert "attempt   2" in shown
    assert "✓ success #2" in here("runs").stdout
    assert runs_of(here, failed["run_id"])[0]["retries"] == [again["run_id"]]

    assert here("retry", again["run_id"]).returncode == 0
    assert runs_of(here)[0]["attempt"] == 3


def test_what_cannot_be_done_once_more_is_said(here: Trackside, tmp_path: Path) -> None:
    here("run", "agents.py:moody", "hello", "--thread", "t")
    (failed,) = runs_of(here)

    async def leave_others() -> None:
        async with Store.open(f"sqlite:///{tmp_path}/trackside.db") as store:
            for coordinator, thread_id in (
                (store.coordinator(), "pending"),
                (store.coordinator(keeps_requests=False, hands_over=False), "forgotten"),
            ):
                now = datetime.now(UTC)
                record = RunRecord(
                    run_id=new_id(), thread_id=thread_id, agent="desk", status=RunStatus.pending, created_at=now
                )
                await coordinator.admit(record, spec=RunSpec("desk"))
        async with Store.open(f"sqlite:///{tmp_path}/trackside.db") as store:
            await store.coordinator()._upkeep.clear_up()

    asyncio.run(leave_others())
    by_thread = {run["thread_id"]: run["run_id"] for run in runs_of(here)}

    unknown = here("retry", "nobody")
    pending = here("retry", by_thread["pending"])
    forgotten = here("retry", by_thread["forgotten"])
    elsewhere = here("retry", failed["run_id"], "--agent", "agents.py:gone")

    assert "No run here has an id that begins with 'nobody'" in unknown.stderr
    assert f"Run '{by_thread['pending']}' has not ended, it is pending" in pending.stderr
    assert f"The request of run '{by_thread['forgotten']}' is not kept" in forgotten.stderr
    assert "gone" in elsewhere.stderr
    assert 0 not in {done.returncode for done in (unknown, pending, forgotten, elsewhere)}
    assert len(runs_of(here)) == 3


def test_a_run_whose_thread_ended_with_it_is_done_once_more_on_a_new_one(here: Trackside, tmp_path: Path) -> None:
    async def fails(input: Any) -> None:
        raise LookupError("not today")

    async def start_alone() -> str:
        settings = Settings(database_url=f"sqlite:///{tmp_path}/trackside.db")
        async with open_app(settings, {"moody": fails}) as app:
            run = await app.manager.start(RunSpec("moody", input={"order": 7}, thread_ends=True))
            return (await run.result()).thread_id

    gone = asyncio.run(start_alone())
    (failed,) = runs_of(here)

    done = here("retry", failed["run_id"], "--agent", "agents.py:moody", "--json")

    result = json.loads(done.stdout.splitlines()[-1])["result"]
    assert (done.returncode, result["output"]["input"], result["output"]["attempt"]) == (0, {"order": 7}, 2)
    assert result["thread_id"] != gone
    assert "was made for it alone, and ended with it" in done.stderr
    assert result["thread_id"] in done.stderr
    again, _ = runs_of(here)
    assert again["retry_of"] == failed["run_id"]


def test_an_answer_is_not_given_twice(here: Trackside) -> None:
    here("run", "agents.py:ask", "hello", "--thread", "t")
    here("resume", "t", "yes")
    answer = runs_of(here)[0]

    again = here("retry", answer["run_id"])

    assert "does not wait for an answer" in again.stderr
    assert len(runs_of(here)) == 2


def test_an_answer_is_not_given_to_what_was_asked_since(here: Trackside) -> None:
    here("run", "agents.py:refunds", '{"orders": [7, 8]}', "--thread", "t")
    here("resume", "t", "yes")
    answer, _ = runs_of(here)

    again = here("retry", answer["run_id"])

    assert (again.returncode, "has asked something else since" in again.stderr) == (2, True)
    assert len(runs_of(here)) == 2
    assert here("resume", "t", "yes").returncode == 0


def test_attempts_in_the_settings_are_for_processes_that_others_follow(here: Trackside, tmp_path: Path) -> None:
    settings = '[agents]\ndesk = "agents.py:ask"\n[limits.desk]\nmax_attempts = 3\n'
    (tmp_path / "trackside.toml").write_text(settings, encoding="utf-8")

    assert here("run", "desk", "hello").returncode == 75
