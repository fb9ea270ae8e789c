"""The pages that are generated from the code say what it says now."""

from pathlib import Path

import pytest
from blocks import DOCS, ROOT
from generated import MODULES, documents


@pytest.mark.parametrize("module", MODULES, ids=lambda module: module.__name__)
def test_a_page_is_as_the_code_is(module: object) -> None:
    found: dict[Path, str] = module.documents()  # type: ignore[attr-defined]  # each has it
    stale = [
        str(path.relative_to(ROOT))
        for path, text in found.items()
        if not path.exists() or path.read_text(encoding="utf-8") != text
    ]
    assert not stale, "run ./scripts/docs generate"


def test_every_schema_there_is_comes_from_the_code() -> None:
    assert {*DOCS.glob("reference/schema/*")} <= documents().keys()
