"""The engine on NATS: JetStream moves runs to workers, core NATS carries stops and live output.

Nothing here knows the database or the harness; the sweep finds what it loses.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from trackside.app.engine.nats._errors import EngineOptionError
from trackside.app.engine.nats._options import NatsOptions, load_access
from trackside.app.engine.nats._server_config import NatsUser, ServerTls, server_config

if TYPE_CHECKING:
    from trackside.app.engine.nats._engine import NatsEngine

__all__ = ["EngineOptionError", "NatsOptions", "NatsUser", "ServerTls", "load_access", "open_nats", "server_config"]


@asynccontextmanager
async def open_nats(options: NatsOptions) -> AsyncGenerator[NatsEngine]:
    """Open the engine on NATS for the length of an `async with`; it connects in the background, and reconnects when the
    connection is lost.

    Raises:
        EngineOptionError: a file is not what it has to be, or the client of NATS is not installed.
    """
    try:
        from trackside.app.engine.nats._engine import NatsEngine
    except ModuleNotFoundError as missing:
        why = f"it needs the package {missing.name}: pip install 'trackside[nats]'"
        raise EngineOptionError(option="url", why=why) from missing
    engine = NatsEngine(options, await asyncio.to_thread(load_access, options))
    engine.start()
    try:
        yield engine
    finally:
        await engine.aclose()
