"""What is in the sdist and the wheel, and that everybody who builds them gets the same bytes."""

from __future__ import annotations

import email
import hashlib
import re
import tarfile
import zipfile
from email.message import Message
from pathlib import Path

import pytest
from distribution import PROJECT, ROOT, build, unpacked

MEGABYTE = 1_000_000


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture(scope="module")
def wheel_names(distributions: tuple[Path, Path]) -> list[str]:
    with zipfile.ZipFile(distributions[1]) as wheel:
        return wheel.namelist()


@pytest.fixture(scope="module")
def sdist_names(distributions: tuple[Path, Path]) -> list[str]:
    with tarfile.open(distributions[0]) as sdist:
        return [name.partition("/")[2] for name in sdist.getnames()]


def metadata(wheel: Path) -> Message:
    with zipfile.ZipFile(wheel) as archive:
        (name,) = [name for name in archive.namelist() if name.endswith(".dist-info/METADATA")]
        return email.message_from_bytes(archive.read(name))


def test_the_wheel_has_all_files_of_its_packages_and_nothing_else(wheel_names: list[str]) -> None:
    sources = {
        str(path.relative_to(ROOT / "src"))
        for path in (ROOT / "src").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    there = {name for name in wheel_names if ".dist-info/" not in name}
    assert there == sources
    assert {name.partition("/")[0] for name in there} == {"trackside", "trackside_command", "pytest_trackside"}
    for needed in (
        "trackside/py.typed",
        "trackside/app/dashboard/templates/layout.html",
        "trackside/app/dashboard/static/console.js",
        "trackside/app/storage/migrations/env.py",
    ):
        assert needed in there


def test_licences_are_in_the_wheel_ours_and_those_of_what_the_console_brings(wheel_names: list[str]) -> None:
    licences = {name.partition("/licenses/")[2] for name in wheel_names if "/licenses/" in name}
    static = "src/trackside/app/dashboard/static"
    assert licences == {"LICENSE", f"{static}/htmx.LICENSE.txt", f"{static}/uPlot.LICENSE.txt"}


def test_metadata_says_what_the_project_says(distributions: tuple[Path, Path]) -> None:
    said = metadata(distributions[1])
    assert said["Name"] == "trackside"
    assert said["License-Expression"] == PROJECT["license"]
    assert set(said.get_all("Provides-Extra", [])) == set(PROJECT["optional-dependencies"])
    assert said["Requires-Python"] == PROJECT["requires-python"]
    assert "# Trackside" in str(said.get_payload())


def test_the_sdist_has_what_it_takes_to_build_test_and_release(sdist_names: list[str]) -> None:
    top = {name.partition("/")[0] for name in sdist_names}
    assert top >= {
        "src",
        "tests",
        "docs",
        "examples",
        "benchmarks",
        "scripts",
        "deploy",
        "requirements.lock",
        "LICENSE",
    }
    strays = r"(^|/)(__pycache__|node_modules|\.venv|\.tools|\.git|\.peers|\.hypothesis|site)(/|$)|\.(pyc|db|log|whl)$"
    assert [name for name in sdist_names if re.search(strays, name)] == []


def test_nothing_is_too_big_to_be_fetched_by_everybody(distributions: tuple[Path, Path]) -> None:
    sdist, wheel = distributions
    assert wheel.stat().st_size < 2 * MEGABYTE
    assert sdist.stat().st_size < 8 * MEGABYTE


def test_who_builds_from_the_sdist_gets_the_same_sdist_and_the_same_wheel(
    distributions: tuple[Path, Path], tmp_path: Path
) -> None:
    sdist, wheel = distributions
    again = build(unpacked(sdist, tmp_path), tmp_path / "again", "sdist", "wheel")
    assert [digest(path) for path in again] == [digest(sdist), digest(wheel)]
