"""The endpoints as one page: it loads nothing, works without scripts, and is dark where its reader prefers that."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any, Final

import msgspec

from trackside._version import __version__
from trackside.app.server.openapi import about, document, groups_of
from trackside.app.server.routing import Endpoint

_STYLE: Final = """
:root { color-scheme: light dark; --ink: light-dark(#1b1f24, #e6e8eb); --soft: light-dark(#5b6470, #9aa4b0);
  --line: light-dark(#dfe3e8, #2c323a); --card: light-dark(#fff, #171b20); --page: light-dark(#f6f7f9, #0f1216);
  --code: light-dark(#f1f3f6, #1e242b); --get: light-dark(#1a6dc2, #6db3f8); --post: light-dark(#1c7f4b, #5fce94);
  --put: light-dark(#9a6200, #e2b05a); --delete: light-dark(#b3352c, #f08c84); }
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--ink); font: 15px/1.55 system-ui, sans-serif; }
main { max-width: 62rem; margin: 0 auto; padding: 2.5rem 1.25rem 6rem; }
h1 { font-size: 1.7rem; margin: 0; } h2 { font-size: 1.15rem; margin: 2.5rem 0 .25rem; } h3 { font-size: .8rem;
  color: var(--soft); text-transform: uppercase; letter-spacing: .06em; margin: 1.1rem 0 .3rem; }
p { margin: .3rem 0 .8rem; max-width: 46rem; } a { color: var(--get); }
.soft, nav { color: var(--soft); } nav a { margin-right: 1rem; }
details { background: var(--card); border: 1px solid var(--line); border-radius: 8px; margin: .5rem 0; }
details > div { padding: 0 1rem 1rem; border-top: 1px solid var(--line); }
summary { cursor: pointer; padding: .6rem 1rem; display: flex; gap: .8rem; align-items: baseline; flex-wrap: wrap; }
summary::marker { content: ""; } summary:focus-visible { outline: 2px solid var(--get); border-radius: 8px; }
code, pre { font: 13px/1.5 ui-monospace, SFMono-Regular, Menlo, monospace; }
pre { background: var(--code); border-radius: 6px; padding: .7rem .9rem; overflow-x: auto; margin: .3rem 0; }
.method { font-weight: 700; min-width: 4.2rem; } .GET { color: var(--get); } .POST { color: var(--post); }
.PUT, .PATCH { color: var(--put); } .DELETE { color: var(--delete); } .what { color: var(--soft); flex: 1 1 16rem; }
.needs { font-size: .75rem; color: var(--soft); border: 1px solid var(--line); border-radius: 99px; padding: 0 .55rem; }
.refused .method, .refused code { opacity: .6; text-decoration: line-through; }
table { border-collapse: collapse; width: 100%; } td, th { text-align: left; vertical-align: top;
  border-top: 1px solid var(--line); padding: .3rem .8rem .3rem 0; } th { color: var(--soft); font-weight: 500; }
td:first-child { white-space: nowrap; }
"""
_HASH: Final = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()

POLICY: Final = (
    f"default-src 'none'; style-src 'sha256-{_HASH}'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
"""What browsers let this page do: use its own style, and nothing else."""


def page_of(endpoints: Sequence[Endpoint], *, root_path: str = "") -> str:
    """The page, as HTML."""
    api = document(endpoints, root_path=root_path)
    groups = groups_of(endpoints)
    links = " ".join(f'<a href="#{_anchor(group)}">{escape(group)}</a>' for group in groups)
    parts = [
        '<!doctype html><html lang="en"><head><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>Trackside API</title><style>{_STYLE}</style></head><body><main>",
        f'<h1>Trackside API <span class="soft">{escape(__version__)}</span></h1>',
        "<p>LangGraph’s clients speak to this server unchanged; under Log, Records and Subscriptions is what is ours. ",
        f'For programs: <a href="{escape(root_path)}/openapi.json">openapi.json</a>.</p>',
        f"<nav>{links}</nav>",
    ]
    for group, what in groups.items():
        parts.append(f'<h2 id="{_anchor(group)}">{escape(group)}</h2><p class="soft">{_prose(what)}</p>')
        parts += [_endpoint(endpoint, api) for endpoint in endpoints if endpoint.group == group]
    return "".join([*parts, "</main></body></html>\n"])


def _endpoint(endpoint: Endpoint, api: Mapping[str, Any]) -> str:
    path = re.sub(r"\{(\w+):\w+\}", r"{\1}", endpoint.path)
    operation = api["paths"][path][endpoint.method.lower()]
    refused = " refused" if endpoint.refuses is not None else ""
    what = endpoint.refuses or endpoint.summary
    body = operation.get("requestBody", {}).get("content", {}).get("application/json", {})
    inside = [
        f"<p>{_prose(about(endpoint))}</p>" if endpoint.refuses is None and about(endpoint) else "",
        _parameters(operation["parameters"]),
        _fields(body.get("schema"), api),
        _example(body.get("example")),
        _answers(operation["responses"], api),
    ]
    return (
        f'<details class="{refused.strip()}" id="{operation["operationId"]}"><summary>'
        f'<span class="method {endpoint.method}">{endpoint.method}</span><code>{escape(path)}</code>'
        f'<span class="what">{_prose(what)}</span><span class="needs">{"501" if refused else endpoint.needs.value}</span>'
        f"</summary><div>{''.join(inside)}</div></details>"
    )


def _parameters(parameters: Sequence[Mapping[str, Any]]) -> str:
    rows = (
        (f"<code>{escape(one['name'])}</code>", escape(one["in"]), _kind(one["schema"]), _note(one))
        for one in parameters
    )
    return _table("Parameters", rows)


def _fields(schema: Mapping[str, Any] | None, api: Mapping[str, Any]) -> str:
    if not schema or "$ref" not in schema:
        return ""
    found = api["components"]["schemas"][_name(schema)]
    needed = found.get("required", ())
    rows = (
        (f"<code>{escape(name)}</code>", _kind(kind), "required" if name in needed else "")
        for name, kind in found.get("properties", {}).items()
    )
    return _table("Body", rows)


def _example(example: Any) -> str:
    if example is None:
        return ""
    text = msgspec.json.format(msgspec.json.encode(example), indent=2).decode()
    return f"<h3>Example</h3><pre>{escape(text)}</pre>"


def _answers(responses: Mapping[str, Any], api: Mapping[str, Any]) -> str:
    def rows() -> Iterable[Sequence[str]]:
        for status, response in responses.items():
            said = api["components"]["responses"][_name(response)] if "$ref" in response else response
            content = next(iter(said.get("content", {}).items()), None)
            kind = (
                "" if content is None else f"{_kind(content[1]['schema'])} <span class=soft>{escape(content[0])}</span>"
            )
            yield f"<code>{status}</code>", escape(said["description"]), kind

    return _table("Answers", rows())


def _table(title: str, rows: Iterable[Sequence[str]]) -> str:
    lines = ["<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows]
    return f"<h3>{title}</h3><table>{''.join(lines)}</table>" if lines else ""


def _note(parameter: Mapping[str, Any]) -> str:
    notes = ["required"] if parameter.get("required") else []
    schema = parameter["schema"]
    if schema.get("default") not in (None, False):
        notes.append(f"default {schema['default']}")
    notes += [said for said in (parameter.get("description"), schema.get("description")) if said]
    return _prose("; ".join(notes))


def _kind(schema: Mapping[str, Any]) -> str:
    """A schema in a few words."""
    if "$ref" in schema:
        return escape(_name(schema))
    if "anyOf" in schema:
        return " or ".join(dict.fromkeys(_kind(kind) for kind in schema["anyOf"] if kind != {"type": "null"}))
    if "enum" in schema:
        return " | ".join(escape(str(value)) for value in schema["enum"])
    if schema.get("type") == "array":
        return f"list of {_kind(schema.get('items', {}))}"
    return escape(str(schema.get("format") or schema.get("type") or "anything"))


def _name(schema: Mapping[str, Any]) -> str:
    return str(schema["$ref"]).rpartition("/")[2]


def _prose(text: str) -> str:
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", escape(text, quote=False))


def _anchor(group: str) -> str:
    return "group-" + re.sub(r"\W+", "-", group.lower())
