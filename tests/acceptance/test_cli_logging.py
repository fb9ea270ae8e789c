"""Runs of the command line are logged as the settings say, and the lines of agents say which run they are of."""

import json
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

type Trackside = Callable[..., CompletedProcess[str]]

AGENTS = """
import asyncio, logging, sys, structlog
from trackside.app.observers.logging import add_run_fields
from trackside.harness.running.logs import RunFieldsFilter

def configure_structlog():
    structlog.configure(
        processors=[add_run_fields, structlog.processors.add_log_level, structlog.processors.JSONRenderer()],
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )

def configure_logging():
    handler = logging.StreamHandler()
    handler.addFilter(RunFieldsFilter())
    handler.setFormatter(logging.Formatter('{"run_id": "%(run_id)s", "event": "%(message)s"}'))
    logging.basicConfig(level=logging.INFO, handlers=[handler])

async def by_structlog(input):
    log = structlog.get_logger()
    log.info("on the loop")
    await asyncio.to_thread(log.info, "in a thread")

async def by_logging(input):
    log = logging.getLogger("mine")
    log.info("on the loop")
    await asyncio.to_thread(log.info, "in a thread")
"""


def run(trackside: Trackside, folder: Path, agent: str, configure: str, observer: str) -> list[dict[str, Any]]:
    (folder / "agents.py").write_text(f"{AGENTS}\n{configure}\n")
    (folder / "trackside.toml").write_text(f'[[observers]]\ntype = "logging"\n{observer}\n')
    done = trackside("run", f"agents.py:{agent}", "hello")
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stderr.splitlines() if line.startswith("{")]


def words(lines: list[dict[str, Any]]) -> list[str]:
    return [line["event"].partition(" after ")[0].partition(" (")[0] for line in lines]


def test_agents_and_runs_speak_through_the_structlog_that_the_agents_module_configures(
    trackside: Trackside, tmp_path: Path
) -> None:
    lines = run(trackside, tmp_path, "by_structlog", "configure_structlog()", "")
    assert {"run started", "on the loop", "in a thread", "run completed"} <= set(words(lines))
    assert {line["agent"] for line in lines} == {"agents.py:by_structlog"}
    assert len({line["run_id"] for line in lines}) == 1


def test_agents_and_runs_speak_through_the_logging_that_the_agents_module_configures(
    trackside: Trackside, tmp_path: Path
) -> None:
    lines = run(trackside, tmp_path, "by_logging", "configure_logging()", "")
    of_runs = [line for line in lines if line["run_id"]]  # the others come from whatever makes the database
    assert {"run started", "on the loop", "in a thread", "run completed"} <= set(words(of_runs))
    assert len({line["run_id"] for line in of_runs}) == 1


def test_agents_that_configure_nothing_speak_through_the_observer(trackside: Trackside, tmp_path: Path) -> None:
    lines = run(trackside, tmp_path, "by_logging", "", 'format = "json"\nloggers = ["mine"]')
    assert {"run started", "on the loop", "in a thread", "run completed"} <= {line["message"] for line in lines}
    assert len({line["run_id"] for line in lines}) == 1
    assert {line["logger"] for line in lines} == {"mine", "trackside.runs"}
