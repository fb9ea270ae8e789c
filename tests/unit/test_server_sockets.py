"""A server's sockets: bound here, or handed over by whoever started the process."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from trackside.app.server.sockets import AddressError, address_of, handed_over, listen_at, place_of


def test_a_free_port_is_found_and_listened_at_at_once() -> None:
    [one] = listen_at("127.0.0.1", 0)
    with one, socket.create_connection(one.getsockname()):
        assert one.getsockname()[1] > 0


@pytest.mark.skipif(not hasattr(socket, "TCP_USER_TIMEOUT"), reason="this system does not know it")
def test_a_client_that_takes_nothing_is_cut_off_by_the_system() -> None:
    [one] = listen_at("127.0.0.1", 0)
    with one, socket.create_connection(one.getsockname()):
        accepted, _ = one.accept()
        with accepted:
            assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 60_000


def test_a_name_with_several_addresses_has_one_port() -> None:
    found = listen_at("localhost", 0)
    for one in found:
        one.close()

    assert found


def test_a_port_that_is_taken_is_an_error_that_says_what_to_do() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(AddressError, match=f"127.0.0.1:{port}: port {port} is taken; choose another with --port"):
            listen_at("127.0.0.1", port)


@pytest.mark.parametrize(
    ("host", "why"), [("nobody.invalid", "nobody knows this host"), ("203.0.113.1", "does not have this address")]
)
def test_an_address_that_there_is_not_here_is_an_error(host: str, why: str) -> None:
    with pytest.raises(AddressError, match=why):
        listen_at(host, 0)


def test_addresses_are_written_as_in_urls() -> None:
    assert address_of("127.0.0.1", 80) == "127.0.0.1:80"
    assert address_of("::1", 80) == "[::1]:80"


def test_where_a_socket_is_reached_is_said_of_those_with_a_path_too(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as one, socket.socket(socket.AF_UNIX) as other:
        port = one.getsockname()[1]
        other.bind(str(tmp_path / "s"))

        assert place_of(one) == {"url": f"http://127.0.0.1:{port}", "host": "127.0.0.1", "port": port}
        assert place_of(other) == {"url": f"unix:{tmp_path / 's'}", "host": None, "port": None}


def test_what_is_meant_for_another_process_is_left_alone() -> None:
    environ = {"LISTEN_PID": str(os.getpid() + 1), "LISTEN_FDS": "1", "PATH": "here"}

    assert handed_over(environ) == []
    assert environ == {"PATH": "here"}


HANDED_OVER = """
import os, socket, sys
from trackside.app.server.sockets import hand_over, handed_over, listen_at

if len(sys.argv) == 1:
    sockets = [*listen_at("127.0.0.1", 0), *listen_at("127.0.0.1", 0)]
    ports = [str(one.getsockname()[1]) for one in sockets]
    hand_over(sockets, os.environ)
    os.execv(sys.executable, [sys.executable, __file__, *ports])

sockets = handed_over(os.environ)
assert [str(one.getsockname()[1]) for one in sockets] == sys.argv[1:]
assert not any(one.get_inheritable() for one in sockets)
assert "LISTEN_FDS" not in os.environ
for one in sockets:
    socket.create_connection(one.getsockname()).close()
print("both")
"""


def test_a_process_that_replaces_itself_finds_its_sockets(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(HANDED_OVER, encoding="utf-8")

    done = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=60, check=False)

    assert (done.stdout, done.returncode) == ("both\n", 0), done.stderr
