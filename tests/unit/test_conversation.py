"""What an agent's thread had said before a run, and what a run that does not finish leaves there."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from trackside.harness.agents.conversation import conversation_before, unfinished_values

BEFORE = [{"says": "hello", "run_id": "r0"}, {"says": "hi"}]
BROUGHT = [{"says": "charge it", "run_id": "r1"}, {"says": "looked up", "run_id": "r1"}]


def run(values: Any, run_id: str = "r2", retry_of: str | None = "r1") -> Any:
    return SimpleNamespace(values=values, run_id=run_id, retry_of=retry_of)


def left_by_an_earlier_version() -> Any:
    return {"said": [*BEFORE, *BROUGHT], "unfinished": "r1"}


def left_now() -> Any:
    return unfinished_values(run({"said": BEFORE}, "r1", None), "said", [*BEFORE, *BROUGHT])


def left_where_the_framework_has_summed_up() -> Any:
    return unfinished_values(run({"said": BEFORE}, "r1", None), "said", [{"says": "a summary"}, *BROUGHT])


@pytest.mark.parametrize("left", [left_now, left_where_the_framework_has_summed_up, left_by_an_earlier_version])
def test_another_attempt_begins_where_the_run_began_whatever_version_has_left_it(left: Any) -> None:
    values = left()
    assert conversation_before(run(values), "said") == BEFORE
    assert conversation_before(run(unfinished_values(run(values), "said", BEFORE), "r3", "r2"), "said") == BEFORE
    for other in (run(values, retry_of=None), run(values, retry_of="r0")):  # these go on with all that is there
        assert conversation_before(other, "said") == values["said"]
