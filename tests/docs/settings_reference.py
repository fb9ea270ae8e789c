"""Writes docs/reference/settings.md: every key, as the settings read it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from attributes import said_of_attributes
from blocks import DOCS

from trackside.app.pricing import ModelPrice
from trackside.app.settings import _FLAGS as FLAGS
from trackside.app.settings import (
    AccessSettings,
    EngineSettings,
    ObserverSettings,
    ServerSettings,
    Settings,
    WorkerSettings,
    _keys,
)
from trackside.app.settings._access import ACCESS_KEYS
from trackside.app.settings._observers import _PARSERS as OBSERVER_PARSERS
from trackside.harness.running.ending import StopPolicy
from trackside.harness.types import AgentLimits

DOCUMENT: Final = DOCS / "reference" / "settings.md"
_BEGINNING: Final = """# Every setting

This page lists every key that `trackside.toml` may have, and what else sets it. It is made from the code that reads the
keys. [Settings](../settings.md) explains them in context.

A flag wins over a variable, a variable over the file, and the file over the default. A *time* is a number of seconds,
or has a unit: `250ms`, `30s`, `5m`, `2h`, `3d`. *Bytes* are a number, or have a unit: `64KB`, `16MB`, `2GB`. In a
variable, a *list* has commas.
"""
_ABOUT: Final[Mapping[str, str]] = {
    "database": "Where runs are recorded.",
    "checkpoints": "What keeps the threads of LangGraph graphs.",
    "agents": "The agents, by their names.",
    "limits": "What runs may use: those of every agent, or in `[limits.NAME]` those of one agent.",
    "prices": 'What a model costs, in US dollars for a million tokens: one table `[prices."NAME"]` for each model.',
    "runs": "How runs are executed and stopped.",
    "server": "How `trackside serve` behaves, and who may send it requests.",
    "engine": "How runs get to the processes that execute them.",
    "pools": "The pool whose workers execute the runs of an agent; `default` if the agent is not here.",
    "worker": "How `trackside worker` behaves.",
    "observers": "Who else is told: a table `[[observers]]` for each. Every other key is an option of the observer itself.",
}
_FORMS: Final[Mapping[str, str]] = {
    "parse_text": "text",
    "parse_secret": "text",
    "_text": "text",
    "_named_text": "text",
    "parse_count": "whole number from 1",
    "_concurrency": "whole number from 1 to 10,000",
    "parse_seconds": "time",
    "_heartbeat": "time, longer than 0, at most 30 s",
    "_timeout": "time, longer than 0",
    "_lease": "time from 1 s to 10 min",
    "parse_port": "port",
    "parse_bytes": "bytes",
    "parse_switch": "true or false",
    "_flag": "true or false",
    "_number": "US dollars",
    "_money": "US dollars",
    "_saver": '`"store"` or `"langgraph"`',
    "_order": '`"middleware_first"` or `"auth_first"`',
    "_isolation": '`"none"` or `"process"`',
    "_auth": '`"none"`, `"keys"`, `"jwt"` or a reference to a function',
    "_rate": "text, such as `100/second`",
    "parse_engine": '`"inline"`, `"postgres"` or NATS addresses',
    "_version": "text of at most 128 characters",
    "_file": "the name of a file",
    "parse_pool": "`a` to `z`, `0` to `9`, `_`, `-`",
    "_pools": "list of pools",
    "_list_of.<locals>.parse": "list of texts",
    "parse_headers": "list of texts",
    "_events": "list of event types",
    "_start": '`"now"`, `"beginning"` or a position',
}
_OBSERVER_FORMS: Final[Mapping[str, str]] = {
    "delivery": '`"live"` or `"durable"`',
    "order": '`"log"`, `"run"` or `"none"`',
    "on_failure": '`"park"` or `"block"`',
}


def written() -> str:
    """The document as it has to be."""
    parts = [_BEGINNING]
    for section in _ABOUT:
        title = "[[observers]]" if section == "observers" else f"[{section}]"
        parts += [
            f"## `{title}`\n",
            f"{_ABOUT[section]}\n",
            "| key | value | default | also set by | what for |",
            "|---|---|---|---|---|",
        ]
        parts += [*_rows(section), ""]
    return "\n".join(parts).rstrip() + "\n"


def _rows(section: str) -> Iterator[str]:
    if section == "observers":
        for name, parse in OBSERVER_PARSERS.items():
            form = _OBSERVER_FORMS.get(name) or _FORMS[parse.__qualname__]
            yield _row(name, form, "", "", _said(ObserverSettings, name))
        return
    plain, owned = _keys._PLAIN.get(section, {}), _keys._OWNED.get(section, {})
    for name, parse in plain.items():
        holder, attribute = _holder(section, name)
        default = _shown(getattr(holder, attribute), parse)
        variables = [f"`{_keys.variable_of(_keys.Key(section, None, name))}`"]
        if name in owned:
            variables.append(f"`TRACKSIDE_{section}_NAME_{name}`".upper())
        if f"{section}.{name}" in FLAGS:
            variables.append(f"`{FLAGS[f'{section}.{name}'][1]}`")
        yield _row(name, _FORMS[parse.__qualname__], default, ", ".join(variables), _said(type(holder), attribute))
    for name, parse in owned.items():
        if name not in plain:
            variable = f"`TRACKSIDE_{section}_NAME_{name}`".upper().replace("_`", "`")
            what = _said(ModelPrice, name) if section == "prices" else _said(Settings, section)
            yield _row(name or "NAME", _FORMS[parse.__qualname__], "", variable, what)


def _holder(section: str, name: str) -> tuple[Any, str]:
    """The object with the default of a key, and the name of the attribute there."""
    match section:
        case "database" | "checkpoints":
            return Settings(), f"{section}_{name}"
        case "limits":
            return AgentLimits(), name
        case "runs":
            return (StopPolicy(), name) if name in {"cancel_after", "stuck_after"} else (Settings(), name)
        case "server":
            return (AccessSettings() if name in ACCESS_KEYS else ServerSettings()), name
        case "engine":
            return EngineSettings(), name
        case "worker":
            return WorkerSettings(), name
        case _:
            raise LookupError(f"nobody has said where the defaults of [{section}] are")


def _said(kind: type, attribute: str) -> str:
    """What a key is for, according to the attribute that takes it; a file cannot say None."""
    return said_of_attributes(kind)[attribute].replace("None:", "if not set:")


def _shown(value: Any, parse: Callable[[Any], Any]) -> str:
    """A default as a file would write it."""
    match value:
        case None | ():
            return ""
        case bool():
            return f"`{str(value).lower()}`"
        case int() if parse is _keys.parse_bytes:
            return f"`{value // 1_048_576}MB`"
        case int() | float():
            return f"`{value:g}`"
        case tuple():
            return f"`[{', '.join(f'"{one}"' for one in value)}]`"
        case str():
            return f'`"{value}"`'
        case _:
            raise TypeError(f"nobody knows how to show {value!r}")


def _row(*cells: str) -> str:
    name, *rest = (cell.replace("|", r"\|") for cell in cells)
    return f"| `{name}` | {' | '.join(rest)} |"


def documents() -> dict[Path, str]:
    """The page."""
    return {DOCUMENT: written()}
