"""Each code that may end a message is explained, once, on a page of its own."""

from __future__ import annotations

import re
from collections import Counter
from importlib import resources

from error_reference import FOLDER, documents, kinds

from trackside.app.cli.actions.explaining import explanations
from trackside.app.server.responses import CODES
from trackside.harness.types import FailureReason


def test_every_code_is_explained_and_every_explanation_is_of_one() -> None:
    said = {*kinds(), *CODES.values(), *FailureReason}
    assert said == {*explanations()}


def test_no_code_is_explained_twice() -> None:
    files = (resources.files("trackside.app.cli") / "explanations").iterdir()
    times = Counter(code for file in files for code in re.findall(r"^## (\S+)$", file.read_text("utf-8"), re.MULTILINE))
    assert {*times} == {*explanations()}
    assert [code for code, number in times.items() if number > 1] == []


def test_an_explanation_says_what_to_do() -> None:
    assert [code for code, text in explanations().items() if "**What to do:** " not in text] == []


def test_no_page_is_of_a_code_that_there_is_no_more() -> None:
    assert {*FOLDER.glob("*.md")} <= documents().keys()
