"""The reference of the command line has all commands; `test_generated.py` checks that it says what the parser does."""

from __future__ import annotations

from cli_reference import DOCUMENT


def test_every_command_is_in_it() -> None:
    text = DOCUMENT.read_text(encoding="utf-8")
    for name in ("run", "stats", "top", "db upgrade", "auth create", "parked", "delete"):
        assert f"### `trackside {name}`" in text
