"""The reference of the command line says what the parser does."""

from __future__ import annotations

from cli_reference import DOCUMENT, written


def test_the_reference_is_as_the_parser_is() -> None:
    stale = "it is stale: run .venv/bin/python tests/docs/cli_reference.py"
    assert written() == DOCUMENT.read_text(encoding="utf-8"), stale


def test_every_command_is_in_it() -> None:
    text = DOCUMENT.read_text(encoding="utf-8")
    for name in ("run", "stats", "top", "db upgrade", "auth create", "parked", "delete"):
        assert f"### `trackside {name}`" in text
