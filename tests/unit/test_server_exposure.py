"""A server that asks nobody who they are serves this machine alone."""

from __future__ import annotations

import pytest

from trackside.app.server.auth.exposure import ExposedServerError, check_exposure, is_loopback


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1",
        "127.1.2.3",
        "::1",
        "[::1]",
        "localhost",
        "LOCALHOST",
        "localhost.",
        "app.localhost",
        "::ffff:127.0.0.1",
    ],
)
def test_this_machine_is_served_unasked(host: str) -> None:
    assert is_loopback(host)
    check_exposure([host], "none")


@pytest.mark.parametrize(
    "host",
    ["0.0.0.0", "::", "", "192.168.0.7", "10.0.0.1", "example.org", "localhost.example.org", "127.0.0.1.example.org",
     "::ffff:10.0.0.1", "fe80::1%lo", "2130706433", "0x7f.1", "0"],
)  # fmt: skip
def test_every_other_address_needs_somebody_who_asks(host: str) -> None:
    assert not is_loopback(host)
    with pytest.raises(ExposedServerError, match=r"server\.auth"):
        check_exposure([host], "none")
    check_exposure([host], "keys")


def test_one_open_address_among_several_is_enough() -> None:
    with pytest.raises(ExposedServerError, match=r"at 10\.0\.0\.1 is open"):
        check_exposure(["127.0.0.1", "10.0.0.1"], "none")


def test_it_is_the_callers_mistake() -> None:
    assert ExposedServerError.fault == "caller"
