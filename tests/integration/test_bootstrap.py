"""How `scripts/bootstrap` chooses its Python and finds the package index on machines that are not ideal."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
REAL = os.path.realpath(getattr(sys, "_base_executable", sys.executable))

Bootstrap = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def bootstrap(tmp_path: Path) -> Bootstrap:
    """Runs the script from another folder, with an empty home and only the given variables."""

    def run(
        *arguments: str, path: str = os.defpath, root: Path = ROOT, **environment: str
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [root / "scripts" / "bootstrap", *arguments],
            cwd="/",
            env={"PATH": path, "HOME": str(tmp_path)} | environment,
            capture_output=True,
            text=True,
            check=False,
        )

    return run


def program(path: Path, script: str) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


def test_python_that_does_not_run_or_is_too_old_is_passed_over(tmp_path: Path, bootstrap: Bootstrap) -> None:
    program(tmp_path / "shims" / "python3.13", "echo 'pyenv: python3.13: command not found' >&2; exit 127")
    program(tmp_path / "old" / "python3.13", "exit 1")  # as an old one answers the version check
    program(tmp_path / "good" / "python3.13", f'exec "{REAL}" "$@"')

    path = f"{tmp_path}/shims:{tmp_path}/old:{tmp_path}/good:{os.defpath}"
    result = bootstrap("--print-python", path=path)

    assert (result.stdout, result.stderr) == (f"{REAL}\n", "")


def test_named_python_is_taken_and_an_environment_is_seen_through(bootstrap: Bootstrap) -> None:
    result = bootstrap("--print-python", TRACKSIDE_PYTHON=sys.executable)

    assert os.path.realpath(result.stdout.strip()) == REAL


def test_named_python_that_is_unfit_is_an_error_and_not_replaced(bootstrap: Bootstrap) -> None:
    result = bootstrap("--print-python", TRACKSIDE_PYTHON="/nonexistent/python")

    assert (result.returncode, result.stdout) == (1, "")
    assert "TRACKSIDE_PYTHON=/nonexistent/python" in result.stderr


INDEX = "https://somebody:secret@packages.example/a/rather/long/way/to/the/index/of/all/packages/simple"


@pytest.fixture
def reached(tmp_path: Path, bootstrap: Bootstrap) -> Bootstrap:
    """The same in a checkout where a stub uv prints the index and certificate that it is given, and cannot install."""
    root = tmp_path / "checkout"
    for name in ("scripts/bootstrap", "scripts/uv.lock.txt", "requirements.lock"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, root / name)
    uv = """case "$1 $2" in
    "--version ") echo uv 1.0 ;;
    "venv "*) mkdir .venv ;;
    "pip sync") exit 2 ;;
    *) printf '%s\\n' "$*" "$UV_DEFAULT_INDEX" "$SSL_CERT_FILE" ;;
    esac"""
    program(tmp_path / "bin" / "uv", uv)
    # the pip here is asked if the chosen Python has none
    path = f"{tmp_path}/bin:{Path(sys.executable).parent}:{os.defpath}"

    def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        return bootstrap(*arguments, path=path, root=root, **environment)

    return run


def settings_of_pip(path: Path, section: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"[{section}]\nindex-url = {INDEX}\ncert = ~/ours.pem\n")
    return path


@pytest.mark.parametrize("section", ["global", "install"])
def test_uv_gets_the_index_and_certificate_of_a_file_of_settings_that_is_named_to_pip(
    section: str, tmp_path: Path, reached: Bootstrap
) -> None:
    file = settings_of_pip(tmp_path / "named.conf", section)

    result = reached("--uv", "pip", "compile", "two words", PIP_CONFIG_FILE=str(file), PIP_QUIET="1")

    assert (result.stdout, result.stderr) == (f"pip compile two words\n{INDEX}\n{tmp_path}/ours.pem\n", "")


@pytest.mark.parametrize("whose", ["the user's", "the machine's"])
def test_uv_gets_the_index_and_certificate_of_the_files_where_pip_looks(
    whose: str, tmp_path: Path, reached: Bootstrap
) -> None:
    if whose == "the machine's" and sys.platform != "linux":
        pytest.skip("pip has one place for all users here, which is not a test's to write")
    folder = {"the user's": ".pip", "the machine's": "machine/pip"}[whose]
    settings_of_pip(tmp_path / folder / "pip.conf", "install")  # so that it precedes this machine's global settings

    result = reached("--uv", "lock", XDG_CONFIG_DIRS=f"{tmp_path}/machine")

    assert result.stdout == f"lock\n{INDEX}\n{tmp_path}/ours.pem\n"


def test_variables_of_pip_come_before_its_files_and_those_of_uv_before_both(tmp_path: Path, reached: Bootstrap) -> None:
    file = str(settings_of_pip(tmp_path / "named.conf", "install"))
    of_pip = {"PIP_CONFIG_FILE": file, "PIP_INDEX_URL": "https://b.example/", "PIP_CERT": "/b.pem"}
    of_uv = {"UV_DEFAULT_INDEX": "https://c.example/", "SSL_CERT_FILE": "/c.pem"}

    assert reached("--uv", "lock", **of_pip).stdout == "lock\nhttps://b.example/\n/b.pem\n"
    assert reached("--uv", "lock", **of_pip, **of_uv).stdout == "lock\nhttps://c.example/\n/c.pem\n"


def test_dependencies_that_cannot_be_installed_are_said_with_what_to_do_and_no_address(
    tmp_path: Path, reached: Bootstrap
) -> None:
    result = reached(PIP_CONFIG_FILE=str(settings_of_pip(tmp_path / "named.conf", "global")))

    assert result.returncode == 1
    assert "UV_DEFAULT_INDEX and SSL_CERT_FILE" in result.stderr
    assert "example" not in result.stdout + result.stderr
