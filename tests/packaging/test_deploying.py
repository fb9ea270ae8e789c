"""The contents of deploy/: what systemd runs, and the container file, as far as checks are possible without either."""

from __future__ import annotations

import configparser
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from distribution import PROJECT, ROOT, build

from trackside.app.storage._schema import _PATIENCE as UPGRADE_PATIENCE

UNIT = ROOT / "deploy" / "trackside.service"
AS_SERVER = ROOT / "deploy" / "trackside-as-server"
CONTAINER = ROOT / "deploy" / "Containerfile"
MOST_EXPOSED = 2.5
"""Out of 10: systemd's score for how much a unit may do; below 3 systemd calls it OK."""


def container_steps() -> list[tuple[str, str]]:
    """The instructions of the container file, with continued lines joined: each instruction and its arguments."""
    text = re.sub(r"^#.*\n", "", CONTAINER.read_text("utf-8"), flags=re.MULTILINE).replace("\\\n", " ")
    return [(words[0], " ".join(words[1:])) for words in map(str.split, text.splitlines()) if words]


@pytest.fixture
def analyze() -> str:
    found = shutil.which("systemd-analyze")
    if found is None:
        pytest.skip("there is no systemd-analyze")
    return found


def test_systemd_understands_the_unit(analyze: str, tmp_path: Path) -> None:
    here = Path(sys.executable).with_name("trackside")
    unit = tmp_path / UNIT.name
    unit.write_text(UNIT.read_text("utf-8").replace("/opt/trackside/bin/trackside", str(here)), "utf-8")
    done = subprocess.run([analyze, "verify", unit], capture_output=True, text=True, check=False)
    about_it = [line for line in done.stderr.splitlines() if UNIT.name in line]
    assert (done.returncode, about_it) == (0, []), done.stderr


def test_systemd_finds_little_that_the_unit_exposes(analyze: str) -> None:
    command = [analyze, "security", "--offline=yes", f"--threshold={MOST_EXPOSED * 10:.0f}", "--no-pager", UNIT]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_unit_says_when_it_is_ready_and_has_time_to_stop() -> None:
    unit = configparser.ConfigParser(strict=False, interpolation=None)
    unit.optionxform = str  # type: ignore[assignment,method-assign]
    unit.read(UNIT)
    service = unit["Service"]
    assert service["Type"] == "notify"
    assert int(service["TimeoutStopSec"]) > 10, "longer than runs.shutdown_grace"
    assert unit["Unit"]["StartLimitIntervalSec"] == "0", "a database may be away for longer than a few starts take"


def test_a_command_as_the_server_has_what_the_unit_has() -> None:
    names = {"DynamicUser", "User", "UMask", "StateDirectory", "StateDirectoryMode", "WorkingDirectory"}
    names |= {"Environment", "EnvironmentFile"}
    unit = re.findall(r"^(\w+)=(.*)$", UNIT.read_text("utf-8"), re.MULTILINE)
    command = AS_SERVER.read_text("utf-8")
    given = re.findall(r"--property (\w+)=(\S+)", command)

    # Without `User=` a dynamic user gets the name of the unit.
    wanted = [*(pair for pair in unit if pair[0] in names), ("User", UNIT.stem)]
    assert sorted(given) == sorted(wanted)
    assert ("ExecStart", f"{command.split()[-2]} serve") in unit
    assert os.access(AS_SERVER, os.X_OK)


def test_a_command_as_the_server_has_a_terminal_where_there_is_one_so_that_it_can_be_broken_off() -> None:
    words = AS_SERVER.read_text("utf-8").partition("exec systemd-run ")[2].split()
    assert {"--pty", "--pipe", "--wait"} <= {*words[: words.index("--property")]}


def test_the_container_runs_as_nobody_and_says_how_it_is() -> None:
    steps = container_steps()
    last = dict(steps)
    assert last["USER"] == "10001"
    assert last["ENTRYPOINT"] == '["trackside"]'
    assert last["STOPSIGNAL"] == "SIGTERM"
    assert "/health/live" in last["HEALTHCHECK"]
    assert [rest.partition(" ")[0] for what, rest in steps if what == "FROM"] == [
        "docker.io/library/python:${PYTHON}-slim"
    ] * 2
    assert ":latest" not in CONTAINER.read_text("utf-8")
    named = re.search(r"EXTRAS=([\w,-]+)", CONTAINER.read_text("utf-8"))
    assert named is not None
    assert set(named[1].split(",")) <= set(PROJECT["optional-dependencies"])


def test_probes_leave_a_start_the_time_that_an_upgrade_of_the_tables_may_take() -> None:
    period = re.search(r"--start-period=(\d+)m ", dict(container_steps())["HEALTHCHECK"])
    (deployment,) = re.findall(
        r"^```yaml\n(.*?)^```", (ROOT / "docs" / "deploying.md").read_text("utf-8"), re.MULTILINE | re.DOTALL
    )
    (container,) = yaml.safe_load(deployment)["spec"]["containers"]
    startup, liveness = container["startupProbe"], container["livenessProbe"]

    assert startup["httpGet"] == liveness["httpGet"], "until the one has an answer, the other is not asked"
    assert startup["periodSeconds"] * startup["failureThreshold"] > UPGRADE_PATIENCE
    assert period is not None
    assert int(period[1]) * 60 > UPGRADE_PATIENCE


def test_the_container_copies_what_there_is_and_what_is_not_ignored() -> None:
    ignored = CONTAINER.with_name("Containerfile.dockerignore").read_text("utf-8").splitlines()
    assert "*" in ignored
    copied = [rest for what, rest in container_steps() if what == "COPY" and "--from" not in rest]
    names = {name for rest in copied for name in rest.split()[:-1]}
    assert all((ROOT / name).exists() for name in names)
    assert {line.removeprefix("!") for line in ignored if line.startswith("!")} == names


def test_what_the_container_copies_is_all_that_a_wheel_is_built_of(tmp_path: Path) -> None:
    root = tmp_path / "image"
    for what, rest in container_steps():
        *names, where = rest.split()
        if what != "COPY" or "--from" in rest:
            continue
        for name in names:
            target = root / where.lstrip("/") / ("" if not where.endswith("/") else Path(name).name)
            target.parent.mkdir(parents=True, exist_ok=True)
            if (ROOT / name).is_dir():
                shutil.copytree(ROOT / name, target, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy(ROOT / name, target)
    (wheel,) = build(root / "source", tmp_path, "wheel")
    (same,) = build(ROOT, tmp_path / "checkout", "wheel")
    assert wheel.read_bytes() == same.read_bytes()


def test_the_constraints_of_the_container_are_versions_that_pip_takes(tmp_path: Path) -> None:
    """The `RUN` line makes them from the lock: one version for each package, without the hashes."""
    (command,) = [
        rest.partition(" && ")[0] for what, rest in container_steps() if what == "RUN" and "constraints" in rest
    ]
    made = tmp_path / "constraints.txt"
    here = command.replace("/source/requirements.lock", str(ROOT / "requirements.lock"))
    subprocess.run(["sh", "-c", here.replace("/source/constraints.txt", str(made))], check=True)
    lines = [
        line for line in made.read_text("utf-8").splitlines() if line.strip() and not line.lstrip().startswith("#")
    ]
    assert len(lines) > 50
    assert [line for line in lines if not re.fullmatch(r"[\w.\[\]-]+==[\w.+]+( ; .+)?", line)] == []
