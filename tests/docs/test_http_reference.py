"""The reference of the HTTP surface leaves out no method of LangGraph's clients."""

from __future__ import annotations

import inspect
import json
import subprocess

import pytest
from http_reference import (
    BY_NAME,
    JAVASCRIPT_ONLY,
    PARTS,
    calls_of,
    javascript,
    methods,
)
from langgraph_sdk.client import LangGraphClient, SyncLangGraphClient

from javascript import FOLDER
from javascript import node as installed_node


@pytest.mark.parametrize("method", [*methods()])
async def test_what_a_method_of_the_client_calls_is_there(method: str) -> None:
    missing = [call for call in await calls_of(method) if call not in BY_NAME]
    assert not missing


def test_the_client_has_no_parts_that_are_left_out() -> None:
    parts = {name for name, kind in inspect.get_annotations(LangGraphClient).items() if not name.startswith("_")}
    made = {name for name, value in vars(LangGraphClient(None)).items() if hasattr(value, "http")}  # type: ignore[arg-type]  # it asks for nothing
    assert (parts | made) - {"http"} == set(PARTS)


def test_the_synchronous_client_has_the_same_methods() -> None:
    client = SyncLangGraphClient(None)  # type: ignore[arg-type]  # it asks for nothing
    own = {
        f"{part}.{name}"
        for part in PARTS
        for name, _ in inspect.getmembers(type(getattr(client, part)), callable)
        if not name.startswith("_")
    }
    assert own == set(methods())


LISTING = """
import { Client } from "@langchain/langgraph-sdk";
const client = new Client({ apiUrl: "http://127.0.0.1:9" });
const found = [];
for (const part of PARTS) {
  const above = Object.getPrototypeOf;
  for (let kind = above(client[part]); kind.constructor.name !== "BaseClient"; kind = above(kind)) {
    for (const name of Object.getOwnPropertyNames(kind)) if (name !== "constructor") found.push(`${part}.${name}`);
  }
}
console.log(JSON.stringify(found));
"""


@pytest.mark.timeout(400)  # the client may have to be installed first
def test_the_javascript_client_has_these_methods_and_no_others() -> None:
    node = installed_node()
    code = LISTING.replace("PARTS", json.dumps(PARTS))
    listed = subprocess.run(
        [node, "--input-type=module", "-e", code], cwd=FOLDER, capture_output=True, text=True, check=True
    )
    expected = {javascript(method) for method in methods()} | JAVASCRIPT_ONLY.keys()
    assert set(json.loads(listed.stdout)) == expected
