"""What the attacks share: one server process with keys, which runs for all the tests.

The tests here say what is tried; docs/explain/threat-model.md says who tries it, and which other tests hold him off.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from trackside_server import TracksideServer

from trackside.app.storage import Store

AGENTS = """
async def echo(input):
    return input
"""
SETTINGS = '[server]\nauth = "keys"\nheartbeat = "1s"\n[agents]\necho = "agents.py:echo"\n'


@dataclass(frozen=True)
class Place:
    """A server, and the keys of those who may use it, by what they may do."""

    server: TracksideServer
    keys: dict[str, str]

    @property
    def url(self) -> str:
        return self.server.url

    def headers(self, who: str = "admin") -> dict[str, str]:
        return {"x-api-key": self.keys[who]}


@pytest.fixture(scope="session")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    folder = tmp_path_factory.mktemp("served")
    (folder / "agents.py").write_text(AGENTS, "utf-8")
    with TracksideServer(folder, settings=SETTINGS) as server:
        yield Place(server, asyncio.run(keys_in(folder)))


async def keys_in(folder: Path) -> dict[str, str]:
    async with Store.open(f"sqlite:///{folder / 'runs.db'}") as store:
        return {
            may: (await store.api_keys.create("k", owner=may, permission=may)).secret
            for may in ("read", "run", "admin")
        }
