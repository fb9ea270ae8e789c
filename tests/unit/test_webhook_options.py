"""What a webhook cannot be built from is reported before anything is sent, without the secrets in it."""

import base64
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from standardwebhooks import Webhook

from trackside.app.delivery import Delivery, ObserverOptionError, Order
from trackside.app.observers.webhook import WebhookObserver

SECRET = "whsec_" + base64.b64encode(b"0123456789abcdef01234567").decode()
URL = "https://example.org/hook"


def webhook(**options: Any) -> WebhookObserver:
    return WebhookObserver(**{"url": URL, "secret": SECRET, **options})


def refused(**options: Any) -> ObserverOptionError:
    with pytest.raises(ObserverOptionError) as raised:
        webhook(**options)
    return raised.value


def test_is_durable_without_order_and_many_at_once() -> None:
    assert (WebhookObserver.delivery, WebhookObserver.order) == (Delivery.durable, Order.none)
    assert WebhookObserver.concurrency == 32


@pytest.mark.parametrize(
    ("url", "why"),
    [
        (None, "it is not a URL"),
        ("", "it begins with https://"),
        ("example.org/hook", "it begins with https://"),
        ("ftp://example.org/hook", "it begins with https://"),
        ("file:///etc/passwd", "it begins with https://"),
        ("https:///hook", "not a URL|it has no host"),
        ("https://example.org:99999/", "is its host or its port right"),
        ("https://example.org:port/", "is its host or its port right"),
        ("https://example.org:0/", "there is no port 0"),
        ("https://user:hunter22@example.org/", "put credentials into `headers`"),
        ("https://hunter22@example.org/", "put credentials into `headers`"),
        ("https://example.org/#hunter22", "it has a fragment"),
        ("https://example.org/#", "it has a fragment"),
        ("https://example.org/hook\r\nX-Injected: hunter22", "it is not a URL"),
        ("https://example.org/ho ok", "it is not a URL"),
        ("https://example.org\\@10.0.0.1/", "it is not a URL"),
        ("https://exa mple.org/", "it is not a URL"),
        ("https://[::1/", "it is not a URL"),
        (f"https://{'a' * 64}.org/", "no name that can be looked up"),
        ("https://a..b/", "no name that can be looked up|not a URL"),
        ("http://example.org/hook?token=hunter22", "use https://, or set allow_http = true"),
    ],
)
def test_a_bad_url_is_refused_and_not_repeated(url: Any, why: str) -> None:
    error = refused(url=url)

    assert error.option == "url"
    assert any(each in error.why for each in why.split("|")), error.why
    assert "hunter22" not in f"{error} {error.__cause__} {error.details}"


PRIVATE = [
    "127.0.0.1",
    "10.1.2.3",
    "172.16.0.1",
    "192.168.1.1",
    "169.254.10.10",
    "100.64.0.1",
    "198.18.0.1",
    "192.0.2.1",
    "[::1]",
    "[fc00::1]",
    "[fe80::1]",
    "[fe80::1%25eth0]",
    "[fec0::1]",
    "[::ffff:127.0.0.1]",
    "[::ffff:10.0.0.1]",
    "[::127.0.0.1]",
    "[64:ff9b::7f00:1]",
    "[64:ff9b:1::a00:1]",
    "[2001:db8::1]",
    "127.1",
    "127.0.0.1.",
    "0x7f.1",
    "0177.0.0.1",
    "2130706433",
    "0x7f000001",
    "①②⑦.⓪.⓪.①",
    "localhost",
    "hook.localhost",
    "LOCALHOST.",
]
NEVER = [
    "0.0.0.0",
    "0.1.2.3",
    "0",
    "[::]",
    "169.254.169.254",
    "0xa9fea9fe",
    "[::ffff:169.254.169.254]",
    "[64:ff9b::a9fe:a9fe]",
    "[fd00:ec2::254]",
    "169.254.0.23",
    "169.254.42.42",
    "[::ffff:169.254.42.42]",
    "169.254.170.2",
    "169.254.170.23",
    "[fd00:ec2::23]",
    "[fd20:ce::254]",
    "192.0.0.192",
    "[fd00:42::42]",
    "[fe80::a9fe:a9fe]",
    "[fe80::a9fe:a9fe%25eth0]",
    "[fd00:c1::a9fe:a9fe]",
    "100.100.100.200",
    "168.63.129.16",
    "224.0.0.1",
    "[ff02::1]",
    "240.0.0.1",
    "255.255.255.255",
    "[4000::1]",
    "[2002:7f00:1::]",
    "[2002:808:808::1]",
    "[2001:0:a00:1::]",
    "[::ffff:0.0.0.0]",
    "[fd00:ec2::254%251]",
    "[fd00:ec2::254%25eth0]",
    "[::ffff:169.254.169.254%251]",
    "[64:ff9b::a9fe:a9fe%251]",
    "[2002:a9fe:a9fe::%251]",
]


@pytest.mark.parametrize("host", [*PRIVATE, *NEVER])
def test_an_address_inside_is_refused_however_it_is_written(host: str) -> None:
    assert refused(url=f"https://{host}/hook").option == "url"
    assert refused(url=f"http://{host}:8080/hook", allow_http=True).option == "url"


@pytest.mark.parametrize("host", ["127.0.0.1", "10.1.2.3", "[::1]", "[fc00::1]", "100.64.0.1", "localhost"])
def test_an_address_inside_is_allowed_when_it_is_said_so_also_in_the_clear(host: str) -> None:
    webhook(url=f"https://{host}/", allow_private_addresses=True)
    webhook(url=f"http://{host}:8080/", allow_private_addresses=True)


@pytest.mark.parametrize("host", NEVER)
def test_what_is_no_place_for_a_receiver_is_never_allowed(host: str) -> None:
    assert refused(url=f"https://{host}/", allow_private_addresses=True, allow_http=True).option == "url"


@pytest.mark.parametrize("host", ["[fc00::1%251]", "[::1%251]", "[2606:4700::1%251]", "[::ffff:10.0.0.1%251]"])
def test_a_zone_is_for_link_local_addresses_alone(host: str) -> None:
    why = refused(url=f"https://{host}/", allow_private_addresses=True).why
    assert why.endswith("and only a link-local one has a zone (%)")
    webhook(url="https://[fe80::1%25eth0]/", allow_private_addresses=True)


@pytest.mark.parametrize(
    "host", ["8.8.8.8", "[2606:4700::1]", "[64:ff9b::808:808]", "[::ffff:8.8.8.8]", "bücher.example"]
)
def test_public_hosts_are_allowed(host: str) -> None:
    webhook(url=f"https://{host}/hook?token=x")
    webhook(url=f"http://{host}/hook", allow_http=True)


def test_an_odd_way_to_write_a_public_address_is_refused_too() -> None:
    assert refused(url="https://134744072/").why == "its host is the address 8.8.8.8; write it like this"


def test_http_to_a_public_address_is_refused_where_only_private_ones_may_have_it() -> None:
    assert "set allow_http = true" in refused(url="http://8.8.8.8/", allow_private_addresses=True).why
    webhook(url="https://8.8.8.8/", allow_private_addresses=True)


@pytest.mark.parametrize(
    ("secret", "why"),
    [
        (None, "nothing is sent unsigned; make one: python -c"),
        ("", "nothing is sent unsigned"),
        ([], "nothing is sent unsigned"),
        ("whsec_", "its Base64 stands for 0 bytes"),
        ("whsec_hunter22!hunter22!hunter22!hunter22!", "it is not Base64"),
        ("hünter22hünter22hünter22hünter22", "it is not Base64"),
        ("whsk_" + "a" * 44, "it is not Base64"),
        ("env:HOOK_SECRET", "it is not Base64"),
        ("whsec_aHVudGVyMjI=", "its Base64 stands for 8 bytes, and Standard Webhooks asks for 24 to 64"),
        ("A" * 31, "its Base64 stands for 23 bytes"),
        ("A" * 87, "its Base64 stands for 65 bytes"),
        ([SECRET, SECRET, SECRET], "one secret, or two"),
        ([SECRET, 7], "it is not a text"),
        (7, "it is not a text"),
        ({"a": SECRET}, "it is not a text"),
    ],
)
def test_a_bad_secret_is_refused_and_not_repeated(secret: Any, why: str) -> None:
    error = refused(secret=secret)

    assert error.option == "secret"
    assert why in error.why
    assert "hunter22" not in str(error)
    assert error.__suppress_context__ or error.__context__ is None


def test_the_secret_that_the_message_says_how_to_make_is_one() -> None:
    command = refused(secret=None).why.partition("make one: python -c '")[2].removesuffix("'")
    made = subprocess.run([sys.executable, "-c", command], capture_output=True, text=True, check=True).stdout.strip()

    webhook(secret=made)
    webhook(secret=[made, SECRET])
    Webhook(made)


@pytest.mark.parametrize("length", [24, 64])
def test_a_secret_is_as_short_or_long_as_receivers_may_ask_for(length: int) -> None:
    webhook(secret=base64.b64encode(bytes(length)).decode())


def test_padding_of_a_secret_may_be_left_out() -> None:
    padded = "whsec_" + base64.b64encode(os.urandom(25)).decode()
    assert padded.endswith("==")

    webhook(secret=padded.rstrip("="))


@pytest.mark.parametrize(
    ("option", "values"),
    [
        ("format", ["xml", None, 3]),
        ("timeout", [0, -1, 26, float("nan"), float("inf"), "15", True, None]),
        ("max_bytes", [1_023, 67_108_865, 2_048.5, "4096", True]),
        ("allow_private_addresses", ["true", 1, None]),
        ("allow_http", ["yes", 0]),
        ("ca_file", ["/nowhere/ca.pem", __file__, 7, "", "nul\0"]),
        ("headers", ["X-A: b", [("X-A", "b")], {3: "x"}, {"X-A": 3}]),
    ],
)
def test_an_option_that_does_not_fit_is_named(option: str, values: list[Any]) -> None:
    for value in values:
        assert refused(**{option: value}).option == option, value


def test_certificates_are_of_no_use_without_tls(tmp_path: Path) -> None:
    assert "https:// alone" in refused(url="http://example.org/", allow_http=True, ca_file=str(tmp_path)).why


@pytest.mark.parametrize(
    "name",
    [
        "Host",
        "content-length",
        "Content-Type",
        "Transfer-Encoding",
        "Connection",
        "Proxy-Authorization",
        "webhook-id",
        "WEBHOOK-SIGNATURE",
        "Webhook-Timestamp",
        "Accept-Encoding",
        "Content-Encoding",
        "User-Agent",
        "Expect",
        "Keep-Alive",
        "TE",
        "Trailer",
        "Upgrade",
        "X Y",
        "X:Y",
        "",
        "X-Ä",
        "X\r\nInjected",
    ],
)
def test_headers_that_are_not_the_users_are_refused(name: str) -> None:
    error = refused(headers={name: "hunter22"})

    assert error.option == "headers"
    assert "hunter22" not in str(error)
    assert "\r" not in str(error)


@pytest.mark.parametrize(
    "value", ["hunter22\r\nX-Injected: 1", "hunter22\n", "", " hunter22", "hünter22", "hunter22\0"]
)
def test_a_header_cannot_smuggle_another_one_in(value: str) -> None:
    error = refused(headers={"X-Token": value})

    assert error.why == "the value of X-Token is not one line of visible ASCII characters"


def test_the_same_header_twice_is_refused() -> None:
    assert "X-TOKEN is there twice" in refused(headers={"X-Token": "a", "X-TOKEN": "b"}).why


def test_secrets_are_not_in_its_repr() -> None:
    observer = webhook(url=f"{URL}?token=hunter22", headers={"X-Token": "hunter22"})

    assert "hunter22" not in repr(observer)
    assert SECRET not in repr(vars(observer))


def test_a_missing_package_is_named_with_the_way_to_install_it(tmp_path: Path) -> None:
    for package in ("aiohttp", "standardwebhooks", "cloudevents"):
        program = (
            f"import sys; sys.modules[{package!r}] = None\n"
            "from trackside.app.observers.webhook import WebhookObserver\n"
            f"WebhookObserver(url={URL!r}, secret={SECRET!r}, format='cloudevents')"
        )
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
        assert done.stderr.splitlines()[-1].startswith("ModuleNotFoundError: ")
        assert package in done.stderr.splitlines()[-1]
        assert "pip install 'trackside[webhook]'" in done.stderr.splitlines()[-1]
