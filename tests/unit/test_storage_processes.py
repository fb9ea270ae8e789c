"""Whether another process lives is known even if `/proc` hides it, or if its name is no text."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from trackside.app.storage._rows import processes as processes_module

INIT = 1  # a process of root's
LOOKS = """
import os, sys
from pathlib import Path
from trackside.app.storage._rows import processes as processes_module

if os.geteuid() == 0:
    os.setuid(65_534)
processes_module._PROC = Path(sys.argv[1])
print(processes_module.is_gone(f"{processes_module._place()}/{sys.argv[2]}/12345"))
"""


def says_that_it_is_gone(empty: Path, pid: int) -> bool:
    """What the user `nobody` finds out where `/proc` shows nothing."""
    found = subprocess.run(
        [sys.executable, "-c", LOOKS, empty, str(pid)], capture_output=True, text=True, check=True, timeout=60
    )
    return {"True": True, "False": False}[found.stdout.strip()]


@pytest.mark.skipif(os.name == "nt", reason="there are no processes of other users to see")
def test_a_process_that_is_hidden_is_left_to_its_lease_and_one_that_is_gone_is_not(tmp_path: Path) -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()

    assert not says_that_it_is_gone(tmp_path, INIT)
    assert says_that_it_is_gone(tmp_path, ended.pid)


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="this system does not say when a process started")
def test_a_process_whose_name_is_cut_in_the_middle_of_a_letter_is_known_by_its_start(tmp_path: Path) -> None:
    name = "помощник отдела"
    (tmp_path / name).symlink_to("/bin/sh")
    command = [tmp_path / name, "-c", "echo it has its name; read word"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as running:
        assert running.stdout is not None
        running.stdout.readline()  # a process that has only just been started may still be called as its parent
        assert Path(f"/proc/{running.pid}/comm").read_bytes() == name.encode()[:15] + b"\n"
        started = processes_module._start_of(running.pid)
        lives = f"{processes_module._place()}/{running.pid}/{started}"
        assert not processes_module.is_gone(lives)
        assert processes_module.is_gone(f"{lives}0")
        running.communicate(b"enough\n")
    assert processes_module.is_gone(lives)
