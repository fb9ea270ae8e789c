"""A NATS server with JetStream, from a wheel.

with NatsServer() as server:
    connection = await nats.connect(server.url)
    server.restart("KILL")
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from kept_server import KeptServer, free_ports


class NatsServer(KeptServer):
    """A NATS server whose streams are files; `settings` are lines of its configuration file, `host` is an address here."""

    ready = "Server is ready"

    def __init__(self, *settings: str, jetstream: bool = True, host: str = "127.0.0.1") -> None:
        self.host = host
        self._settings = [*settings]
        self._jetstream = jetstream
        super().__init__("nats")

    @property
    def url(self) -> str:
        """Its address, for users who need no password."""
        return f"nats://{self.host}:{self.port}"

    def command(self) -> Sequence[str | Path]:
        store = [f'jetstream {{ store_dir: "{self.data}" }}'] if self._jetstream else []
        configuration = self.data.parent / "nats.conf"
        configuration.write_text("\n".join([f"listen: {self.host}:{self.port}", *store, *self._settings]))
        # The wheel has the server alone, beside the interpreter.
        return [Path(sys.executable).with_name("nats-server"), "-c", configuration]


@contextmanager
def nats_cluster(size: int = 3) -> Iterator[list[NatsServer]]:
    """The servers of one cluster, whose streams may have replicas; they take a moment to choose a leader."""
    ports = free_ports(size)
    routes = ", ".join(f"nats://127.0.0.1:{port}" for port in ports)
    with ExitStack() as servers:
        yield [
            servers.enter_context(
                NatsServer(
                    f"server_name: member-{number}",
                    f"cluster {{ name: cluster, listen: 127.0.0.1:{port}, routes: [{routes}] }}",
                )
            )
            for number, port in enumerate(ports)
        ]
