"""The package that the tutorial about plugins ends with can be built and installed, and its users can name it."""

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

from reading import steps


def test_what_the_tutorial_has_made_is_a_plugin(tmp_path: Path) -> None:
    for step in steps("tutorials/write-an-observer-plugin.md"):
        if step.file is not None:
            (tmp_path / step.file).parent.mkdir(exist_ok=True)
            (tmp_path / step.file).write_text(step.text, encoding="utf-8")
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", "dist"]
    subprocess.run(build, cwd=tmp_path, capture_output=True, check=True)
    (wheel,) = (tmp_path / "dist").glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "site")  # unpacking a wheel installs it

    shown = subprocess.run(
        [Path(sys.executable).with_name("trackside"), "observers", "--json"],
        cwd=tmp_path,  # where trackside.toml names it
        env={**os.environ, "PYTHONPATH": str(tmp_path / "site")},
        capture_output=True,
        text=True,
        check=True,
    )

    named, *available = [json.loads(line) for line in shown.stdout.splitlines()]
    assert (named["type"], named["delivery"]) == ("token_tally", "durable")
    assert {"available": "token_tally", "from": "token-tally 1.0.0", "missing_extra": None} in [
        {name: value for name, value in line.items() if name != "what"} for line in available
    ]
