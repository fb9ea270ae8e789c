"""The wheel on each version of Python that it supports, and the checkout on one that it does not support."""

from __future__ import annotations

import subprocess
import sysconfig
from pathlib import Path

import pytest
from distribution import PROJECT, ROOT, FreshEnvironment, clean_environment, found_python
from first_steps import take_them

PREFIX = "Programming Language :: Python :: 3."
PACKAGES = sysconfig.get_path("purelib")
VERSIONS = [line.rpartition(" ")[2] for line in PROJECT["classifiers"] if line.startswith(PREFIX)]
pytestmark = pytest.mark.timeout(1_800)  # new packages are compiled first


@pytest.mark.long
@pytest.mark.parametrize("version", VERSIONS)
def test_it_is_installed_and_works_on_each_python(
    version: str, distributions: tuple[Path, Path], tmp_path: Path
) -> None:
    python = found_python(version)
    if python is None:
        pytest.skip(f"there is no Python {version} on this machine")
    environment = FreshEnvironment(tmp_path, python)
    environment.install(f"trackside[observers] @ {distributions[1].as_uri()}")
    said = environment.run(environment.python, "-c", "import sys; print('%d.%d' % sys.version_info[:2])").stdout
    assert said.strip() == version
    take_them(environment, tmp_path)


def test_a_python_that_is_too_old_is_named_before_anything_is_looked_for(tmp_path: Path) -> None:
    python = found_python("3.11")
    if python is None:
        pytest.skip("there is no Python 3.11 on this machine")
    ask = "import sys; sys.path.append(sys.argv[1]); from hatchling import build as locked; "
    done = subprocess.run(
        [python, "-I", "-c", ask + "locked.prepare_metadata_for_build_wheel(sys.argv[2])", PACKAGES, tmp_path],
        cwd=ROOT,
        env=clean_environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "Trackside needs Python 3.12 or newer, and this is 3.11." in done.stderr
