"""What a run may use, from the command line and from the settings: one that uses too much is stopped, and says of what."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

Trackside = Callable[..., "subprocess.CompletedProcess[str]"]

AGENTS = """
import asyncio

async def spend(input, run):
    run.record_usage("gpt-4.1", input_tokens=1_000, output_tokens=100)
    run.record_usage("gpt-4.1", input_tokens=1_000, output_tokens=100)
    run.record_tool_call("search")
    run.record_tool_call("search")
    await asyncio.sleep(0)

async def ask(input, run):
    run.interrupt("May I?")
    await spend(input, run)
"""


@pytest.fixture
def here(here: Trackside, tmp_path: Path) -> Trackside:
    (tmp_path / "agents.py").write_text(AGENTS)
    return here


@pytest.mark.parametrize(
    ("option", "value", "says"),
    [
        ("--max-tokens", "2000", "the run used 2200 tokens, and max_tokens is 2000"),
        ("--max-cost", "0.005", "the run cost 0.0056 USD, and max_cost_usd is 0.005"),
        ("--max-llm-calls", "1", "the run made 2 calls of models, and max_llm_calls is 1"),
        ("--max-tool-calls", "1", "the run made 2 calls of tools, and max_tool_calls is 1"),
    ],
)
def test_a_run_that_uses_more_fails_and_says_of_what(here: Trackside, option: str, value: str, says: str) -> None:
    stopped = here("run", "agents.py:spend", "hello", option, value)
    as_json = here("run", "agents.py:spend", "hello", option, value, "--json")

    assert stopped.returncode == 1
    assert f"✗ failed       budget_exceeded: {says}" in stopped.stdout
    assert "$0.00" in stopped.stdout, "what it cost is shown all the same"
    *events, last = [json.loads(line) for line in as_json.stdout.splitlines()]
    assert as_json.returncode == 1
    assert (last["result"]["status"], last["result"]["error"]) == ("error", says)
    assert last["result"]["completion_data"]["cost_usd"] == pytest.approx(0.0056)
    assert "budget_exceeded" in [event["payload"].get("error_type") for event in events]


def test_a_run_that_uses_what_it_may_succeeds(here: Trackside) -> None:
    options = ["--max-tokens", "2200", "--max-cost", "$0.006", "--max-llm-calls", "2", "--max-tool-calls", "2"]

    assert here("run", "agents.py:spend", "hello", *options).returncode == 0


def test_an_answer_has_a_budget_of_its_own(here: Trackside) -> None:
    here("run", "agents.py:ask", "hello", "--thread", "t-1", "--max-tokens", "10")
    stopped = here("resume", "t-1", "yes", "--max-tokens", "10")

    assert stopped.returncode == 1
    assert "max_tokens is 10" in stopped.stdout


def test_limits_of_the_settings_hold_unless_the_command_line_says_otherwise(here: Trackside, tmp_path: Path) -> None:
    toml = '[agents]\nspend = "agents.py:spend"\n[limits]\nmax_llm_calls = 5\n[limits.spend]\nmax_tokens = 2_000\n'
    (tmp_path / "trackside.toml").write_text(toml)

    assert "max_tokens is 2000" in here("run", "spend", "hello").stdout
    assert here("run", "agents.py:spend", "hello").returncode == 0, "an agent without limits of its own"
    assert here("run", "spend", "hello", "--max-tokens", "3000").returncode == 0
    assert "max_tokens is 7" in here("run", "spend", "hello", TRACKSIDE_LIMITS_SPEND_MAX_TOKENS="7").stdout


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--max-tokens", "0"], "'0' is not a whole number from 1 up"),
        (["--max-llm-calls", "many"], "'many' is not a whole number from 1 up"),
        (["--max-cost", "0"], "--max-cost: '0' is not an amount of US dollars; write 0.5."),
        (["--max-cost", "nan"], "--max-cost: 'nan' is not an amount of US dollars"),
        (["--max-cost", "cheap"], "--max-cost: 'cheap' is not an amount of US dollars"),
    ],
)
def test_what_is_no_limit_is_refused(here: Trackside, arguments: list[str], says: str) -> None:
    refused = here("run", "agents.py:spend", "hello", *arguments)

    assert (refused.returncode, refused.stdout) == (2, "")
    assert says in refused.stderr


def test_a_mistake_in_the_settings_is_one_line(here: Trackside, tmp_path: Path) -> None:
    (tmp_path / "trackside.toml").write_text("[limits.spend]\nmax_tokens = 5\n")

    refused = here("run", "agents.py:spend", "hello")

    assert refused.returncode == 2
    assert refused.stderr == (
        "error: trackside.toml, limits.spend.max_tokens: no agent is named 'spend'; those under [agents] are: none."
        " [settings]\n"
    )


def test_a_cost_that_nobody_knows_is_said_not_to_count(here: Trackside, tmp_path: Path) -> None:
    agent = 'async def home(input, run):\n    run.record_usage("my-model", input_tokens=1_000_000, output_tokens=0)\n'
    (tmp_path / "own.py").write_text(agent)
    unknown = here("run", "own.py:home", "hello", "--max-cost", "1")
    (tmp_path / "trackside.toml").write_text('[prices."my-model"]\ninput_per_million = 2\noutput_per_million = 2\n')
    known = here("run", "own.py:home", "hello", "--max-cost", "1")

    assert unknown.returncode == 0
    (note,) = unknown.stderr.splitlines()
    assert note == (
        'max_cost_usd did not count calls without a price, of my-model; trackside.toml can say it: [prices."my-model"]'
    )
    assert (known.returncode, known.stderr) == (1, "")
    assert here("run", "own.py:home", "hello").stderr == "", "nobody asked for a limit"


def test_tokens_that_a_run_cannot_count_fail_it_and_those_that_it_can_are_the_same_everywhere(
    here: Trackside, tmp_path: Path
) -> None:
    agent = "async def {}(input, run):\n    run.record_usage('m', input_tokens={}, output_tokens=0)\n"
    (tmp_path / "agents.py").write_text(agent.format("wrong", "10**30") + agent.format("most", "10**12"))

    wrong, most = here("run", "agents.py:wrong", "hello"), here("run", "agents.py:most", "hello", "--json")

    assert wrong.returncode == 1
    assert f"input_tokens = {10**30} is not the usage of a model: token counts are whole numbers" in wrong.stdout
    result = json.loads(most.stdout.splitlines()[-1])["result"]
    row = json.loads(here("runs", "--json", "--status", "success").stdout)
    totals = json.loads(here("stats", "--json", "--status", "success").stdout)["total"]
    assert result["completion_data"]["total_tokens"] == row["total_input_tokens"] == 10**12
    assert totals["total_input_tokens"] == 10**12
    assert "1,000,000,000,000 tokens" in here("runs", result["run_id"]).stdout
