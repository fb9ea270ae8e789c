"""PostgreSQL from a package: a cluster in a folder, made when it is not there, reached by TCP with a password."""

from __future__ import annotations

import asyncio
import secrets
import shlex
import shutil
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from trackside.app.engine.local.children import Child, Launch, own_environment
from trackside.app.engine.local.errors import LocalServerError
from trackside.app.engine.local.programs import (
    LOOPBACK,
    give_to,
    made_accessible,
    postgres_programs,
    unprivileged_user,
)

_NAME: Final = "trackside"  # of the user, and of the database
_LOOK_AGAIN: Final = 0.02  # seconds
_STATUS_LINE: Final = 7  # of postmaster.pid, as `pg_ctl -w` reads it
_SETTINGS: Final[Mapping[str, str]] = {
    "listen_addresses": LOOPBACK,
    "unix_socket_directories": "",  # a path to a socket may be no longer than 107 bytes
}
_OF_A_PROCESS: Final = 6  # connections that a process of ours has at most
_OF_OTHERS: Final = 20
_LEAST_CONNECTIONS: Final = 300
_ACCESS: Final = f"host all all {LOOPBACK}/32 scram-sha-256\n"


class LocalPostgres:
    """A PostgreSQL cluster in a folder of its own.

    Args:
        folder: where it is; made if it is not there.
        port: where it listens on this machine.
        kept: whether the folder outlives it, so that a power cut must not harm it.
        processes: how many processes of ours it takes connections of.
    """

    def __init__(self, folder: Path, *, port: int, kept: bool, processes: int) -> None:
        self.port = port
        self._folder = folder
        self._data = folder / "data"
        self._kept_secret = folder / "password"
        self._user = unprivileged_user()
        connections = max(_LEAST_CONNECTIONS, _OF_A_PROCESS * processes + _OF_OTHERS)
        self._settings = {
            **_SETTINGS,
            "port": str(self.port),
            "max_connections": str(connections),
            "fsync": "on" if kept else "off",
        }
        self._programs = postgres_programs()
        self._password = ""

    @property
    def url(self) -> str:
        """Its address, with the password."""
        return self._url(self._password)

    @property
    def shell_url(self) -> str:
        """Its address as a shell understands it between quotation marks: with the name of the file that has the password."""
        return self._url(f"$(cat {shlex.quote(str(self._kept_secret))})")

    def _url(self, password: str) -> str:
        return f"postgresql://{_NAME}:{password}@{LOOPBACK}:{self.port}/{_NAME}"

    async def prepare(self) -> None:
        """Make the cluster, if it is not there.

        Raises:
            DataFolderError: the user that it has to run as could not use the folder.
            LocalServerError: it cannot be made.
        """
        await asyncio.to_thread(self._make_folder)
        secret = self._kept_secret
        if await asyncio.to_thread(secret.exists):
            self._password = await asyncio.to_thread(secret.read_text, "ascii")
            return
        self._password = secrets.token_urlsafe(24)
        await self._make_cluster()
        # Only now is it whole: if this is broken off before, the next attempt begins anew.
        await asyncio.to_thread(_write_secret, secret, self._password)

    def launch(self) -> Launch:
        """How it is started."""
        settings = [word for name, value in self._settings.items() for word in ("-c", f"{name}={value}")]
        return Launch(
            command=[self._programs / "postgres", "-D", self._data, *settings],
            log=self._folder / "log",
            cwd=self._folder,
            user=self._user,
            stops_by=signal.SIGINT,  # ends the sessions; SIGTERM would wait for them
            stops_quickly_by=signal.SIGQUIT,
            ends_by=signal.SIGQUIT,  # like a power cut; killed, it would leave shared memory behind
        )

    async def until_ready(self, child: Child) -> None:
        """Wait until it takes connections, and has our database; returns also when it has ended."""
        while child.exit_code is None and not await asyncio.to_thread(self._says_ready, child.pid):  # noqa: ASYNC110  # it writes a file
            await asyncio.sleep(_LOOK_AGAIN)

    def _says_ready(self, pid: int) -> bool:
        try:
            lines = (self._data / "postmaster.pid").read_bytes().splitlines()
        except FileNotFoundError:
            return False
        return len(lines) > _STATUS_LINE and lines[0] == b"%d" % pid and lines[_STATUS_LINE].strip() == b"ready"

    def _make_folder(self) -> None:
        self._folder.mkdir(mode=0o700, exist_ok=True)
        give_to(self._folder, self._user)
        self._programs = made_accessible(self._programs, self._folder, self._user)

    async def _make_cluster(self) -> None:
        await asyncio.to_thread(shutil.rmtree, self._data, ignore_errors=True)
        secret = self._folder / "password.new"
        await asyncio.to_thread(_write_secret, secret, self._password, self._user)
        await self._run(
            "initdb",
            "-D",
            self._data,
            f"--username={_NAME}",
            f"--pwfile={secret}",
            "--auth=scram-sha-256",
            "--encoding=UTF8",
            "--locale-provider=builtin",
            "--builtin-locale=C.UTF-8",
            "--locale=C",
            "--no-sync",
        )
        await asyncio.to_thread(secret.unlink)
        await asyncio.to_thread((self._data / "pg_hba.conf").write_text, _ACCESS)
        await self._run(
            "postgres", "--single", "-D", self._data, "postgres", given=f"CREATE DATABASE {_NAME}\n".encode()
        )

    async def _run(self, program: str, *arguments: str | Path, given: bytes = b"") -> None:
        process = await asyncio.create_subprocess_exec(
            self._programs / program,
            *arguments,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            cwd=self._folder,
            env=own_environment(),
            start_new_session=True,
            user=self._user,
        )
        try:
            said, _ = await process.communicate(given)
        except BaseException:
            process.kill()
            await process.wait()
            raise
        if process.returncode:
            raise LocalServerError(what="PostgreSQL", why=f"{program} failed: {said.decode(errors='replace').strip()}")


def _write_secret(path: Path, text: str, user: str | None = None) -> None:
    path.touch(mode=0o600)
    path.write_text(text, "ascii")
    if user is not None:
        shutil.chown(path, user)
