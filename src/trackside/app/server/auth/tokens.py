"""Clients who have a JSON Web Token from an identity provider."""

from __future__ import annotations

import hashlib
import logging
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Self

import jwt
from jwt.algorithms import get_default_algorithms

from trackside.app.server.auth.authenticator import bearer_of, highest, unknown
from trackside.app.server.auth.jwks import KeySet
from trackside.app.server.failures import HttpError
from trackside.app.server.principal import Permission, Principal
from trackside.app.server.responses import Scope
from trackside.harness.errors import TracksideError

logger = logging.getLogger("trackside.server")

_PLAIN: Final = (jwt.MissingRequiredClaimError, jwt.InvalidAudienceError, jwt.ImmatureSignatureError)
"""Errors whose texts name claims, and not what the claims say."""
_LEEWAY: Final = 10.0  # seconds by which clocks may differ
_REMEMBERED: Final = 1_000  # tokens
_BELIEVED: Final = 60.0  # seconds for which a token is not checked again
_LONGEST: Final = 16_384  # characters of a token
_LEAST_SECRET: Final = 32  # bytes
_PUBLIC: Final = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA")
_SECRET: Final = ("HS256", "HS384", "HS512")
_LONGEST_OWNER: Final = 255


class TokenOptionError(TracksideError, ValueError):
    """Tokens cannot be checked with this {option}: {why}."""

    fault = "caller"


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenRules:
    """What a token has to say."""

    issuer: str | None = None
    audience: str | None = None
    algorithms: Sequence[str] = ()
    owner: str = "sub"
    permission: str | None = None


class TokenAuthenticator:
    """Identifies clients by tokens that are signed, meant for this server, and not expired. Made with `of`.

    Which algorithms may sign a token is decided here and never by the token, and secrets and public keys are not mixed:
    else anybody who knows a public key could sign with it as with a secret.

    A signature takes 30 to 150 µs to check, so a token that was good is believed for a minute, until it expires, or
    until the keys change; only a digest of it is kept.
    """

    asks_again = True

    def __init__(
        self,
        rules: TokenRules,
        algorithms: Sequence[str],
        keys: Any,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._rules = rules
        self._algorithms = algorithms
        self._keys = keys
        self._clock = clock
        self._said: dict[str, float] = {}
        self._believed: OrderedDict[bytes, tuple[float, float, int, Principal]] = OrderedDict()

    @classmethod
    def of(
        cls,
        rules: TokenRules,
        *,
        key: str | None,
        jwks: str | None,
        clock: Callable[[], float] = time.monotonic,
    ) -> Self:
        """An authenticator with one key, or the keys of an identity provider.

        Raises:
            TokenOptionError: an option is missing, or does not fit the others.
        """
        if (key is None) == (jwks is None):
            why = "set either jwt_key or jwt_jwks" if key is None else "there is jwt_key, too; set one of them"
            raise TokenOptionError(option="jwks", why=why)
        for option in ("issuer", "audience"):
            # Others have tokens from the same identity provider, for other servers.
            if jwks is not None and getattr(rules, option) is None:
                raise TokenOptionError(
                    option=option, why="say whose tokens are accepted here, and for whom they are made"
                )
        if key is not None:
            allowed = _PUBLIC if key.lstrip().startswith("-----BEGIN") else _SECRET
            algorithms = _chosen(rules.algorithms, allowed, default=_defaults(key, allowed))
            return cls(rules, algorithms, _prepared(key, algorithms), clock=clock)
        try:
            keys = KeySet(jwks or "", clock=clock)
        except ValueError as exc:
            raise TokenOptionError(option="jwks", why=str(exc)) from exc
        return cls(rules, _chosen(rules.algorithms, _PUBLIC, default=_PUBLIC), keys, clock=clock)

    async def __call__(self, scope: Scope) -> Principal:
        token = bearer_of(scope)
        if not token:
            raise unknown("say who you are: send a token as Authorization: Bearer")
        if len(token) > _LONGEST:
            raise unknown("this token is too long")
        digest = hashlib.sha256(token.encode()).digest()
        version = self._keys.version if isinstance(self._keys, KeySet) else 0
        if (found := self._believed.get(digest)) is not None:
            until, expires, known, principal = found
            if self._clock() < until and time.time() < expires and known == version:
                return principal
            del self._believed[digest]
        claims = await self._checked(token)
        principal = self._principal(claims)
        version = self._keys.version if isinstance(self._keys, KeySet) else 0
        self._believed[digest] = (self._clock() + _BELIEVED, float(claims["exp"]) + _LEEWAY, version, principal)
        if len(self._believed) > _REMEMBERED:
            self._believed.popitem(last=False)
        return principal

    async def _checked(self, token: str) -> Mapping[str, Any]:
        rules = self._rules
        try:
            key = await self._key_for(token)
            return jwt.decode(
                token,
                key,
                algorithms=list(self._algorithms),
                issuer=rules.issuer,
                audience=rules.audience,
                leeway=_LEEWAY,
                options={"require": ["exp"], "verify_aud": rules.audience is not None},
            )
        except jwt.ExpiredSignatureError:
            raise unknown("this token has expired") from None
        except (jwt.PyJWTError, ValueError, TypeError, RecursionError, OverflowError) as exc:
            self._say(exc)
            raise unknown("this token is not valid here") from None

    def _say(self, exc: Exception) -> None:
        """Say in the log what is wrong with a token, each kind once a minute, and nothing of what is in the token."""
        why = str(exc) if isinstance(exc, _PLAIN) else type(exc).__name__
        now = self._clock()
        if now - self._said.get(why, float("-inf")) >= _BELIEVED and len(self._said) < _REMEMBERED:
            self._said[why] = now
            logger.warning("a token was refused: %s", why)

    async def _key_for(self, token: str) -> Any:
        if not isinstance(self._keys, KeySet):
            return self._keys
        header = jwt.get_unverified_header(token)
        algorithm = header.get("alg")
        if algorithm not in self._algorithms:
            raise jwt.InvalidAlgorithmError
        found = await self._keys.key(header.get("kid"))
        if found is None or algorithm not in found.algorithms:
            raise jwt.InvalidKeyError
        return found.key

    def _principal(self, claims: Mapping[str, Any]) -> Principal:
        owner = claims.get(self._rules.owner)
        if not isinstance(owner, str) or not 0 < len(owner) <= _LONGEST_OWNER or "\0" in owner:
            raise unknown(f"this token does not say who you are: it has no claim {self._rules.owner!r} that is a text")
        permission = Permission.run
        if self._rules.permission is not None:
            found = highest(claims.get(self._rules.permission), prefixed=False)
            if found is None:
                raise HttpError(
                    status=403, detail=f"this token's claim {self._rules.permission!r} permits nothing here"
                )
            permission = found
        user = {"identity": owner, "display_name": claims.get("name", owner), "is_authenticated": True}
        return Principal(identity=owner, permission=permission, user={**user, "permissions": [permission.value]})


def _chosen(wanted: Sequence[str], allowed: Sequence[str], *, default: Sequence[str]) -> Sequence[str]:
    for name in wanted:
        if name not in allowed:
            why = f"{name!r} does not fit the key; with it there are {', '.join(allowed)}"
            raise TokenOptionError(option="algorithms", why=why)
    return tuple(wanted) or default


def _defaults(key: str, allowed: Sequence[str]) -> Sequence[str]:
    """The algorithms that a key can be used with, where the settings name none."""
    if allowed is _SECRET:
        return ("HS256",)
    fitting: list[str] = []
    for name in allowed:
        try:
            get_default_algorithms()[name].prepare_key(key.encode())
        except (jwt.PyJWTError, ValueError, TypeError):
            continue
        fitting.append(name)
    return tuple(fitting)


def _prepared(key: str, algorithms: Sequence[str]) -> Any:
    if not algorithms:
        raise TokenOptionError(option="key", why="no algorithm can be used with it")
    if algorithms[0] in _SECRET:
        if len(key.encode()) < _LEAST_SECRET:
            raise TokenOptionError(option="key", why=f"a secret has {_LEAST_SECRET} bytes at least")
        return key.encode()
    if "PRIVATE KEY" in key:
        raise TokenOptionError(option="key", why="it is a private key, with which tokens are made; give the public one")
    try:
        for name in algorithms:
            get_default_algorithms()[name].prepare_key(key.encode())
    except (jwt.PyJWTError, ValueError, TypeError) as exc:
        raise TokenOptionError(option="key", why=f"it cannot be read as a public key for {algorithms[0]}") from exc
    return key
