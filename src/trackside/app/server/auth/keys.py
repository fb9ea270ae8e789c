"""Clients who have one of this store's API keys."""

from __future__ import annotations

import asyncio
import hmac
import logging
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Final

from trackside.app.server.auth.authenticator import bearer_of, unknown
from trackside.app.server.failures import HttpError, answer_without
from trackside.app.server.principal import Permission, Principal
from trackside.app.server.responses import Scope, header_of
from trackside.app.storage.api_keys import ApiKey, ApiKeys, digest_of, id_in
from trackside.app.storage.errors import StorageError

logger = logging.getLogger("trackside.server")

FRESH_SECONDS: Final = 2.0
"""How long the keys that were read are believed, and so how long one that another process revoked lives on."""
_AGAIN_SECONDS: Final = 0.25


class KeyAuthenticator:
    """Knows the owners of API keys, sent as `x-api-key` or `Authorization: Bearer`.

    It holds all good keys in memory, and reads them again when it has held them for two seconds and a client asks; at
    once if a key was made or revoked in this process. So a request costs no look into the database, and clients that
    send keys that do not exist cost at most four looks a second: nothing is kept of those keys. While the keys cannot
    be read, all clients that ask get the failure that one of them has waited for.

    Args:
        keys: those of the store.
        fresh: seconds for which the keys that were read are believed.
        clock: monotonic seconds.
    """

    asks_again = True

    def __init__(
        self, keys: ApiKeys, *, fresh: float = FRESH_SECONDS, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._keys = keys
        self._fresh = fresh
        self._clock = clock
        self._good: dict[str, tuple[ApiKey, Principal]] = {}
        self._read_at = float("-inf")
        self._version = -1
        self._reading = asyncio.Lock()
        self._failure: StorageError | None = None
        self._failed_at = float("-inf")

    async def __call__(self, scope: Scope) -> Principal:
        secret, key_id = _key_in(scope)
        asked = self._clock()
        if not self._is_fresh(self._fresh, asked):
            await self._read(self._fresh, asked)
        found = self._good.get(key_id)
        if found is None and not self._is_fresh(_AGAIN_SECONDS, asked):
            await self._read(_AGAIN_SECONDS, asked)  # another process may have made it a moment ago
            found = self._good.get(key_id)
        # The id is no secret. The secret is compared in a time that does not tell how much of it is right.
        if found is None or not hmac.compare_digest(found[0].digest, digest_of(secret)):
            raise unknown("this API key is not known, or no longer valid")
        key, principal = found
        if key.expires_at is not None and not key.is_good(datetime.now(UTC)):
            raise unknown("this API key is not known, or no longer valid")
        return principal

    def _is_fresh(self, seconds: float, asked: float) -> bool:
        """Whether the keys were read within so many seconds, or after a client asked, however long that took."""
        is_new = self._clock() - self._read_at < seconds or self._read_at > asked
        return is_new and self._version == self._keys.version

    async def _read(self, fresh: float, asked: float) -> None:
        async with self._reading:
            if self._is_fresh(fresh, asked):  # somebody else has read them meanwhile
                return
            if self._failure is not None and self._clock() - self._failed_at < _AGAIN_SECONDS:
                raise _cannot_be_found_out(self._failure)
            began, version = self._clock(), self._keys.version
            try:
                good = await self._keys.good()
            except StorageError as exc:
                if self._failure is None:
                    logger.error("nobody is let in, because the API keys cannot be read: %s", exc)  # noqa: TRY400
                self._failure, self._failed_at = exc, self._clock()
                raise _cannot_be_found_out(exc) from exc
            if self._failure is not None:
                logger.info("the API keys can be read again")
            self._failure = None
            self._good = {key.key_id: (key, _principal_of(key)) for key in good}
            self._read_at, self._version = began, version


def _cannot_be_found_out(exc: StorageError) -> HttpError:
    said = answer_without(exc)
    return HttpError(status=said.status, detail=said.detail, headers=said.headers)


def _key_in(scope: Scope) -> tuple[str, str]:
    """The key that was sent, and its id. Clients may send others' keys as `x-api-key`, and ours as a bearer token."""
    header = header_of(scope, b"x-api-key")
    sent = [None if header is None else header.decode("latin-1").strip(), bearer_of(scope)]
    for secret in sent:
        if secret is not None and (key_id := id_in(secret)) is not None:
            return secret, key_id
    if not any(sent):
        raise unknown("say who you are: send an API key as x-api-key, or as Authorization: Bearer")
    raise unknown(
        "this is not an API key of this server: one is ts_, 12 digits, _, and 64 more, as `trackside auth create` prints it"
    )


def _principal_of(key: ApiKey) -> Principal:
    user = {"identity": key.owner, "display_name": key.owner, "is_authenticated": True, "permissions": [key.permission]}
    return Principal(identity=key.owner, permission=Permission(key.permission), user=user)
