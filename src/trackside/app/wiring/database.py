"""Opens the database that the settings name; an error says who chose it."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Generator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from typing import TYPE_CHECKING

from trackside.app.settings import Settings
from trackside.app.wiring.errors import NothingRecordedError
from trackside.harness.errors import Fault

if TYPE_CHECKING:
    from trackside.app.storage import Store


@asynccontextmanager
async def open_store(settings: Settings, *, create: bool = True, read_only: bool = False) -> AsyncGenerator[Store]:
    """Open the database; unless `create`, it has to exist already. With `read_only`, looking leaves no file behind.

    Raises:
        SettingsError: it cannot be opened; the message says who chose it and what to do.
        NothingRecordedError: it does not exist, and is not to be created.
    """
    from trackside.app.storage import Store

    async with AsyncExitStack() as stack:
        with blaming(settings):
            store = await stack.enter_async_context(
                Store.open(settings.database_url, create=create, read_only=read_only)
            )
        yield store


@contextmanager
def blaming(settings: Settings) -> Generator[None]:
    """Adds to an error of the database who chose the database.

    Raises:
        SettingsError: it cannot be used; the message says what to do, and `fault` whether what was chosen is to blame.
        NothingRecordedError: it does not exist, and is not to be created.
        StorageError: it is locked or full, which has nothing to do with how it was chosen.
    """
    from trackside.app.storage.errors import (
        DamagedDatabaseError,
        DatabaseMissingError,
        ServerUnreachableError,
        StorageError,
    )

    try:
        yield
    except DatabaseMissingError as exc:
        raise NothingRecordedError(database=settings.database_shown) from exc
    except StorageError as exc:
        if exc.retryable and not isinstance(exc, ServerUnreachableError):
            raise
        fault: Fault = "store" if isinstance(exc, DamagedDatabaseError) else "caller"
        raise settings.database_complaint(str(exc).rstrip("."), fault=fault) from exc
