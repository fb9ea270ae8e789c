"""`./scripts/demo fleet` as a user types it: it loses a worker, a server and its broker, ends by itself, and counts."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest

DEMO = Path(__file__).parents[2] / "scripts" / "demo"


def demo(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [DEMO, "fleet", *arguments],
        env={**os.environ, "NO_COLOR": "1", "COLUMNS": "120"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=170,
        check=False,
    )


@pytest.mark.long
@pytest.mark.parametrize(("engine", "broker"), [("nats", "nats"), ("postgres", "postgres")])
def test_a_fleet_loses_one_part_after_the_other_and_every_client_is_served(engine: str, broker: str) -> None:
    done = demo("--seconds", "12", "-n", "2", "--engine", engine)
    assert done.returncode == 0, done.stdout + done.stderr
    for what in (r"worker-\d", r"server-\d", broker):
        assert re.search(rf"{what} was killed by SIGKILL", done.stdout), what
        assert re.search(rf"{what} is up again", done.stdout), what
    counted = dict(re.findall(r"^(\w[\w ]*?) {2,}([\d,]+)  ", done.stdout, re.MULTILINE))
    assert counted["runs"] == counted["terminal events"] != "0"
    assert (counted["lost"], counted["doubles"], counted["stuck"]) == ("0", "0", "0")
    assert counted["clients that waited"] != "0"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("-n", "1"), "there have to be two workers and two servers at least"),
        (("--seconds", "0"), "--seconds is more than nothing"),
        (("--engine", "kafka"), "invalid choice: 'kafka'"),
    ],
)
def test_what_makes_no_sense_is_said_in_a_line(arguments: tuple[str, ...], said: str) -> None:
    done = demo(*arguments)
    assert done.returncode == 2
    assert said in done.stderr
    assert done.stderr.count("\n") == 1, done.stderr
