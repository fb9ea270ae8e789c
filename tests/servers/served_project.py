"""A project made for LangGraph's server, behind `trackside serve`: what unmodified clients are tried against."""

from __future__ import annotations

import shutil
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final, Self

from trackside_server import TracksideServer

PROJECT: Final = Path(__file__).parents[1] / "acceptance" / "project"


class ServedProject:
    """Its servers, one for each database, each started when it is asked for first; until the end of the `with` block.

    Args:
        folder: where copies of the project are made.
        postgres: makes an empty PostgreSQL database and gives its address.
    """

    def __init__(self, folder: Path, postgres: Any) -> None:
        self._folder = folder
        self._postgres = postgres
        self._servers: dict[str, TracksideServer] = {}
        self._stack = ExitStack()

    def on(self, dialect: str) -> TracksideServer:
        """The server on SQLite or on PostgreSQL."""
        if dialect not in self._servers:
            folder = self._folder / dialect
            shutil.copytree(PROJECT, folder, ignore=shutil.ignore_patterns("__pycache__"))
            database = "sqlite:///runs.db" if dialect == "sqlite" else self._postgres()
            self._servers[dialect] = self._stack.enter_context(TracksideServer(folder, database=database))
        return self._servers[dialect]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()
