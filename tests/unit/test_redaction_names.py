"""The redaction hook and names: those of models, tools, callers and errors are as it leaves them, or are withheld."""

import copy
import json
from typing import Any

import pytest
from tests.unit.redaction_hooks import SECRET, empty, none, nonsense, raises

from trackside.harness import LifecycleEventType, Redact
from trackside.harness.redaction import redacted

DATA = {
    "calls": [
        {"kind": "chat", "name": f"m {SECRET}", "caller": f"c {SECRET}", "at": 0.0, "seconds": 1.0},
        {"kind": "execute_tool", "name": "t", "caller": "c", "at": 0.5, "seconds": 0.1, "error_type": f"E{SECRET}"},
        {"kind": "chat", "name": "m", "caller": "c", "request_model": f"a {SECRET}", "at": 0.7, "seconds": 0.1},
    ],
    "token_usage_by_model": {f"m {SECRET}": {"total_tokens": 1}, "n": {"total_tokens": 2}},
    "token_usage_by_caller": {f"c {SECRET}": {"total_tokens": 3}},
}
CALLED = ("name", "caller", "request_model", "error_type")


def shown_by(hook: Redact) -> tuple[list[Any], dict[str, Any]]:
    """The names of calls, and the usage by model, in an end that went through the hook."""
    end = {"status": "error", "error_type": "E", "completion_data": copy.deepcopy(DATA)}
    data = redacted(hook, LifecycleEventType.RUN_FAILED, end)["completion_data"]
    bare = [{key: value for key, value in call.items() if key not in CALLED} for call in data["calls"]]
    assert bare == [{key: value for key, value in call.items() if key not in CALLED} for call in DATA["calls"]]
    return [[call[key] for key in CALLED if key in call] for call in data["calls"]], data["token_usage_by_model"]


def test_names_of_models_tools_callers_and_errors_are_as_the_hook_leaves_them() -> None:
    names, usage = shown_by(lambda kind, payload: json.loads(json.dumps(payload).replace(SECRET, "▇")))
    assert names == [["m ▇", "c ▇"], ["t", "c", "E▇"], ["m", "c", "a ▇"]]
    assert usage == {"m ▇": {"total_tokens": 1}, "n": {"total_tokens": 2}}


def change(part: str, value: Any) -> Redact:
    return lambda kind, payload: {**payload, "completion_data": {**payload["completion_data"], part: value}}


@pytest.mark.parametrize(
    "usage",
    [
        {"▇": {"total_tokens": 2}},
        {},
        None,
        {"n": {"total_tokens": 2}, "▇": {"total_tokens": 1}},
        {"▇": {"total_tokens": 9}, "n": {"total_tokens": 2}},
    ],
    ids=["one name for two", "all taken out", "no mapping", "another order", "other numbers"],
)
def test_where_it_is_not_clear_whose_usage_is_whose_names_are_withheld(usage: Any) -> None:
    _, shown = shown_by(change("token_usage_by_model", usage))
    assert shown == {"(withheld) 1": {"total_tokens": 1}, "(withheld) 2": {"total_tokens": 2}}


@pytest.mark.parametrize("calls", [[], None, [5, 5], [{"at": 0.5}, {"at": 0.0}]], ids=repr)
def test_calls_that_the_hook_takes_out_stay_without_their_names(calls: Any) -> None:
    names, _ = shown_by(change("calls", calls))
    assert names == [["(withheld)"] * 2, ["(withheld)"] * 3, ["(withheld)"] * 3]


def without(*parts: str) -> Redact:
    """A hook that removes parts of what a run used and said, and leaves the rest as it is."""

    def hook(kind: LifecycleEventType, payload: Any) -> Any:
        data = {name: part for name, part in payload["completion_data"].items() if name not in parts}
        return {**payload, "completion_data": data}

    return hook


def without_all(kind: LifecycleEventType, payload: Any) -> Any:
    del payload["completion_data"]
    return payload


@pytest.mark.parametrize("hook", [raises, none, empty, nonsense, without(*DATA), without_all])
def test_names_are_withheld_where_the_hook_failed_or_left_nothing(hook: Any) -> None:
    names, usage = shown_by(hook)
    assert names == [["(withheld)"] * 2, ["(withheld)"] * 3, ["(withheld)"] * 3]
    assert usage == {"(withheld) 1": {"total_tokens": 1}, "(withheld) 2": {"total_tokens": 2}}


@pytest.mark.parametrize("part", DATA)
def test_names_are_withheld_in_the_part_that_the_hook_took_out(part: str) -> None:
    end = {"status": "error", "error_type": "E", "completion_data": copy.deepcopy(DATA)}
    seen = redacted(without(part), LifecycleEventType.RUN_FAILED, end)["completion_data"]
    assert SECRET not in repr(seen[part])
    assert {name: seen[name] for name in DATA if name != part} == {name: DATA[name] for name in DATA if name != part}


@pytest.mark.parametrize("hook", [raises, none, empty, nonsense])
def test_the_type_of_an_error_is_withheld_where_the_hook_left_none(hook: Any) -> None:
    end = {"error": "e", "error_type": f"Error of {SECRET}", "completion_data": {}}
    assert redacted(hook, LifecycleEventType.RUN_FAILED, end)["error_type"] == "(withheld)"
