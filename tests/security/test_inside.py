"""A client that starts a run names where its end is told (`webhook`): no spelling of that leads inside (SSRF).

`tests/integration/webhook` tests what a webhook of the settings may reach, names that later mean something else,
redirects and answers.
"""

from __future__ import annotations

from typing import Any

import httpx
import pytest

INSIDE = (
    "https://127.0.0.1/", "https://localhost/", "https://LOCALHOST./", "https://x.localhost/", "https://[::1]/",
    "https://127.1/", "https://2130706433/", "https://0x7f000001/", "https://0177.0.0.1/", "https://017700000001/",
    "https://0x7f.0.0.1/", "https://127.0.0.1./", "https://[::ffff:127.0.0.1]/", "https://[::ffff:7f00:1]/",
    "https://[0:0:0:0:0:ffff:a9fe:a9fe]/", "https://169.254.169.254/latest/meta-data/", "https://0xa9fea9fe/",
    "https://2852039166/", "https://[fd00:ec2::254]/", "https://[64:ff9b::a9fe:a9fe]/", "https://100.100.100.200/",
    "https://10.0.0.1/", "https://192.168.0.1/", "https://172.16.0.1/", "https://[fc00::1]/", "https://[fe80::1%25lo]/",
    "https://0.0.0.0/", "https://0/", "https://[::]/", "https://255.255.255.255/", "https://224.0.0.1/",
    "https://①②⑦.⓪.⓪.①/", "https://127。0。0。1/", "https://example.org@127.0.0.1/", "https://127.0.0.1#@example.org/",
    "https://example.org\\@127.0.0.1/", "https://example.org:80@127.0.0.1/", "https:127.0.0.1/", "https:///127.0.0.1/",
    "http://example.org/", "file:///etc/passwd", "gopher://127.0.0.1:6379/_FLUSHALL", "ftp://127.0.0.1/",
    "dict://127.0.0.1:11211/", "unix:///var/run/docker.sock", "https://127.0.0.1:22/", " https://127.0.0.1/",
    "https://exa\tmple.org@127.0.0.1/", "https://127.0.0.1\r\nHost: example.org/", "HTTPS://127.0.0.1/",
)  # fmt: skip


@pytest.mark.parametrize("path", ["/runs", "/runs/crons", "/runs/batch", "/threads/{}/runs/crons"])
def test_no_address_inside_is_told_of_a_run(place: Any, path: str) -> None:
    headers = place.headers("run")
    with httpx.Client(base_url=place.url, headers=headers) as http:
        thread_id = http.post("/threads", json={}).json()["thread_id"]
        for address in INSIDE:
            asked = {"assistant_id": "echo", "input": {}, "webhook": address}
            if "crons" in path:
                asked["schedule"] = "0 0 1 1 *"
            answer = http.post(path.replace("{}", thread_id), json=[asked] if "batch" in path else asked)
            assert answer.status_code == 422, (address, answer.text)
            assert "webhook" in answer.json()["detail"], address
        assert http.get("/runs").json() == []
        assert http.post("/runs/crons/search", json={}).json() == []
