"""A PostgreSQL server of our own, from a wheel: started when needed, gone when the process that started it is gone.

    with PostgresServer() as server:
        url = server.create_database("runs")
        server.stop("immediate")  # like a power cut, for the server
        server.start()

Whatever happens to the process that started it, a shell that holds the other end of a pipe stops the server and removes
its files when that end is closed. `running_at` returns a server that already runs, in place of one of our own.
"""

import atexit
import os
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, Literal, Self
from urllib.parse import quote, urlencode, urlsplit, urlunsplit

from kept_server import free_ports
from raw_postgres import RawConnection, Rows

from trackside.app.engine.local.programs import made_accessible, postgres_programs, unprivileged_user

type StopMode = Literal["smart", "fast", "immediate"]

SUPERUSER = "postgres"
_PATIENCE = 60.0  # seconds
_START_TRIES = 5  # somebody may take the port that was just free

# Whoever connects through the socket, in a folder that only this user can enter, needs no password; by TCP they do.
_ACCESS = f"local all {SUPERUSER} trust\nlocal all all scram-sha-256\nhost all all 127.0.0.1/32 scram-sha-256\n"

_KEEP = """
cat >/dev/null
"$1/pg_ctl" -D "$2/data" -m immediate -w stop >/dev/null 2>&1
rm -rf "$2"
"""


@cache
def _kept() -> Path:
    """The folder to keep a new data directory in until this process ends: a copy takes a fifteenth of its CPU time."""
    folder = tempfile.mkdtemp(prefix="trackside-postgres-made-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return Path(folder)


class RunningServer:
    """A server at an address, whoever started it. Its databases are ours to make and to drop."""

    def __init__(self, url: str) -> None:
        self._url = url

    def url(self, database: str, *, user: str | None = None, password: str | None = None) -> str:
        """The address of one of its databases, for the superuser or for another user."""
        parts = urlsplit(self._url)
        place = parts.netloc.rpartition("@")[2]
        who = f"{parts.netloc.rpartition('@')[0]}@" if "@" in parts.netloc else ""
        if user is not None:
            who = quote(user, safe="") + (f":{quote(password, safe='')}" if password is not None else "") + "@"
        return urlunsplit((parts.scheme, f"{who}{place}", f"/{database}", parts.query, ""))

    def create_database(self, name: str, *, template: str | None = None) -> str:
        """Make a database, empty or a copy of another one; returns its address."""
        copied = f" TEMPLATE {template} STRATEGY wal_log" if template else ""
        self.execute(f"CREATE DATABASE {name}{copied}")
        return self.url(name)

    def drop_database(self, name: str) -> None:
        """Remove a database, whoever is connected to it."""
        self.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")

    def execute(self, sql: str, values: Sequence[Any] = (), *, database: str | None = None) -> Rows:
        """Run one statement as the superuser, on a connection of its own."""
        connection = self.connect(database)
        try:
            return connection.execute(sql, values)
        finally:
            connection.close()

    def connect(self, database: str | None = None) -> RawConnection:
        """A connection of the superuser."""
        return RawConnection(self._url if database is None else self.url(database))

    def close(self) -> None:
        """Do nothing: it was not started by us."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def running_at(url: str) -> RunningServer:
    """The server at the address of one of its databases, with a user who may create others."""
    return RunningServer(url)


class PostgresServer(RunningServer):
    """A server with a data directory of its own, running from the beginning.

    `settings` are the server's. `fsync` may be off only where nothing is measured and no machine loses its power: what
    was committed survives `stop("immediate")` either way. Clients from the network `guests` need no password.
    """

    def __init__(
        self, *, fsync: bool = True, settings: dict[str, str] | None = None, guests: str | None = None
    ) -> None:
        self._guests = guests
        self.folder = Path(tempfile.mkdtemp(prefix="trackside-postgres-"))
        self.data = self.folder / "data"
        self.port: int | None = None
        self._user = unprivileged_user()
        self._settings = {"fsync": "on" if fsync else "off", "max_connections": "60"} | (settings or {})
        super().__init__("")
        self.bin = made_accessible(postgres_programs(), self.folder, self._user)
        if self._user is not None:  # all of it, so that he can remove it
            subprocess.run(["chown", "-R", self._user, self.folder], check=True)
        # From here on, whatever ends this process ends the server, too.
        self._keeper = subprocess.Popen(
            ["/bin/sh", "-c", _KEEP, "keeper", self.bin, self.folder],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            cwd="/",
            user=self._user,
        )
        try:
            self._make()
            self.start()
        except BaseException:
            self.close()
            raise

    def start(self) -> None:
        """Start it, on the data that it has; returns when it takes connections."""
        for tries_left in reversed(range(_START_TRIES)):
            port = self.port or free_ports(1)[0]
            settings = self._settings | {
                "port": str(port),
                "listen_addresses": "127.0.0.1" if self._guests is None else "*",
                "unix_socket_directories": str(self.folder),
            }
            options = " ".join(f"-c {name}={value}" for name, value in settings.items())
            try:
                self._run("pg_ctl", "-w", "-l", self.folder / "log", "-o", options, "start")
            except RuntimeError:
                if not tries_left:
                    raise RuntimeError((self.folder / "log").read_text()) from None
            else:
                self.port = port
                self._url = f"postgresql://{SUPERUSER}@/postgres?{urlencode({'host': str(self.folder), 'port': port})}"
                return

    def become_standby(self) -> None:
        """Restart it as a standby: it takes no writes, and nobody sends it any."""
        self.stop()
        (self.data / "standby.signal").touch()
        self.start()

    def stop(self, mode: StopMode = "fast") -> None:
        """Stop it: `fast` ends the sessions, `immediate` is like a power cut."""
        self._run("pg_ctl", "-w", "-m", mode, "stop")

    def restart(self, mode: StopMode = "fast") -> None:
        """Stop it and start it again, at the same address."""
        self.stop(mode)
        self.start()

    @contextmanager
    def without_standby(self) -> Iterator[None]:
        """Within this block, each commit waits for a standby that is gone."""
        waits = threading.Event()

        def commit() -> None:
            while not waits.is_set():
                self.execute("SELECT pg_logical_emit_message(true, '', '')")

        committing = threading.Thread(target=commit, daemon=True)
        self.execute("ALTER SYSTEM SET synchronous_standby_names = 'gone'")
        self.execute("SELECT pg_reload_conf()")
        committing.start()
        try:
            self.wait_for_waiting_commit("")
            waits.set()
            yield
        finally:
            waits.set()
            self.execute("ALTER SYSTEM RESET synchronous_standby_names")
            self.execute("SELECT pg_reload_conf()")
            committing.join()

    def wait_for_waiting_commit(self, application: str) -> None:
        """Wait until a commit of this program waits for a standby.

        Raises:
            RuntimeError: none does.
        """
        waiting = "SELECT pid FROM pg_stat_activity WHERE wait_event = 'SyncRep' AND application_name = $1"
        deadline = time.monotonic() + _PATIENCE
        while not self.execute(waiting, [application]):
            if time.monotonic() > deadline:
                raise RuntimeError("no commit waits")
            time.sleep(0.02)

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """Within this block, it takes connections and does nothing else, as on a machine that stands still."""
        connected = "SELECT pid FROM pg_stat_activity WHERE backend_type = 'client backend' AND pid != pg_backend_pid()"
        first = (self.data / "postmaster.pid").read_text().split()[0]
        pids = [int(first), *(pid for (pid,) in self.execute(connected))]
        try:
            for pid in pids:
                os.kill(pid, signal.SIGSTOP)
            yield
        finally:
            for pid in pids:
                os.kill(pid, signal.SIGCONT)

    def tcp_url(self, database: str, *, user: str, password: str) -> str:
        """The address of a database for a user who connects by TCP, with a password."""
        return f"postgresql://{quote(user, safe='')}:{quote(password, safe='')}@127.0.0.1:{self.port}/{database}"

    def close(self) -> None:
        """Stop it, if it runs, and remove its files. May be called again."""
        assert self._keeper.stdin is not None
        self._keeper.stdin.close()
        self._keeper.wait()

    def _make(self) -> None:
        kept = _kept() / "data"
        if kept.exists():
            subprocess.run(["cp", "-a", kept, self.data], check=True)
        else:
            options = ("--username", SUPERUSER, "--encoding=UTF8", "--locale-provider=builtin")
            more = ("--builtin-locale=C.UTF-8", "--locale=C", "--no-sync", "--auth=trust")
            self._run("initdb", *options, *more)
            partial = kept.with_name("partial")
            subprocess.run(["cp", "-a", self.data, partial], check=True)
            partial.rename(kept)
        (self.data / "pg_hba.conf").write_text(
            _ACCESS + ("" if self._guests is None else f"host all all {self._guests} trust\n")
        )

    def _run(self, program: str, *arguments: object) -> None:
        # Into a file, not a pipe, which the server would inherit and hold open.
        with tempfile.TemporaryFile("w+") as said:
            command: list[str | Path] = [self.bin / program, "-D", self.data, *map(str, arguments)]
            done = subprocess.run(
                command, stdin=subprocess.DEVNULL, stdout=said, stderr=said, user=self._user, cwd="/", check=False
            )
            if done.returncode:
                said.seek(0)
                raise RuntimeError(f"{program} failed: {said.read()}")
