"""Each page about an observer has a table of exactly its options, with the defaults that they have."""

import importlib
import inspect
import json
import re
from pathlib import Path
from typing import Any

import pytest

from trackside.app.wiring.observer_types import BUILT_IN
from trackside.harness.observer import _METHODS as OF_HARNESS

PAGES = Path(__file__).parents[2] / "docs" / "observers"
PLACES = {known.name: known.place for known in BUILT_IN.values()} | {
    "live": "trackside.app.observers.live:LiveObserver"
}


def options_in(page: str) -> dict[str, str]:
    """The options that the page lists, each with what stands there as its default."""
    text = (PAGES / f"{page}.md").read_text(encoding="utf-8")
    (table,) = re.findall(r"^\| option \|[^\n]*\n\|[-|]+\n((?:\|[^\n]*\n)+)", text, re.MULTILINE)
    rows = [[cell.strip() for cell in row.split("|")[1:-1]] for row in table.splitlines()]
    return {name: default for names, default, *_ in rows for name in re.findall(r"`(\w+)`", names)}


def parameters_of(place: str) -> dict[str, Any]:
    module, _, name = place.partition(":")
    signature = inspect.signature(getattr(importlib.import_module(module), name))
    return {parameter.name: parameter.default for parameter in signature.parameters.values()}


@pytest.mark.parametrize("name", PLACES)
def test_a_page_lists_what_the_constructor_takes(name: str) -> None:
    assert options_in(name).keys() == parameters_of(PLACES[name]).keys()


@pytest.mark.parametrize("name", PLACES)
def test_a_default_that_is_printed_as_a_value_is_the_one_that_it_has(name: str) -> None:
    parameters = parameters_of(PLACES[name])
    for option, printed in options_in(name).items():
        try:
            value = json.loads(printed.strip("`"))
        except ValueError:  # no default, or words about it
            continue
        assert parameters[option] in (value, None), option  # None: the value depends on other options


def test_the_overview_names_all_that_there_are_and_leads_to_their_pages() -> None:
    overview = (PAGES / "README.md").read_text(encoding="utf-8")
    assert set(re.findall(r"^\| \[`(\w+)`\]\(\1\.md\)", overview, re.MULTILINE)) == BUILT_IN.keys()
    pages = {page.name for page in PAGES.glob("*.md")} - {"README.md"}
    assert pages <= set(re.findall(r"\]\((\w+\.md)\)", overview))


def test_the_overview_names_the_methods_that_observers_are_asked_for() -> None:
    overview = (PAGES / "README.md").read_text(encoding="utf-8")
    (listed,) = re.findall(r"An observer may have more methods:\n\n((?:(?:\* |  )[^\n]+\n)+)", overview)
    named = re.findall(r"^\* `(?:async def )?(\w+)\(self", listed, re.MULTILINE)
    assert {"on_event", *named} == {*OF_HARNESS, "aclose", "hear_end", "watch"}
