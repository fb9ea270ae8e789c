"""NATS from a package: with JetStream in a folder, reached with a password."""

from __future__ import annotations

import asyncio
import secrets
from contextlib import closing, suppress
from pathlib import Path
from typing import Final

from trackside.app.engine.local.children import Child, Launch
from trackside.app.engine.local.programs import LOOPBACK, nats_program

_USER: Final = "trackside"
_LOOK_AGAIN: Final = 0.02  # seconds
_CONFIGURATION: Final = """\
listen: "{host}:{port}"
server_name: trackside-fleet
jetstream {{ store_dir: "store", max_file_store: 1GB, max_memory_store: 256MB }}
authorization {{ user: "{user}", password: "{password}" }}
"""


class LocalNats:
    """A NATS server with a folder of its own; what it has stored is nothing that a fleet needs.

    Args:
        folder: where it is; made if it is not there.
        port: where it listens on this machine.
    """

    def __init__(self, folder: Path, *, port: int) -> None:
        self.port = port
        self._folder = folder
        self._program = nats_program()
        self._password = secrets.token_urlsafe(24)

    @property
    def url(self) -> str:
        """Its address, with the password."""
        return f"nats://{_USER}:{self._password}@{LOOPBACK}:{self.port}"

    async def prepare(self) -> None:
        """Write its configuration."""
        await asyncio.to_thread(self._configure)

    def launch(self) -> Launch:
        """How it is started."""
        return Launch(
            command=[self._program, "-c", self._folder / "nats.conf"], log=self._folder / "log", cwd=self._folder
        )

    async def until_ready(self, child: Child) -> None:
        """Wait until it greets; returns also when it has ended."""
        while child.exit_code is None and not await self._greets():  # noqa: ASYNC110  # it only takes connections
            await asyncio.sleep(_LOOK_AGAIN)

    async def _greets(self) -> bool:
        try:
            reader, writer = await asyncio.open_connection(LOOPBACK, self.port)
        except OSError:
            return False
        with closing(writer), suppress(OSError):
            return (await reader.readline()).startswith(b"INFO")
        return False

    def _configure(self) -> None:
        self._folder.mkdir(mode=0o700, exist_ok=True)
        path = self._folder / "nats.conf"
        path.touch(mode=0o600)
        text = _CONFIGURATION.format(host=LOOPBACK, port=self.port, user=_USER, password=self._password)
        path.write_text(text, "utf-8")
