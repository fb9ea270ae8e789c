"""Each role can do its part with the rights that docs/nats.md gives it, and nothing else; strangers can do nothing."""

import asyncio
import logging
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from certificates import Certificates
from nats.aio.client import Client
from nats_engines import Open, ignore, soon, taken, until
from nats_server import NatsServer
from secured_nats import NatsKey, NatsWithOperator, SecuredNats

from trackside.app.engine.nats import NatsUser, ServerTls
from trackside.app.storage.fleet import ReadyRun
from trackside.app.streams.wire import Topic

USERS = [
    NatsUser(name="admin", role="admin", password="secret"),
    NatsUser(name="server", role="server", password="secret"),
    NatsUser(name="gpu-1", role="worker", password="secret", pools=["gpu"]),
    NatsUser(name="gpu-2", role="worker", password="secret", pools=["gpu"]),
    NatsUser(name="cpu", role="worker", password="secret"),
]
RUN = Topic("thread", "run")


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    made = Certificates(tmp_path_factory.mktemp("certificates"))
    made.server("127.0.0.1")
    return made


@pytest.fixture(scope="session")
def tls(certificates: Certificates) -> ServerTls:
    pem = certificates.ca_file.with_name("127.0.0.1.pem")
    return ServerTls(certificate=pem, key=pem)


@pytest.fixture(scope="session")
def secured(tls: ServerTls) -> Iterator[SecuredNats]:
    with SecuredNats(USERS, tls) as server:
        yield server


class Raw:
    """A user's connection, and what NATS did not allow it."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self.denied: list[str] = []

    async def may_publish(self, subject: str) -> bool:
        before = len(self.denied)
        await self.client.publish(subject, b"{}", reply=f"{self.client._inbox_prefix.decode()}.x")
        return await self._denied_no_more_than(before)

    async def may_hear(self, subject: str) -> bool:
        before = len(self.denied)
        await self.client.subscribe(subject)
        return await self._denied_no_more_than(before)

    async def _denied_no_more_than(self, before: int) -> bool:
        await taken(self.client)
        return len(self.denied) == before


@asynccontextmanager
async def as_user(server: SecuredNats, certificates: Certificates, name: str) -> AsyncIterator[Raw]:
    raw = Raw(Client())

    async def note(exc: Exception) -> None:
        raw.denied.append(str(exc))

    import ssl

    context = ssl.create_default_context(cafile=certificates.ca_file)
    await raw.client.connect(server.url(name), tls=context, error_cb=note, inbox_prefix=f"_INBOX.{name}")
    async with raw.client:
        yield raw


async def test_a_fleet_works_with_the_rights_of_its_roles(
    secured: SecuredNats, certificates: Certificates, open_engine: Open, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    ca = certificates.ca_file
    worker = await open_engine(secured.url("gpu-1"), ca=ca, role="worker")
    stopped: list[str] = []
    async with worker.join("id of the worker", ["gpu"], on_stop=stopped.append) as offers:
        server = await open_engine(secured.url("server"), ca=ca)
        another = await open_engine(secured.url("server"), ca=ca)
        server.announce([ReadyRun("by a server", "gpu")])
        assert (await soon(offers)).run_id == "by a server"
        worker.announce([ReadyRun("by the worker itself", "gpu")])
        offer = await soon(offers)
        assert offer.run_id == "by the worker itself"
        offer.done()
        await until(lambda: another._stops._users and server._stops._users)
        another.ask_to_stop("id of the worker", "run 1")
        worker.ask_to_stop("id of the worker", "run 2")
        await until(lambda: sorted(stopped) == ["run 1", "run 2"])
        assert worker.live.say(RUN, b"kept")
        arrived: list[bytes] = []
        another.live.listen(RUN, arrived.append)
        await until(lambda: arrived)
        heard: list[bytes] = []
        listening = server.live.listen(RUN, heard.append)
        async with asyncio.timeout(30):
            await listening.caught_up.wait()
        assert worker.live.say(RUN, b"live")
        await until(lambda: heard == [b"kept", b"live"])
    assert "violation" not in caplog.text
    assert "not let" not in caplog.text
    assert "secret" not in caplog.text


async def test_a_workers_pool_is_made_by_a_server_that_comes_later(
    tls: ServerTls, certificates: Certificates, open_engine: Open
) -> None:
    with SecuredNats(USERS, tls) as fresh:
        worker = await open_engine(fresh.url("cpu"), ca=certificates.ca_file, role="worker", away=True)
        async with worker.join("w", ["default"], on_stop=ignore) as offers:
            await until(lambda: "waits for a server" in str(worker.status().why))
            server = await open_engine(fresh.url("server"), ca=certificates.ca_file)
            await until(lambda: worker.status().connected)
            server.announce([ReadyRun("first")])
            assert (await soon(offers)).run_id == "first"


async def test_a_worker_can_neither_read_nor_do_what_is_not_its_own(
    secured: SecuredNats, certificates: Certificates, open_engine: Open
) -> None:
    await open_engine(secured.url("server"), ca=certificates.ca_file)
    async with as_user(secured, certificates, "gpu-1") as worker:
        assert await worker.may_hear("trackside.workers.gpu-1.0123456789abcdef.stop")
        assert await worker.may_hear("_INBOX.gpu-1.anything")
        assert await worker.may_publish("$JS.API.CONSUMER.INFO.TRACKSIDE_RUNS.gpu")
        for subject in (
            ">",
            "trackside.>",
            "trackside.workers.>",
            "trackside.workers.*.*.stop",
            "trackside.workers.gpu-2.0123456789abcdef.stop",
            "trackside.workers.*.here",
            "trackside.asks.>",
            "trackside.runs.>",
            "trackside.live.>",
            "_INBOX.>",
            "_INBOX.gpu-2.>",
            "_INBOX.server.>",
            "$JS.ACK.>",
            "$SYS.>",
        ):
            assert not await worker.may_hear(subject), subject
        for subject in (
            "trackside.runs.gpu.0123456789abcdef",
            "trackside.workers.gpu-2.0123456789abcdef.stop",
            "trackside.workers.gpu-2.here",
            "trackside.asks.gpu-2",
            "trackside.rollcall",
            "_INBOX.gpu-2.x",
            "$JS.API.INFO",
            "$JS.API.STREAM.LIST",
            "$JS.API.STREAM.INFO.TRACKSIDE_RUNS",
            "$JS.API.STREAM.CREATE.TRACKSIDE_RUNS",
            "$JS.API.STREAM.UPDATE.TRACKSIDE_RUNS",
            "$JS.API.STREAM.DELETE.TRACKSIDE_RUNS",
            "$JS.API.STREAM.PURGE.TRACKSIDE_RUNS",
            "$JS.API.STREAM.MSG.GET.TRACKSIDE_RUNS",
            "$JS.API.STREAM.MSG.DELETE.TRACKSIDE_RUNS",
            "$JS.API.STREAM.DELETE.TRACKSIDE_LIVE",
            "$JS.API.DIRECT.GET.TRACKSIDE_LIVE",
            "$JS.API.CONSUMER.CREATE.TRACKSIDE_RUNS.gpu.trackside.runs.gpu.*",
            "$JS.API.CONSUMER.DELETE.TRACKSIDE_RUNS.gpu",
            "$JS.API.CONSUMER.MSG.NEXT.TRACKSIDE_RUNS.default",
            "$JS.API.CONSUMER.MSG.NEXT.TRACKSIDE_LIVE.x",
            "$JS.ACK.TRACKSIDE_RUNS.default.1.1.1.1.0",
        ):
            assert not await worker.may_publish(subject), subject


async def test_a_server_deletes_nothing_and_an_admin_may(
    secured: SecuredNats, certificates: Certificates, open_engine: Open
) -> None:
    engine = await open_engine(secured.url("server"), ca=certificates.ca_file)
    async with (
        as_user(secured, certificates, "server") as server,
        as_user(secured, certificates, "admin") as admin,
    ):
        for what in ("STREAM.DELETE", "STREAM.PURGE", "STREAM.UPDATE"):
            assert not await server.may_publish(f"$JS.API.{what}.TRACKSIDE_RUNS")
        assert not await server.may_publish("$JS.API.CONSUMER.DELETE.TRACKSIDE_RUNS.gpu")
        assert not await server.may_hear("_INBOX.gpu-1.>")
        assert await admin.client.jetstream().delete_stream("TRACKSIDE_RUNS")
        engine.announce([ReadyRun("r", "nobodys")])  # the engine makes the stream again
        await until(lambda: engine.stats().announced_total)
        assert (await admin.client.jetstream().stream_info("TRACKSIDE_RUNS")).state.messages == 1


@pytest.mark.parametrize(("user", "password"), [(None, ""), ("server", "wr0ng-s3cret"), ("nobody", "wr0ng-s3cret")])
async def test_who_is_nobody_gets_nothing(
    secured: SecuredNats,
    certificates: Certificates,
    open_engine: Open,
    user: str | None,
    password: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    engine = await open_engine(secured.url(user, password), ca=certificates.ca_file, away=True)
    await until(lambda: "it does not let us in" in str(engine.status().why))
    assert not engine.status().connected
    assert "wr0ng" not in f"{engine.status()}{engine._options}{caplog.text}"


async def test_a_server_that_others_certify_is_refused_and_said_which_setting_that_is(
    secured: SecuredNats, tmp_path: Path, open_engine: Open
) -> None:
    others = Certificates(tmp_path)
    engine = await open_engine(secured.url("server"), ca=others.ca_file, away=True)
    await until(lambda: "certificate is trusted neither by engine.ca nor by this machine" in str(engine.status().why))
    assert "engine.ca" in str(engine.status().why)
    by_machine = await open_engine(secured.url("server"), away=True)
    await until(
        lambda: "certificate is trusted neither by engine.ca nor by this machine" in str(by_machine.status().why)
    )


async def test_nothing_is_said_in_the_clear_to_a_server_that_offers_no_tls(
    shared_nats: NatsServer, certificates: Certificates, open_engine: Open
) -> None:
    for login in ("", "user:secret@", "token@"):
        url = shared_nats.url.replace("nats://", f"tls://{login}")
        engine = await open_engine(url, ca=certificates.ca_file, away=True)
        await until(lambda engine=engine: "offers no TLS" in str(engine.status().why))


async def test_a_server_may_want_to_see_a_certificate(
    tls: ServerTls, certificates: Certificates, open_engine: Open
) -> None:
    strict = ServerTls(certificate=tls.certificate, key=tls.key, client_ca=certificates.ca_file)
    with SecuredNats(USERS, strict) as server:
        without = await open_engine(server.url("server"), ca=certificates.ca_file, away=True)
        await until(lambda: without.status().why and "being connected" not in str(without.status().why))
        assert not without.status().connected
        pem = tls.certificate
        await open_engine(server.url("server"), ca=certificates.ca_file, certificate=pem, key=pem)
        await open_engine(server.url("server"), ca=certificates.ca_file, certificate=pem)  # the PEM file has the key


async def test_a_key_lets_one_in_with_the_rights_of_its_user(tmp_path: Path, open_engine: Open) -> None:
    key = NatsKey("U")
    seed = tmp_path / "worker.nk"
    seed.write_text(f"{key.seed}\n")
    users = [
        NatsUser(name="server", role="server", password="secret"),
        NatsUser(name="worker", role="worker", nkey=key.public),
    ]
    with SecuredNats(users) as server:
        leader = await open_engine(server.url("server"))
        worker = await open_engine(server.url(), credentials=seed, role="worker")
        async with worker.join("w", ["default"], on_stop=ignore) as offers:
            leader.announce([ReadyRun("r")])
            assert (await soon(offers)).run_id == "r"
        seed.write_text(f"{NatsKey('U').seed}\n")
        other = await open_engine(server.url(), credentials=seed, away=True)
        await until(lambda: "it does not let us in" in str(other.status().why))


async def test_a_credentials_file_lets_one_in_and_is_read_again_for_each_connection(
    tmp_path: Path, open_engine: Open
) -> None:
    file = tmp_path / "worker.creds"
    with NatsWithOperator() as server:
        own = {"sub": {"allow": ["_INBOX.gpu-7.>", "trackside.workers.gpu-7.*.stop", "trackside.rollcall"]}}
        file.write_text(server.credentials("gpu-7", own))
        worker = await open_engine(server.url(), credentials=file, role="worker")
        async with worker.join("w", ["default"], on_stop=ignore) as offers:
            worker.announce([ReadyRun("r")])
            assert (await soon(offers)).run_id == "r"
            file.write_text(NatsWithOperator.credentials(server, "gpu-7", own))  # rotated
            await asyncio.to_thread(server.restart, "KILL")
            await until(lambda: worker.status().connected and worker.stats().reconnects_total == 1)
            worker.announce([ReadyRun("s")])
            while (await soon(offers)).run_id != "s":
                pass
