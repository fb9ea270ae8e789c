"""LangGraph's JavaScript clients, as they are published, against a real server with a project made for LangGraph's."""

from __future__ import annotations

import shutil
from pathlib import Path

import javascript
import pytest
from blockbuster import BlockBuster
from trackside_server import TracksideServer

PROJECT = Path(__file__).with_name("project")


def start(folder: Path, database: str) -> TracksideServer:
    """A server in a copy of the project."""
    shutil.copytree(PROJECT, folder, ignore=shutil.ignore_patterns("__pycache__"))
    return TracksideServer(folder, database=database)


@pytest.mark.timeout(400)  # the packages may have to be installed first
def test_every_method_of_the_client_works_or_says_why_not(tmp_path: Path, blockbuster: BlockBuster) -> None:
    with start(tmp_path / "project", "sqlite:///runs.db") as server:
        javascript.run_tests("client.test.mjs", url=server.url)
