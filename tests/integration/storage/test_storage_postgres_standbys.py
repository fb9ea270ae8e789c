"""PostgreSQL: of primaries and standbys the one is used that is meant, also after they have changed places."""

import asyncio
from functools import partial

import pytest
from leading_address import LeadingAddress
from postgres_server import PostgresServer

from trackside.app.storage import Store
from trackside.app.storage.errors import ConnectionLostError, ServerUnreachableError

DIALECTS = ["postgres"]


async def test_of_several_hosts_the_one_is_meant_that_takes_writes(own_postgres_server: PostgresServer, script) -> None:
    with await asyncio.to_thread(PostgresServer, fsync=False) as primary:
        servers = [own_postgres_server, primary]
        for server in servers:
            await asyncio.to_thread(server.create_database, "runs")
        await asyncio.to_thread(own_postgres_server.become_standby)
        hosts, ports = (",".join(str(getattr(server, what)) for server in servers) for what in ("folder", "port"))

        async with Store.open(f"postgresql://postgres@/runs?host={hosts}&port={ports}") as store:
            await store.append(script().whole())
            assert len(await store.events()) == 5


async def test_a_connection_to_a_server_that_has_become_a_standby_is_given_up(
    own_postgres_server: PostgresServer, script
) -> None:
    url = await asyncio.to_thread(own_postgres_server.create_database, "runs")
    run = script()
    async with Store.open(url, busy_timeout=0.05) as store:
        await store.append([run.started()])
        await asyncio.to_thread(own_postgres_server.become_standby)
        with pytest.raises(ConnectionLostError, match="during recovery") as lost:
            await store.append([completed := run.completed()])
        assert lost.value.retryable
        assert store._writer._session._driver.is_closed()

        await asyncio.to_thread(own_postgres_server.execute, "SELECT pg_promote()")
        assert [stored.position for stored in await store.append([completed])] == [2]


async def test_reads_go_on_at_the_new_primary_after_the_address_has_led_to_a_standby(
    own_postgres_server: PostgresServer, script
) -> None:
    with await asyncio.to_thread(PostgresServer, fsync=False) as primary:
        for server in (own_postgres_server, primary):
            await asyncio.to_thread(server.create_database, "runs")
            await asyncio.to_thread(server.execute, "CREATE ROLE me SUPERUSER LOGIN PASSWORD 'mine'")
        run = script()
        async with (
            LeadingAddress(own_postgres_server.port) as address,
            Store.open(url := f"postgresql://me:mine@127.0.0.1:{address.port}/runs", busy_timeout=0.05) as store,
        ):
            await store.append([started := run.started()])
            await asyncio.to_thread(own_postgres_server.become_standby)
            reads = (store.events, partial(store._readers.rows, {"postgresql": "SELECT 5"}))
            for read in reads:
                with pytest.raises(ServerUnreachableError, match="it is a standby") as refused:
                    await read()
                assert refused.value.retryable

            address.leads_to = primary.port
            async with Store.open(url) as other:
                await other.append([started, run.completed()])
            assert [stored.position for stored in await store.events()] == [1, 2]


async def test_who_only_looks_may_look_at_a_standby(own_postgres_server: PostgresServer, script) -> None:
    url = await asyncio.to_thread(own_postgres_server.create_database, "runs")
    async with Store.open(url) as store:
        await store.append(script().whole())
    await asyncio.to_thread(own_postgres_server.become_standby)

    async with Store.open(url, read_only=True) as store:
        assert len(await store.events()) == 5
