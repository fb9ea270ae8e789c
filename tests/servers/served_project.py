"""A project made for LangGraph's server, behind `trackside serve`: tests try unmodified clients against it.

On one process, and on fleets: a server that executes nothing and a worker, which share only a database and an engine.
"""

from __future__ import annotations

import shutil
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final, Self

import pytest
from forking import Forkery
from nats_server import NatsServer
from trackside_server import TracksideProcess, TracksideServer

PROJECT: Final = Path(__file__).parents[1] / "acceptance" / "project"
PLACES: Final = [
    "sqlite",
    "postgres",
    "nats-fleet",
    pytest.param("postgres-fleet", marks=pytest.mark.long),
]
"""Where the same tests run: one process on either database, and a fleet on either engine."""


class ServedProject:
    """The project's servers, one for each place, each started when first asked for, until the end of the `with` block.

    Args:
        folder: where copies of the project are made.
        postgres: makes an empty PostgreSQL database and gives its address.
        forkery: forks the processes.
    """

    def __init__(self, folder: Path, postgres: Any, forkery: Forkery) -> None:
        self._folder = folder
        self._postgres = postgres
        self._forkery = forkery
        self._servers: dict[str, TracksideServer] = {}
        self._stack = ExitStack()

    def on(self, place: str) -> TracksideServer:
        """The server at one of `PLACES`."""
        if place not in self._servers:
            folder = self._folder / place
            shutil.copytree(PROJECT, folder, ignore=shutil.ignore_patterns("__pycache__"))
            self._servers[place] = self._start(folder, place)
        return self._servers[place]

    def _start(self, folder: Path, place: str) -> TracksideServer:
        start = self._stack.enter_context
        database = "sqlite:///runs.db" if place == "sqlite" else self._postgres()
        if not place.endswith("-fleet"):
            return start(TracksideServer(folder, database=database, forkery=self._forkery))
        engine = start(NatsServer()).url if place.startswith("nats") else "postgres"
        shared = ["--database", database, "--engine", engine]
        start(TracksideProcess(folder, ["worker", "--json", *shared], name="worker", forkery=self._forkery))
        return start(TracksideServer(folder, database=database, options=["--engine", engine], forkery=self._forkery))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()
