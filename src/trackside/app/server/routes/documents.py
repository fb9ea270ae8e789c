"""What the endpoints are: for programs, and for people."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from trackside.app.server.docs_page import POLICY, page_of
from trackside.app.server.openapi import document
from trackside.app.server.principal import Permission
from trackside.app.server.responses import Reply, empty
from trackside.app.server.routing import Call, Endpoint, Routes, all_endpoints
from trackside.harness.payload import json_bytes
from trackside.harness.types import JsonObject

routes = Routes("Server")


@routes.get("/openapi.json", Permission.public, answers={200: JsonObject})
async def get_openapi(call: Call[None, None]) -> Any:
    """Get this API as an OpenAPI document."""
    return Reply(_document(call.root))


@routes.get("/", Permission.public, answers={307: None})
async def get_root(call: Call[None, None]) -> Any:
    """Redirect people to the console, or to the page about this API if there is no console.

    An app that is served beside this API has a page of its own there.
    """
    return empty(307, {"Location": f"{call.root}{'/ui' if call.parts.options.console else '/docs'}"})


@routes.get("/docs", Permission.public, answers={200: str}, media_type="text/html")
async def get_docs(call: Call[None, None]) -> Any:
    """Show this API as a page."""
    headers = {"Content-Security-Policy": POLICY}
    return Reply(_page(call.root), content_type="text/html; charset=utf-8", headers=headers)


@lru_cache(8)
def _document(root_path: str) -> bytes:
    return json_bytes(document(_endpoints(), root_path=root_path))


@lru_cache(8)
def _page(root_path: str) -> bytes:
    return page_of(_endpoints(), root_path=root_path).encode()


def _endpoints() -> list[Endpoint]:
    from trackside.app.server.routes import GROUPS  # which has this module's, too

    return all_endpoints(GROUPS)
