"""docs/explain/guarantees.md: every invariant is there, with its limits and tests, and the tests exist."""

import re

import pytest
from named_tests import ROOT, named_in, names_of

TEXT = (ROOT / "docs/explain/guarantees.md").read_text(encoding="utf-8")
SECTIONS = re.findall(r"^### I(\d+): .+?\n(.*?)(?=^##)", TEXT, re.MULTILINE | re.DOTALL)
RULES = re.findall(r"^\| ([A-Z\"“].*?) \|(.*)\|$", TEXT, re.MULTILINE)


def test_every_invariant_is_there_once_and_in_order() -> None:
    assert [int(number) for number, _ in SECTIONS] == list(range(1, 31))


@pytest.mark.parametrize(("number", "section"), SECTIONS, ids=[f"I{number}" for number, _ in SECTIONS])
def test_an_invariant_says_where_it_ends_and_what_holds_it(number: str, section: str) -> None:
    assert re.search(r"^\*Ends where:\* \S", section, re.MULTILINE)
    assert named_in(section)


def test_every_rule_of_runs_names_what_holds_it() -> None:
    assert len(RULES) == 7
    assert all(named_in(tests) for _, tests in RULES)


@pytest.mark.parametrize(("path", "name"), dict.fromkeys(named_in(TEXT)), ids=lambda part: part.rpartition("/")[2])
def test_a_test_that_is_named_is_there(path: str, name: str) -> None:
    assert name in names_of(path)


def test_what_may_be_named_runs_with_every_change() -> None:
    names = names_of("tests/crash/coordination/test_coordinator_kill.py")
    assert names == {
        "test_a_process_that_is_killed_leaves_nothing_undone_and_nothing_twice"
    }  # no `long` test, no helper
    assert not names_of("tests/crash/server/test_server_resources.py"), "all of it is long"
