"""The example plugin as its users have it: built, installed, named in the settings; and its own tests."""

import csv
import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from strictness import STRICT

SOURCE = Path(__file__).parents[2] / "examples" / "observer_plugin"
TRACKSIDE = Path(sys.executable).with_name("trackside")
TABLE = '[[observers]]\ntype = "cost_ledger"\npath = "costs.csv"\n'
AGENT = """
async def spend(input, run):
    run.record_usage("mine", input_tokens=12, output_tokens=40, cost_usd=0.5)
    return "done"
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder where the plugin's wheel is installed; unpacking installs a wheel."""
    folder = tmp_path_factory.mktemp("plugin")
    source = shutil.copytree(SOURCE, folder / "source", ignore=shutil.ignore_patterns("__pycache__", ".*"))
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder / "dist")]
    subprocess.run(build, cwd=source, capture_output=True, check=True)
    (wheel,) = (folder / "dist").glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder / "site")
    return folder / "site"


def do(installed: Path, folder: Path, *command: str) -> "subprocess.CompletedProcess[str]":
    environment = {name: value for name, value in os.environ.items() if not name.startswith("TRACKSIDE_")}
    environment["PYTHONPATH"] = str(installed)
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


def test_a_plugin_needs_nothing_but_its_name_in_the_settings(installed: Path, tmp_path: Path) -> None:
    (tmp_path / "agents.py").write_text(AGENT, encoding="utf-8")
    unnamed = do(installed, tmp_path, str(TRACKSIDE), "run", "agents.py:spend", "hi")
    assert (unnamed.returncode, [*tmp_path.glob("*.csv")]) == (0, [])

    (tmp_path / "trackside.toml").write_text(TABLE, encoding="utf-8")
    done = do(installed, tmp_path, str(TRACKSIDE), "run", "agents.py:spend", "hi")
    assert (done.returncode, done.stderr) == (0, "")

    with (tmp_path / "costs.csv").open(encoding="utf-8", newline="") as file:
        (row,) = csv.DictReader(file)
    assert (row["agent"], row["how"], row["output_tokens"], row["cost_usd"]) == (
        "agents.py:spend",
        "success",
        "40",
        "0.5",
    )


def test_an_installed_plugin_is_listed(installed: Path, tmp_path: Path) -> None:
    done = do(installed, tmp_path, str(TRACKSIDE), "observers", "--json")
    assert done.returncode == 0, done.stderr

    last = json.loads(done.stdout.splitlines()[-1])
    assert last == {
        "available": "cost_ledger",
        "from": "trackside-cost-ledger 1.0.0",
        "what": "a line of a CSV file for what each run has used and cost",
        "missing_extra": None,
    }


def test_a_mistake_in_its_table_is_one_line(installed: Path, tmp_path: Path) -> None:
    (tmp_path / "trackside.toml").write_text(TABLE.replace("costs", "nowhere/costs"), encoding="utf-8")
    done = do(installed, tmp_path, str(TRACKSIDE), "deliver")

    assert done.returncode == 2
    why = "trackside.toml, observers[1] (cost_ledger).path: there is no folder nowhere."
    assert done.stderr == f"error: {why} [settings]\n"


def test_its_own_tests_pass(installed: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(SOURCE / "tests", tmp_path / "tests", ignore=shutil.ignore_patterns("__pycache__"))
    command = [sys.executable, *STRICT, "-m", "pytest", "-q", "-p", "no:asyncio", "-p", "no:cacheprovider"]
    done = do(installed, folder, *command)

    assert done.returncode == 0, done.stdout
    assert " passed" in done.stdout
