"""The public keys of an identity provider: fetched in a thread, believed for a while, fetched again when they change."""

from __future__ import annotations

import asyncio
import json
import logging
import ssl
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import jwt

from trackside.app.daemon_threads import DaemonThreads
from trackside.app.server.auth.exposure import is_loopback
from trackside.app.server.failures import HttpError
from trackside.harness.foreign.failures import line_of

if TYPE_CHECKING:
    import httpx

logger = logging.getLogger("trackside.server")

_FRESH: Final = 300.0  # seconds for which keys are believed
_STALE: Final = 3_600.0  # seconds for which they are believed when they cannot be fetched
_AGAIN: Final = 10.0  # seconds between two tries, whatever key is asked for
_TIMEOUT: Final = 5.0  # seconds that fetching them may take, however fast each byte comes
_MOST_BYTES: Final = 1_048_576
_OF_RSA: Final = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512")


class BadKeySetError(ValueError):
    """There are no keys in what was fetched, or nothing could be fetched."""


class PublicKey(NamedTuple):
    """A public key, in a form that PyJWT takes, and the algorithms that a token may be signed with."""

    key: Any
    algorithms: Sequence[str]


class KeySet:
    """Keys by their ids, from a URL or a file.

    Args:
        where: `https://…` (also `http://`, of this machine), or a path.
        clock: monotonic seconds.

    Raises:
        ValueError: it is neither.
    """

    def __init__(self, where: str, *, clock: Callable[[], float] = time.monotonic) -> None:
        url = urlsplit(where)
        if url.scheme == "http" and not is_loopback(url.hostname or ""):
            raise ValueError("keys that come over http:// could be anybody's; write https://")
        if "://" in where and url.scheme not in {"http", "https"}:
            raise ValueError(f"{where!r} is neither a URL nor a file")
        self._where = where
        self._is_url = url.scheme in {"http", "https"}
        self._clock = clock
        self._keys: Mapping[str | None, PublicKey] = {}
        self._fetched_at = self._tried_at = float("-inf")
        self._fetching = asyncio.Lock()
        self._threads = DaemonThreads("trackside-jwks")
        self.version = 0
        """Grows each time that the keys may have changed."""

    async def key(self, key_id: str | None) -> PublicKey | None:
        """The key with this id, or the only one for a token that names none; None if there is none.

        Raises:
            HttpError: no keys could be fetched so far, or none for an hour (503).
        """
        if self._age(self._fetched_at) >= _FRESH or key_id not in self._keys:
            await self._fetch_again()
        if self._age(self._fetched_at) >= _STALE:
            detail = "the identity provider's keys cannot be fetched now"
            raise HttpError(status=503, detail=detail, headers={"Retry-After": "10"})
        return self._keys.get(key_id)

    def _age(self, when: float) -> float:
        return self._clock() - when

    async def _fetch_again(self) -> None:
        """Fetch them, at most every ten seconds: a client that makes up unknown ids must not cause a fetch for each."""
        async with self._fetching:
            if self._age(self._tried_at) < _AGAIN:
                return
            self._tried_at = self._clock()
            try:
                async with asyncio.timeout(_TIMEOUT):
                    found = await asyncio.wrap_future(self._threads.submit(self._load))
            except TimeoutError:
                logger.warning("the keys at %s cannot be fetched: that takes longer than %g s", self._where, _TIMEOUT)
                return
            except Exception as exc:  # noqa: BLE001  # whatever the other side does, it is not this server's failure
                logger.warning("the keys at %s cannot be fetched: %s", self._where, line_of(exc))
                return
            self._fetched_at = self._clock()
            self._keys = found
            self.version += 1

    def _load(self) -> Mapping[str | None, PublicKey]:
        return keys_in(_downloaded(self._where) if self._is_url else Path(self._where).read_bytes())


def _downloaded(url: str) -> bytes:
    """What is at this URL, fetched in this thread: by an event loop of its own, whose timeout also ends an endless
    answer.

    Raises:
        BadKeySetError: it is no key set.
        httpx.HTTPError, TimeoutError: it cannot be fetched.
    """
    import httpx

    certificates = ssl.create_default_context()  # those of the system
    client = httpx.AsyncClient(verify=certificates, proxy=_proxy_for(url), trust_env=False, timeout=_TIMEOUT)
    return asyncio.run(_read(client, url))


def _proxy_for(url: str) -> str | None:
    """The proxy that the environment names for this URL."""
    place = urlsplit(url)
    proxy = getproxies().get(place.scheme)
    if not proxy or proxy_bypass(place.netloc):
        return None
    return proxy if "://" in proxy else f"http://{proxy}"


async def _read(client: httpx.AsyncClient, url: str) -> bytes:
    headers = {"Accept": "application/json", "Accept-Encoding": "identity"}
    async with asyncio.timeout(_TIMEOUT), client, client.stream("GET", url, headers=headers) as answer:
        # Keys come from where the settings say, not from where somebody else says: a redirect is no answer.
        if answer.status_code != 200:
            raise BadKeySetError(f"the answer is {answer.status_code}")
        content = bytearray()
        async for part in answer.aiter_raw():
            content += part
            if len(content) > _MOST_BYTES:
                raise BadKeySetError(f"the answer is larger than {_MOST_BYTES:,} bytes")
        return bytes(content)


def keys_in(content: bytes) -> Mapping[str | None, PublicKey]:
    """The public keys for signatures in a JWKS, by their ids; if there is only one, also for tokens that name none.

    Raises:
        BadKeySetError: there is none.
    """
    document = json.loads(content)
    listed = document.get("keys") if isinstance(document, dict) else None
    found: dict[str | None, PublicKey] = {}
    for entry in listed if isinstance(listed, list) else ():
        # A secret in a JWKS is no longer secret. A key for encryption signs nothing.
        if not isinstance(entry, dict) or entry.get("kty") == "oct" or entry.get("use", "sig") != "sig":
            continue
        try:
            key = jwt.PyJWK(entry)
        except jwt.PyJWTError:
            continue  # of a kind that is not known here; the others will do
        found[key.key_id] = _usable(key, entry)
    if not found:
        raise BadKeySetError("there are no keys for signatures in it")
    if len(found) == 1:
        found[None] = next(iter(found.values()))
    return found


def _usable(key: jwt.PyJWK, entry: Mapping[str, Any]) -> PublicKey:
    """A key with the algorithms that fit it. PyJWT takes an RSA key that names none (RFC 7517, 4.4) for one of RS256."""
    if key.key_type == "RSA" and not entry.get("alg"):
        return PublicKey(key.key, _OF_RSA)
    return PublicKey(key, (key.algorithm_name,))
