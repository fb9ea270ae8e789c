"""An ASGI app on a port of its own, in this event loop, behind the server that `trackside serve` has."""

from __future__ import annotations

import socket
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

from trackside.app.server.http import HttpServer

_PATIENCE = 2.0  # seconds that answers in progress have to come to their end


@asynccontextmanager
async def serving(app: Any, *, websockets: bool = False) -> AsyncGenerator[str]:
    """The address of the app while it is served."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        host, port = listening.getsockname()
        async with HttpServer(app, [listening], websockets=websockets) as server:
            yield f"http://{host}:{port}"
            await server.finish(_PATIENCE)
