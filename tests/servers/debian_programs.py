"""Programs that tests need, installed from Debian where they are missing and this is root; else the test is skipped."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

import pytest

_LOCK = Path(tempfile.gettempdir(), "trackside-tests-apt.lock")
_SECONDS = 600  # that an installation may take


def program(what: str, names: Sequence[str], packages: Sequence[str], *, beside: Sequence[str] = ()) -> str:
    """The path of a program.

    Args:
        what: what the program is called.
        names: the names under which it may be installed, best first.
        packages: the packages that contain it, best first: the next is tried where one is not available.
        beside: packages that it needs and does not name.
    """
    if (found := _found(names)) is not None:
        return found
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        pytest.skip(f"there is no {what}: apt install {packages[0]}")
    with _LOCK.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # tests run side by side, and apt-get does not wait for another apt-get
        said = "" if _found(names) is not None else _installed(packages, beside)
    found = _found(names)
    assert found is not None, f"{what} could not be installed:\n{said[-4_000:]}"
    return found


def _found(names: Sequence[str]) -> str | None:
    return next((found for name in names if (found := shutil.which(name)) is not None), None)


def _installed(packages: Sequence[str], beside: Sequence[str]) -> str:
    """What apt-get says about the installation."""
    said = _apt_get("update", "-qq").stdout
    for package in packages:
        done = _apt_get("install", "-y", "-qq", "--no-install-recommends", package, *beside)
        said += done.stdout
        if done.returncode == 0:
            break
    return said


def _apt_get(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["apt-get", *arguments],
        env={**os.environ, "DEBIAN_FRONTEND": "noninteractive"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=_SECONDS,
        check=False,
    )
