"""How many runs a worker executes at once, according to settings, flags and the machine."""

import os
from pathlib import Path

import pytest

from trackside.app.cli.serving.worker import WorkOptions

PROCESSORS = 6
FLEET = '[agents]\necho = "agents.py:echo"\n[database]\nurl = "postgresql://db/runs"\n[engine]\nurl = "postgres"\n'


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(os, "cpu_count", lambda: PROCESSORS)
    (tmp_path / "agents.py").write_text("async def echo(input):\n    return input\n", encoding="utf-8")
    return tmp_path


def options(**typed: str) -> WorkOptions:
    names = ("concurrency", "engine", "database", "host", "port", "isolation", "memory_limit", "drain")
    return WorkOptions(agents=(), pools=(), json=False, **{name: typed.get(name) for name in names})


@pytest.mark.parametrize(
    ("toml", "typed", "places"),
    [
        ("", {}, 16),
        ("[worker]\nconcurrency = 300", {}, 300),
        ("[runs]\nmax_running = 4", {}, 4),
        ("[runs]\nmax_running = 64", {}, 16),
        ("[runs]\nmax_running = 4\n[worker]\nconcurrency = 8", {}, 4),
        ("[runs]\nmax_running = 64\n[worker]\nconcurrency = 32", {}, 32),
        ("[runs]\nmax_running = 4", {"concurrency": "32"}, 4),
        ("", {"isolation": "process"}, PROCESSORS),
        ("[runs]\nmax_running = 4", {"isolation": "process"}, 4),
        ("[runs]\nmax_running = 64", {"isolation": "process"}, PROCESSORS),
        ("[runs]\nmax_running = 64", {"isolation": "process", "concurrency": "12"}, 12),
    ],
)
def test_a_worker_has_the_places_that_are_set_and_no_more_than_any_process_may_have(
    folder: Path, toml: str, typed: dict[str, str], places: int
) -> None:
    (folder / "trackside.toml").write_text(FLEET + toml, encoding="utf-8")

    assert options(**typed).settings().worker.concurrency == places


def test_who_has_asked_for_more_places_than_a_process_may_have_is_told(folder: Path) -> None:
    (folder / "trackside.toml").write_text(f"{FLEET}[runs]\nmax_running = 4", encoding="utf-8")

    assert options().settings().notes == ()
    assert options(concurrency="32").settings().notes == (
        "--concurrency has no effect beyond 4: trackside.toml, runs.max_running does not allow a process more",
    )
