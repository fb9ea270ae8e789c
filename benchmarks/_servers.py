"""Servers as their users start them, each a process of its own: ours, the empty one, and those of others.

What others need is installed from the package index into `benchmarks/.peers`, which git ignores. A server that does
not install, or does not answer in time, is left out, and `Fleet.missing` says why.
"""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

HERE = Path(__file__).parent
PEERS = HERE / ".peers"
EMPTY, FUNCTION, GRAPH = "empty server", "trackside, function", "trackside, graph"
LANGGRAPH, AEGRA, DBOS = "langgraph dev", "aegra", "dbos"
_INSTALL_SECONDS = 240
_START_SECONDS = 60
_STOP_SECONDS = 60  # for a server to end, and a profiler around it to write what it found
_REQUIRES = {LANGGRAPH: "langgraph-cli[inmem]", AEGRA: "aegra-api", DBOS: "dbos"}


class NotThereError(Exception):
    """A server cannot be measured here; the message says why."""


@dataclass(frozen=True, slots=True)
class Server:
    """A server that answers. `assistant` is its name for the graph or function that does nothing."""

    name: str
    port: int
    process: subprocess.Popen[bytes]
    assistant: str
    started_in: float
    """Seconds from the start of its process to its first answer with 200."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def pids(self) -> list[int]:
        """Its process, and all below it."""
        found = [self.process.pid]
        for pid in found:  # the list grows meanwhile
            for task in _tasks(pid):
                found += [int(child) for child in _read(task / "children").split()]
        return found

    def cpu_ns(self) -> int:
        """CPU time so far."""
        return sum(int((_read(task / "schedstat") or "0").split()[0]) for pid in self.pids() for task in _tasks(pid))

    def resident_mib(self) -> float:
        """The memory that it has now."""
        pages = sum(int((_read(Path(f"/proc/{pid}/statm")) or "0 0").split()[1]) for pid in self.pids())
        return pages * os.sysconf("SC_PAGE_SIZE") / 1_048_576


def _tasks(pid: int) -> list[Path]:
    try:
        return list(Path(f"/proc/{pid}/task").iterdir())
    except OSError:
        return []


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:  # the process is gone
        return ""


@contextmanager
def trackside(
    name: str, agents: Sequence[str], *, more: Sequence[str] = (), under: Sequence[str] = ()
) -> Generator[Server]:
    """`trackside serve` with these agents, everything else as by default: SQLite in a new folder, the access log on.

    `under` is a command that runs a Python module, as a profiler does.
    """
    with tempfile.TemporaryDirectory() as folder:
        typed = [f"{HERE / file}:{agent}" for file, _, agent in (one.partition(":") for one in agents)]
        port = _free_port()
        command = [*(under or [sys.executable]), "-m", "trackside", "serve", *typed, "--port", str(port), *more]
        with _running(name, command, port, agents[0].partition(":")[2], folder=folder, ready="/ok") as server:
            yield server


def function() -> object:
    """Our server, with a function that does nothing."""
    return trackside(FUNCTION, ["_served_functions.py:noop"])


def graph() -> object:
    """Our server, with graphs."""
    return trackside(GRAPH, ["_served_graphs.py:graph", "_served_graphs.py:waiting"])


@contextmanager
def empty() -> Generator[Server]:
    """The server that does nothing."""
    port = _free_port()
    command = [sys.executable, str(HERE / "_empty_server.py"), str(port)]
    with _running(EMPTY, command, port, "graph", folder=None, ready="/ok") as server:
        yield server


@contextmanager
def langgraph_dev() -> Generator[Server]:
    """LangGraph's development server, as `langgraph dev` starts it, without a browser and without watching for changes."""
    python = installed(LANGGRAPH)
    with tempfile.TemporaryDirectory() as folder:
        _write_project(Path(folder), "langgraph.json", {"dependencies": ["."]})
        port = _free_port()
        command = [str(python.with_name("langgraph")), "dev", "--no-browser", "--no-reload", "--port", str(port)]
        with _running(LANGGRAPH, command, port, "graph", folder=folder, ready="/ok") as server:
            yield server


@contextmanager
def aegra() -> Generator[Server]:
    """Aegra, on a PostgreSQL server of our own."""
    python = installed(AEGRA)
    sys.path.append(str(HERE.parent / "tests" / "servers"))
    from postgres_server import PostgresServer

    with tempfile.TemporaryDirectory() as folder, PostgresServer() as postgres:
        _write_project(Path(folder), "aegra.json", {})
        port = _free_port()
        environment = {
            "DATABASE_URL": postgres.create_database("aegra"),
            "AEGRA_CONFIG": "aegra.json",
            "PORT": str(port),
            "SERVER_URL": f"http://127.0.0.1:{port}",
        }
        command = [str(python), "-m", "uvicorn", "aegra_api.main:app", "--port", str(port)]
        with _running(AEGRA, command, port, "graph", folder=folder, ready="/health", environment=environment) as server:
            yield server


STARTS = {FUNCTION: function, GRAPH: graph, EMPTY: empty, LANGGRAPH: langgraph_dev, AEGRA: aegra}


@dataclass(slots=True)
class Fleet:
    """Servers that run side by side; and which could not be had, and why."""

    servers: dict[str, Server] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)

    def words(self) -> list[str]:
        """What there is to say about those that are missing."""
        return [f"{name} is not measured: {why}" for name, why in self.missing.items()]


@contextmanager
def fleet(names: Sequence[str]) -> Generator[Fleet]:
    """All of these, for as long as the context lasts."""
    found = Fleet()
    with ExitStack() as stack:
        for name in names:
            try:
                found.servers[name] = stack.enter_context(STARTS[name]())  # type: ignore[arg-type]  # each is one
            except NotThereError as exc:
                if name not in _REQUIRES:
                    raise
                found.missing[name] = str(exc)
        yield found


def _write_project(folder: Path, name: str, more: Mapping[str, object]) -> None:
    shutil.copy(HERE / "_served_graphs.py", folder / "graphs.py")
    graphs = {"graph": "./graphs.py:graph", "waiting": "./graphs.py:waiting"}
    (folder / name).write_text(json.dumps({"graphs": graphs, **more}))


def installed(name: str) -> Path:
    """The interpreter of a peer's environment, which is made now if it does not exist.

    Raises:
        NotThereError: the peer does not install.
    """
    place = PEERS / name.replace(" ", "-")
    python, done = place / "bin" / "python", place / "installed"
    if done.exists():
        return python
    shutil.rmtree(place, ignore_errors=True)
    PEERS.mkdir(exist_ok=True)
    (PEERS / ".gitignore").write_text("*\n")
    print(f"installing {_REQUIRES[name]} …", file=sys.stderr)
    try:
        subprocess.run([sys.executable, "-m", "venv", place], check=True, capture_output=True, timeout=_INSTALL_SECONDS)
        command = [str(python), "-m", "pip", "install", "--quiet", _REQUIRES[name]]
        subprocess.run(command, check=True, capture_output=True, timeout=_INSTALL_SECONDS)
    except (OSError, subprocess.SubprocessError) as exc:
        raise NotThereError(f"{_REQUIRES[name]} could not be installed ({type(exc).__name__})") from exc
    done.touch()
    return python


@contextmanager
def _running(
    name: str,
    command: Sequence[str],
    port: int,
    assistant: str,
    *,
    folder: str | None,
    ready: str,
    environment: Mapping[str, str] | None = None,
) -> Generator[Server]:
    with tempfile.TemporaryFile() as log:
        begun = time.perf_counter()
        process = subprocess.Popen(
            command,
            cwd=folder,
            env={**os.environ, **(environment or {})},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
        try:
            while not _answers(port, ready):
                if process.poll() is not None or time.perf_counter() - begun > _START_SECONDS:
                    log.seek(0)
                    last = log.read().decode(errors="replace").strip().splitlines()[-1:]
                    raise NotThereError(f"it does not answer in {_START_SECONDS} s: {(last or [''])[0][:200]}")
                time.sleep(0.002)
            yield Server(name, port, process, assistant, time.perf_counter() - begun)
        finally:
            _stop(process)


def _stop(process: subprocess.Popen[bytes]) -> None:
    try:
        process.send_signal(signal.SIGTERM)
        process.wait(_STOP_SECONDS)
    except (OSError, subprocess.TimeoutExpired):
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _answers(port: int, path: str) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=2) as connection:
            connection.sendall(f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nConnection: close\r\n\r\n".encode())
            return connection.recv(64).startswith(b"HTTP/1.1 200")
    except OSError:
        return False


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
