"""Mistakes in how to reach NATS are reported before anything is connected, by the setting's name."""

from pathlib import Path
from typing import Any

import pytest
from certificates import Certificates
from secured_nats import NatsKey

from trackside.app.engine.nats import EngineOptionError, NatsOptions, NatsUser, open_nats, server_config
from trackside.app.engine.nats._names import Names
from trackside.app.streams.wire import Topic


@pytest.mark.parametrize(
    ("options", "option"),
    [
        ({"url": ""}, "url"),
        ({"url": "redis://host"}, "url"),
        ({"url": "nats://"}, "url"),
        ({"url": "nats://host:0"}, "url"),
        ({"url": "nats://host:4222/path"}, "url"),
        ({"url": "nats://host:port:s3cret@"}, "url"),
        ({"url": "nats://a,tls://b"}, "url"),
        ({"url": "nats://u:s3cret@a,nats://u:0ther@b"}, "url"),
        ({"url": "nats://u:s3cret@host", "credentials": Path("x.creds")}, "credentials"),
        ({"prefix": "a.b"}, "prefix"),
        ({"prefix": ""}, "prefix"),
        ({"prefix": "UPPER"}, "prefix"),
        ({"user": "a.b"}, "user"),
        ({"replicas": 2}, "replicas"),
        ({"ack_wait": 0}, "ack_wait"),
        ({"live_seconds": 0}, "live_seconds"),
        ({"live_bytes": 1}, "live_bytes"),
        ({"live_messages": 0}, "live_messages"),
    ],
)
def test_a_value_that_does_not_fit_is_named(options: dict[str, Any], option: str) -> None:
    with pytest.raises(EngineOptionError) as refused:
        NatsOptions(**{"url": "nats://host"} | options)
    assert refused.value.details["option"] == option
    assert str(refused.value).startswith(f"engine.{option}: ")
    assert "s3cret" not in str(refused.value)


@pytest.mark.parametrize(
    ("url", "files", "option", "says"),
    [
        ("nats://host", {"ca": "nothing"}, "ca", "tls://"),
        ("tls://host", {"ca": "missing.pem"}, "ca", "No such file"),
        ("tls://host", {"ca": "nonsense"}, "ca", "no file of certificates"),
        ("nats://host", {"certificate": "good.pem"}, "certificate", "tls://"),
        ("tls://host", {"key": "good.pem"}, "certificate", "missing"),
        ("tls://host", {"certificate": "missing.pem"}, "certificate", "No such file"),
        ("tls://host", {"certificate": "good.pem", "key": "missing.pem"}, "key", "No such file"),
        ("tls://host", {"certificate": "nonsense", "key": "good.pem"}, "certificate", "not a certificate"),
        ("nats://host", {"credentials": "missing.creds"}, "credentials", "No such file"),
        ("nats://host", {"credentials": "nonsense"}, "credentials", "no seed"),
        ("nats://host", {"credentials": "binary"}, "credentials", "cannot be read"),
        ("nats://host", {"credentials": "typo"}, "credentials", "damaged"),
        ("nats://host", {"credentials": "folder"}, "credentials", "directory"),
    ],
)
async def test_a_file_that_does_not_fit_is_named_when_the_engine_is_opened(
    url: str, files: dict[str, str], option: str, says: str, tmp_path: Path
) -> None:
    made = Certificates(tmp_path)
    made.server("127.0.0.1")
    tmp_path.joinpath("127.0.0.1.pem").rename(tmp_path / "good.pem")
    seed = NatsKey("U").seed
    tmp_path.joinpath("nonsense").write_text("nonsense")
    tmp_path.joinpath("binary").write_bytes(b"\xff\xfe\xff")
    tmp_path.joinpath("typo").write_text(seed[:-5] + ("A" if seed[-5] != "A" else "B") + seed[-4:])
    tmp_path.joinpath("folder").mkdir()
    options = NatsOptions(url=url, **{name: tmp_path / file for name, file in files.items()})  # type: ignore[arg-type]
    with pytest.raises(EngineOptionError, match=says) as refused:
        async with open_nats(options):
            pass
    assert refused.value.details["option"] == option
    assert seed[10:40] not in str(refused.value)


def test_what_is_secret_in_the_address_is_shown_nowhere() -> None:
    for url in ("nats://user:s3cret@host", "nats://s3cret@host", "tls://user:s3cret@a:1,tls://user:s3cret@b"):
        options = NatsOptions(url=url)
        assert "s3cret" not in f"{options!r}{options.shown}{options.servers}"
    assert NatsOptions(url="tls://user:s3cret@a:1, tls://user:s3cret@[::1]").shown == "tls://a:1,tls://[::1]:4222"


def test_ids_are_told_apart_in_subjects_whatever_is_in_them() -> None:
    names = Names("trackside")
    ids = ["", "a", "A", "a.b", "a b", "*", ">", "\ud800", "é" * 10_000]
    subjects = {names.live(Topic(thread, run)) for thread in ids for run in ids}
    assert len(subjects) == len(ids) ** 2
    assert all(subject.count(".") == 3 and subject.isascii() and len(subject) < 100 for subject in subjects)


def test_a_user_without_a_way_to_say_who_he_is_is_none() -> None:
    for user in (
        NatsUser(name="u", role="worker"),
        NatsUser(name="u", role="worker", password="p", nkey="U"),
        NatsUser(name="u", role="worker", password="p", pools=["a.b"]),
    ):
        with pytest.raises(ValueError, match=r"password|pool"):
            server_config([user], store_dir=Path("x"))
