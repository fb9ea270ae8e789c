"""Whether a server may listen at an address: one without authentication serves this machine alone."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable

from trackside.harness.errors import TracksideError


class ExposedServerError(TracksideError):
    """a server at {host} is open to others, and has no authentication: set server.auth, for example to "keys" (`trackside auth create` makes one), or listen at 127.0.0.1."""  # noqa: E501

    fault = "caller"


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches an address, or a name that means such an address everywhere."""
    name = host.strip("[]").rstrip(".").lower()
    if name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        address = ipaddress.ip_address(name.partition("%")[0])
    except ValueError:
        return False  # what a name means today, it need not mean tomorrow
    mapped = getattr(address, "ipv4_mapped", None)
    return (mapped or address).is_loopback


def check_exposure(hosts: Iterable[str], auth: str) -> None:
    """See that nobody from elsewhere gets in unasked.

    Args:
        hosts: where the server listens: the setting, and the addresses of its sockets.
        auth: the setting `server.auth`.

    Raises:
        ExposedServerError: one of them is open to others, and there is no authentication.
    """
    if auth != "none":
        return
    for host in hosts:
        if not is_loopback(host):
            raise ExposedServerError(host=host or "every address")
