"""API keys: shown once, kept as digests, revoked for good."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import text
from tests.integration.storage.conftest import held_up

from trackside.app.storage import Store
from trackside.app.storage.api_keys import digest_of, id_in
from trackside.app.storage.errors import InvalidApiKeyError, ReadOnlyStoreError, UnknownApiKeyError


async def test_a_key_is_found_by_its_digest_and_nothing_else_of_it_is_stored(store: Store) -> None:
    made = await store.api_keys.create("laptop", owner="ada", permission="admin")
    assert id_in(made.secret) == made.key.key_id
    assert made.secret.startswith(f"ts_{made.key.key_id}_")
    found = await store.api_keys.find(digest_of(made.secret))
    assert found == made.key
    assert found.is_good(datetime.now(UTC))
    assert await store.api_keys.find(made.secret) is None
    rows = await store._readers.run(lambda connection: connection.execute(text("SELECT * FROM api_keys")).all())
    secret = made.secret.rpartition("_")[2]
    assert secret not in repr(rows)
    assert secret not in repr(made.key)


async def test_two_keys_of_one_name_differ(store: Store) -> None:
    first = await store.api_keys.create("ci", owner="ada")
    second = await store.api_keys.create("ci", owner="ada")
    assert first.secret != second.secret
    assert await store.api_keys.all() == [first.key, second.key]


async def test_a_revoked_key_stays_revoked_since_it_was(store: Store) -> None:
    made = await store.api_keys.create("ci", owner="ada")
    revoked = await store.api_keys.revoke(made.key.key_id)
    assert revoked.revoked_at is not None
    assert not revoked.is_good(datetime.now(UTC))
    assert await store.api_keys.revoke(made.key.key_id) == revoked
    assert await store.api_keys.all() == [revoked]
    assert await store.api_keys.good() == []


async def test_a_key_lets_nobody_in_from_its_end_on(store: Store) -> None:
    end = datetime.now(UTC) + timedelta(hours=1)
    made = await store.api_keys.create("ci", owner="ada", expires_at=end)
    (found,) = await store.api_keys.all()
    assert found == made.key
    assert await store.api_keys.good() == [found]
    assert found.is_good(end - timedelta(seconds=1))
    assert not found.is_good(end)


async def test_what_is_no_key_is_said_by_its_name(store: Store) -> None:
    with pytest.raises(UnknownApiKeyError, match="'nobody'"):
        await store.api_keys.revoke("nobody")
    with pytest.raises(InvalidApiKeyError, match="owner=''"):
        await store.api_keys.create("ci", owner="")
    with pytest.raises(InvalidApiKeyError, match="name="):
        await store.api_keys.create("\0", owner="ada")
    with pytest.raises(InvalidApiKeyError, match="permission='root'"):
        await store.api_keys.create("ci", owner="ada", permission="root")  # type: ignore[arg-type]
    with pytest.raises(InvalidApiKeyError, match="expires_at"):
        await store.api_keys.create("ci", owner="ada", expires_at=datetime.now(UTC))
    with pytest.raises(InvalidApiKeyError, match="expires_at"):
        await store.api_keys.create("ci", owner="ada", expires_at=datetime.now() + timedelta(days=1))
    with pytest.raises(InvalidApiKeyError, match="expires_at='2999-01-01'"):
        await store.api_keys.create("ci", owner="ada", expires_at="2999-01-01")  # type: ignore[arg-type]
    assert await store.api_keys.all() == []


async def test_a_change_whose_caller_was_cancelled_is_known_of_as_soon_as_it_is_made(store: Store) -> None:
    keys = store.api_keys
    made = await keys.create("laptop", owner="ada")
    for change, left in ((lambda: keys.create("ci", owner="ada"), 2), (lambda: keys.revoke(made.key.key_id), 1)):
        async with held_up(store):
            changing = asyncio.ensure_future(change())
            async with asyncio.timeout(30):
                while not store.writer_stats().pending:
                    await asyncio.sleep(0)
            changing.cancel()
            with pytest.raises(asyncio.CancelledError):
                await changing
            known = keys.version
        async with asyncio.timeout(30):
            while keys.version == known:
                await asyncio.sleep(0)
        assert len(await keys.good()) == left


async def test_a_store_that_only_looks_makes_no_key(store: Store, url: str) -> None:
    async with Store.open(url, read_only=True) as looking:
        with pytest.raises(ReadOnlyStoreError):
            await looking.api_keys.create("ci", owner="ada")


@pytest.mark.parametrize(
    "text_",
    ["", "ts_", "ts_0123456789ab_" + "0" * 63, "ts_0123456789ab_" + "0" * 65, "ts_0123456789AB_" + "0" * 64,
     "ts_0123456789ab_" + "0" * 64 + "\n", "xx_0123456789ab_" + "0" * 64, "ts_٠123456789ab_" + "0" * 64],
)  # fmt: skip
def test_what_does_not_look_like_a_key_is_none(text_: str) -> None:
    assert id_in(text_) is None
