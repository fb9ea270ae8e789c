"""The example of a project made for LangGraph's server: served unchanged, to clients that know only the address."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from strictness import WARNINGS
from trackside_server import TracksideServer

import javascript

PROJECT = Path(__file__).parents[2] / "examples" / "langgraph_project"

pytestmark = pytest.mark.timeout(400)  # the packages may have to be installed first


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TracksideServer]:
    """`trackside serve` in a copy of the project."""
    folder = tmp_path_factory.mktemp("example") / "project"
    shutil.copytree(PROJECT, folder, ignore=shutil.ignore_patterns("__pycache__", "node_modules"))
    with TracksideServer(folder) as server:
        yield server


def conversation() -> str:
    """What both clients print, according to the README."""
    found = re.search(r"```text\n(.*?)```", (PROJECT / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    assert found is not None
    return found[1]


def printed(command: list[str], folder: Path) -> str:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("LANG", "TRACKSIDE_"))}
    environment = {**kept, "PYTHONUTF8": "1", "PYTHONWARNINGS": WARNINGS}
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, encoding="utf-8", timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def packages_in(folder: Path) -> str:
    """The Node that runs the project's scripts, once the packages that these import are in place."""
    node = javascript.node()
    if not (folder / "node_modules").exists():
        (folder / "node_modules").symlink_to(javascript.PACKAGES, target_is_directory=True)
    return node


def test_the_python_client_has_the_conversation(server: TracksideServer) -> None:
    assert printed([sys.executable, "client.py", server.url], server.folder) == conversation()


def test_the_javascript_client_has_the_same(server: TracksideServer) -> None:
    node = packages_in(server.folder)
    assert printed([node, "client.mjs", server.url], server.folder) == conversation()


def test_the_page_lends_a_book(server: TracksideServer) -> None:
    packages_in(server.folder)
    javascript.run_tests("example_page.test.mjs", url=server.url, PAGE=str(server.folder / "web" / "chat.mjs"))


def test_the_page_may_ask_from_where_it_is_served(server: TracksideServer) -> None:
    origin = {"Origin": "http://localhost:5173"}
    asked = {**origin, "Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "content-type"}
    allowed = httpx.options(f"{server.url}/threads", headers=asked)
    assert allowed.headers["access-control-allow-origin"] == origin["Origin"]
    made = httpx.post(f"{server.url}/threads", headers=origin, json={})
    assert made.status_code == 200
    assert "Content-Location" in made.headers["access-control-expose-headers"]


def test_nothing_of_the_project_knows_trackside() -> None:
    files = [path for path in PROJECT.rglob("*") if path.suffix in {".py", ".mjs", ".json", ".html"}]
    assert len(files) > 8
    assert not [path for path in files if "node_modules" not in path.parts and "trackside" in path.read_text("utf-8")]
