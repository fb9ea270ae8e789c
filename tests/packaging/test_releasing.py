"""The checklist of a release: what it would do, and what it refuses; and how to cite a release."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from distribution import PROJECT, ROOT

from trackside import __version__


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """The part of a checkout that the version steps need, with nothing left to do."""
    for name in ("scripts/release", "CITATION.cff", "src/trackside/_version.py", "pyproject.toml", "changes/README.md"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    bootstrap = tmp_path / "scripts" / "bootstrap"
    bootstrap.write_text("#!/bin/sh\n", "utf-8")
    bootstrap.chmod(0o755)
    begins = "<!-- towncrier release notes start -->"
    (tmp_path / "CHANGELOG.md").write_text(f"# Changelog\n\n{begins}\n\n## {__version__} (2026-11-26)\n", "utf-8")
    (tmp_path / ".venv").symlink_to(sys.prefix)
    git(tmp_path, "init", "--quiet")
    (tmp_path / ".git/info/exclude").write_text(".venv\n", "utf-8")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "--quiet", "--message", "Begin")
    return tmp_path


def git(checkout: Path, *arguments: str) -> None:
    own = ["-c", "user.name=Nobody", "-c", "user.email=nobody@localhost"]
    subprocess.run(["git", *own, *arguments], cwd=checkout, check=True, capture_output=True)


def release(checkout: Path, *arguments: str) -> tuple[int, str]:
    """The exit code, and what was said last."""
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
    assert (code, "./scripts/release --prepare" in said) == (1, True)
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

    code, said = release(checkout, "sign")
    assert (code, "./scripts/release audit build makes it" in said) == (1, True)
    code, said = release(checkout, "smoke")
    assert (code, "./scripts/release build makes it" in said) == (1, True)
    assert release(checkout, "publish")[0] == 1


def test_what_is_prepared_is_ready_when_it_is_committed(checkout: Path) -> None:
    (checkout / "changes" / "+more.added.md").write_text("More.\n", "utf-8")
    git(checkout, "add", ".")
    git(checkout, "commit", "--quiet", "--message", "Add more")

    assert release(checkout, "--prepare", "two")[0] == 1
    code, said = release(checkout, "--prepare", "23.0.1")
    assert (code, 'git commit --all --message "Release 23.0.1"' in said) == (0, True)
    git(checkout, "commit", "--quiet", "--all", "--message", "Release 23.0.1")

    assert release(checkout, "tree", "version") == (
        0,
        "version: _version.py, CHANGELOG.md and CITATION.cff say the same; no fragment is left; the tag is free",
    )
    changelog = (checkout / "CHANGELOG.md").read_text("utf-8")
    assert [line.partition(" (")[0] for line in changelog.splitlines() if line.startswith("## ")] == [
        "## 23.0.1",
        f"## {__version__}",
    ]
    assert "- More." in changelog
    assert [path.name for path in (checkout / "changes").iterdir()] == ["README.md"]
    code, said = release(checkout, "--prepare", "23.0.1")
    assert (code, "already" in said) == (1, True)


def test_what_is_to_be_signed_is_what_was_built_and_checks_out(checkout: Path) -> None:
    dist = checkout / "dist"
    dist.mkdir()
    built = [f"trackside-{__version__}.tar.gz", f"trackside-{__version__}-py3-none-any.whl", "trackside-sbom.cdx.json"]
    for name in built:
        (dist / name).write_text(name, "utf-8")
    done = subprocess.run([checkout / "scripts/release", "sign"], capture_output=True, text=True, check=True)
    (command,) = re.findall(r"\(cd dist && (sha256sum.*) && gpg", done.stdout)
    for _ in range(2):  # once more with its own file already there
        subprocess.run(["bash", "-c", command], cwd=dist, check=True)
    summed = [line.split()[1] for line in (dist / "SHA256SUMS").read_text("utf-8").splitlines()]
    assert sorted(summed) == sorted(built)
    subprocess.run(["sha256sum", "--check", "SHA256SUMS"], cwd=dist, check=True, capture_output=True)
    assert command in (ROOT / "docs/explain/supply-chain.md").read_text("utf-8")


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
