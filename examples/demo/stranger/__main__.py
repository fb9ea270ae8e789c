"""The command `./scripts/demo stranger`."""

from __future__ import annotations

import argparse
import os
import shlex
import signal
import socket
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Final

from demo.stranger.failing import StrangerError
from demo.stranger.readme import Section
from demo.stranger.screen import Screen
from demo.stranger.shell import Shell
from demo.stranger.tour import Tour

CHECKOUT: Final = Path(__file__).parents[3]
SECTION: Final = "Serve it"
SERVER_PORT: Final = "2024"
HOOK_PORT: Final = "8080"
"""As in README.md."""


def free_ports(number: int) -> list[int]:
    """This many ports that nobody listens on."""
    probes = [socket.socket() for _ in range(number)]
    try:
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [probe.getsockname()[1] for probe in probes]
    finally:
        for probe in probes:
            probe.close()


def prepare(folder: Path, port: int) -> tuple[Path, dict[str, str]]:
    """Make the empty folder beside a checkout, and the environment of somebody with this Python and nothing of ours."""
    (folder / "trackside").symlink_to(CHECKOUT)
    empty, programs = folder / "empty", folder / "bin"
    empty.mkdir()
    programs.mkdir()
    python = programs / "python3"
    python.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} "$@"\n', "utf-8")
    python.chmod(0o755)
    foreign = ("PYTHON", "TRACKSIDE_", "VIRTUAL_ENV", "COVERAGE_")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(foreign)}
    search = os.pathsep.join([str(programs), kept.get("PATH", os.defpath)])
    own = {
        "PATH": search,
        "PIP_DISABLE_PIP_VERSION_CHECK": "1",
        "PIP_NO_COMPILE": "1",
        "TRACKSIDE_SERVER_PORT": str(port),
        "COLUMNS": "110",
    }
    return empty, kept | own


def run_demo(screen: Screen) -> bool:
    """Run the whole demo; gives whether everything came out as it should.

    Raises:
        StrangerError: something did not work.
    """
    began = time.monotonic()
    port, hook_port = free_ports(2)
    with tempfile.TemporaryDirectory(prefix="trackside-demo-stranger-", ignore_cleanup_errors=True) as name:
        folder, environment = prepare(Path(name).resolve(), port)
        section = Section(CHECKOUT / "README.md", SECTION, {SERVER_PORT: str(port), HOOK_PORT: str(hook_port)})
        screen.begin(
            f"What it says under “{SECTION}”, word for word, in the empty folder {folder};",
            f"only the ports {SERVER_PORT} and {HOOK_PORT} are {port} and {hook_port}, which are free here.",
        )
        shell = Shell(folder, environment)
        try:
            is_well = Tour(CHECKOUT, folder, shell, section, port=port, hook_port=hook_port, screen=screen).go()
        finally:
            shell.close()
    words = "Nothing was lost" if is_well else "Something was lost"
    screen.end(f"{words}: {time.monotonic() - began:.0f} s from nothing to here", is_well=is_well)
    return is_well


def main() -> int:
    """Run the demo; gives the exit code. What goes wrong is said on standard error."""
    parser = argparse.ArgumentParser(
        prog="./scripts/demo stranger",
        description="Does what README.md says, word for word, with nothing but a Python and pip: installs Trackside into an "
        "empty environment, serves an agent, asks it, looks at the console, a webhook and the metrics, kills the server "
        "while 200 runs go on, and counts what is left of them. Ends by itself.",
    )
    parser.parse_args()
    signal.signal(signal.SIGTERM, _as_ctrl_c)
    try:
        return 0 if run_demo(Screen()) else 1
    except StrangerError as exc:
        print(f"demo: {exc}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("demo: stopped", file=sys.stderr)
        return 130


def _as_ctrl_c(*_: Any) -> None:
    raise KeyboardInterrupt


sys.exit(main())
