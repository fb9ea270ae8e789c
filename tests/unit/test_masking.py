"""Secrets are found in texts that others wrote, however they write them."""

import html
import json
import sys
from types import FrameType
from typing import Any
from urllib.parse import quote, quote_plus

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from trackside.app.masking import without_secrets


@given(st.text(min_size=4, alphabet=st.characters(codec="utf-8")))
@example("\\\\\\\\")
@example('pa/ss"wo\\rd')
@example("жук&<>'😀")
def test_a_secret_is_found_as_json_and_html_and_addresses_have_it(secret: str) -> None:
    in_json = json.dumps(secret)[1:-1]
    ways = (
        secret,
        in_json,
        in_json.replace("/", r"\/"),
        html.escape(secret),
        quote(secret, safe=""),
        quote_plus(secret),
    )
    for way in ways:
        assert without_secrets(f"[{way}]", {secret: "\\1"}) == r"[\1]"


@pytest.mark.parametrize("text", ["s3cret", "s3cret&nbsp;t0ken", "s3cret&amp", "S3CRET&t0ken"])
def test_what_is_something_else_stays(text: str) -> None:
    assert without_secrets(text, {"s3cret&t0ken": "…", "s3c": "…"}) == text


@pytest.mark.parametrize(
    "text",
    [
        "Basic c2hv\\/cDp+YQ\\u0026%3C1%3e",  # an address in JSON
        "Basic c2hv\\/cDp&#43;YQ&amp;&lt;1&gt;",  # JSON on a page
        "Basic c2hv\\/cDp%2BYQ&amp;%3c1%3E",  # an address in JSON on a page
        "Basic c2hv%2fcDp+YQ&amp;&lt;1&gt;",  # an address on a page
        "Basic%20c2hv/cDp YQ&<1>",  # read as a form
        "Basic \\u0063\\u0032hv&sol;c&#68;p&plus;%59Q&<1>",
    ],
)
def test_a_secret_is_found_where_one_way_of_writing_is_in_another(text: str) -> None:
    assert without_secrets(f"é\\n&lt;{text}&gt;%C3%A9", {"Basic c2hv/cDp+YQ&<1>": "…"}) == "é\\n&lt;…&gt;%C3%A9"


def test_of_secrets_that_overlap_nothing_is_left() -> None:
    shown = {"token-of-ada": "1", "token": "2", "ada&bob": "3", "bob": "4"}
    assert without_secrets("<token-of-ada&amp;bob> token/ada&bob", shown) == "<1> 2/3"


@pytest.mark.parametrize(
    "text",
    [r"\ud83d\uzzzz", r"\ud83d", r"\U00e9", "%ff%bf", "&#99999999;", "&#" + "0" * 5000 + "38;", "&ltsecret;", "%"],
)
def test_what_only_looks_like_an_escape_is_in_nobodys_way(text: str) -> None:
    assert without_secrets(f"{text}s3cret{text}", {"s3cret": "…"}) == f"{text}…{text}"


def test_a_secret_of_whoever_sends_it_is_as_much_work_as_another_however_long_it_is_and_whatever_is_in_it() -> None:
    def work_with(secret: str) -> int:
        calls = []

        def count(frame: FrameType, event: str, arg: Any) -> None:
            calls.append(event)

        before = sys.getprofile()
        sys.setprofile(count)
        try:
            without_secrets("ValueError: a bad token", {secret: "…"})
        finally:
            sys.setprofile(before)
        return len(calls)

    assert work_with("a/ " * 500) == work_with("é&'\\" * 500) == work_with("another")
