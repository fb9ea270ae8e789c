"""What `fleet up` starts, according to its arguments and the settings."""

import os
from pathlib import Path

import pytest

from trackside.app.cli.serving.fleet import UpOptions, plan_of
from trackside.app.engine.local import FleetPlan
from trackside.app.settings import load_settings


def asked() -> UpOptions:
    return UpOptions(agents=(), workers=3, servers=2, engine="nats", first_port=None, data=None, json=False)


def planned(folder: Path) -> FleetPlan:
    return plan_of(asked(), load_settings(), folder)


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_workers_execute_runs_themselves(project: Path) -> None:
    assert planned(project).processes == 1 + 2 + 3


def test_processes_of_runs_are_counted_with_their_workers(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 20)
    (project / "trackside.toml").write_text('[worker]\nisolation = "process"\n')
    assert planned(project).processes == 1 + 2 + 3 * 21

    (project / "trackside.toml").write_text('[worker]\nisolation = "process"\nconcurrency = 4\n')
    assert planned(project).processes == 1 + 2 + 3 * 5


def test_a_fleet_needs_neither_the_engine_nor_the_database_of_the_settings(project: Path) -> None:
    engine = '[engine]\nurl = "postgres"\n'  # its database is in the environment where it is served
    (project / "trackside.toml").write_text(f'{engine}[agents]\nchat = "agents.py:chat"\n[pools]\nchat = "gpu"\n')

    options = asked()
    settings = options.check()

    assert [*settings.agents] == ["chat"]
    assert plan_of(options, settings, project).pools == ["default", "gpu"]
