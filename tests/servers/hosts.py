"""Separate hosts on this machine (network namespaces), each of whose links to a service can be cut.

    with Hosts("db", "nats") as hosts:
        host = hosts.add()
        host.command            # what starts a process there
        hosts.address("db")     # where a service listens, here
        host.cut("db")          # packets are lost from now on, and nobody is told
        host.mend("db")

Only root can make them, on Linux with `iproute2`; `why_not` says what is missing. Whatever happens to this process, a
shell that holds the other end of a pipe removes all of it.
"""

from __future__ import annotations

import os
import random
import secrets
import shutil
import subprocess
import sys
from collections.abc import Sequence
from functools import cache
from typing import Final, Self

from addresses import changing

NETWORK: Final = "100.64.0.0/10"
"""Where all addresses are; the range is nobody else's in the whole internet."""

_CLEAN: Final = """
cat >/dev/null
named() { sed -n "s/^\\([0-9]*: \\)\\{0,1\\}\\($1[a-z0-9]*\\).*/\\2/p"; }
ip -o link show | named "$1" | while read -r link; do ip link del "$link"; done
ip netns list | named "$1" | while read -r host; do ip netns del "$host"; done
"""


@cache
def why_not() -> str | None:
    """Why there can be no hosts here; None if there can."""
    if sys.platform != "linux":
        return "network namespaces are Linux's"
    if os.geteuid() != 0:
        return "only root makes network namespaces"
    if shutil.which("ip") is None:
        return "there is no `ip` (iproute2)"
    try:
        with Hosts("try") as hosts:
            hosts.add()
    except RuntimeError as exc:
        return f"no network namespaces can be made here: {exc}"
    return None


class Host:
    """A host: it sees nothing but the services, each on a link of its own."""

    def __init__(self, hosts: Hosts, name: str, number: int) -> None:
        self.name = name
        self._hosts = hosts
        self._number = number

    @property
    def command(self) -> Sequence[str]:
        """The command prefix that starts a process on this host."""
        return ("ip", "netns", "exec", self.name)

    def address(self, service: str) -> str:
        """The host's own address on its link to a service."""
        return self._hosts.address(service, self._number)

    def cut(self, service: str) -> None:
        """Lose every packet to and from a service, as a switch that is off would: nobody is told."""
        _ip(f"link set {self._hosts.wire(service, self._number)} nomaster")

    def mend(self, service: str) -> None:
        """Let packets arrive again."""
        _ip(f"link set {self._hosts.wire(service, self._number)} master {self._hosts.wire(service)}")


class Hosts:
    """Hosts, and a network for each service, until the end of a `with` block."""

    def __init__(self, *services: str) -> None:
        self._prefix = f"ts{secrets.token_hex(3)}"
        self._services = services
        self._second, self._third = random.randrange(64, 128), random.randrange(0, 250 - len(services))
        self._count = 0

    def __enter__(self) -> Self:
        self._keeper = subprocess.Popen(
            ["/bin/sh", "-c", _CLEAN, "keeper", self._prefix],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        try:
            with changing():
                for service in self._services:
                    bridge = self.wire(service)
                    _ip(
                        f"link add {bridge} address {self._mac(service, 1)} type bridge",
                        f"link set {bridge} addrgenmode none",  # or addresses of version 6 would come later
                        f"address add {self.address(service)}/24 dev {bridge}",
                        f"link set {bridge} up",
                    )
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        assert self._keeper.stdin is not None
        with changing():
            self._keeper.stdin.close()
            self._keeper.wait()

    def add(self) -> Host:
        """Add one more host."""
        self._count += 1
        number = self._count + 1
        host = Host(self, f"{self._prefix}h{number}", number)
        _ip(f"netns add {host.name}", f"-n {host.name} link set lo up")
        for service in self._services:
            bridge, outer = self.wire(service), self.wire(service, number)
            own = self._mac(service, number)
            _ip(
                f"link add {outer} type veth peer name {service} address {own} netns {host.name}",
                f"link set {outer} addrgenmode none",
                f"link set {outer} master {bridge} up",
                f"-n {host.name} address add {self.address(service, number)}/24 dev {service}",
                f"-n {host.name} link set {service} up",
                # Nobody has to ask where an address is: the sender would be told when such a request gets no answer.
                f"neigh replace {self.address(service, number)} lladdr {own} dev {bridge} nud permanent",
                f"-n {host.name} neigh replace {self.address(service)} lladdr {self._mac(service, 1)} dev {service}"
                " nud permanent",
            )
        return host

    def address(self, service: str, number: int = 1) -> str:
        """Where a service listens; or the address of one of the hosts, on its link to the service."""
        return f"100.{self._second}.{self._third + self._services.index(service)}.{number}"

    def wire(self, service: str, number: int | None = None) -> str:
        """The name here of a service's network, or of a host's end of it."""
        return f"{self._prefix}{service[:3]}{'' if number is None else number}"

    def _mac(self, service: str, number: int) -> str:
        third = self._third + self._services.index(service)
        return f"02:00:{self._second:02x}:{third:02x}:00:{number:02x}"


def _ip(*lines: str) -> None:
    for line in lines:
        done = subprocess.run(["ip", *line.split()], capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"ip {line}: {done.stderr.strip()}")
