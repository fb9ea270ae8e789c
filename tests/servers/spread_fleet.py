"""A fleet each of whose processes is on a host of its own, so that its links can be cut; see `fleet` and `hosts`.

async with SpreadFleet(folder, postgres, hosts, workers=2) as fleet:
    fleet.host_of(worker).cut(DATABASE)
    …
    fleet.host_of(worker).mend(DATABASE)
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final, override
from urllib.parse import urlsplit

from fleet import Fleet, FleetProcess
from hosts import Host, Hosts
from langgraph_sdk import get_client
from nats_server import NatsServer
from postgres_server import PostgresServer
from trackside_server import PATIENCE, TracksideProcess, TracksideServer

DATABASE: Final = "db"
BROKER: Final = "nats"
CLIENTS: Final = "web"
SERVICES: Final = (DATABASE, BROKER, CLIENTS)
_LETS_IN: Final = """
def anybody(headers):
    return {"identity": "anybody", "permissions": ["trackside:admin"]}
"""


class SpreadFleet(Fleet):
    """The fleet's database server has to let in clients from other hosts: `PostgresServer(guests=hosts.NETWORK)`."""

    def __init__(self, folder: Path, postgres: PostgresServer, hosts: Hosts, **options: Any) -> None:
        env = {"TRACKSIDE_SERVER_AUTH": "lets_in.py:anybody", **options.pop("env", {})}
        super().__init__(folder, postgres, env=env, **options)
        (folder / "lets_in.py").write_text(_LETS_IN, "utf-8")
        self._hosts = hosts
        self._host_of: dict[str, Host] = {}

    def host_of(self, process: FleetProcess) -> Host:
        """The host on which a process runs."""
        return self._host_of[process.name]

    @property
    def remote_database(self) -> str:
        """The database's address for clients on another host. A client that gets no answer there tries again soon."""
        name = urlsplit(self.database).path.strip("/")
        return f"postgresql://postgres@{self._hosts.address(DATABASE)}:{self.postgres.port}/{name}?connect_timeout=2"

    @override
    async def add_server(self, **env: str) -> FleetProcess:
        name = f"server-{len(self.servers) + 1}"
        host = self._host_of[name] = self._hosts.add()
        server = TracksideServer(
            self.folder,
            database=self.remote_database,
            options=["--host", host.address(CLIENTS)],
            env=self._environment(env),
            name=name,
            within=host.command,
        )
        process = FleetProcess(server, self.journal)
        self.servers.append(process)
        await process.start()
        self._clients[name] = get_client(url=process.url, api_key=None, timeout=PATIENCE)
        return process

    @override
    async def add_worker(self, *agents: str, **env: str) -> FleetProcess:
        name = f"worker-{len(self.workers) + 1}"
        host = self._host_of[name] = self._hosts.add()
        arguments = ["worker", *agents, "--json", "--host", host.address(CLIENTS), "--database", self.remote_database]
        process = TracksideProcess(self.folder, arguments, name=name, env=self._environment(env), within=host.command)
        worker = FleetProcess(process, self.journal)
        self.workers.append(worker)
        await worker.start()
        return worker

    @override
    def _make_nats(self) -> NatsServer:
        return NatsServer(host=self._hosts.address(BROKER))
