"""The walks through the code in ARCHITECTURE.md name what exists."""

from __future__ import annotations

import re
from importlib import import_module
from typing import Any

import pytest
from blocks import ROOT

TEXT = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")
TITLES = ("One event", "One request", "One run on a fleet")
SECTIONS = dict(re.findall(r"^## (.+?)\n(.*?)(?=^## )", TEXT, re.MULTILINE | re.DOTALL))
WALKS = [SECTIONS[title] for title in TITLES]
NAMED = dict.fromkeys(name for walk in WALKS for name in re.findall(r"`((?:app|harness)(?:\.\w+)+)`", walk))


def named(name: str) -> Any:
    """What a dotted name below `trackside` refers to: a module, or something in one."""
    parts = name.split(".")
    for count in range(len(parts), 0, -1):
        try:
            found: Any = import_module(".".join(("trackside", *parts[:count])))
        except ModuleNotFoundError:
            continue
        for part in parts[count:]:
            found = getattr(found, part)
        return found
    raise AttributeError(name)


@pytest.mark.parametrize("walk", WALKS, ids=TITLES)
def test_a_walk_goes_step_by_step(walk: str) -> None:
    steps = re.findall(r"^(\d+)\. ", walk, re.MULTILINE)
    assert steps == [str(number) for number in range(1, len(steps) + 1)]
    assert len(steps) > 5


@pytest.mark.parametrize("name", NAMED)
def test_what_a_walk_names_is_there(name: str) -> None:
    assert named(name) is not None


def test_what_is_not_there_would_be_noticed() -> None:
    with pytest.raises(AttributeError):
        named("harness.worker.RunWorker.no_such_step")
