"""API keys, by which clients say who they are.

The store has only a digest of each key, so that whoever reads the database, or a backup of it, cannot use any. SHA-256
is right for that, and a slow hash would not be. Slow hashes make guessing expensive where people choose; nobody guesses
one of 2²⁵⁶ random keys, however fast. A server that checks a key for each request has no time for a slow hash either.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
import secrets
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final, Literal, NamedTuple, get_args, override

from sqlalchemy import Row, insert, select, update

from trackside.app.storage._databases.readers import Readers
from trackside.app.storage._rows.arguments import name_of
from trackside.app.storage._rows.client_tables import api_keys
from trackside.app.storage._rows.encoding import json_text, time_text
from trackside.app.storage._writing.work import UnitOfWork, Work
from trackside.app.storage._writing.writer import NoWriter, Writer
from trackside.app.storage.errors import InvalidApiKeyError, UnknownApiKeyError
from trackside.harness.foreign.timelimit import outlived

__all__ = ["ApiKey", "ApiKeys", "KeyPermission", "NewApiKey", "digest_of", "id_in"]

type KeyPermission = Literal["read", "run", "admin"]
"""What the owner of a key may do. Each permission includes those before it."""

_PERMISSIONS: Final[tuple[KeyPermission, ...]] = get_args(KeyPermission.__value__)
_KEY_BYTES: Final = 500
_ID_BYTES: Final = 6
_SECRET_BYTES: Final = 32
_FORM: Final = re.compile(rf"ts_([0-9a-f]{{{2 * _ID_BYTES}}})_[0-9a-f]{{{2 * _SECRET_BYTES}}}", re.ASCII)


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiKey:
    """What is known about a key: everything but the key itself. Times are aware UTC."""

    key_id: str
    name: str
    """What people call it."""
    owner: str
    """The owner of the threads that are made and seen with the key."""
    permission: KeyPermission
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None
    digest: str

    def is_good(self, now: datetime) -> bool:
        """Whether the key lets anybody in."""
        return self.revoked_at is None and (self.expires_at is None or now < self.expires_at)


class NewApiKey(NamedTuple):
    """A key that was just made. `secret` is the key itself, which cannot be shown again."""

    key: ApiKey
    secret: str


def digest_of(secret: str) -> str:
    """The digest of a key: what is stored of it."""
    return hashlib.sha256(secret.encode()).hexdigest()


def id_in(secret: str) -> str | None:
    """The id of a key, which is part of it so that a leaked key can be recognised; None: this cannot be a key."""
    found = _FORM.fullmatch(secret)
    return None if found is None else found[1]


class ApiKeys:
    """The keys of a store: `store.api_keys`."""

    def __init__(self, writer: Writer | NoWriter, readers: Readers) -> None:
        self._writer = writer
        self._readers = readers
        self.version = 0
        """A different number after each key made or revoked here, for callers that hold on to what they have read."""

    async def create(
        self, name: str, *, owner: str, permission: KeyPermission = "run", expires_at: datetime | None = None
    ) -> NewApiKey:
        """Make a key. Only the return value contains it.

        Args:
            name: what people call it; several may have the same.
            owner: the owner of the threads that are made and seen with it.
            permission: what may be done with it.
            expires_at: the time from which it lets nobody in; None: never.

        Raises:
            InvalidApiKeyError: an argument does not fit; the message names it.
            StorageError: it cannot be stored.
        """
        for field, value in (("name", name), ("owner", owner)):
            name_of(field, value, InvalidApiKeyError)
        if permission not in _PERMISSIONS:
            raise InvalidApiKeyError(field="permission", value=permission, why=f"there are {', '.join(_PERMISSIONS)}")
        now = datetime.now(UTC)
        if expires_at is not None and not _is_future(expires_at, now):
            why = "it is a datetime in the future, with its offset"
            raise InvalidApiKeyError(field="expires_at", value=expires_at, why=why)
        key_id = secrets.token_hex(_ID_BYTES)
        secret = f"ts_{key_id}_{secrets.token_hex(_SECRET_BYTES)}"
        key = ApiKey(
            key_id=key_id,
            name=name,
            owner=owner,
            permission=permission,
            created_at=now,
            expires_at=expires_at,
            revoked_at=None,
            digest=digest_of(secret),
        )
        await self._write(_Create(key))
        return NewApiKey(key, secret)

    async def revoke(self, key_id: str) -> ApiKey:
        """Revoke a key: it lets nobody in any more. A key that is revoked already stays as it is.

        Raises:
            UnknownApiKeyError: there is no key with this id.
            StorageError: it cannot be stored.
        """
        name_of("key_id", key_id, InvalidApiKeyError)
        await self._write(_Revoke(key_id, time_text(datetime.now(UTC))))
        found = await self._readers.first(select(api_keys).where(api_keys.c.key_id == key_id), _key_of)
        if found is None:
            raise UnknownApiKeyError(key_id=key_id)
        return found

    async def all(self) -> list[ApiKey]:
        """All keys, in the order in which they were made, including those that let nobody in."""
        return await self._readers.all(select(api_keys).order_by(api_keys.c.created_at, api_keys.c.key_id), _key_of)

    async def good(self) -> list[ApiKey]:
        """The keys that let somebody in now."""
        now = datetime.now(UTC)
        is_good = api_keys.c.revoked_at.is_(None) & (api_keys.c.expires_at.is_(None) | (api_keys.c.expires_at > now))
        return await self._readers.all(select(api_keys).where(is_good), _key_of)

    async def find(self, digest: str) -> ApiKey | None:
        """The key with this digest (`digest_of`), whether or not it lets anybody in; None if there is none."""
        return await self._readers.first(select(api_keys).where(api_keys.c.digest == digest), _key_of)

    async def _write(self, work: Work) -> None:
        """Write something; then the version is another one, even if the caller has been cancelled meanwhile."""
        writing = asyncio.create_task(self._writer.write(work), name="trackside-key")
        writing.add_done_callback(self._note_change)
        await outlived(writing)

    def _note_change(self, writing: asyncio.Future[None]) -> None:
        self.version += 1


def _key_of(row: Row[Any]) -> ApiKey:
    permission: KeyPermission = "read"
    for one in _PERMISSIONS:
        if one in row.permissions:
            permission = one
    return ApiKey(
        key_id=row.key_id,
        name=row.name,
        owner=row.owner,
        permission=permission,
        created_at=row.created_at,
        expires_at=row.expires_at,
        revoked_at=row.revoked_at,
        digest=row.digest,
    )


def _is_future(said: Any, now: datetime) -> bool:
    return isinstance(said, datetime) and said.utcoffset() is not None and said > now


@dataclass(frozen=True, slots=True)
class _Create(Work):
    key: ApiKey

    @property
    @override
    def size(self) -> int:
        return _KEY_BYTES

    @override
    def apply(self, unit: UnitOfWork) -> None:
        key = self.key
        is_there = select(api_keys.c.key_id).where(api_keys.c.digest == key.digest)
        if unit.session.execute(is_there):  # the reply to an earlier commit was lost
            return
        values = {
            "key_id": key.key_id,
            "name": key.name,
            "digest": key.digest,
            "owner": key.owner,
            "permissions": json_text([key.permission]),
            "created_at": time_text(key.created_at),
            "expires_at": None if key.expires_at is None else time_text(key.expires_at),
        }
        unit.session.execute(insert(api_keys).values(values))


@dataclass(frozen=True, slots=True)
class _Revoke(Work):
    key_id: str
    now: str

    @property
    @override
    def size(self) -> int:
        return _KEY_BYTES

    @override
    def apply(self, unit: UnitOfWork) -> None:
        is_good = (api_keys.c.key_id == self.key_id) & api_keys.c.revoked_at.is_(None)
        unit.session.execute(update(api_keys).where(is_good).values(revoked_at=self.now))
