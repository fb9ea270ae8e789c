"""A receiver that fails in each possible way: the error tells the subscription what to do, and tells no secret."""

import asyncio
import gzip
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path

import pytest
from certificates import Certificates
from webhook_receiver import (
    NEW,
    Answer,
    WebhookReceiver,
    dripping,
    flooding,
    raw,
    reset,
    reset_after,
    silence,
    status,
)

from trackside.app.delivery import DeliveryError
from trackside.app.observers.webhook import WebhookObserver, poster_to
from trackside.harness.errors import ClosedError
from trackside.testing.events import make_event

type Make = Callable[..., WebhookObserver]

MOST_IN_FLIGHT = 32 << 20  # bytes that fit into sockets and buffers on the way; an endless answer is longer


async def failure_of(observer: WebhookObserver) -> DeliveryError:
    with pytest.raises(DeliveryError) as raised:
        await observer.on_event(make_event())
    failure = raised.value
    assert failure.__cause__ is None
    assert failure.__context__ is None
    return failure


async def failure_with(answer: Answer, receiver: WebhookReceiver, observer: WebhookObserver) -> DeliveryError:
    receiver.answers.append(answer)
    return await failure_of(observer)


def says(failure: DeliveryError) -> tuple[bool, bool, bool]:
    """Whether it may be tried again, is not the event's fault, and ends the subscription."""
    return failure.retryable, failure.away, failure.disables


COUNTED, AWAY, HOPELESS, GONE = (True, False, False), (True, True, False), (False, False, False), (True, False, True)


class TestAnswers:
    @pytest.mark.parametrize("code", [200, 201, 202, 204, 299])
    async def test_an_event_is_taken(self, receiver: WebhookReceiver, make: Make, code: int) -> None:
        receiver.answers.append(status(code))
        await make().on_event(make_event())

        assert len(receiver.requests) == 1

    @pytest.mark.parametrize(
        ("code", "outcome"),
        [
            (400, COUNTED),
            (401, COUNTED),
            (404, COUNTED),
            (408, COUNTED),
            (410, GONE),
            (413, HOPELESS),
            (422, COUNTED),
            (429, AWAY),
            (500, COUNTED),
            (501, COUNTED),
            (502, AWAY),
            (503, AWAY),
            (504, AWAY),
            (599, COUNTED),
            (301, HOPELESS),
            (300, HOPELESS),
        ],
    )
    async def test_what_an_answer_means(
        self, receiver: WebhookReceiver, make: Make, code: int, outcome: tuple[bool, bool, bool]
    ) -> None:
        failure = await failure_with(status(code, body=b"no\r\nmore \x1b[31m"), receiver, make())

        assert says(failure) == outcome
        assert str(failure).startswith(f"http://127.0.0.1:{receiver.port} did not take human_message 1 of run run-1: ")
        assert str(code) in failure.why
        assert ('("no more [31m")' in failure.why) is (code >= 400)
        assert failure.retry_after is None

    @pytest.mark.parametrize(
        ("header", "seconds"),
        [("7", 7), ("0", 0), ("999999999999", 3_600), ("9" * 400, 3_600), ("-3", None), ("soon", None), ("1.5", None)],
    )
    async def test_retry_after_in_seconds(
        self, receiver: WebhookReceiver, make: Make, header: str, seconds: float | None
    ) -> None:
        failure = await failure_with(status(429, {"Retry-After": header}), receiver, make())

        assert failure.retry_after == seconds

    async def test_retry_after_as_a_date(self, receiver: WebhookReceiver, make: Make) -> None:
        instant = datetime(2026, 1, 31, 9, 30, tzinfo=UTC)

        class Clock:
            def now(self) -> datetime:
                return instant

            def monotonic(self) -> float:
                return 0.0

        class AtThatTime(WebhookObserver):
            clock = Clock()

        found = []
        for later in (timedelta(seconds=90), timedelta(seconds=-90), timedelta(days=9)):
            date = format_datetime(instant + later, usegmt=True)
            found.append(
                (await failure_with(status(503, {"Retry-After": date}), receiver, make(AtThatTime))).retry_after
            )
        assert found == [90, 0, 3_600]

    @pytest.mark.parametrize("code", [301, 302, 303, 307, 308])
    async def test_redirects_are_named_and_not_followed(self, receiver: WebhookReceiver, make: Make, code: int) -> None:
        target = f"http://user:hunter22@169.254.169.254:{receiver.port}/latest/meta-data?token=hunter22#hunter22"
        failure = await failure_with(status(code, {"Location": target}), receiver, make())

        assert f"to http://169.254.169.254:{receiver.port}/latest/meta-data, and redirects are not" in failure.why
        assert "hunter22" not in str(failure)
        assert (len(receiver.requests), receiver.connections) == (1, 1)

    async def test_a_redirect_to_the_receiver_itself_is_not_followed_either(
        self, receiver: WebhookReceiver, make: Make
    ) -> None:
        for target in ("/elsewhere", receiver.url, "//169.254.169.254/", "http://[", "", "javascript:alert(1)"):
            failure = await failure_with(status(302, {"Location": target}), receiver, make())
            assert not failure.retryable
        assert {request.path for request in receiver.requests} == {"/hook"}

    async def test_its_words_are_shown_without_what_must_not_be_read(
        self, receiver: WebhookReceiver, make: Make
    ) -> None:
        observer = make(
            url=f"{receiver.url}/hidden-path?token=hunter22&more=hunter23%20x",
            headers={"Authorization": "Bearer hunter24"},
        )
        keys = f"{NEW} {NEW.removeprefix('whsec_')}"
        echo = (
            f"POST /hook/hidden-path?token=hunter22 Authorization: Bearer hunter24, {keys}; hunter23 x; no hunter24; "
            f"{'y' * 9_000}"
        )
        failure = await failure_with(status(500, body=echo.encode()), receiver, observer)

        assert failure.why.startswith('it answered 500 Internal Server Error ("POST ')
        for secret in ("hunter22", "hunter23", "hunter24", "hidden-path", *keys.split()):
            assert secret not in f"{failure!r} {failure.details} {failure}"
        assert len(str(failure)) < 400

    async def test_so_they_are_of_a_receiver_whom_a_client_of_the_server_has_named(
        self, receiver: WebhookReceiver
    ) -> None:
        address = f"{receiver.url}?token=hunter22"
        poster = poster_to(address, secret=NEW, private=True, private_by="server.private_webhooks = true")
        receiver.answers.append(status(500, body=f"POST /hook?token=hunter22, {NEW}".encode()))
        with pytest.raises(DeliveryError) as raised:
            await poster.post(make_event(), b"{}")
        await poster.aclose()

        assert raised.value.details["why"].startswith('it answered 500 Internal Server Error ("POST ')
        for secret in ("hunter22", NEW, NEW.removeprefix("whsec_")):
            assert secret not in f"{raised.value!r} {raised.value.details} {raised.value}"

    @pytest.mark.parametrize(
        "repeated",
        [
            "Basic c2hv/cDp+YQ&<1>==",
            r"Basic c2hv\/cDp+YQ&<1>==",  # as PHP writes it
            r"Basic c2hv/cDp+YQ\u0026\u003c1\u003e==",  # as Go writes it
            r"Basic c2hv\/cDp+YQ\u0026\u003C1\u003E\u003d\u003D",
            "Basic c2hv/cDp+YQ&amp;&lt;1&gt;==",
            "Basic c2hv&#x2F;cDp&#43;YQ&#38;&#60;1&#62;==",
            "Basic+c2hv%2FcDp%2bYQ%26%3C1%3E%3D%3D",
        ],
    )
    async def test_a_header_is_not_shown_either_as_json_or_html_or_an_address_has_it(
        self, receiver: WebhookReceiver, make: Make, repeated: str
    ) -> None:
        observer = make(headers={"Authorization": "Basic c2hv/cDp+YQ&<1>=="})
        failure = await failure_with(status(500, body=f"<<{repeated}>>".encode()), receiver, observer)

        assert failure.why == 'it answered 500 Internal Server Error ("<<…>>")'

    @pytest.mark.parametrize(
        ("words", "shown"),
        [
            ("Cannot POST /services/T0001/B0002/XyZ%7CsecretTOKEN123", "Cannot POST …"),
            ("Cannot POST /T0001/B0002/XyZ%7CsecretTOKEN123", "Cannot POST …"),
            ("Cannot POST T0001/B0002/XyZ|secretTOKEN123", "Cannot POST …"),
            ("no_service: no hook XyZ|secretTOKEN123 among services", "no_service: no hook … among services"),
            (r"no hook B0002\/XyZ%7CsecretTOKEN123", "no hook …"),
            ("no member justlettersbutmany of lists", "no member … of lists"),
            ("no flag 5ecret-flag, ask for a subscription", "no flag …, ask for a subscription"),
        ],
    )
    async def test_of_its_path_and_query_no_part_is_shown_that_may_be_secret(
        self, receiver: WebhookReceiver, make: Make, words: str, shown: str
    ) -> None:
        secret = "/services/T0001/B0002/XyZ%7CsecretTOKEN123?subscription=justlettersbutmany&5ecret-flag"
        observer = make(url=f"http://127.0.0.1:{receiver.port}{secret}")
        failure = await failure_with(status(404, body=words.encode()), receiver, observer)

        assert failure.why == f'it answered 404 Not Found ("{shown}")'


class TestAnswersWithoutEnd:
    """The status says it all; of what follows, the observer reads only the beginning, and not for long."""

    @pytest.mark.parametrize(("code", "ends"), [(200, None), (500, COUNTED), (503, AWAY)])
    async def test_an_endless_body_is_cut_off(
        self, receiver: WebhookReceiver, make: Make, code: int, ends: tuple[bool, bool, bool] | None
    ) -> None:
        head = f"HTTP/1.1 {code} Said\r\nContent-Length: 10737418240\r\n\r\n".encode()
        receiver.answers.append(flooding(head, b"x" * 65_536))
        observer = make()
        if ends is None:
            await observer.on_event(make_event())
        else:
            assert says(await failure_of(observer)) == ends
        await observer.on_event(make_event())  # on a new connection

        assert receiver.connections == 2
        assert receiver.sent_bytes < MOST_IN_FLIGHT

    async def test_chunks_without_end_are_cut_off(self, receiver: WebhookReceiver, make: Make) -> None:
        head = b"HTTP/1.1 500 Said\r\nTransfer-Encoding: chunked\r\n\r\n"
        failure = await failure_with(flooding(head, b"10000\r\n" + b"x" * 65_536 + b"\r\n"), receiver, make())

        assert says(failure) == COUNTED
        assert receiver.sent_bytes < MOST_IN_FLIGHT

    async def test_a_bomb_is_not_unpacked(self, receiver: WebhookReceiver, make: Make) -> None:
        bomb = gzip.compress(b"boom" * 5_000_000)
        observer = make()
        failure = await failure_with(status(500, {"Content-Encoding": "gzip"}, bomb), receiver, observer)
        assert failure.why == "it answered 500 Internal Server Error"
        receiver.answers.append(status(200, {"Content-Encoding": "gzip"}, b"not gzip at all"))
        await observer.on_event(make_event())

        assert receiver.requests[0].headers["accept-encoding"] == "identity"
        assert observer._poster._session is not None
        assert not observer._poster._session.auto_decompress  # nothing that we show would reveal this

    @pytest.mark.timeout(20)  # less than the request itself may take
    @pytest.mark.parametrize("code", [200, 500])
    async def test_a_body_that_only_drips_ends_nothing(self, receiver: WebhookReceiver, make: Make, code: int) -> None:
        receiver.answers.append(dripping(f"HTTP/1.1 {code} Said\r\nContent-Length: 9999\r\n\r\n".encode(), b"x"))
        observer = make(timeout=25)
        if code == 200:
            await observer.on_event(make_event())
        else:
            assert '("x' in (await failure_of(observer)).why

    @pytest.mark.parametrize("code", [200, 500])
    async def test_a_reset_within_the_body_does_not_matter(
        self, receiver: WebhookReceiver, make: Make, code: int
    ) -> None:
        receiver.answers.append(reset_after(f"HTTP/1.1 {code} Said\r\nContent-Length: 9999\r\n\r\nhalf".encode()))
        if code == 200:
            await make().on_event(make_event())
        else:
            assert says(await failure_of(make())) == COUNTED


async def connected(observer: WebhookObserver, receiver: WebhookReceiver) -> WebhookObserver:
    """Have it connect, however long that takes; from then on its time is for the answer alone."""
    async with asyncio.timeout(60):
        while True:
            with suppress(DeliveryError):
                await observer.on_event(make_event())
                break
        while len(receiver._open) > 1:  # it still deals with an event that it was given up for, with its next answer
            await asyncio.sleep(0.01)
    return observer


class TestNoAnswer:
    async def test_a_receiver_that_never_answers_fails_the_event(self, receiver: WebhookReceiver, make: Make) -> None:
        observer = await connected(make(timeout=0.2), receiver)
        failure = await failure_with(silence, receiver, observer)

        assert says(failure) == COUNTED
        assert failure.why == "no answer within 0.2 s"

    async def test_headers_that_only_drip_fail_the_event(self, receiver: WebhookReceiver, make: Make) -> None:
        observer = await connected(make(timeout=0.2), receiver)
        failure = await failure_with(dripping(b"HTTP/1.1 200 OK\r\nX: ", b"x"), receiver, observer)

        assert failure.why == "no answer within 0.2 s"

    async def test_promises_to_answer_do_not_buy_time(self, receiver: WebhookReceiver, make: Make) -> None:
        observer = await connected(make(timeout=0.2), receiver)
        failure = await failure_with(dripping(b"", b"HTTP/1.1 102 Processing\r\n\r\n"), receiver, observer)

        assert failure.why == "no answer within 0.2 s"

    @pytest.mark.parametrize(
        "answer",
        [
            raw(b"SSH-2.0-OpenSSH_9.6\r\n\r\n"),
            raw(b"HTTP/1.1 200 OK\r\nX: " + b"x" * 100_000 + b"\r\n\r\n"),
            flooding(b"HTTP/1.1 200 OK\r\n", b"X: " + b"x" * 4_000 + b"\r\n"),
            raw(b"HTTP/1.1 99999 OK\r\n\r\n"),
            raw(b"\0" * 10_000 + b"\r\n\r\n"),
        ],
    )
    async def test_what_is_not_http_fails_the_event(
        self, receiver: WebhookReceiver, make: Make, answer: Answer
    ) -> None:
        failure = await failure_with(answer, receiver, make())

        assert says(failure) == COUNTED
        assert failure.why == "its answer is not HTTP, or its headers are too long"
        assert receiver.sent_bytes < MOST_IN_FLIGHT

    @pytest.mark.parametrize(
        "answer", [reset, reset_after(b"HTTP/1.1 20"), reset_after(b"HTTP/1.1 200 OK\r\nX: y\r\n")]
    )
    async def test_a_reset_before_the_answer_fails_the_event(
        self, receiver: WebhookReceiver, make: Make, answer: Answer
    ) -> None:
        observer = make()
        failure = await failure_with(answer, receiver, observer)
        assert says(failure) == COUNTED
        assert failure.why == "the connection ended without an answer"

        await observer.on_event(make_event())

    async def test_a_receiver_that_is_down_is_away_and_back_when_it_is_up(self, make: Make) -> None:
        receiver = WebhookReceiver(NEW)
        async with receiver:
            observer = make(url=receiver.url)
            await observer.on_event(make_event())
        assert says(await failure_of(observer)) == COUNTED  # on the previous connection: one try at most
        failure = await failure_of(observer)
        assert says(failure) == AWAY
        assert failure.why == "it cannot be reached: Connection refused"

        async with receiver:
            await observer.on_event(make_event())
        assert len(receiver.requests) == 2

    async def test_one_that_is_cancelled_leaves_nothing_behind(self, receiver: WebhookReceiver, make: Make) -> None:
        observer = make()
        receiver.answers.append(silence)
        call = asyncio.create_task(observer.on_event(make_event()), name="posting")
        await receiver.until(1)
        call.cancel()
        await asyncio.wait([call])
        assert call.cancelled()

        await observer.on_event(make_event())
        assert receiver.connections == 2


class TestClosing:
    async def test_what_is_under_way_fails_as_away_and_nothing_is_taken_afterwards(
        self, receiver: WebhookReceiver, make: Make
    ) -> None:
        observer = make()
        receiver.otherwise = silence
        calls = [asyncio.create_task(failure_of(observer), name=f"posting-{number}") for number in range(3)]
        await receiver.until(3)
        await observer.aclose()
        await observer.aclose()

        assert [says(await call) for call in calls] == [AWAY] * 3
        with pytest.raises(ClosedError):
            await observer.on_event(make_event())

    async def test_one_that_was_never_used_closes(self, make: Make) -> None:
        await make().aclose()


class TestTls:
    @pytest.fixture
    def certificates(self, tmp_path: Path) -> Certificates:
        return Certificates(tmp_path)

    async def test_a_receiver_is_known_by_certificates_of_the_users(
        self, make: Make, certificates: Certificates
    ) -> None:
        async with WebhookReceiver(NEW, tls=certificates.server("127.0.0.1")) as receiver:
            await make(url=receiver.url, ca_file=str(certificates.ca_file)).on_event(make_event())

            assert receiver.requests[0].verified == (True,)

    async def test_a_receiver_that_nobody_vouches_for_gets_nothing(
        self, make: Make, certificates: Certificates
    ) -> None:
        async with WebhookReceiver(NEW, tls=certificates.server("127.0.0.1")) as receiver:
            failure = await failure_of(make(url=receiver.url))

            assert says(failure) == AWAY
            assert failure.why.startswith("its certificate cannot be trusted: ")
            assert not receiver.requests

    async def test_a_certificate_of_another_host_is_not_trusted(self, make: Make, certificates: Certificates) -> None:
        async with WebhookReceiver(NEW, tls=certificates.server("192.0.2.7")) as receiver:
            failure = await failure_of(make(url=receiver.url, ca_file=str(certificates.ca_file)))

            assert says(failure) == AWAY
            assert "IP address mismatch" in failure.why
            assert not receiver.requests

    async def test_tls_with_somebody_who_does_not_speak_it(self, receiver: WebhookReceiver, make: Make) -> None:
        receiver.answers.append(status(200))
        failure = await failure_of(make(url=receiver.url.replace("http:", "https:"), timeout=1))

        assert says(failure) == AWAY
        assert not receiver.requests
