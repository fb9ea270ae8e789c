"""Says where to keep what a database could not take until it can: one folder for each database."""

from __future__ import annotations

import hashlib
import os
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from trackside.app.settings import Settings
from trackside.app.spool.standing import left_in, why_unwritable


def spool_folder(settings: Settings) -> Path:
    """The folder of the spool, absolute.

    It is beside an SQLite file, and named after it; for a database on a server, it is in this user's state directory.
    With the setting `database.spool`, it is in that folder instead. There, each database has a folder of its own, and
    so has each schema that an address names as `search_path`, so that what is spooled for one is never delivered to
    another. A database with another address than before, as after a failover, has another folder, too: see
    `spools_elsewhere`.
    """
    if settings.sqlite_file is not None:
        path = Path(settings.sqlite_file).absolute()
        if settings.database_spool is None:
            return path.with_name(f"{path.name}-spool")
        name, identity = path.name, str(path)
    else:
        name, identity = _on_server(settings.database_url)
    own = hashlib.sha256(identity.encode(errors="surrogatepass")).hexdigest()[:12]
    return _of_all(settings) / f"{_file_name(name)}-{own}"


def unwritable_spool(settings: Settings) -> Iterator[str]:
    """What to say if this user may not write to the folder: nobody notices before the database is away."""
    if (why := why_unwritable(spool_folder(settings))) is not None:
        yield f"{why}; set database.spool to another"


class SpoolElsewhere(NamedTuple):
    """A folder that is not this database's, how many ends of runs wait in it, and the command that would bring them."""

    folder: Path
    waiting: int
    bring: str


def spools_elsewhere(settings: Settings) -> Iterator[SpoolElsewhere]:
    """Folders beside this database's in which ends of runs wait whose processes are gone; blocks.

    They are kept for a database at another address. Only a human knows whether that database has this address now.
    """
    own = spool_folder(settings)
    if own.parent != _of_all(settings):  # it is beside its SQLite file, and goes where that goes
        return
    try:
        folders = sorted(own.parent.iterdir())
    except OSError:
        return
    for folder in folders:
        if folder != own and (waiting := left_in(folder)):
            yield SpoolElsewhere(folder, waiting, _bring(folder, own))


def _bring(folder: Path, own: Path) -> str:
    """The command that brings what waits in one folder to the other beside it, which may be there by the time it is typed.

    Whoever types it may be root, and the files have to stay those of the user who records: if the target is not there,
    it is not made; the source is renamed to it.
    """
    parent, source, target = (shlex.quote(name) for name in (str(own.parent), f"./{folder.name}", f"./{own.name}"))
    move = f"if [ -d {target} ]; then mv {source}/waiting-*.jsonl {target}; else mv {source} {target}; fi"
    return f"(cd {parent} && {move})"


def ends_elsewhere(settings: Settings) -> Iterator[str]:
    """What to say of these folders to whoever starts with an address that may be new."""
    for folder, waiting, bring in spools_elsewhere(settings):
        ends = "1 end of a run waits" if waiting == 1 else f"{waiting} ends of runs wait"
        yield f"{ends} in {folder} for a database at another address; if it is this one now, stop, `{bring}`, start again"


def _on_server(url: str) -> tuple[str, str]:
    """A database's name, and its identity, which stays the same if who connects, or how, changes."""
    from trackside.app.storage.health import server_database

    found = server_database(url)
    if found is None:  # nothing can be recorded there, so nothing is spooled
        return "database", url
    return found.name or "database", found.place


def _of_all(settings: Settings) -> Path:
    if settings.database_spool is not None:
        return Path(settings.database_spool).expanduser().absolute()
    state = os.environ.get("XDG_STATE_HOME", "")
    home = Path(state) if Path(state).is_absolute() else Path.home() / ".local" / "state"
    return home / "trackside" / "spool"


def _file_name(name: str) -> str:
    return re.sub(r"[^\w.-]", "_", name)[:80]
