"""How NATS is reached, checked before anything is connected."""

from __future__ import annotations

import re
import ssl
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal

from trackside.app.broker_access import NATS_SCHEMES, Address, Login, WatchedTls, addresses_in, tls_context
from trackside.app.delivery import ObserverOptionError
from trackside.app.engine.nats._errors import EngineOptionError
from trackside.app.engine.nats._identity import Identity, identity_in, named
from trackside.app.engine.nats._names import Names, is_token

__all__ = ["Access", "NatsOptions", "load_access"]

type Role = Literal["server", "worker"]

_MOST_BYTES: Final = 2**40
_PREFIX: Final = re.compile(r"[a-z0-9_-]{1,32}")


@dataclass(frozen=True, slots=True, kw_only=True)
class NatsOptions:
    """How this process reaches NATS, and what it keeps there.

    Raises:
        EngineOptionError: a value does not fit. Files are read only when the engine is opened.
    """

    url: str = field(repr=False)
    """`nats://host:4222` or `tls://host:4222`; several servers of one cluster separated by commas. It may contain
    `user:password@` or `token@`, which is shown nowhere.
    """
    role: Role = "server"
    """A server does for workers what they may not do themselves."""
    name: str = "trackside"
    """The name that NATS shows for this process in its own lists."""
    user: str | None = None
    """The name under which the process has an inbox and subjects of its own; None: the name by which it logs in."""
    credentials: Path | None = None
    """A file with a user's JWT and seed (`.creds`), or with the seed of an nkey alone."""
    ca: Path | None = None
    """Certificates (PEM) of those who certify the server, instead of those that this machine trusts."""
    certificate: Path | None = None
    """The certificate (PEM) that this process shows, with `key`."""
    key: Path | None = None
    prefix: str = "trackside"
    """Before all subjects, and in capitals before the names of streams, so that one NATS can serve several fleets."""
    replicas: int = 1
    """On how many servers of a cluster the streams are: 1, 3 or 5."""
    ack_wait: float = 15.0
    """After how many seconds an offer goes to another worker if the one that has it says nothing."""
    live_seconds: float = 600.0
    """How many seconds live output is kept for followers that come late."""
    live_bytes: int = 256 * 2**20
    """How many bytes of it are kept, for all runs."""
    live_messages: int = 10_000
    """How many messages of it are kept for one run."""

    def __post_init__(self) -> None:
        """Check what needs no file."""
        _parts(self)
        _check(
            "prefix", _PREFIX.fullmatch(self.prefix) is not None, "it is up to 32 of the characters a-z, 0-9, _ and -"
        )
        _check("user", self.user is None or is_token(self.user), "it is up to 64 letters, digits, _ and -")
        _check("replicas", self.replicas in {1, 3, 5}, "it is 1, 3 or 5")
        _check("ack_wait", 1 <= self.ack_wait <= 3_600, "it is from 1 to 3,600 seconds")
        _check("live_seconds", 1 <= self.live_seconds <= 86_400, "it is from 1 to 86,400 seconds")
        _check("live_bytes", 2**20 <= self.live_bytes <= _MOST_BYTES, "it is from 1 MiB to 1 TiB")
        _check("live_messages", 1 <= self.live_messages <= 10**9, "it is from 1 to 1,000,000,000")

    @property
    def names(self) -> Names:
        """The subjects and streams."""
        return Names(self.prefix)

    @property
    def servers(self) -> list[str]:
        """The addresses of NATS, without secrets."""
        return [str(address) for address in _parts(self)[0]]

    @property
    def shown(self) -> str:
        """The addresses of NATS, for people."""
        return ",".join(self.servers)


@dataclass(frozen=True, slots=True)
class Access:
    """What is needed for one connection, read from the files as they are now."""

    servers: list[str]
    identity: Identity
    tls: WatchedTls | None


def load_access(options: NatsOptions) -> Access:
    """Read the files. This blocks.

    Raises:
        EngineOptionError: one of them does not exist, or is something else.
    """
    addresses, login = _parts(options)
    secure = addresses[0].is_secure
    try:
        tls = tls_context(options.ca, secure=secure)
    except ObserverOptionError as exc:
        why = "it is for tls:// alone" if not secure else f"{options.ca}: {exc.details['why']}"
        raise EngineOptionError(option="ca", why=why) from exc
    _show_certificate(tls, options)
    identity = _identity(login, options.credentials)
    return Access(options.servers, named(identity, options.user), tls)


def _parts(options: NatsOptions) -> tuple[list[Address], Login]:
    try:
        addresses, login = addresses_in(options.url)
    except ObserverOptionError as exc:
        raise EngineOptionError(option="url", why=str(exc.details["why"])) from exc
    _check("url", addresses[0].scheme in NATS_SCHEMES, "it begins with nats:// or tls://")
    both = options.credentials is not None and login != Login()
    _check("credentials", not both, "there are credentials in the URL, too; give them once")
    return addresses, login


def _identity(login: Login, credentials: Path | None) -> Identity:
    if credentials is None:
        return Identity(username=login.username, password=login.password, token=login.token, name=login.username)
    try:
        text = credentials.read_text()
    except (OSError, ValueError) as exc:
        raise EngineOptionError(option="credentials", why=f"{credentials}: {_unreadable(exc)}") from exc
    return identity_in(text, credentials)


def _show_certificate(tls: WatchedTls | None, options: NatsOptions) -> None:
    certificate, key = options.certificate, options.key
    if certificate is None:
        _check("certificate", key is None, "it is missing beside `key`")
        return
    if tls is None:
        raise EngineOptionError(option="certificate", why="it is for tls:// alone")
    for option, file in (("certificate", certificate), ("key", key)):
        if file is None:  # then it is in the other one
            continue
        try:
            file.open("rb").close()
        except OSError as exc:
            raise EngineOptionError(option=option, why=f"{file}: {_unreadable(exc)}") from exc
    try:
        tls.load_cert_chain(certificate, key, password=_no_password)
    except (ssl.SSLError, ValueError) as exc:
        both = f"{certificate} and {key}" if key else f"{certificate}"
        why = f"{both}: they are not a certificate (PEM) and its key without a password"
        raise EngineOptionError(option="certificate", why=why) from exc


def _no_password() -> bytes:
    return b""  # else OpenSSL asks at the terminal


def _unreadable(exc: OSError | ValueError) -> str:
    return (exc.strerror if isinstance(exc, OSError) else None) or "it cannot be read"


def _check(option: str, fits: bool, why: str) -> None:  # noqa: FBT001  # reads as a sentence
    if not fits:
        raise EngineOptionError(option=option, why=why)
