"""Where a broker is, who logs in to it, and how it proves who it is: checked before anything is connected."""

from __future__ import annotations

import json
import ssl
from dataclasses import dataclass, field
from typing import Any, Final, override
from urllib.parse import SplitResult, unquote, urlsplit

from trackside.app.delivery import ObserverOptionError

__all__ = ["NATS_SCHEMES", "Address", "Login", "WatchedTls", "addresses_in", "tls_context"]

NATS_SCHEMES: Final = ("nats", "tls")
REDIS_SCHEMES: Final = ("redis", "rediss", "valkey")
_TLS: Final = frozenset({"tls", "rediss"})
_PORTS: Final = dict.fromkeys(NATS_SCHEMES, 4222) | dict.fromkeys(REDIS_SCHEMES, 6379)


@dataclass(frozen=True, slots=True)
class Login:
    """Who logs in to the broker. None of this is shown anywhere."""

    username: str | None = field(default=None, repr=False)
    password: str | None = field(default=None, repr=False)
    token: str | None = field(default=None, repr=False)
    credentials: str | None = field(default=None, repr=False)
    """The path of a NATS credentials file."""

    @property
    def secrets(self) -> list[str]:
        """What only the broker is told, as it is and as it reads inside JSON, which is how NATS is told."""
        told = [secret for secret in (self.password, self.token) if secret is not None]
        return told + [json.dumps(secret)[1:-1] for secret in told]


@dataclass(frozen=True, slots=True, kw_only=True)
class Address:
    """Where a broker is, without who logs in to it."""

    scheme: str
    host: str
    port: int
    path: str
    """What comes after the port: for Redis, the number of the database."""

    @property
    def is_secure(self) -> bool:
        """Whether nothing may go in the clear."""
        return self.scheme in _TLS

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}:{self.port}{self.path}"


def addresses_in(url: Any) -> tuple[list[Address], Login]:
    """The servers that a URL names (for NATS several, separated by commas), and the credentials in it.

    Raises:
        ObserverOptionError: it is not a URL of a broker. The message does not quote it, as it may contain a password.
    """
    if not isinstance(url, str) or not url:
        raise _url_error("it is not a URL")
    logins: list[Login] = []
    addresses: list[Address] = []
    for text in url.split(","):
        try:
            parts = urlsplit(text.strip())
            addresses.append(_address(parts))
        except ValueError as exc:
            if isinstance(exc, ObserverOptionError):
                raise
            raise _url_error("it is not a URL; is its host or its port right?") from None  # `exc` quotes all of it
        login = _login(parts)
        if login is not None and login not in logins:
            logins.append(login)
    if len({address.scheme for address in addresses}) > 1:
        raise _url_error("its servers have different schemes")
    if len(addresses) > 1 and addresses[0].scheme in REDIS_SCHEMES:
        raise _url_error("for Redis it names one server; in a password, write a comma as %2C")
    if len(logins) > 1:
        raise _url_error("its servers have different credentials")
    return addresses, logins[0] if logins else Login()


def _address(parts: SplitResult) -> Address:
    if parts.scheme not in _PORTS:
        schemes = ", ".join(f"{scheme}://" for scheme in _PORTS)
        raise _url_error(f"it begins with one of {schemes}")
    port = parts.port
    if not parts.hostname:
        raise _url_error("it has no host")
    if port == 0:
        raise _url_error("there is no port 0")
    if parts.query or parts.fragment:
        raise _url_error("it has a part after ? or #; everything besides the address is an option of its own")
    path = parts.path.rstrip("/")
    if path and (parts.scheme in NATS_SCHEMES or not path[1:].isdecimal()):
        raise _url_error("nothing follows the port except, for Redis, the number of a database")
    return Address(scheme=parts.scheme, host=parts.hostname, port=port or _PORTS[parts.scheme], path=path)


def _login(parts: SplitResult) -> Login | None:
    if parts.username is None and parts.password is None:
        return None
    username = unquote(parts.username or "") or None
    if parts.password is None:
        if parts.scheme in NATS_SCHEMES:
            return Login(token=username)
        raise _url_error("it has a user and no password")
    return Login(username, unquote(parts.password))


def _url_error(why: str) -> ObserverOptionError:
    return ObserverOptionError(option="url", why=why)


class WatchedTls(ssl.SSLContext):
    """Counts how often it secured a connection, for callers that have to know whether it secured one."""

    handshakes: int

    @override
    def wrap_bio(self, *args: Any, **options: Any) -> ssl.SSLObject:
        self.handshakes += 1
        return super().wrap_bio(*args, **options)


def tls_context(ca_file: Any, *, secure: bool) -> WatchedTls | None:
    """A context that trusts what this machine trusts, or only the certificates in a file; None unless `secure`.

    Raises:
        ObserverOptionError: the file has no certificates, or there is nothing that they would be for.
    """
    if not secure:
        if ca_file is not None:
            raise ObserverOptionError(option="ca_file", why="it is for tls:// and rediss:// alone")
        return None
    context = WatchedTls(ssl.PROTOCOL_TLS_CLIENT)
    context.handshakes = 0
    try:
        if ca_file is None:
            context.load_default_certs()
        else:
            context.load_verify_locations(cafile=ca_file)
    except (ssl.SSLError, TypeError, ValueError) as exc:
        raise ObserverOptionError(option="ca_file", why="it is no file of certificates (PEM)") from exc
    except OSError as exc:
        raise ObserverOptionError(option="ca_file", why=exc.strerror or "it cannot be read") from exc
    return context
