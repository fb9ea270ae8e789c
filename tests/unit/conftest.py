"""What the tests of the spool share: a folder, the spool in it, and leave to look into files from the event loop."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from blockbuster import BlockBuster

from trackside.app.spool import Spool


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "runs.db-spool"


@pytest.fixture
async def spool(folder: Path) -> AsyncIterator[Spool]:
    spool = Spool(folder)
    yield spool
    await spool.aclose()


@pytest.fixture
def unblocked(blockbuster: BlockBuster) -> None:
    """The test looks at files itself."""
    blockbuster.deactivate()
