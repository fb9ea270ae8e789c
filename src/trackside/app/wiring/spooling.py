"""Says where what a database could not take is kept until it can: one folder for each database."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator
from pathlib import Path

from trackside.app.settings import Settings
from trackside.app.spool.standing import why_unwritable


def spool_folder(settings: Settings) -> Path:
    """The folder of the spool, absolute.

    Beside an SQLite file, and named after it; for a database on a server in this user's state directory. With the
    setting `database.spool` in that folder instead. There each database has one of its own, and each schema that an address
    names as `search_path`, so that what is spooled for one is never delivered to another.
    """
    if settings.sqlite_file is not None:
        path = Path(settings.sqlite_file).absolute()
        if settings.database_spool is None:
            return path.with_name(f"{path.name}-spool")
        name, identity = path.name, str(path)
    else:
        name, identity = _on_server(settings.database_url)
    return _of_all(settings) / f"{_file_name(name)}-{hashlib.sha256(identity.encode()).hexdigest()[:12]}"


def unwritable_spool(settings: Settings) -> Iterator[str]:
    """What to say where the folder is not this user's to write: nobody notices before the database is away."""
    if (why := why_unwritable(spool_folder(settings))) is not None:
        yield f"{why}; set database.spool to another"


def _on_server(url: str) -> tuple[str, str]:
    """What a database is called, and what no other is: who connects and how may change, and it stays the same."""
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
