"""What becomes of an option that PostgreSQL's libpq knows, in an address, in a service or as a variable.

The driver is not libpq. An option that it does not know is ignored where nothing depends on it; one that somebody may
rely on is refused.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from typing import Final

TLS: Final = frozenset(
    {
        "sslmode",
        "sslrootcert",
        "sslcert",
        "sslkey",
        "sslcrl",
        "sslpassword",
        "sslnegotiation",
        "ssl_min_protocol_version",
        "ssl_max_protocol_version",
    }
)
_TLS_MODES = ("disable", "allow", "prefer", "require", "verify-ca", "verify-full")
PLACE: Final = ("host", "hostaddr", "port", "user", "password", "dbname")
SERVICE: Final = frozenset({"service", "servicefile"})
DRIVER: Final = frozenset({"passfile", "target_session_attrs", "krbsrvname", "gsslib"})
FILES: Final = frozenset({"sslrootcert", "sslcert", "sslkey", "sslcrl", "passfile", "servicefile"})
SERVER: Final = frozenset({"application_name", "options", "search_path"})
HEEDED: Final = (*PLACE, *sorted(TLS | DRIVER | SERVICE | SERVER), "connect_timeout")

_MOST_DIGITS = 9
"""In a number: enough for more seconds, or ports, than there are."""

_MEANINGLESS = frozenset(
    {
        "client_encoding",
        "fallback_application_name",
        "gssdelegation",
        "keepalives",
        "keepalives_count",
        "keepalives_idle",
        "keepalives_interval",
        "load_balance_hosts",
        "max_protocol_version",
        "sslcompression",
        "sslkeylogfile",
        "sslsni",
        "tcp_user_timeout",
    }
)
_PROTECTIONS: Mapping[str, frozenset[str]] = {
    "channel_binding": frozenset({"disable", "prefer"}),
    "gssencmode": frozenset({"disable", "prefer"}),
    "min_protocol_version": frozenset({"3.0"}),
    "require_auth": frozenset(),
    "requirepeer": frozenset(),
    "sslcertmode": frozenset({"disable", "allow"}),
    "sslcrldir": frozenset(),
}
"""Options that ask for a protection, with the values that ask for none."""
_BEYOND_IT = frozenset(
    {
        "oauth_client_id",
        "oauth_client_secret",
        "oauth_issuer",
        "oauth_scope",
        "replication",
        "scram_client_key",
        "scram_server_key",
    }
)


def fault_of(name: str, value: str, *, shown: str | None = None) -> str | None:
    """Why an option, which is called `shown` where it is set, cannot be taken; None if it can."""
    shown = shown or name
    if name in _MEANINGLESS:
        return None
    if (harmless := _PROTECTIONS.get(name)) is not None:
        is_asked = value and value not in harmless
        return f"{shown}={value} asks for a protection that the driver does not offer" if is_asked else None
    if name in _BEYOND_IT:
        return f"{shown} asks for something that the driver cannot do" if value else None
    if name not in HEEDED:
        return f"it has an unknown option {name!r}; known are {', '.join(HEEDED)}"
    if name == "sslmode" and value not in _TLS_MODES:
        return f"{shown} is one of {', '.join(_TLS_MODES)}"
    if name == "connect_timeout" and value and not is_whole(value.removeprefix("-")):
        return f"{shown} is a whole number of seconds, of up to {_MOST_DIGITS} digits"
    return None


def fault_in_service(service: Mapping[str, str], said: Collection[str]) -> str | None:
    """As `fault_of`, for what a service says, except for what the address says, which takes its place."""
    if service.get("search_path"):
        return "search_path cannot be in a file of libpq's: write options=-c search_path=…, or say it in the address"
    known = {"database", *said}
    counts = ((name, value) for name, value in service.items() if value and name not in known)
    return next(filter(None, (fault_of(*option) for option in counts)), None)


def fault_in_variables(said: Collection[str]) -> str | None:
    """As `fault_of`, for variables that the driver does not read: those that ask for protection, and how long to wait.

    What the address or a service says takes their place.
    """
    named = {name: f"PG{name.replace('_', '').upper()}" for name in _PROTECTIONS}
    named["connect_timeout"] = "PGCONNECT_TIMEOUT"
    counts = ((name, variable) for name, variable in named.items() if name not in said)
    faults = (fault_of(name, os.environ.get(variable, ""), shown=variable) for name, variable in counts)
    return next(filter(None, faults), None)


def seconds_of(connect_timeout: str | None) -> float | None:
    """How many seconds that is; None if it is not said, or says to wait for ever, as 0 does."""
    return float(connect_timeout) if connect_timeout and int(connect_timeout) > 0 else None


def is_whole(text: str) -> bool:
    """Whether this is a number without a sign, and not too long to be read."""
    return text.isascii() and text.isdigit() and len(text) <= _MOST_DIGITS
