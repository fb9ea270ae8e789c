"""Writes docs/reference/errors: a page for each code that ends a message, and one page that lists them."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

import trackside
from trackside.app.cli.actions.explaining import explanations
from trackside.app.server.failures import status_of
from trackside.app.server.responses import CODES
from trackside.harness.errors import TracksideError
from trackside.harness.types import FailureReason

FOLDER: Final = Path(__file__).parents[2] / "docs" / "reference" / "errors"
_WHO: Final = {
    "caller": "whoever called, or typed it",
    "agent": "whoever wrote the agent",
    "observer": "whoever wrote the observer, or runs what it tells",
    "store": "whoever runs the database, the disk or the server",
}
_RUN_BY_OTHERS: Final = re.compile(r"\.(__main__|migrations\.env)$")
_FIELD: Final = re.compile(r"(?<!\{)\{(\w+)[^{}]*\}")


def kinds() -> Mapping[str, type[TracksideError]]:
    """Every error that Trackside raises, by its code.

    Raises:
        ValueError: two errors have the same code.
    """
    for module in pkgutil.walk_packages(trackside.__path__, "trackside."):
        if not _RUN_BY_OTHERS.search(module.name):
            importlib.import_module(module.name)
    found: dict[str, type[TracksideError]] = {}
    for kind in _below(TracksideError):
        if not (kind.__module__.startswith("trackside.") and kind.code and _is_said(kind)):
            continue
        if found.setdefault(kind.code, kind) is not kind:
            raise ValueError(f"{kind} and {found[kind.code]} have one code, {kind.code}: give one of them another")
    return found


def written() -> Mapping[str, str]:
    """The files as they have to be, by name."""
    texts, found = explanations(), kinds()
    pages = {f"{code}.md": _page(code, found.get(code), texts[code]) for code in texts}
    return {"index.md": _index(texts, found), **pages}


def _below(kind: type[TracksideError]) -> Iterator[type[TracksideError]]:
    for one in kind.__subclasses__():
        yield one
        yield from _below(one)


def _is_said(kind: type[TracksideError]) -> bool:
    """Whether it has a sentence of its own, and is not what the server answers under a status's code."""
    return kind.__doc__ not in {None, "{detail}", "{why}"}


def _template(kind: type[TracksideError]) -> str:
    text = _FIELD.sub(lambda found: f"‹{found[1]}›", inspect.cleandoc(kind.__doc__ or ""))
    return text.replace("{{", "{").replace("}}", "}")


def _page(code: str, kind: type[TracksideError] | None, text: str) -> str:
    facts = [f"# {code}\n"]
    if code in {*FailureReason}:
        facts.append(f"The `error_type` of a run that failed: `trackside events` shows it as `{code}: …`.\n")
    elif kind is None:
        status = next(status for status, name in CODES.items() if name == code)
        facts.append(f"HTTP status {status}: the sentence under `detail` says what it is about.\n")
    else:
        facts += [f"> {_template(kind)}\n", "| | |\n|---|---|"]
        facts.append(f"| who has to act | {_WHO[kind.fault]} |")
        facts.append(
            f"| the same once more | {'may succeed later' if kind.retryable else 'fails, until something is changed'} |"
        )
        facts.append(f"| raised | `{kind.__module__}.{kind.__qualname__}` |")
        status = status_of(kind)
        facts.append(f"| over HTTP | {status} |\n")
    return "\n".join([*facts, text]) + "\n"


def _index(texts: Mapping[str, str], found: Mapping[str, type[TracksideError]]) -> str:
    lines = [
        "# Errors\n",
        "A message of Trackside ends with a code, as `[thread-busy]`; what the server answers has it under `code`, and in a",
        "program it is `error.code`. What a run failed of, if it was no exception, is here, too: `error_type` of its end.",
        "`trackside explain thread-busy` says the same as these pages, without a network.\n",
        "| code | message |\n|---|---|",
    ]
    for code in texts:
        kind = found.get(code)
        said = "of the HTTP status" if kind is None else _template(kind).replace("|", "\\|")
        said = "of a run that failed" if code in {*FailureReason} else said
        lines.append(f"| [{code}]({code}.md) | {said} |")
    return "\n".join(lines) + "\n"


def documents() -> dict[Path, str]:
    """The pages."""
    return {FOLDER / name: page for name, page in written().items()}
