"""The reference of the command line has all commands; `test_generated.py` checks that it says what the parser does."""

from __future__ import annotations

import re

import pytest
from cli_reference import DOCUMENT

from trackside.app.settings.variables import NO_SETTINGS

TEXT = DOCUMENT.read_text(encoding="utf-8")


def test_every_command_is_in_it() -> None:
    for name in ("run", "stats", "top", "db upgrade", "auth create", "parked", "delete"):
        assert f"### `trackside {name}`" in TEXT


@pytest.mark.parametrize("variable", sorted(NO_SETTINGS))
def test_every_variable_that_commands_read_beside_settings_is_in_it(variable: str) -> None:
    assert re.search(rf"\b{variable}\b", TEXT)
