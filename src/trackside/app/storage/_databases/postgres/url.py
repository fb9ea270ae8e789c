"""Addresses of PostgreSQL databases, as people write them for psql, psycopg, asyncpg and SQLAlchemy."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import zip_longest
from pathlib import Path
from typing import Self
from urllib.parse import parse_qsl, quote, unquote

from trackside.app.storage._databases.postgres.files import read_service
from trackside.app.storage._databases.postgres.options import (
    DRIVER,
    FILES,
    SERVER,
    SERVICE,
    TLS,
    fault_in_service,
    fault_in_variables,
    fault_of,
    is_whole,
    seconds_of,
)
from trackside.app.storage.errors import ConnectionSetupError, DatabaseUrlError

_URL = re.compile(
    r"(?P<scheme>[^:]+)://(?:(?P<who>[^/?]*)@)?(?P<hosts>[^/?@]*)(?:/(?P<database>[^?]*))?(?:\?(?P<query>.*))?",
    re.DOTALL,
)
_HOST = re.compile(r"(?P<host>\[[^\]]*\]|[^:\[\]]*)(?::(?P<port>\d*))?")
_PORT, _MOST_PORTS = "5432", 65_535

_SERVER_OF_SERVICE = SERVER - {"search_path"}  # which libpq knows in no file
_WHERE = ("options", "search_path", "service", "servicefile")
_CONNECT_TIMEOUT = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class PostgresAddress:
    """Where a database is and how to get in. What is missing comes from the variables (`PGHOST` …) and files of libpq."""

    hosts: tuple[str, ...] = ()
    ports: tuple[int, ...] = ()
    user: str | None = None
    password: str | None = field(default=None, repr=False)
    database: str | None = None
    driver: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    """What the driver reads of an address: TLS, password files; and which service has the rest, see `resolved`."""
    server: tuple[tuple[str, str], ...] = ()
    """Settings of the session."""
    patience: float | None = None
    """The `connect_timeout` that is given."""
    said: frozenset[str] = field(default=frozenset(), compare=False, repr=False)
    """Which options say something: for these no service or variable counts."""

    @classmethod
    def from_url(cls, url: str) -> Self:
        """The address in a URL.

        Raises:
            DatabaseUrlError: it is none, or has an option that is not known; the error names it without its password.
        """
        found = _URL.fullmatch(url)
        if found is None or (found["who"] is None and "@" in url):
            raise refused(url, "a /, ? or @ in a user name or password is written %2F, %3F, %40")
        user, colon, password = (found["who"] or "").partition(":")
        options = dict(_options(url, found["query"] or ""))
        others = options.pop("host", ""), options.pop("hostaddr", "")
        hosts, ports = _places(url, found["hosts"], *others, options.pop("port", ""))
        patience = seconds_of(options.get("connect_timeout"))
        if patience is None:  # then a service or a variable may say it
            options.pop("connect_timeout", None)
        return cls(
            hosts=hosts,
            ports=ports,
            user=options.pop("user", "") or unquote(user) or None,
            password=options.pop("password", "") or (unquote(password) if colon else None),
            database=options.pop("dbname", "") or unquote(found["database"] or "") or None,
            patience=patience,
            server=tuple((name, value) for name, value in options.items() if name in SERVER),
            driver=tuple((name, value) for name, value in options.items() if name in TLS | DRIVER | SERVICE),
            said=frozenset(options),
        )

    def in_place(self) -> Self:
        """The same address, with the files that it names where they are now, wherever the process works later."""
        whole = (
            (name, str(Path(value).absolute()) if name in FILES and value else value) for name, value in self.driver
        )
        return replace(self, driver=tuple(whole))

    def resolved(self) -> Self:
        """The address, with what it leaves to a service and to `PGOPTIONS`, of which the driver then need not know.

        Raises:
            ConnectionSetupError: the service cannot be found, or it or a variable says something that cannot be.
        """
        service = self._service
        if (why := fault_in_service(service, self.said)) is not None:
            raise ConnectionSetupError(database=str(self), why=f"in its service {why}")
        heard = self.said | {name for name, value in service.items() if value}
        if (why := fault_in_variables(heard)) is not None:
            raise ConnectionSetupError(database=str(self), why=why)
        said = {name: value for name, value in service.items() if value and name in TLS | DRIVER | _SERVER_OF_SERVICE}
        if (options := os.environ.get("PGOPTIONS")) and "options" not in said:
            said["options"] = options
        said |= dict(self.driver) | dict(self.server)
        return replace(
            self,
            # Beside a host, by which certificates and passwords are looked up, its address leads to the same server.
            hosts=self.hosts or _listed(service, "host") or _listed(service, "hostaddr") or _addresses(),
            ports=self.ports or self._ports_of(service),
            user=self.user or service.get("user") or None,
            password=self.password if self.password is not None else service.get("password"),
            database=self.database or service.get("dbname") or service.get("database") or None,
            driver=tuple((name, value) for name, value in said.items() if name in TLS | DRIVER),
            server=tuple((name, value) for name, value in said.items() if name in SERVER),
            patience=self.patience or seconds_of(service.get("connect_timeout") or os.environ.get("PGCONNECT_TIMEOUT")),
            said=heard,
        )

    @property
    def connect_timeout(self) -> float:
        """Seconds until a server that does not answer counts as unreachable."""
        return self.patience or _CONNECT_TIMEOUT

    @property
    def _service(self) -> Mapping[str, str]:
        """What the service that is meant says; nothing if none is meant."""
        said = dict(self.driver)
        name = said.get("service") or os.environ.get("PGSERVICE")
        return read_service(name, said.get("servicefile"), database=str(self)) if name else {}

    def _ports_of(self, service: Mapping[str, str]) -> tuple[int, ...]:
        try:
            return tuple(_port(str(self), port or _PORT) for port in _listed(service, "port"))
        except DatabaseUrlError as exc:
            why = f"in its service {exc.details['why']}, and not {service['port']!r}"
            raise ConnectionSetupError(database=str(self), why=why) from exc

    @property
    def conninfo(self) -> str:
        """The whole address, password included, in the form that libpq takes: `name='value' …`."""
        said = dict(self.driver) | dict(self.server)
        if "servicefile" in said:  # which libpq knows only since version 18
            return self.resolved().conninfo
        if "search_path" in said:  # which becomes options, beside which libpq looks for no others
            said = dict(self.driver) | dict(self.resolved().server)
        if (path := said.pop("search_path", None)) is not None:  # which libpq takes as an option of the server alone
            path = path.replace("\\", r"\\").replace(" ", r"\ ")
            said["options"] = f"{said.get('options', '')} -c search_path={path}".lstrip()
        place = {
            "host": ",".join(self.hosts) or None,
            "hostaddr": "" if self.hosts and os.environ.get("PGHOSTADDR") else None,  # which would lead elsewhere
            "port": ",".join(map(str, self.ports)) or None,
            "user": self.user,
            "password": self.password,
            "dbname": self.database,
            "connect_timeout": f"{self.connect_timeout:.0f}",
        }
        return " ".join(f"{name}={_quoted(value)}" for name, value in (place | said).items() if value is not None)

    @property
    def target(self) -> str | None:
        """Which of the several hosts of a resolved address is meant: the one that takes writes. None if there is only
        one, or if something says which.
        """
        if "target_session_attrs" in dict(self.driver) or os.environ.get("PGTARGETSESSIONATTRS"):
            return None
        hosts = self.hosts or os.environ.get("PGHOST", "").split(",")
        return "primary" if len(hosts) > 1 else None

    @property
    def place(self) -> str:
        """Which database, and which schemas in it: the same text for the same ones, whoever connects and however.

        What the address leaves to the environment is in it, too, as far as that is set; what a service says is not, only
        the service's name.
        """
        said = dict(self.driver) | dict(self.server)
        if "options" not in said and "search_path" not in said:
            said["options"] = os.environ.get("PGOPTIONS", "")
        if "search_path" not in said.get("options", ""):
            said.pop("options", None)
        more = [(name, said.get(name)) for name in _WHERE]
        left = {
            "PGHOST": self.hosts,
            "PGHOSTADDR": self.hosts or not _addresses(),
            "PGPORT": self.ports,
            "PGDATABASE": self.database,
            "PGSERVICE": said.get("service"),
        }
        more += [(name, os.environ.get(name)) for name, is_said in left.items() if not is_said]
        if not self.database and not os.environ.get("PGDATABASE"):  # it is named after the user who connects
            more.append(("user", self.user or os.environ.get("PGUSER")))
        query = "&".join(f"{name}={value}" for name, value in more if value)
        database = f"/{quote(self.database, safe='')}" if self.database else ""
        return f"{self._places}{database}{'?' if query else ''}{query}"

    def __str__(self) -> str:
        """The address without its password and options."""
        who = f"{quote(self.user, safe='')}@" if self.user else ""
        return f"postgresql://{who}{self._places}/{quote(self.database or '', safe='')}"

    @property
    def _places(self) -> str:
        """Hosts and ports as they stand in a URL."""
        hosts = [f"[{host}]" if ":" in host else quote(host, safe="") for host in self.hosts]
        return ",".join(f"{host}:{port}" if port else host for host, port in zip_longest(hosts, self.ports))


def _listed(service: Mapping[str, str], option: str) -> tuple[str, ...]:
    said = service.get(option)
    return tuple(said.split(",")) if said else ()


def _addresses() -> tuple[str, ...]:
    """The IP addresses in `PGHOSTADDR`, which the driver does not read; none if `PGHOST` says hosts."""
    return () if os.environ.get("PGHOST") else _listed(os.environ, "PGHOSTADDR")


def _quoted(value: str) -> str:
    escaped = value.replace("\\", r"\\").replace("'", r"\'")
    return f"'{escaped}'"


def refused(url: str, why: str) -> DatabaseUrlError:
    """The error to raise for a URL; it shows the URL without what might be a password."""
    return DatabaseUrlError(url=without_password(url), why=why)


def without_password(url: str) -> str:
    """The URL as it may be shown: without its password, wherever that begins and ends."""
    url = re.sub(r"(?<=://)([^:@/?]*):.*@", r"\1:…@", url, flags=re.DOTALL)
    return re.sub(r"((?:^|[?&])[^=&]*(?:password|secret|scram_[^=&]*_key)=)[^&]*", r"\1…", url)


def _options(url: str, query: str) -> Iterator[tuple[str, str]]:
    for name, value in parse_qsl(query, keep_blank_values=True):
        known = "sslmode" if name == "ssl" else name  # as SQLAlchemy writes it for asyncpg
        if (why := fault_of(known, value, shown=name)) is not None:
            raise refused(url, why)
        yield known, value


def _places(
    url: str, hosts: str, other_hosts: str, addresses: str, ports: str
) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """Hosts, or their IP addresses where no host is said, and a port for each if any is said.

    As with libpq, the options `host` and `port` each replace only their own counterpart in front of the database.
    """
    names, numbers = _read_places(url, hosts)
    if addresses and not (other_hosts or any(names)):
        other_hosts = ",".join(f"[{one}]" if ":" in one else one for one in addresses.split(","))
    if other_hosts:
        others, their_numbers = _read_places(url, other_hosts)
        said = [number for number in numbers if number]
        if said and not any(their_numbers):
            their_numbers = said * len(others) if len(said) == 1 else numbers
        names, numbers = others, their_numbers
    if ports:
        names = names or ["localhost"]
        said = ports.split(",")
        numbers = said * len(names) if len(said) == 1 else said
    if len(numbers) != len(names):
        raise refused(url, "it has more or fewer ports than hosts")
    if not any(numbers):
        return tuple(names), ()
    return tuple(names), tuple(_port(url, number or _PORT) for number in numbers)


def _read_places(url: str, hosts: str) -> tuple[list[str], list[str]]:
    """Hosts, and what is said as the port of each; nothing for a host without one."""
    names: list[str] = []
    numbers: list[str] = []
    for host in unquote(hosts).split(",") if hosts else ():
        if host.startswith("/"):  # a folder with a socket in it
            names.append(host)
            numbers.append("")
            continue
        place = _HOST.fullmatch(host)
        if place is None:
            raise refused(url, "a host is written alone or with its port, as localhost:5432")
        names.append(place["host"].strip("[]"))
        numbers.append(place["port"] or "")
    return names, numbers


def _port(url: str, text: str) -> int:
    if not (is_whole(text) and 0 < int(text) <= _MOST_PORTS):
        raise refused(url, f"a port is a number from 1 to {_MOST_PORTS}")
    return int(text)
