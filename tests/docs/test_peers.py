"""docs/peers.md: every line names tests, and those tests exist."""

import re

import pytest
from named_tests import ROOT, named_in, names_of

ROWS = re.findall(r"^\| (\d+) \|(.*)\|$", (ROOT / "docs/peers.md").read_text(encoding="utf-8"), re.MULTILINE)
NAMED = [(line, path, name) for line, row in ROWS for path, name in named_in(row)]


def test_every_line_is_there_once_and_names_a_test() -> None:
    assert [int(line) for line, _ in ROWS] == list(range(1, 31))
    assert {line for line, _, _ in NAMED} == {line for line, _ in ROWS}


def test_no_line_waits_for_a_part_that_is_there() -> None:
    assert [line for line, row in ROWS if "comes with the" in row] == []


@pytest.mark.parametrize(("line", "path", "name"), NAMED, ids=lambda part: part if part.isdigit() else "")
def test_a_test_that_is_named_is_there(line: str, path: str, name: str) -> None:
    assert (ROOT / path).exists(), f"line {line} names {path}"
    assert name in names_of(path), f"line {line} names {name}, which {path} does not have"


def test_every_test_that_was_written_for_a_line_stands_in_it() -> None:
    path = "tests/integration/runs/test_what_peers_got_wrong.py"
    for name in names_of(path):
        if (found := re.match(r"test_line_(\d+)_", name)) is not None:
            assert (found[1], path, name) in NAMED
