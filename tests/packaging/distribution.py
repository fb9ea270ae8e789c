"""The release as it is built here, and environments that hold nothing but what is installed there."""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

ROOT: Final = Path(__file__).parents[2]
PROJECT: Final[dict[str, Any]] = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
LOCK: Final = ROOT / "requirements.lock"
EPOCH: Final = os.environ.get("SOURCE_DATE_EPOCH", "1767225600")
"""The time stamp of all files: seconds since 1970."""

_PATIENCE: Final = 600.0  # seconds
_FOREIGN: Final = ("PYTHON", "TRACKSIDE_", "VIRTUAL_ENV", "COV_", "COVERAGE_", "PYTEST_")


def build(source: Path, folder: Path, *kinds: str) -> list[Path]:
    """Build the wheel or the sdist of a source tree, with the locked hatchling; the files, in the order of the kinds."""
    made = []
    for kind in kinds:
        done = subprocess.run(
            [sys.executable, "-m", "build", "--no-isolation", f"--{kind}", "--outdir", folder, source],
            env={**os.environ, "SOURCE_DATE_EPOCH": EPOCH},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        (path,) = folder.glob("*.whl" if kind == "wheel" else "*.tar.gz")
        made.append(path)
    return made


def unpacked(sdist: Path, folder: Path) -> Path:
    """Unpack an sdist there, and return the source tree."""
    with tarfile.open(sdist) as archive:
        archive.extractall(folder, filter="data")
    return folder / sdist.name.removesuffix(".tar.gz")


def found_python(version: str) -> str | None:
    """An interpreter of this version, such as `3.13`, on the path or where pyenv puts them; None if there is none."""
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    folders = [*map(Path, os.get_exec_path()), *sorted(pyenv.glob(f"{version}.*/bin"))]
    question = "import sys; print('%d.%d' % sys.version_info[:2])"
    for candidate in (folder / f"python{version}" for folder in folders):
        if not candidate.exists():
            continue
        done = subprocess.run([candidate, "-I", "-c", question], capture_output=True, text=True, check=False)
        if done.returncode == 0 and done.stdout.strip() == version:  # not a shim that leads nowhere
            return str(candidate)
    return None


def compiled(target: Path, *arguments: str) -> Path:
    """A file with a list of packages and their versions, as `uv pip compile` makes it in this checkout."""
    _uv("pip", "compile", "--quiet", "--python-version", "3.12", "--output-file", str(target), *arguments)
    return target


class FreshEnvironment:
    """A virtual environment with nothing in it.

    Args:
        folder: where to make it, and where its programs run.
        python: the interpreter to use; this one if left out.
    """

    def __init__(self, folder: Path, python: str = sys.executable) -> None:
        self.folder = folder
        self.python = folder / "env" / "bin" / "python"
        self.trackside = folder / "env" / "bin" / "trackside"
        _uv("venv", "--quiet", "--no-project", "--python", python, str(folder / "env"))

    def install(self, *requirements: str | Path, options: Sequence[str] = ("--constraint", str(LOCK))) -> None:
        """Install these, in the locked versions unless `options` say otherwise."""
        command = ["pip", "install", "--quiet", "--python", str(self.python), *options, *map(str, requirements)]
        offline, _ = _try_uv(*command, "--offline")  # quick, if this uv made the project's own environment
        if offline != 0:
            _uv(*command)

    def run(
        self, *command: str | Path, folder: Path | None = None, seconds: float = _PATIENCE
    ) -> subprocess.CompletedProcess[str]:
        """Run one of the environment's programs in a folder, by default the environment's own."""
        return subprocess.run(
            [str(part) for part in command],
            cwd=folder or self.folder,
            env=clean_environment(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=seconds,
            check=False,
        )


def clean_environment() -> dict[str, str]:
    """This process's environment, without what concerns only this process; warnings of our own are errors."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(_FOREIGN)}
    return {**kept, "NO_COLOR": "1", "COLUMNS": "120"}


def _uv(*arguments: str) -> None:
    code, said = _try_uv(*arguments)
    assert code == 0, f"uv {' '.join(arguments)} ends with {code}:\n{said}"


def _try_uv(*arguments: str) -> tuple[int, str]:
    command = [str(ROOT / "scripts" / "bootstrap"), "--uv", *arguments]  # finds the index that pip is set to
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=_PATIENCE, check=False)
    return done.returncode, done.stdout + done.stderr
