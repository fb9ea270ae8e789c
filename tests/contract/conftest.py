"""Empty databases for the conformance kit."""

import asyncio
import shutil
from pathlib import Path

import pytest

from trackside.app.storage import Store


@pytest.fixture(scope="session")
def empty_sqlite(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Made once, copied for each test."""
    path = tmp_path_factory.mktemp("empty") / "runs.db"

    async def make() -> None:
        async with Store.open(f"sqlite:///{path}"):
            pass

    asyncio.run(make())
    return path


@pytest.fixture
def database_url(empty_sqlite: Path, tmp_path: Path) -> str:
    path = tmp_path / "runs.db"
    shutil.copy(empty_sqlite, path)
    return f"sqlite:///{path}"
