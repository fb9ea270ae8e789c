"""Why what a client sent does not fit: which field, what it has to be, and what it is."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from trackside.app.server.failures import HttpError
from trackside.app.server.misfits import misfit
from trackside.app.server.reading import query_of
from trackside.app.server.wire.protocol import EventsWanted
from trackside.app.server.wire.runs import RunCreate, RunsQuery

ALL = "assistant_id, input, command, "


@pytest.mark.parametrize(
    ("kind", "sent", "said"),
    [
        (RunCreate, {"inptu": 1, "assistant_id": "a"}, f"there is no field 'inptu'; did you mean input? There are {ALL}"),
        (RunCreate, {"assistant_id": "a", "command": {"resum": 1}}, "there is no field 'resum' in command; did you mean"),
        (RunCreate, {}, "assistant_id is missing"),
        (RunCreate, {"assistant_id": "a", "ttl": {}}, "ttl.ttl is missing"),
        (RunCreate, {"assistant_id": 3}, "assistant_id has to be a text, and is 3"),
        (RunCreate, {"assistant_id": "a", "stream_mode": "valeus"}, "stream_mode = 'valeus' is not known; did you mean"),
        (RunCreate, {"assistant_id": "a", "stream_mode": ["values", "x"]}, "stream_mode[1] = 'x' is not known; there are"),
        (RunCreate, {"assistant_id": "a", "stream_mode": 7}, "stream_mode has to be a text, a list or null, and is 7"),
        (RunCreate, {"assistant_id": "a", "after_seconds": "soon"}, "after_seconds has to be a number or null, and is 's"),
        (RunCreate, {"assistant_id": "a", "ttl": -1}, "ttl has to be a number of more than 0.0, and is -1"),
        (RunCreate, {"assistant_id": "a", "stream_subgraphs": {}}, "stream_subgraphs has to be true or false or null"),
        (RunCreate, {"assistant_id": "a", "interrupt_before": [1]}, "interrupt_before[0] has to be a text, and is 1"),
        (RunCreate, [1], "the body has to be an object, and is a list"),
        (EventsWanted, {"channels": ["values"] * 101}, "channels has to be a list with 100 at most, and is a list"),
        (EventsWanted, {"channels": ["values"], "since": 1.5}, "since has to be "),
    ],
)  # fmt: skip
def test_a_body_that_does_not_fit_is_told_in_a_sentence(kind: Any, sent: Any, said: str) -> None:
    with pytest.raises(msgspec.ValidationError) as refused:
        msgspec.json.decode(msgspec.json.encode(sent), type=kind)
    assert misfit(refused.value, kind, sent).startswith(said)


@pytest.mark.parametrize(
    ("query", "said"),
    [
        (b"limit=ten", "limit has to be a whole number, and is 'ten'"),
        (b"limit=5000", "limit has to be a whole number of 1000 at most, and is '5000'"),
        (b"limt=5", "there is no query parameter 'limt'; did you mean limit? There are limit, offset, status, select"),
        (b"status=done", "status = 'done' is not known; there are error, interrupted, pending, "),
        (b"select=run_id&select=runs", "select[1] = 'runs' is not known; did you mean run_id? There are "),
        (b'select=["run_id","runs"]', "select[1] = 'runs' is not known; did you mean run_id? There are "),
        (b'select=["run_id"', "select[0] = '[\"run_id\"' is not known; "),
        (b"select=[1]", "select[0] = '[1]' is not known; "),
    ],
)
def test_a_query_that_does_not_fit_is_told_in_a_sentence(query: bytes, said: str) -> None:
    with pytest.raises(HttpError) as refused:
        query_of({"query_string": query}, RunsQuery)
    assert refused.value.details["detail"].startswith(said)
