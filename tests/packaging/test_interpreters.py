"""The wheel on each version of Python that it is for."""

from __future__ import annotations

from pathlib import Path

import pytest
from distribution import PROJECT, FreshEnvironment, found_python
from first_steps import take_them

PREFIX = "Programming Language :: Python :: 3."
VERSIONS = [line.rpartition(" ")[2] for line in PROJECT["classifiers"] if line.startswith(PREFIX)]


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
