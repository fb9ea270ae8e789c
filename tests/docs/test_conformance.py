"""The how-to of the conformance kit: its examples pass, or fail where it says so, and its rules are the kit's."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from trackside.testing.contracts import RULES

DOCUMENT = (Path(__file__).parents[2] / "docs" / "conformance.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"^```py\n(.*?)^```$", DOCUMENT, re.MULTILINE | re.DOTALL)


def run_pytest(folder: Path, code: str, *, plugins: bool = False) -> subprocess.CompletedProcess[str]:
    """Like a user with pytest and Trackside, but no settings at all; plugins of other packages only if asked for.

    Loading the plugins of all packages installed here takes most of the time.
    """
    (folder / "test_example.py").write_text(code, encoding="utf-8")
    environment = dict(os.environ)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_example.py"]
    if not plugins:
        environment["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
        command += ["-p", "pytest_trackside"]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("example", EXAMPLES, ids=["observer", "store", "adapter"])
def test_an_example_passes(example: str, tmp_path: Path) -> None:
    result = run_pytest(tmp_path, example)
    assert result.returncode == 0, result.stdout + result.stderr


def test_the_mistake_that_the_document_makes_is_told_as_it_says(tmp_path: Path) -> None:
    guard = re.compile(r"^        if event.event_id in self.counted:\n.*\n", re.MULTILINE)
    broken, found = guard.subn("", EXAMPLES[0])
    assert found == 1
    result = run_pytest(tmp_path, broken, plugins=True)
    failures = re.findall(r"^E +(AssertionError: .*)$", result.stdout, re.MULTILINE)
    (promised,) = re.findall(r"^AssertionError: .* Seen: ", DOCUMENT, re.MULTILINE)
    assert len(failures) == 2
    assert all(failure.startswith(promised) for failure in failures)


def test_the_rules_in_the_document_are_those_of_the_kit() -> None:
    listed = re.findall(r"^\| ([^|]+) \| ([^|]+) \|$", DOCUMENT.partition("## The rules")[2], re.MULTILINE)
    assert dict(listed[1:]) == dict(RULES)
