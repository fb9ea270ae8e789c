"""The OpenAPI document and its page describe the endpoints, all of them, and nothing else."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest

from trackside.app.server.docs_page import POLICY
from trackside.app.server.examples import example_of
from trackside.app.server.openapi import document
from trackside.app.server.principal import Permission
from trackside.app.server.routes import GROUPS
from trackside.app.server.routes.documents import _document, _page
from trackside.app.server.routing import Endpoint, all_endpoints

ENDPOINTS = all_endpoints(GROUPS)
API: Any = json.loads(_document("/mounted"))


def name_of(endpoint: Endpoint) -> str:
    return f"{endpoint.method} {endpoint.path}"


def operations() -> dict[str, Any]:
    return {f"{method.upper()} {path}": said for path, item in API["paths"].items() for method, said in item.items()}


def test_every_endpoint_is_in_the_document_and_nothing_else() -> None:
    assert operations().keys() == {name_of(endpoint) for endpoint in ENDPOINTS}
    assert len(ENDPOINTS) == len(operations()), "two endpoints answer the same"


def test_every_operation_has_a_name_of_its_own() -> None:
    names = Counter(said["operationId"] for said in operations().values())
    assert [name for name, times in names.items() if times > 1] == []


def test_every_operation_says_what_it_is_for_and_what_it_answers() -> None:
    for name, said in operations().items():
        assert said["summary"], name
        assert said["responses"], name
    for tag in API["tags"]:
        assert tag["description"], tag


def test_a_batch_is_described_as_the_runs_that_it_is_made_of() -> None:
    body = operations()["POST /runs/batch"]["requestBody"]["content"]["application/json"]["schema"]
    run = API["components"]["schemas"][body["items"]["$ref"].rpartition("/")[2]]
    assert {"assistant_id", "thread_id", "input", "ttl"} <= run["properties"].keys()


def parts_of(said: Any) -> Iterator[Any]:
    yield said
    for part in said.values() if isinstance(said, dict) else said if isinstance(said, list) else ():
        yield from parts_of(part)


def test_what_makers_of_clients_stumble_on_is_not_there() -> None:
    types = [part for part in parts_of(API) if isinstance(part, dict) and isinstance(part.get("type"), str)]
    assert [part for part in types if part["type"] == "array" and not {"items", "prefixItems"} & part.keys()] == []
    fields = [field for part in types for field in part.get("properties", {}).items()]
    assert [name for name, field in fields if field.get("type") == "null"] == []


def test_it_knows_where_it_is_mounted() -> None:
    assert API["servers"] == [{"url": "/mounted"}]


def test_every_reference_leads_somewhere() -> None:
    for reference in re.findall(r'"\$ref":"#/([^"]+)"', _document("").decode()):
        found = API
        for step in reference.split("/"):
            found = found[step]


@pytest.mark.parametrize("endpoint", [one for one in ENDPOINTS if one.body is not None], ids=name_of)
def test_every_body_has_an_example_that_fits(endpoint: Endpoint) -> None:
    example = example_of(endpoint)
    assert example is not None
    msgspec.convert(example, endpoint.body)


def test_what_is_public_asks_for_no_key_and_the_rest_does() -> None:
    for endpoint in ENDPOINTS:
        said, is_public = operations()[name_of(endpoint)], endpoint.needs is Permission.public
        is_open = is_public and endpoint.refuses is None  # a stranger is not told what does not exist, either
        assert (said.get("security") == []) == is_open, name_of(endpoint)
        assert ({"401", "403"} <= said["responses"].keys()) == (not is_open), name_of(endpoint)


def test_what_is_refused_says_why() -> None:
    for endpoint in ENDPOINTS:
        if endpoint.refuses is not None:
            said = operations()[name_of(endpoint)]
            assert endpoint.refuses in said["description"]
            assert "501" in said["responses"]


def test_what_endpoints_fail_with_is_said() -> None:
    answers = {
        "GET /threads/{thread_id}/state": "409",
        "GET /threads/{thread_id}/state/{checkpoint_id}": "409",
        "GET /threads/{thread_id}/history": "409",
        "POST /threads/{thread_id}/copy": "501",
        "POST /runs/{run_id}/retry": "501",
    }
    for name, status in answers.items():
        assert status in operations()[name]["responses"], name


def test_the_page_shows_every_endpoint_and_asks_nobody_for_anything() -> None:
    page = _page("").decode()
    for endpoint in ENDPOINTS:
        assert f'id="{operations()[name_of(endpoint)]["operationId"]}"' in page, name_of(endpoint)
    assert not re.search(r"<script|<img|<link|@import|url\(|https?://|\son\w+=|\sstyle=", page)


def test_a_browser_takes_the_style_of_the_page_and_nothing_else() -> None:
    (style,) = re.findall(r"<style>(.*?)</style>", _page("").decode(), re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    assert f"style-src 'sha256-{digest}'" in POLICY
    assert "default-src 'none'" in POLICY


def test_what_stands_in_a_description_is_no_markup_in_the_page() -> None:
    async def handler(call: Any) -> None:
        """<script>alert(1)</script>"""

    from trackside.app.server.docs_page import page_of

    endpoint = Endpoint(
        method="GET",
        path="/x",
        handler=handler,
        needs=Permission.public,
        group="<b>",
        summary="<script>alert(1)</script>",
    )
    assert document([endpoint])["paths"]["/x"]["get"]["summary"] == "<script>alert(1)</script>"
    assert "<script" not in page_of([endpoint])
    assert "<b>" not in page_of([endpoint])
