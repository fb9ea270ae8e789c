"""`./scripts/demo stranger` as a user types it: with README.md alone, from nothing to a server that may be killed."""

from __future__ import annotations

import os
import re
import signal
import subprocess
from pathlib import Path

import pytest
from demo.stranger.failing import StrangerError
from demo.stranger.readme import Section
from demo.stranger.shell import Shell
from left_processes import is_there

ROOT = Path(__file__).parents[2]
MINUTE = 60  # seconds
PAGE = """
# A product

## Serve it

```console
$ pip install product
  it is fetched
```

```py
# agents.py
PORT = 2024
```

```console
$ product serve
```

## And more

```console
$ product stop
```
"""


def start(folder: Path) -> subprocess.Popen[str]:
    """Start the demo, with a folder of its own for temporary files."""
    return subprocess.Popen(
        [ROOT / "scripts" / "demo", "stranger"],
        env={**os.environ, "TMPDIR": str(folder)},
        cwd=folder,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def processes_in(folder: Path) -> list[int]:
    """The processes that have something of this folder in their command lines; those that are dead have none."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            command = path.read_bytes()
        except OSError:  # the process has ended
            continue
        if os.fsencode(folder) in command:
            found.append(int(path.parent.name))
    return found


@pytest.mark.timeout(6 * MINUTE)
def test_with_the_readme_alone_an_agent_is_served_and_nothing_is_lost_with_its_server(tmp_path: Path) -> None:
    process = start(tmp_path)
    said, complaints = process.communicate(timeout=5 * MINUTE)
    assert (process.returncode, complaints) == (0, ""), said + complaints
    steps = re.findall(r"^(\d+)  (\w+)", said, re.MULTILINE)
    assert [int(number) for number, _ in steps] == list(range(1, 10))
    counted = dict(re.findall(r"^   [ ✓] (\w[\w ]*?) {2,}(\d+(?: of \d+)?)(?:  |$)", said, re.MULTILINE))
    asked = int(counted["acknowledged"])
    assert asked >= 600
    assert counted["known afterwards"] == counted["answered"] == f"{asked} of {asked}"
    assert counted["threads stuck"] == "0 of 0"
    assert counted["threads served again"] == "200 of 200"
    assert list(tmp_path.iterdir()) == []
    assert processes_in(tmp_path) == []


@pytest.mark.skipif(not Path("/proc/self/cmdline").exists(), reason="processes are looked for in /proc")
def test_ctrl_c_leaves_nothing_behind(tmp_path: Path) -> None:
    process = start(tmp_path)
    assert process.stdout is not None
    while "$ python3 -m venv" not in process.stdout.readline():
        assert process.poll() is None
    process.send_signal(signal.SIGINT)
    _, complaints = process.communicate(timeout=MINUTE)
    assert (process.returncode, complaints) == (130, "demo: stopped\n")
    assert list(tmp_path.iterdir()) == []
    assert processes_in(tmp_path) == []


def test_nothing_that_was_started_in_the_shell_is_there_when_it_is_closed(tmp_path: Path) -> None:
    """It would go on writing into a folder that is about to be removed."""
    shell = Shell(tmp_path, os.environ)
    pids = shell.run("for _ in 1 2 3 4 5 6 7 8 9; do sleep 1000 & echo $!; done").split()
    shell.close()

    assert len(pids) == 9
    assert [pid for pid in pids if is_there(int(pid))] == []


def test_a_readme_that_leaves_out_a_step_or_has_another_one_is_refused(tmp_path: Path) -> None:
    page = tmp_path / "README.md"
    page.write_text(PAGE, "utf-8")
    section = Section(page, "Serve it", {"2024": "4711"})
    assert section.command("pip install").text == "pip install product"
    with pytest.raises(StrangerError, match=r"does not show settings\.toml where it is needed, but shows agents\.py"):
        section.file("settings.toml")
    with pytest.raises(StrangerError, match="goes on with what this demo does not do: says “product serve”"):
        section.end()
    section.command("product serve")
    section.end()
    with pytest.raises(StrangerError, match="does not say “product stop …” where it is needed, but ends"):
        section.command("product stop")


def test_files_are_as_they_stand_there_but_for_what_is_free_here(tmp_path: Path) -> None:
    page = tmp_path / "README.md"
    page.write_text(PAGE, "utf-8")
    section = Section(page, "Serve it", {"2024": "4711"})
    section.command("pip install")
    assert section.file("agents.py").text == "# agents.py\nPORT = 4711\n"
