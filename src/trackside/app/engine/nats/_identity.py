"""Who comes to NATS: by name and password, by token, or by a key that signs what the server asks for.

The client needs a package of its own for keys. All that it does with it is one signature, which `cryptography` can make
as well: an nkey is an Ed25519 key, written in base32 with its kind in front and a checksum behind.
"""

from __future__ import annotations

import re
from base64 import b32decode, b32encode, b64encode, urlsafe_b64decode
from binascii import crc_hqx
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

import msgspec

from trackside.app.engine.nats._errors import EngineOptionError
from trackside.app.engine.nats._names import user_token

__all__ = ["NO_TLS", "Identity", "identity_in", "login_options", "named"]

NO_TLS: Final = "the server offers no TLS; nats:// is for servers without"
_JWT: Final = re.compile(r"BEGIN NATS USER JWT-+\s+([\w.-]+)")
_SEED: Final = re.compile(r"\bSU[A-Z2-7]{56}\b")
_PUBLIC_USER: Final = 20 << 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """Who comes. Nothing of it but the name is shown anywhere."""

    name: str | None = None
    username: str | None = field(default=None, repr=False)
    password: str | None = field(default=None, repr=False)
    token: str | None = field(default=None, repr=False)
    jwt: str | None = field(default=None, repr=False)
    seed: bytes | None = field(default=None, repr=False)

    @property
    def user(self) -> str:
        """Its own token in subjects."""
        return user_token(self.name)

    @property
    def public_key(self) -> str | None:
        """The key by which a server knows an nkey."""
        return None if self.seed is None else _public_key(self.seed)


class _Claims(msgspec.Struct):
    name: str = ""


def named(identity: Identity, name: str | None) -> Identity:
    """The same under another name, if there is one."""
    return identity if name is None else replace(identity, name=name)


def identity_in(text: str, file: Path) -> Identity:
    """Who is described in a file of credentials.

    Raises:
        EngineOptionError: nobody is, or the package that signs is not there.
    """
    seed, jwt = _SEED.search(text), _JWT.search(text)
    if seed is None:
        why = f"{file}: there is no seed of a user in it (a line that begins with SU)"
        raise EngineOptionError(option="credentials", why=why)
    try:
        raw = _raw_seed(seed[0])
        name = _public_key(raw) if jwt is None else _name_in(jwt[1])
    except ModuleNotFoundError as exc:
        why = f"it needs the package {exc.name}: pip install 'trackside[jwt]'"
        raise EngineOptionError(option="credentials", why=why) from exc
    except (ValueError, msgspec.MsgspecError):
        raise EngineOptionError(option="credentials", why=f"{file}: it is damaged") from None  # the cause would show it
    return Identity(name=name, jwt=None if jwt is None else jwt[1], seed=raw)


def login_options(identity: Identity, client: Any, is_safe: Callable[[], bool]) -> dict[str, Any]:
    """Credentials as the client takes them; nothing of them leaves before the connection is safe."""

    def once_safe[T](secret: Callable[..., T]) -> Callable[..., T]:
        def say(*arguments: Any) -> T:
            if not is_safe():
                raise ConnectionError(NO_TLS)
            return secret(*arguments)

        return say

    options: dict[str, Any] = {}
    if identity.username is not None and identity.password is not None:
        options |= {
            "user": once_safe(lambda: identity.username),
            "password": once_safe(lambda: identity.password),
        }
    if identity.token is not None:
        options["token"] = once_safe(lambda: identity.token)
    if (seed := identity.seed) is not None:
        options["signature_cb"] = once_safe(lambda nonce: b64encode(_signed(seed, nonce.encode())))
        if (jwt := identity.jwt) is not None:
            options["user_jwt_cb"] = once_safe(jwt.encode)
        else:
            client._public_nkey = identity.public_key  # noqa: SLF001  # to set this, the client wants its own package
    return options


def _name_in(jwt: str) -> str | None:
    payload = jwt.split(".")[1]
    padded = payload + "=" * (-len(payload) % 4)
    return msgspec.json.decode(urlsafe_b64decode(padded), type=_Claims).name or None


def _raw_seed(text: str) -> bytes:
    raw = b32decode(text + "=" * (-len(text) % 8))
    if crc_hqx(raw[:-2], 0) != int.from_bytes(raw[-2:], "little"):
        raise ValueError("checksum")
    return raw[2:-2]


def _public_key(seed: bytes) -> str:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    public = Ed25519PrivateKey.from_private_bytes(seed).public_key().public_bytes_raw()
    raw = bytes([_PUBLIC_USER]) + public
    return b32encode(raw + crc_hqx(raw, 0).to_bytes(2, "little")).decode().rstrip("=")


def _signed(seed: bytes, nonce: bytes) -> bytes:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    return Ed25519PrivateKey.from_private_bytes(seed).sign(nonce)
