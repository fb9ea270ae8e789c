"""Which ports the processes of a fleet on this machine get."""

import socket
from pathlib import Path

import pytest

from trackside.app.engine.local import programs
from trackside.app.engine.local.errors import LocalServerError
from trackside.app.engine.local.programs import LOOPBACK, free_ports

GIVEN = Path("/proc/sys/net/ipv4/ip_local_port_range")


@pytest.mark.skipif(
    GIVEN.exists() and int(GIVEN.read_text("ascii").split()[0]) < 12_081,
    reason="this system leaves too few to choose from",
)
def test_ports_of_a_fleet_are_none_that_the_system_gives_to_others_before_they_are_taken_or_taken_again() -> None:
    with socket.socket() as other:
        other.bind((LOOPBACK, 0))
        given = other.getsockname()[1]
    ports = free_ports(50)
    assert len({*ports}) == 50
    assert max(ports) < given, "it gives them from its first one on"


@pytest.mark.parametrize(
    ("range_given", "expected"),
    [
        ("20000\t40000\n", range(10_081, 20_000)),
        ("1024\t65535\n", range(10_081, 32_768)),
        ("\n", range(10_081, 32_768)),
        ("unlimited\n", range(10_081, 32_768)),
    ],
    ids=["some are left", "none is left", "it says nothing", "it says no number"],
)
def test_a_system_may_give_others_than_usual(
    range_given: str, expected: range, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "range").write_text(range_given, "ascii")
    monkeypatch.setattr(programs, "_GIVEN", tmp_path / "range")
    assert programs._ports_given_to_nobody() == expected, "browsers refuse 10080"
    assert {port in expected for port in free_ports(50)} == {True}


def test_ports_that_somebody_has_or_will_have_are_left_to_him(monkeypatch: pytest.MonkeyPatch) -> None:
    mine, his, free = free_ports(3)
    monkeypatch.setattr(programs, "_ports_given_to_nobody", lambda: range(0))
    monkeypatch.setattr("random.SystemRandom.sample", lambda *_: [mine, his, free])
    with socket.socket() as taken:
        taken.bind((LOOPBACK, mine))
        assert free_ports(1, without=[his]) == [free]
        with pytest.raises(LocalServerError, match="needs 2 free ports, and found 1"):
            free_ports(2, without=[his])
