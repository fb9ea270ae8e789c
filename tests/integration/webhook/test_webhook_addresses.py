"""A name may mean anything, and something else a moment later: only judged addresses are ever connected to."""

import asyncio
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import ClassVar

import pytest
from aiohttp.abc import AbstractResolver, ResolveResult
from webhook_receiver import NEW, WebhookReceiver, status

from trackside.app.delivery import DeliveryError
from trackside.app.observers.webhook import WebhookObserver
from trackside.testing.events import make_event

type Make = Callable[..., WebhookObserver]

HOST = "hook.example"


def resolving(*answers: Sequence[str]) -> type[WebhookObserver]:
    """An observer for which a name means these addresses at first, then the next, and the last ones from then on."""

    class Names(AbstractResolver):
        asked: ClassVar[int] = 0

        async def resolve(
            self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
        ) -> list[ResolveResult]:
            assert host == HOST
            addresses = answers[min(Names.asked, len(answers) - 1)]
            Names.asked += 1
            return [
                ResolveResult(hostname=host, host=address, port=port, family=family, proto=0, flags=0)
                for address in addresses
            ]

        async def close(self) -> None: ...

    class Resolving(WebhookObserver):
        resolver = Names

    return Resolving


def url_of(receiver: WebhookReceiver) -> str:
    return receiver.url.replace("127.0.0.1", HOST)


async def refusal(observer: WebhookObserver) -> str:
    with pytest.raises(DeliveryError) as raised:
        await observer.on_event(make_event())
    failure = raised.value
    assert (failure.retryable, failure.away) == (True, False)  # names change; an event that goes nowhere is parked
    assert failure.why.startswith("no connection was made: ")
    return failure.why


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1",
        "::1",
        "10.0.0.1",
        "::ffff:127.0.0.1",
        "64:ff9b::7f00:1",
        "2002:7f00:1::",
        "fe80::1%lo",
        "169.254.169.254",
        "0.0.0.0",
        "::",
        "100.64.0.1",
        "127.1",
        "2130706433",
        "localhost",
        "",
    ],
)
@pytest.mark.parametrize("options", [{"allow_http": True}, {"url": "https"}])
async def test_a_name_that_leads_inside_is_refused(
    receiver: WebhookReceiver, make: Make, address: str, options: dict[str, object]
) -> None:
    url = url_of(receiver)
    options = {**options, "url": url.replace("http:", "https:") if "url" in options else url}
    observer = make(resolving([address]), allow_private_addresses=False, **options)

    why = await refusal(observer)

    assert address in why
    assert receiver.connections == 0


async def test_how_to_allow_it_is_said_where_it_can_be(receiver: WebhookReceiver, make: Make) -> None:
    inside = make(resolving(["10.0.0.1"]), url=url_of(receiver), allow_private_addresses=False, allow_http=True)
    assert "set allow_private_addresses = true" in await refusal(inside)
    outside = make(resolving(["8.8.8.8"]), url=url_of(receiver))
    assert "set allow_http = true" in await refusal(outside)
    never = make(resolving(["169.254.169.254"]), url=url_of(receiver))
    assert (await refusal(never)).endswith("169.254.169.254 is where a cloud gives out its credentials")
    zoned = make(resolving(["fd00:ec2::254%1"]), url=url_of(receiver))
    assert (await refusal(zoned)).endswith("fd00:ec2::254%1 is where a cloud gives out its credentials")


async def test_it_is_allowed_when_it_is_said_so(receiver: WebhookReceiver, make: Make) -> None:
    await make(resolving(["127.0.0.1"]), url=url_of(receiver)).on_event(make_event())

    assert receiver.requests[0].headers["host"] == f"{HOST}:{receiver.port}"


async def test_a_name_that_means_something_else_at_the_next_connection_is_judged_again(
    receiver: WebhookReceiver, make: Make
) -> None:
    observer = make(resolving(["127.0.0.1"], ["169.254.169.254"], ["127.0.0.1"]), url=url_of(receiver))
    receiver.answers.append(status(200, {"Connection": "close"}))
    await observer.on_event(make_event())
    assert "169.254.169.254" in await refusal(observer)
    await observer.on_event(make_event())

    assert (len(receiver.requests), receiver.connections) == (2, 2)


async def test_of_several_addresses_only_those_that_may_be_are_tried(receiver: WebhookReceiver, make: Make) -> None:
    observer = make(resolving(["169.254.169.254", "224.0.0.1", "127.0.0.1", "0.0.0.0"]), url=url_of(receiver))
    await observer.on_event(make_event())

    assert receiver.connections == 1


async def test_the_socket_is_judged_too_whatever_was_resolved(receiver: WebhookReceiver, make: Make) -> None:
    """In case a connection bypasses the resolver, as one to a literal address does."""

    observer = make()
    observer._poster._reach = type(observer._poster._reach)(private=False, public=True)

    assert "127.0.0.1 is an address of this machine" in await refusal(observer)
    assert receiver.connections == 0


async def test_a_name_that_nobody_knows_means_that_the_receiver_is_away(receiver: WebhookReceiver, make: Make) -> None:
    class Unknown(AbstractResolver):
        async def resolve(
            self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
        ) -> list[ResolveResult]:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

        async def close(self) -> None: ...

    class Nowhere(WebhookObserver):
        resolver = Unknown

    for observer, why in (
        (make(Nowhere, url=url_of(receiver)), "its name could not be resolved: Name or service not known"),
        (make(resolving([]), url=url_of(receiver)), "its name could not be resolved: it has no address"),
    ):
        with pytest.raises(DeliveryError) as raised:
            await observer.on_event(make_event())
        assert (raised.value.away, raised.value.why) == (True, why)


async def test_a_lookup_that_hangs_is_one_and_holds_up_nobody_elses_threads(
    receiver: WebhookReceiver, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    asked_one, answer = threading.Event(), threading.Event()

    def hanging(host: str, port: int, **how: object) -> list[object]:
        asked.append(host)
        asked_one.set()
        answer.wait()
        return [(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", ("127.0.0.1", port))]

    monkeypatch.setattr(socket, "getaddrinfo", hanging)
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(1))
    observer = make(url=url_of(receiver))
    calls = [asyncio.create_task(observer.on_event(make_event()), name=f"posting-{number}") for number in range(8)]

    assert await asyncio.to_thread(asked_one.wait, 60)
    assert not receiver.requests
    answer.set()
    await asyncio.gather(*calls)

    assert (len(receiver.requests), asked) == (8, [HOST])


POSTING = """
import asyncio
import socket
import threading

from trackside.app.observers.webhook import WebhookObserver
from trackside.testing.events import make_event


async def main():
    observer = WebhookObserver(url="https://hook.example/", secret="SECRET", timeout=4)
    try:
        await observer.on_event(make_event())
    except Exception as exc:
        print(exc)
    await observer.aclose()


socket.getaddrinfo = lambda *_, **how: threading.Event().wait()
asyncio.run(main())
"""


def test_a_process_that_ends_does_not_wait_for_a_lookup_that_hangs() -> None:
    program = [sys.executable, "-c", POSTING.replace("SECRET", NEW)]
    ended = subprocess.run(program, capture_output=True, text=True, check=True, timeout=60)
    assert "no connection within 2 s" in ended.stdout


async def test_the_resolver_of_the_machine_is_what_is_asked_otherwise(receiver: WebhookReceiver, make: Make) -> None:
    await make(url=receiver.url.replace("127.0.0.1", "localhost")).on_event(make_event())

    assert len(receiver.requests) == 1
