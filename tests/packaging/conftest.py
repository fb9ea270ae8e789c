"""The distribution is built once for all tests of a process."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from distribution import ROOT, FreshEnvironment, build, unpacked


@pytest.fixture(scope="session")
def distributions(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The sdist and the wheel of this checkout, or those in `TRACKSIDE_DIST`."""
    if elsewhere := os.environ.get("TRACKSIDE_DIST"):
        (sdist,), (wheel,) = (Path(elsewhere).glob(pattern) for pattern in ("*.tar.gz", "*.whl"))
        return sdist, wheel
    folder = tmp_path_factory.mktemp("dist")
    (sdist,) = build(ROOT, folder, "sdist")
    (wheel,) = build(unpacked(sdist, folder), folder, "wheel")
    return sdist, wheel


@pytest.fixture(scope="session")
def bare(distributions: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> FreshEnvironment:
    """An environment with the wheel and its required dependencies."""
    environment = FreshEnvironment(tmp_path_factory.mktemp("bare"))
    environment.install(distributions[1])
    return environment
