"""Every page tells the browser what may run in it, including the pages of errors, of the sign-in and of the API."""

from __future__ import annotations

from typing import Any

import httpx

from trackside.app import dashboard
from trackside.app.server.routing import EVENT_STREAM, all_endpoints

PAGES = [
    one.path
    for one in all_endpoints(dashboard.GROUPS)
    if one.method == "GET" and one.media_type != EVENT_STREAM and "/static/" not in one.path
]


def policy_of(answer: httpx.Response) -> dict[str, list[str]]:
    said = answer.headers["content-security-policy"]
    return {name: values for name, *values in (part.split() for part in said.split(";"))}


def test_every_page_says_what_may_run_in_it(place: Any) -> None:
    """`tests/acceptance/console/test_console_security.py` checks what a browser makes of it."""
    assert len(PAGES) > 12
    with httpx.Client(base_url=place.url) as http:
        for path in (*PAGES, "/docs", "/ui/nowhere", "/ui/runs?since=x", "/ui/runs/%00"):
            for headers in (place.headers(), place.headers("read"), {}):
                answer = http.get(path.replace("{assistant_id}", "echo"), headers=headers)
                if not answer.headers.get("content-type", "").startswith("text/html"):
                    continue
                policy = policy_of(answer)
                scripts = policy.get("script-src", policy["default-src"])
                assert set(scripts) <= {"'self'", "'none'"}, (path, scripts)
                assert policy["base-uri"] == ["'none'"], path
                assert policy["frame-ancestors"] == ["'none'"], path
                assert set(policy["form-action"]) <= {"'self'", "'none'"}, path
                assert not [
                    one for values in policy.values() for one in values if "unsafe" in one or one in {"*", "https:"}
                ]
                assert answer.headers["x-content-type-options"] == "nosniff", path
                assert answer.headers["referrer-policy"] in {"no-referrer", "same-origin"}, path
                assert answer.headers["cache-control"] == "no-store", path


def test_what_is_no_page_is_taken_for_none(place: Any) -> None:
    """An API answer opened in a browser runs nothing, whatever somebody has written into it."""
    hostile = {"assistant_id": "echo", "input": {"a": "<script>alert(1)</script>"}}
    with httpx.Client(base_url=place.url, headers=place.headers()) as http:
        for answer in (
            http.post("/runs/wait", json=hostile),
            http.get("/runs"),
            http.get("/metrics"),
            http.get("/nothing"),
        ):
            assert answer.headers["content-type"].partition(";")[0] in {"application/json", "text/plain"}
            assert policy_of(answer) == {"default-src": ["'none'"], "frame-ancestors": ["'none'"]}
            assert answer.headers["x-content-type-options"] == "nosniff"
