"""The query of a request as the values that an endpoint takes: lists, in each form that clients send."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlencode

import pytest

from trackside.app.server.reading import query_of
from trackside.app.server.wire.items import ItemQuery
from trackside.app.server.wire.log import EventQuery
from trackside.app.server.wire.runs import RunsQuery, StreamQuery, ThreadStreamQuery
from trackside.app.server.wire.states import StateQuery
from trackside.app.server.wire.threads import ThreadGet


def read(kind: Any, *given: tuple[str, str]) -> Any:
    return query_of({"query_string": urlencode(given).encode()}, kind)


@pytest.mark.parametrize(
    ("kind", "name", "words"),
    [
        (StreamQuery, "stream_mode", ["values", "custom"]),
        (StreamQuery, "stream_mode", ["values"]),
        (ThreadStreamQuery, "stream_mode", ["run_modes", "lifecycle"]),
        (RunsQuery, "select", ["run_id", "status"]),
        (ThreadGet, "include", ["ttl"]),
        (EventQuery, "type", ["run_failed", "run_completed"]),
    ],
)
def test_a_list_of_words_is_repeated_or_one_json_array(kind: Any, name: str, words: list[str]) -> None:
    repeated = read(kind, *((name, word) for word in words))
    array = read(kind, (name, "[" + ",".join(f'"{word}"' for word in words) + "]"))
    assert getattr(repeated, name) == words
    assert array == repeated


def test_arrays_and_words_are_one_list_and_an_empty_array_is_none() -> None:
    modes = ("stream_mode", "custom"), ("stream_mode", '["values", "updates"]'), ("stream_mode", "[]")
    assert read(StreamQuery, *modes).stream_mode == ["custom", "values", "updates"]
    assert read(RunsQuery, ("select", "[]")).select is None


@pytest.mark.parametrize(
    ("kind", "name", "text", "more"),
    [
        (StreamQuery, "namespace", '["inside"]', ()),
        (StateQuery, "select", '["values.a"]', ()),
        (ItemQuery, "namespace", '["a"]', (("key", "k"),)),
    ],
)
def test_what_may_be_any_text_is_the_text_that_was_sent(kind: Any, name: str, text: str, more: Any) -> None:
    assert getattr(read(kind, (name, text), *more), name) == [text]


def test_what_is_no_list_is_the_text_that_was_sent() -> None:
    assert read(StreamQuery, ("checkpoint_id", '["values"]')).checkpoint_id == '["values"]'
