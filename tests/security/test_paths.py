"""No name that a client sends leads out of where it belongs: static files, pages, threads, files of exports."""

from __future__ import annotations

import socket
from typing import Any

import pytest

ESCAPES = (
    "../../../../../../etc/passwd",
    "..%2f..%2f..%2f..%2f..%2f..%2fetc%2fpasswd",
    "%2e%2e/%2e%2e/%2e%2e/%2e%2e/etc/passwd",
    "..%252f..%252f..%252fetc%252fpasswd",
    "..%5c..%5c..%5cetc%5cpasswd",
    "..%c0%af..%c0%afetc%c0%afpasswd",
    "....//....//etc/passwd",
    "/etc/passwd",
    "%00/etc/passwd",
    "console.js%00.css",
    "file:///etc/passwd",
    "../agents.py",
    "../trackside.toml",
    "../runs.db",
    "~root/.ssh/id_rsa",
)
BELOW = ("/ui/static/", "/ui/", "/ui/runs/", "/threads/", "/assistants/", "/docs/", "/store/items/", "/")


def asked_as_it_is(host: str, port: int, path: str, headers: dict[str, str]) -> bytes:
    """The answer to a path sent as it stands, without a client that changes it first."""
    head = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    with socket.create_connection((host, port), timeout=20) as connection:
        connection.sendall(f"GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n{head}\r\n".encode())
        return b"".join(iter(lambda: connection.recv(65_536), b""))


@pytest.mark.parametrize("below", BELOW)
def test_no_path_leads_to_a_file(place: Any, below: str) -> None:
    port = place.server.port
    for escape in ESCAPES:
        answer = asked_as_it_is("127.0.0.1", port, below + escape, place.headers())
        status = int(answer.split(b" ", 2)[1])
        assert status in {303, 307, 400, 404, 405, 422}, (below + escape, answer[:300])
        for secret in (b"root:", b"async def echo", b"[server]", b"SQLite format"):
            assert secret not in answer, below + escape
