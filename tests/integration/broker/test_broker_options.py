"""Options that do not fit stop the start: the error names each, says what to write instead, and shows no secret."""

from pathlib import Path
from typing import Any

import pytest

from trackside.app.delivery import LONGEST_TRY, Delivery, ObserverOptionError, Order
from trackside.app.observers.broker import BrokerObserver
from trackside.app.storage.feeding import FeedPolicy

NATS = "nats://localhost"
REDIS = "redis://localhost"
SECRET = "hunter2"


@pytest.mark.parametrize(
    ("options", "option", "says"),
    [
        ({"url": "amqp://localhost"}, "url", "nats://, tls://, redis://, rediss://, valkey://"),
        ({"url": "localhost:4222"}, "url", "nats://, tls://"),
        ({"url": ""}, "url", "it is not a URL"),
        ({"url": 5}, "url", "it is not a URL"),
        ({"url": "nats://"}, "url", "no host"),
        ({"url": f"nats://localhost:{SECRET}"}, "url", "its port"),
        ({"url": "nats://localhost:0"}, "url", "port 0"),
        ({"url": "nats://localhost/path"}, "url", "follows the port"),
        ({"url": "redis://localhost/name"}, "url", "number of a database"),
        ({"url": f"redis://localhost?password={SECRET}"}, "url", "an option of its own"),
        ({"url": f"redis://{SECRET}@localhost"}, "url", "no password"),
        ({"url": f"{REDIS},{REDIS}"}, "url", "one server"),
        ({"url": f"{NATS},tls://localhost"}, "url", "different schemes"),
        ({"url": f"nats://a:{SECRET}@x,nats://b:{SECRET}@y"}, "url", "different credentials"),
        ({"url": NATS, "topic": "events.*"}, "topic", "subject"),
        ({"url": NATS, "topic": "events..{event_type}"}, "topic", "subject"),
        ({"url": NATS, "topic": "$JS.{event_type}"}, "topic", "subject"),
        ({"url": NATS, "topic": "two words"}, "topic", "subject"),
        ({"url": REDIS, "topic": "of:{agent}"}, "topic", "{event_type}"),
        ({"url": REDIS, "topic": ""}, "topic", "not empty"),
        ({"url": NATS, "stream": "a.b"}, "stream", "JetStream"),
        ({"url": REDIS, "stream": "S"}, "stream", "`topic`"),
        ({"url": REDIS, "max_length": 0}, "max_length", "whole number"),
        ({"url": REDIS, "max_length": 1.5}, "max_length", "whole number"),
        ({"url": REDIS, "duplicate_window": 0}, "duplicate_window", "number from"),
        ({"url": REDIS, "timeout": "10"}, "timeout", "number from"),
        ({"url": REDIS, "timeout": 25.1}, "timeout", "it is a number from 0.1 to 25"),
        ({"url": NATS, "timeout": 3_600}, "timeout", "it is a number from 0.1 to 25"),
        ({"url": NATS, "username": "anna"}, "password", "missing"),
        ({"url": NATS, "password": SECRET}, "username", "missing"),
        ({"url": NATS, "token": SECRET, "username": "a", "password": SECRET}, "token", "`username`"),
        ({"url": NATS, "token": SECRET, "credentials": "file"}, "token", "`credentials`"),
        ({"url": f"nats://a:{SECRET}@localhost", "token": SECRET}, "token", "in the URL"),
        ({"url": REDIS, "token": SECRET}, "token", "for NATS"),
        ({"url": REDIS, "credentials": "file"}, "credentials", "for NATS"),
        ({"url": NATS, "username": "", "password": SECRET}, "username", "not empty"),
        ({"url": NATS, "ca_file": "ca.pem"}, "ca_file", "tls://"),
        ({"url": "tls://localhost", "ca_file": "no-such.pem"}, "ca_file", "No such file"),
        ({"url": "rediss://localhost", "ca_file": __file__}, "ca_file", "PEM"),
    ],
)
def test_an_option_that_does_not_fit_is_named(options: dict[str, Any], option: str, says: str) -> None:
    with pytest.raises(ObserverOptionError) as raised:
        BrokerObserver(**options)
    assert str(raised.value).startswith(f"{option}: ")
    assert says in str(raised.value)
    assert SECRET not in str(raised.value)


@pytest.mark.parametrize(
    "options",
    [
        {"url": "nats://localhost"},
        {"url": "tls://a.example:4222, tls://b.example"},
        {"url": f"nats://{SECRET}@[::1]:4222"},
        {"url": "redis://localhost:6379/3", "topic": "agents", "max_length": 10},
        {"url": f"rediss://:{SECRET}@localhost"},
        {"url": "valkey://localhost", "username": "anna", "password": SECRET},
    ],
)
async def test_one_is_made_without_a_broker_and_without_a_loop(options: dict[str, Any]) -> None:
    observer = BrokerObserver(**options)
    assert SECRET not in f"{observer!r}{vars(observer)}{vars(observer._broker)}"
    assert (observer.delivery, observer.order, observer.concurrency) == (Delivery.durable, Order.run, 64)
    await observer.aclose()


def test_a_credentials_file_needs_a_package_that_the_client_does_not_bring(tmp_path: Path) -> None:
    pytest.importorskip("nats")
    try:
        import nkeys  # noqa: F401
    except ModuleNotFoundError:
        with pytest.raises(ObserverOptionError, match=r"pip install 'nats-py\[nkeys\]'"):
            BrokerObserver(url=NATS, credentials=str(tmp_path / "user.creds"))
    else:
        BrokerObserver(url=NATS, credentials=str(tmp_path / "user.creds"))


def test_a_broker_that_does_not_answer_is_away_before_its_subscription_gives_up() -> None:
    """Giving up would count the outage against the event, until the event is parked."""
    observer = BrokerObserver(url=REDIS, timeout=LONGEST_TRY)
    limit = FeedPolicy.suiting(observer).call_limit
    assert limit is not None
    assert limit > LONGEST_TRY
