"""A NATS server with the configuration that Trackside writes for a fleet, and keys of those who may connect to it."""

from __future__ import annotations

import hashlib
import json
import sys
from base64 import b32encode, urlsafe_b64encode
from binascii import crc_hqx
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from kept_server import KeptServer

from trackside.app.engine.nats import NatsUser, ServerTls, server_config

_KINDS = {"U": 20 << 3, "A": 0, "O": 14 << 3}
_SEED = 18 << 3


class SecuredNats(KeptServer):
    """A server started with these users."""

    ready = "Server is ready"

    def __init__(self, users: Sequence[NatsUser], tls: ServerTls | None = None) -> None:
        self._users = users
        self._tls = tls
        super().__init__("secured-nats")

    @property
    def address(self) -> str:
        """Host and port."""
        return f"127.0.0.1:{self.port}"

    def url(self, user: str | None = None, password: str = "secret") -> str:
        """Its address, for one of its users."""
        login = "" if user is None else f"{user}:{password}@"
        return f"{'nats' if self._tls is None else 'tls'}://{login}{self.address}"

    def command(self) -> Sequence[str | Path]:
        configuration = self.data.parent / "nats.conf"
        configuration.write_text(self.configuration())
        return [Path(sys.executable).with_name("nats-server"), "-c", configuration]

    def configuration(self) -> str:
        """The text of its configuration file."""
        return server_config(self._users, store_dir=self.data, listen=self.address, tls=self._tls)


class NatsWithOperator(SecuredNats):
    """A server started with an operator, whose account has users that are known by what it has signed."""

    def __init__(self) -> None:
        self.operator, self.account, self.system = NatsKey("O"), NatsKey("A"), NatsKey("A")
        super().__init__([])

    def configuration(self) -> str:
        unlimited = dict.fromkeys(("subs", "data", "payload", "imports", "exports", "conn", "leaf"), -1)
        storage = {"mem_storage": -1, "disk_storage": -1, "streams": -1, "consumer": -1, "wildcards": True}
        operator = self.operator.signs("operator", self.operator, "operator", {"system_account": self.system.public})
        accounts = {
            self.account.public: self.operator.signs("account", self.account, "fleet", {"limits": unlimited | storage}),
            self.system.public: self.operator.signs("account", self.system, "SYS", {"limits": unlimited}),
        }
        return "\n".join(
            [
                f"listen: {self.address}",
                f"jetstream {{ store_dir: {json.dumps(str(self.data))} }}",
                f"operator: {operator}",
                f"system_account: {self.system.public}",
                "resolver: MEMORY",
                "resolver_preload: {",
                *(f"  {account}: {jwt}" for account, jwt in accounts.items()),
                "}",
            ]
        )

    def credentials(self, name: str, rights: Mapping[str, Any]) -> str:
        """A credentials file for a new user."""
        user = NatsKey("U")
        limits = {"subs": -1, "data": -1, "payload": -1}
        jwt = self.account.signs("user", user, name, limits | dict(rights))
        return (
            f"-----BEGIN NATS USER JWT-----\n{jwt}\n------END NATS USER JWT------\n\n"
            f"-----BEGIN USER NKEY SEED-----\n{user.seed}\n------END USER NKEY SEED------\n"
        )


class NatsKey:
    """An nkey: of a user, an account or an operator."""

    def __init__(self, kind: str) -> None:
        self._key = Ed25519PrivateKey.generate()
        prefix = _KINDS[kind]
        self.public = _written(bytes([prefix]) + self._key.public_key().public_bytes_raw())
        both = bytes([_SEED | (prefix >> 5), (prefix & 31) << 3])
        self.seed = _written(both + self._key.private_bytes_raw())

    def signs(self, kind: str, subject: NatsKey, name: str, claims: Mapping[str, Any]) -> str:
        """A signed JWT about somebody."""
        head = {"typ": "JWT", "alg": "ed25519-nkey"}
        body: dict[str, Any] = {"iat": 1_700_000_000, "iss": self.public, "name": name, "sub": subject.public}
        body["nats"] = {**claims, "type": kind, "version": 2}
        body["jti"] = b32encode(hashlib.sha256(json.dumps(body).encode()).digest()).decode().rstrip("=")
        signed = ".".join(_part(json.dumps(each).encode()) for each in (head, body))
        return f"{signed}.{_part(self._key.sign(signed.encode()))}"


def _written(raw: bytes) -> str:
    return b32encode(raw + crc_hqx(raw, 0).to_bytes(2, "little")).decode().rstrip("=")


def _part(raw: bytes) -> str:
    return urlsafe_b64encode(raw).decode().rstrip("=")
