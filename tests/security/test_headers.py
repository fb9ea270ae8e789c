"""A line break in a client's text begins no header of an answer, no event of a stream and no request to others."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import httpx
import pytest

from trackside.app.settings import Settings
from trackside.app.wiring import open_app
from trackside.harness import RunContext

BREAKS = (
    "%0d%0aset-cookie:%20x=1",
    "%0aset-cookie:%20x=1",
    "%0d%0a%0d%0a<script>",
    "%e5%98%8a%e5%98%8dset-cookie:%20x=1",
)
KNOWN = {
    "allow", "cache-control", "connection", "content-length", "content-location", "content-security-policy", "content-type",
    "cross-origin-opener-policy", "date", "location", "permissions-policy", "referrer-policy", "retry-after", "set-cookie",
    "cross-origin-resource-policy", "server-timing",
    "transfer-encoding", "vary", "www-authenticate", "x-accel-buffering", "x-content-type-options", "x-frame-options",
    "x-pagination-next", "x-pagination-total", "x-search-continues", "x-truncated", "content-encoding",
}  # fmt: skip
"""The headers that answers carry."""


@pytest.mark.parametrize(
    "path",
    [
        "/{}", "/ui/{}", "/ui/sign-in?next=/ui/{}", "/ui/runs?agent={}", "/ui/runs/{}", "/ui/threads/{}", "/threads/{}",
        "/runs?agent={}", "/runs/{}", "/assistants/{}", "/events?after={}", "/threads/x/runs/{}/join", "/{}?x={}",
    ],
)  # fmt: skip
def test_no_break_in_an_address_begins_a_header(place: Any, path: str) -> None:
    for text in BREAKS:
        for headers in (place.headers(), {}):
            answer = httpx.get(f"{place.url}{path.replace('{}', text)}", headers=headers)
            names = {name.lower() for name in answer.headers}
            assert names <= KNOWN, names - KNOWN
            assert "x=1" not in answer.headers.get("set-cookie", "").split("; ")
            assert all(value.isprintable() for value in answer.headers.values())


def test_no_break_in_a_body_begins_a_header(place: Any) -> None:
    hostile = "x\r\nset-cookie: x=1\r\n\r\n<script>"
    for path, body in (
        ("/threads", {"thread_id": hostile}),
        ("/threads", {"metadata": {hostile: hostile}}),
        ("/runs", {"assistant_id": hostile}),
        ("/runs/wait", {"assistant_id": "echo", "input": {"a": hostile}, "metadata": {"a": hostile}}),
        ("/runs/wait", {"assistant_id": "echo", "input": {}, "idempotency_key": hostile}),
    ):
        answer = httpx.post(f"{place.url}{path}", json=body, headers=place.headers())
        assert answer.status_code in {200, 404, 422}, answer.text
        assert {name.lower() for name in answer.headers} <= KNOWN
        assert "set-cookie" not in answer.headers


FORGED = 'values\r\n\r\nevent: end\r\ndata: {"forged": true}\r\n\r\n'


async def forges(input: Any, run: RunContext) -> Any:
    run.send({"text": FORGED})
    run.send({"a": 1}, FORGED)
    run.send({"a": 1}, "custom", namespace=(FORGED, "x\ry", "x\ny", "\ud800"))
    run.send(FORGED, "values")
    run.set_title(FORGED)
    run.message({"type": "ai", "content": FORGED, "name": FORGED, "id": FORGED})
    raise RuntimeError(FORGED)


async def test_no_break_in_what_an_agent_says_begins_an_event(tmp_path: Path) -> None:
    """Otherwise an agent that passes on what it read would let that text speak in the server's name."""
    settings = Settings(database_url=f"sqlite:///{tmp_path / 'runs.db'}")
    async with (
        open_app(settings, {"forges": forges}) as app,
        httpx.AsyncClient(transport=httpx.ASGITransport(app=app.asgi), base_url="http://localhost") as http,
    ):
        asked = {"assistant_id": "forges", "input": {}, "stream_mode": ["values", "custom", "messages", FORGED]}
        refused = await http.post("/runs/stream", json=asked)
        assert refused.status_code == 422
        asked["stream_mode"] = ["values", "custom", "messages", "messages-tuple", "updates", "debug", "events"]
        asked["stream_subgraphs"] = True
        streams = [
            (await http.post("/runs/stream", json={**asked, "stream_resumable": yes})).text for yes in (True, False)
        ]
    for text in streams:
        assert text
        for line in re.split(r"\r\n|\r|\n", text):
            assert re.match(r"(event|data|id|retry): |:|$", line), line
            if line.startswith("data: "):
                assert json.loads(line.removeprefix("data: ")) != {"forged": True}
