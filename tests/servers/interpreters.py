"""Interpreters of other languages in which people write receivers."""

from __future__ import annotations

import os
import shutil
import subprocess
from typing import Final

import pytest

_INSTALL: Final = "apt-get update -qq && apt-get install -y -qq --no-install-recommends php-cli"


def php() -> str:
    """PHP, installed from Debian if it is not there and this is root; the test is skipped where neither can be."""
    if (found := shutil.which("php")) is not None:
        return found
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        pytest.skip("there is no PHP: apt install php-cli")
    done = subprocess.run(
        ["sh", "-c", _INSTALL],
        env={**os.environ, "DEBIAN_FRONTEND": "noninteractive"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    found = shutil.which("php")
    assert found is not None, f"PHP could not be installed:\n{done.stdout[-2_000:]}{done.stderr[-2_000:]}"
    return found
