"""What is secret is found in texts that others wrote, however they write it."""

import html
import json
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
