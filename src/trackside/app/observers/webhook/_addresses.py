"""Which addresses a webhook may connect to, so that nobody reaches the inside of a network through it (SSRF).

A name is resolved once for each connection, its addresses are judged here, and the connection goes to the very address
that was judged: a name that leads elsewhere a moment later (DNS rebinding) gains nothing.
"""

from __future__ import annotations

import socket
from dataclasses import dataclass
from enum import StrEnum
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Any, Final, override

from aiohttp.abc import AbstractResolver, ResolveResult

__all__ = ["AddressRefusedError", "GuardedResolver", "Reach", "literal_address"]

type Address = IPv4Address | IPv6Address

_METADATA: Final = frozenset(
    map(
        ip_address,
        (
            "169.254.169.254",  # most clouds
            "fd00:ec2::254",
            "fd20:ce::254",
            "fe80::a9fe:a9fe",
            "fd00:c1::a9fe:a9fe",
            "169.254.0.23",
            "169.254.42.42",
            "fd00:42::42",
            "169.254.170.2",  # credentials of containers and pods
            "169.254.170.23",
            "fd00:ec2::23",
            "100.100.100.200",
            "168.63.129.16",  # in public space, but means the host
            "192.0.0.192",
        ),
    )
)
_THIS_NETWORK: Final = ip_network("0.0.0.0/8")
_SHARED: Final = ip_network("100.64.0.0/10")
_GLOBAL_UNICAST: Final = IPv6Network("2000::/3")
_TUNNELS: Final = (IPv6Network("2002::/16"), IPv6Network("2001::/32"))  # 6to4 and Teredo: IPv4 again, and deprecated
_IPV4_IN_THE_END: Final = (IPv6Network("64:ff9b::/96"), IPv6Network("::/96"))  # NAT64; "compatible", long deprecated


class _Kind(StrEnum):
    """What an address is; the words appear in messages."""

    public = "a public address"
    private = "a private address"
    loopback = "an address of this machine"
    link_local = "a link-local address"
    shared = "an address of a provider's own network"
    metadata = "where a cloud gives out its credentials"
    unspecified = "an unspecified address"
    multicast = "a multicast address"
    reserved = "a reserved address"


_INSIDE: Final = frozenset({_Kind.private, _Kind.loopback, _Kind.link_local, _Kind.shared})


class AddressRefusedError(OSError):
    """An address that a webhook may not connect to; the text says which, and why."""


@dataclass(frozen=True, slots=True)
class Reach:
    """How far a webhook's connections may go: into private networks, to public addresses.

    Neither opens what is no place for a receiver: metadata services, multicast, unspecified and reserved addresses.
    `private_by` and `public_by` say in messages what to set to open them; they are empty where nothing would.
    """

    private: bool
    public: bool
    private_by: str = "allow_private_addresses = true"
    public_by: str = "allow_http = true"

    @property
    def encrypted_instead(self) -> str:
        """What to do instead of sending in the clear."""
        return f"use https://, or set {self.public_by}" if self.public_by else "use https://"

    def refusal(self, address: str) -> str | None:
        """Why no connection to this address is allowed, and what would allow it, if anything; None if it is."""
        try:
            judged, has_zone = _without_zone(ip_address(address))
        except ValueError:
            return f"{address!r} is no address"
        kind = _kind(judged)
        if kind not in _INSIDE and kind is not _Kind.public:
            return f"{address} is {kind}"
        if has_zone and kind is not _Kind.link_local:
            return f"{address} is {kind}, and only a link-local one has a zone (%)"
        if kind in _INSIDE and not self.private:
            return f"{address} is {kind}; if the receiver belongs there, set {self.private_by}"
        if kind is _Kind.public and not self.public:
            return f"{address} is {kind}, and http:// is sent in the clear; {self.encrypted_instead}"
        return None

    def open_socket(self, info: tuple[Any, ...]) -> socket.socket:
        """A socket for a connection to an address from `socket.getaddrinfo`: aiohttp has each socket made here.

        Raises:
            AddressRefusedError: no connection to it is allowed.
        """
        family, kind, protocol, _, (address, *_) = info
        if (why := self.refusal(address)) is not None:
            raise AddressRefusedError(why)
        return socket.socket(family, kind, protocol)


class GuardedResolver(AbstractResolver):
    """Has another resolver look names up, and leaves out what a webhook may not reach."""

    def __init__(self, resolver: AbstractResolver, reach: Reach) -> None:
        self._resolver = resolver
        self._reach = reach

    @override
    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        """The addresses of a host, at least one.

        Raises:
            AddressRefusedError: it has addresses, and none that may be connected to.
            OSError: it could not be resolved.
        """
        found = await self._resolver.resolve(host, port, family)
        refusals = {result["host"]: self._reach.refusal(result["host"]) for result in found}
        if not all(refusals.values()):
            return [result for result in found if refusals[result["host"]] is None]
        if not refusals:
            raise socket.gaierror(socket.EAI_NONAME, "it has no address")
        raise AddressRefusedError("; ".join(filter(None, refusals.values())))

    @override
    async def close(self) -> None:
        await self._resolver.close()


def literal_address(host: str) -> Address | None:
    """The address that a URL's host is, however it is written: `127.1`, `0x7f.1` and `2130706433` count, too."""
    try:
        return ip_address(host)
    except ValueError:
        pass
    try:
        return IPv4Address(socket.inet_aton(host))
    except (OSError, UnicodeEncodeError):
        return None


def _without_zone(address: Address) -> tuple[Address, bool]:
    """The address alone, and whether it had a zone: an address with one leads to the same place, but is not equal."""
    if isinstance(address, IPv4Address) or address.scope_id is None:
        return address, False
    return IPv6Address(int(address)), True


def _kind(address: Address) -> _Kind:
    if address in _METADATA:
        return _Kind.metadata
    if address.is_unspecified or address in _THIS_NETWORK:
        return _Kind.unspecified
    if address.is_loopback:
        return _Kind.loopback
    if address.is_multicast:
        return _Kind.multicast
    if isinstance(address, IPv4Address):
        return _kind_of_ipv4(address)
    if (inner := _embedded(address)) is not None:
        return _kind(inner)
    if address.is_link_local:
        return _Kind.link_local
    if address.is_site_local:
        return _Kind.private
    if address.is_reserved or any(address in tunnel for tunnel in _TUNNELS):
        return _Kind.reserved
    if address.is_private:
        return _Kind.private
    return _Kind.public if address in _GLOBAL_UNICAST else _Kind.reserved


def _kind_of_ipv4(address: IPv4Address) -> _Kind:
    if address.is_link_local:
        return _Kind.link_local
    if address in _SHARED:
        return _Kind.shared
    if address.is_reserved:  # must precede the next check: these count as private, too
        return _Kind.reserved
    return _Kind.private if address.is_private else _Kind.public


def _embedded(address: IPv6Address) -> IPv4Address | None:
    """The IPv4 address that a packet to this address ends up at."""
    if address.ipv4_mapped is not None:
        return address.ipv4_mapped
    if any(address in network for network in _IPV4_IN_THE_END):
        return IPv4Address(int(address) & 0xFFFF_FFFF)
    return None
