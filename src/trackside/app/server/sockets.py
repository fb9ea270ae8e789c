"""Sockets that a server takes connections on: bound here, or handed over by whatever started the process.

What systemd's socket activation hands over and what a server keeps for itself when it restarts look the same:
`LISTEN_FDS` sockets from descriptor 3 on, meant for the process `LISTEN_PID`.
"""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Iterable, MutableMapping, Sequence
from typing import Final

from trackside.harness.errors import TracksideError
from trackside.harness.types import JsonObject

_FIRST_HANDED_OVER: Final = 3
_UNIX: Final = getattr(socket, "AF_UNIX", None)
_BACKLOG: Final = 2_048
"""How many connections may wait while the server is busy, or restarts; the system may allow fewer."""
_TAKES_NOTHING: Final = 60_000
"""Milliseconds after which the system cuts off a client that takes nothing of what there is for it. Closing such a
connection would not do: it would stay, with what waits there, for as long as the client likes."""


class AddressError(TracksideError, OSError, code="address-not-usable"):
    """the server cannot listen at {address}: {why}."""


def listen_at(host: str, port: int) -> list[socket.socket]:
    """Sockets bound to every address that the host means, all on the same port; 0 is any free port.

    Connections that come from now on wait until a server takes them.

    Raises:
        AddressError: there is no such host, or its port is taken or not allowed for this user.
    """
    bound: list[socket.socket] = []
    try:
        for family, address in _addresses(host, port):
            bound.append(_bind(family, (address[0], port or _port_of(bound), *address[2:])))
        for one in bound:
            one.listen(_BACKLOG)
    except OSError as exc:
        for one in bound:
            one.close()
        raise AddressError(address=address_of(host, port), why=_why(exc, port)) from exc
    return bound


def address_of(host: str, port: int) -> str:
    """Host and port as they are written in a URL."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def place_of(listening: socket.socket) -> JsonObject:
    """Where this socket is reached: `{"url", "host", "port"}`; one with a path, as systemd may open, has only a URL."""
    bound = listening.getsockname()
    if isinstance(bound, tuple):
        host, port = bound[:2]
        return {"url": f"http://{address_of(host, port)}", "host": host, "port": port}
    return {"url": f"unix:{os.fsdecode(bound)}", "host": None, "port": None}


def hosts_of(sockets: Iterable[socket.socket]) -> list[str]:
    """The addresses at which sockets listen; those with a path have none."""
    return [str(one.getsockname()[0]) for one in sockets if one.family != _UNIX]


def handed_over(environ: MutableMapping[str, str]) -> list[socket.socket]:
    """The sockets that this process was started with, usually none. Processes that it starts do not learn of them."""
    pid, count = environ.pop("LISTEN_PID", ""), environ.pop("LISTEN_FDS", "")
    environ.pop("LISTEN_FDNAMES", None)
    if pid != str(os.getpid()) or not count.isdigit():
        return []
    found = [socket.socket(fileno=fd) for fd in range(_FIRST_HANDED_OVER, _FIRST_HANDED_OVER + int(count))]
    for one in found:
        one.set_inheritable(False)
        _let_go_of_who_takes_nothing(one)
    return found


def hand_over(sockets: Sequence[socket.socket], environ: MutableMapping[str, str]) -> None:
    """Have what replaces this process by `exec` find the sockets. Nothing else of this process may still be in use."""
    # First move them out of the way: one may have the descriptor that another needs.
    beyond = _FIRST_HANDED_OVER + len(sockets)
    kept = [_above(one.fileno(), beyond) for one in sockets]
    for fd, there in zip(kept, range(_FIRST_HANDED_OVER, beyond), strict=True):
        os.dup2(fd, there, inheritable=True)
    environ["LISTEN_PID"] = str(os.getpid())
    environ["LISTEN_FDS"] = str(len(sockets))


def _above(fd: int, least: int) -> int:
    import fcntl

    return fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, least)


def _addresses(host: str, port: int) -> Iterable[tuple[socket.AddressFamily, tuple[str | int, ...]]]:
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    return dict.fromkeys((family, address) for family, _, _, _, address in found)  # type: ignore[misc]  # no bytes


def _bind(family: socket.AddressFamily, address: tuple[str | int, ...]) -> socket.socket:
    one = socket.socket(family, socket.SOCK_STREAM)
    try:
        if os.name == "posix":  # elsewhere it would let two servers have one port
            one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            one.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        _let_go_of_who_takes_nothing(one)
        one.bind(address)
    except BaseException:
        one.close()
        raise
    return one


def _let_go_of_who_takes_nothing(listening: socket.socket) -> None:
    """Connections inherit this from the socket; where the system lacks it, they end when their clients do."""
    if hasattr(socket, "TCP_USER_TIMEOUT") and listening.family in {socket.AF_INET, socket.AF_INET6}:
        listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _TAKES_NOTHING)


def _port_of(bound: Sequence[socket.socket]) -> int:
    return int(bound[0].getsockname()[1]) if bound else 0


def _why(failure: OSError, port: int) -> str:
    if failure.errno == errno.EADDRINUSE:
        return f"port {port} is taken; choose another with --port, or any that is free with --port 0"
    if failure.errno == errno.EACCES:
        return f"port {port} is not for this user; choose one from 1024 up with --port"
    if failure.errno == errno.EADDRNOTAVAIL:
        return "this machine does not have this address; 127.0.0.1 is for itself alone, 0.0.0.0 for everybody"
    if isinstance(failure, socket.gaierror):
        return "nobody knows this host"
    return failure.strerror or str(failure)
