"""The map of the rooms has all that is in them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import trackside

PACKAGE = Path(trackside.__file__).parent
MAP = (PACKAGE.parent.parent / "ARCHITECTURE.md").read_text(encoding="utf-8")
ROOMS = re.findall(r"```text\n(.*?)```", MAP, re.DOTALL)


@pytest.mark.parametrize("room", ["harness", "app/server", "app/dashboard"])
def test_every_module_of_a_room_has_its_place_on_the_map(room: str) -> None:
    modules = {path.stem for path in (PACKAGE / room).glob("*.py") if not path.stem.startswith("__")}
    named = {word for listed in ROOMS for word in re.findall(r"\w+", listed)}
    assert sorted(modules - named) == []
