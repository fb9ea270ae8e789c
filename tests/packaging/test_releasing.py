"""The checklist of a release: what it would do, and what it refuses; and how to cite what was released."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml
from distribution import PROJECT, ROOT

from trackside import __version__


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """As much of a checkout as the steps need that look at versions, with nothing left to do."""
    for name in ("scripts/release", "CITATION.cff", "src/trackside/_version.py"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    bootstrap = tmp_path / "scripts" / "bootstrap"
    bootstrap.write_text("#!/bin/sh\n", "utf-8")
    bootstrap.chmod(0o755)
    (tmp_path / "changes").mkdir()
    (tmp_path / "CHANGELOG.md").write_text(f"# Changelog\n\n## {__version__} (2026-11-26)\n", "utf-8")
    git(tmp_path, "init", "--quiet")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "--quiet", "--message", "Begin")
    return tmp_path


def git(checkout: Path, *arguments: str) -> None:
    own = ["-c", "user.name=Nobody", "-c", "user.email=nobody@localhost"]
    subprocess.run(["git", *own, *arguments], cwd=checkout, check=True, capture_output=True)


def release(checkout: Path, *arguments: str) -> tuple[int, str]:
    """The exit code, and what is said last."""
    command = [checkout / "scripts" / "release", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.returncode, (done.stdout + done.stderr).strip().splitlines()[-1]


def test_what_is_ready_is_not_refused(checkout: Path) -> None:
    code, _ = release(checkout, "tree", "version")
    assert code == 0


def test_each_step_refuses_with_what_to_do(checkout: Path) -> None:
    stray = checkout / "changes" / "+more.added.md"
    stray.write_text("More.\n", "utf-8")
    assert release(checkout, "tree") == (
        1,
        "release: there are uncommitted changes (git status): commit them, or put them aside",
    )
    code, said = release(checkout, "version")
    assert (code, ".venv/bin/towncrier build" in said) == (1, True)
    stray.unlink()

    git(checkout, "tag", f"v{__version__}")
    code, said = release(checkout, "version")
    assert (code, "is tagged already" in said) == (1, True)

    (checkout / "CITATION.cff").write_text("version: 0.0.1\n", "utf-8")
    code, said = release(checkout, "version")
    assert (code, f'write "version: {__version__}"' in said) == (1, True)

    (checkout / "src/trackside/_version.py").write_text('__version__ = "9.9.9"\n', "utf-8")
    code, said = release(checkout, "version")
    assert (code, "CHANGELOG.md has no entry" in said) == (1, True)

    code, said = release(checkout, "smoke")
    assert (code, "./scripts/release build makes it" in said) == (1, True)
    assert release(checkout, "publish")[0] == 1


def test_a_dry_run_names_all_steps_and_does_none(checkout: Path) -> None:
    (checkout / "changes" / "+more.added.md").write_text("More.\n", "utf-8")
    done = subprocess.run([checkout / "scripts/release", "--dry-run"], capture_output=True, text=True, check=True)
    steps = [line.split()[0] for line in done.stdout.splitlines()]
    script = (ROOT / "scripts" / "release").read_text("utf-8")
    listed = re.search(r"^steps=\((.*)\)$", script, re.MULTILINE)
    assert listed is not None
    assert steps == listed[1].split()
    for step in steps:
        assert re.search(rf"^    {step}\) (?!echo)", script, re.MULTILINE), f"{step} does nothing"


def test_it_never_publishes() -> None:
    script = re.sub(r"<<EOF.*?^EOF$", "", (ROOT / "scripts/release").read_text("utf-8"), flags=re.DOTALL | re.MULTILINE)
    assert not re.search(r"twine|git push|git tag --sign|uv publish", script)


def test_the_citation_says_what_the_project_says() -> None:
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text("utf-8"))
    assert set(cited) >= {"cff-version", "message", "title", "authors"}, "what the format cannot do without"
    assert (cited["cff-version"], cited["type"]) == ("1.2.0", "software")
    assert cited["version"] == __version__
    assert cited["license"] == PROJECT["license"]
    assert cited["abstract"] == PROJECT["description"]
    assert cited["keywords"] == PROJECT["keywords"]
    assert cited["authors"] == PROJECT["authors"]
