"""Files that the address of a PostgreSQL database leaves things to: services of libpq, and certificates."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from os.path import expanduser
from pathlib import Path

from trackside.app.storage.errors import ConnectionSetupError

_VERIFYING = frozenset({"require", "verify-ca", "verify-full"})
_CERTIFICATES = ("sslrootcert", "sslcrl", "sslcert")


def read_service(name: str, file: str | None, *, database: str) -> Mapping[str, str]:
    """What a service says, in the file that is named or else where libpq looks for it.

    The driver's own reader ignores a service that it does not find, and fails at a `%`.

    Raises:
        ConnectionSetupError: no file has the service, or one cannot be read.
    """
    files = tuple(_service_files(file))
    for candidate in files:
        try:
            found = _section(candidate.read_text(encoding="utf-8"), name)
        except FileNotFoundError:
            continue
        except (OSError, UnicodeDecodeError) as exc:
            why = f"the service file {candidate} cannot be read: {exc}"
            raise ConnectionSetupError(database=database, why=why) from exc
        if found is not None:
            return found
    why = f"there is no service {name!r} in {' or '.join(map(str, files))}"
    raise ConnectionSetupError(database=database, why=why)


def _service_files(file: str | None) -> Iterator[Path]:
    own = expanduser("~/.pg_service.conf")  # noqa: PTH111  # the other one fails where nobody has a home
    yield Path(file or os.environ.get("PGSERVICEFILE") or own)
    if folder := os.environ.get("PGSYSCONFDIR"):
        yield Path(folder, "pg_service.conf")


def _section(text: str, name: str) -> dict[str, str] | None:
    """The first section of this name; as in libpq, what is said first counts and no character is special in a value."""
    found: dict[str, str] | None = None
    for line in map(str.strip, text.split("\n")):
        if line.startswith("["):
            if found is not None:
                break
            found = {} if line == f"[{name}]" else None
        elif found is not None and not line.startswith("#"):
            option, _, value = line.partition("=")
            found.setdefault(option.rstrip(), value.lstrip())
    return found


def check_certificates(driver: Mapping[str, str], *, database: str) -> None:
    """See that the files with certificates that are named are there; the driver's error names none of them.

    Raises:
        ConnectionSetupError: one is not.
    """
    if (driver.get("sslmode") or os.environ.get("PGSSLMODE")) not in _VERIFYING:
        return
    for option in _CERTIFICATES:
        file = driver.get(option) or os.environ.get(f"PG{option.upper()}")
        if file and not Path(file).exists():
            raise ConnectionSetupError(database=database, why=f"there is no file {file}, which is its {option}")
