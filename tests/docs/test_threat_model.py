"""docs/explain/threat-model.md: each line names what holds it, and everything it names exists."""

import re
from pathlib import Path

import pytest
from named_tests import ROOT, named_in, names_of

TEXT = (ROOT / "docs/explain/threat-model.md").read_text(encoding="utf-8")
ROWS = re.findall(r"^\| (?!what |---)(.+?) \| (.+?) \|(.*)\|$", TEXT, re.MULTILINE)
ATTACKS = sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "tests/security").glob("test_*.py"))


def test_every_attack_names_what_holds_it() -> None:
    assert len(ROWS) > 35
    assert [attack for attack, _, tests in ROWS if not named_in(tests)] == []


@pytest.mark.parametrize(("path", "name"), dict.fromkeys(named_in(TEXT)), ids=lambda part: part.rpartition("/")[2])
def test_a_test_that_is_named_is_there(path: str, name: str) -> None:
    assert name in names_of(path), f"{path} has no {name}"


@pytest.mark.parametrize("path", ATTACKS, ids=lambda path: Path(path).stem)
def test_every_file_of_attacks_stands_in_it(path: str) -> None:
    assert path in {where for where, _ in named_in(TEXT)}
