"""A project's variables do not decide which server a command asks, or which key that gets."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from forking import Forkery
from served_records import Served, objects, serving

Trackside = Callable[..., "subprocess.CompletedProcess[str]"]

URL_UNHEEDED = "warning: TRACKSIDE_URL in the variables of langgraph.json names no server to ask"
KEY_UNHEEDED = "warning: TRACKSIDE_API_KEY in the variables of langgraph.json is not sent"


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory, forkery: Forkery) -> Iterator[Served]:
    with serving(tmp_path_factory.mktemp("served"), forkery) as served:
        yield served


@pytest.fixture
def project(tmp_path: Path) -> Callable[..., None]:
    """Writes a project with these variables into the folder in which commands are started."""
    (tmp_path / "agents.py").write_text("async def echo(input):\n    return input\n")

    def write(**variables: str) -> None:
        (tmp_path / ".env").write_text("".join(f"{name}={value}\n" for name, value in variables.items()))
        settings = {"graphs": {"echo": "./agents.py:echo"}, "env": ".env"}
        (tmp_path / "langgraph.json").write_text(json.dumps(settings))

    return write


def test_a_server_that_the_project_names_is_not_asked_and_that_is_said(
    served: Served, project: Callable[..., None], trackside: Trackside
) -> None:
    project(TRACKSIDE_URL=served.url, TRACKSIDE_API_KEY=served.keys["admin"])

    ran = trackside("run", "agents.py:echo", "hello")
    without_key, with_key = (
        trackside("runs", "--json"),
        trackside("runs", "--json", TRACKSIDE_API_KEY=served.keys["admin"]),
    )

    assert ran.returncode == 0
    for listed in (without_key, with_key):
        assert listed.stdout.count("\n") == 1, "the run of this folder's database"
    for done in (ran, without_key, with_key):
        assert done.stderr.count(URL_UNHEEDED) == 1
        assert KEY_UNHEEDED not in done.stderr, "no server is asked"


def test_the_key_of_the_project_is_sent_to_nobody_and_that_of_the_environment_is(
    served: Served, project: Callable[..., None], trackside: Trackside
) -> None:
    project(TRACKSIDE_URL="http://localhost:1", TRACKSIDE_API_KEY=served.keys["admin"])
    named = {"TRACKSIDE_URL": served.url}

    for without_key in (trackside("runs", "--url", served.url), trackside("runs", **named)):
        assert without_key.returncode == 2
        assert KEY_UNHEEDED in without_key.stderr
        assert URL_UNHEEDED not in without_key.stderr
    for with_key in (
        trackside("runs", "--json", **named, TRACKSIDE_API_KEY=served.keys["admin"]),
        trackside("runs", "--json", *served.at("server")),
    ):
        assert len(objects(with_key)) == 3
        assert with_key.stderr == ""


def test_who_names_a_database_or_has_no_such_variables_is_told_nothing(
    served: Served, project: Callable[..., None], trackside: Trackside
) -> None:
    project(TRACKSIDE_URL="http://localhost:1", TRACKSIDE_API_KEY="key")
    assert trackside("runs", "--json", *served.at("database")).stderr == ""
    project(WHOM="world", TRACKSIDE_URL="")
    assert trackside("run", "agents.py:echo", "hello").returncode == 0
    assert trackside("runs", "--json").stderr == ""
