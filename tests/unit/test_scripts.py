"""What the scripts say of themselves, and of arguments that they do not know."""

import os
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SCRIPTS = sorted(one.name for one in (ROOT / "scripts").iterdir() if os.access(one, os.X_OK) and one.is_file())


def run(name: str, argument: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([f"./scripts/{name}", argument], cwd=ROOT, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_script_says_what_it_is_for_and_does_nothing_else(name: str) -> None:
    done = run(name, "--help")
    assert (done.returncode, done.stderr) == (0, "")
    about = (ROOT / "scripts" / name).read_text("utf-8").splitlines()[1].removeprefix("# ")
    assert done.stdout.startswith((about, f"usage: ./scripts/{name} "))


@pytest.mark.parametrize("name", sorted({*SCRIPTS} - {"lock", "test"}))  # which hand theirs on to uv and pytest
def test_a_script_names_an_argument_that_it_does_not_know(name: str) -> None:
    done = run(name, "--no-such-thing")
    assert done.returncode == 2
    assert "--no-such-thing" in done.stderr
    assert "Traceback" not in done.stderr
