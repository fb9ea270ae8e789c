"""Which addresses are those of databases that can be used, and how to write what is nearly one."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Final
from urllib.parse import parse_qsl, quote

from trackside.app.masking import without_password

_FORM: Final = re.compile(r"\A[a-z][a-z0-9+.-]*://", re.IGNORECASE)
_KIND: Final = re.compile(
    r"(?P<jdbc>jdbc:)?(?P<kind>[a-z][a-z0-9]*)(?:\+[a-z0-9]+)?(?P<colon>:|(?=//))(?P<rest>.*)",
    re.IGNORECASE | re.DOTALL,
)
_USABLE: Final = re.compile(r"postgres(?:ql)?(?:\+[^:/]*)?://|sqlite:///(?!:memory:\Z|\Z)")
_IN_MEMORY: Final = re.compile(r"sqlite3?:/{2,3}(?::memory:)?|(?:sqlite3?:)?:memory:", re.IGNORECASE)
_FILES: Final = frozenset({"sqlite", "sqlite3", "file"})
_POSTGRES: Final = frozenset({"postgres", "postgresql", "psql", "pgsql", "pg"})
_OTHERS: Final = frozenset({"mysql", "mariadb", "oracle", "mssql", "sqlserver", "mongodb", "duckdb"})
_WINDOWS: Final = re.compile(r"(?:(?:sqlite3?|file):/*)?[a-z]:[\\/]", re.IGNORECASE)
_SERVER: Final = re.compile(r"[^/]*:.*@|[^/@]+@[^/]+/|[^/:]+:\d+(?:/|\Z)", re.DOTALL)
_LIBPQ: Final = re.compile(r"\s*(?:host|hostaddr|port|user|password|dbname|service)\s*=")
_SECRET: Final = re.compile(r"([^=&?]*(?:passw|pwd|secret)[^=&]*=)[^&]*", re.IGNORECASE)

_A_FILE: Final = "a file is written"
_A_SERVER: Final = "a database of PostgreSQL is written"
_ANY_SERVER: Final = "postgresql://USER@HOST/NAME"


def with_plain_scheme(url: str) -> str:
    """An address with its scheme in small letters, as everything that reads one expects it."""
    return _FORM.sub(lambda scheme: scheme[0].lower(), url, 1)


def fault_of(url: str) -> str | None:
    """Why an address is none of a database that can be used, and the one to write instead; None if it is one.

    No password is in it: where the address to write has one, `PASSWORD` stands for it.
    """
    if _USABLE.match(url):
        return None
    shown, found = repr(without_password(url)), _KIND.fullmatch(url)
    kind = found["kind"].lower() if found is not None else ""
    if (bare := url.strip(" \t\r\n\"'")) != url:
        return fault_of(bare) or f"{shown} has blanks or quotes around it; {_advice(bare)}"
    if _IN_MEMORY.fullmatch(url):
        return f"{shown} is in memory, which only one connection has, and runs need several; {_A_FILE} sqlite:///FILE"
    if _WINDOWS.match(url) and os.name != "nt":
        return f"{shown} is a path of Windows, which this machine does not run; {_A_FILE} sqlite:///FILE"
    if found is not None and kind not in _FILES | _POSTGRES and (kind in _OTHERS or found["jdbc"] or _FORM.match(url)):
        return (
            f"{shown} is not supported: a database is an SQLite file or one of PostgreSQL;"
            f" {_A_FILE} sqlite:///FILE, and {_A_SERVER} {_ANY_SERVER}"
        )
    return f"{shown} is not a database URL; {_advice(url)}"


def _advice(url: str) -> str:
    """How to write what somebody has nearly written."""
    found = _KIND.fullmatch(url)
    kind = found["kind"].lower() if found is not None else ""
    if found is not None and kind in _POSTGRES:
        return f"{_A_SERVER} {_server_at(found['rest'], is_jdbc=found['jdbc'] is not None)}"
    if found is not None and kind in _FILES:
        name = found["rest"]
        if name.startswith("//"):  # before a host, of which a file has none; SQLAlchemy wants one slash more
            name = name[2:] if kind == "file" else name[2:].removeprefix("/")
        return f"{_A_FILE} sqlite:///{_file_at(name)}"
    if _LIBPQ.match(url):
        return f"{_A_SERVER} {_ANY_SERVER}"
    if _SERVER.match(url):
        return f"{_A_SERVER} {_server_at(f'//{url}', is_jdbc=False)}"
    return f"{_A_FILE} sqlite:///{_file_at(url)}"


def _file_at(name: str) -> str:
    """The path in an address of a file that was called by this name; FILE if it is none that a database can have."""
    path, _, _ = name.partition("?")
    if path in {"", ":memory:"} or not path.isprintable() or without_password(f"sqlite:{path}") != f"sqlite:{path}":
        return "FILE"
    if path.startswith("~"):  # which shells replace only where a word begins
        path = os.path.expanduser(path)  # noqa: PTH111  # which has no error for users who are not there
    return os.path.join(path, "FILE") if path.endswith("/") or Path(path).is_dir() else path  # noqa: PTH118


def _server_at(rest: str, *, is_jdbc: bool) -> str:
    """The address of a database of PostgreSQL with this after its scheme and colon."""
    rest, question, query = (rest[2:] if rest.startswith("//") else rest.lstrip("/")).partition("?")
    who, at, place = rest.rpartition("@")
    if "/" in who or "@" in query or not (at or "/" in place):
        return _ANY_SERVER
    user, colon, _ = who.partition(":")
    if is_jdbc:  # whose other options are called otherwise here
        said = dict(parse_qsl(query))
        user, colon = user or quote(said.get("user", "")), colon or ":" * ("password" in said)
        question = query = ""
    who = f"{user}:PASSWORD" if colon else user
    return f"postgresql://{who}{'@' * bool(who)}{place}{question}{_SECRET.sub(r'\1PASSWORD', query)}"
