"""What functions say of themselves if a name in their annotations exists for type checkers alone."""

import inspect
import sys
from typing import Any

import pytest

from trackside.harness import CallbackObserver, RunStatus, ensure_observer, run_agent
from trackside.harness.foreign import signatures
from trackside.harness.foreign.signatures import annotations_of, signature_of

LATE = """
async def agent(input: Missing, run: RunContext) -> Missing:
    return [input, run.agent]

async def watch(event: Missing) -> None: ...

def make(config: RunnableConfig) -> CompiledStateGraph: ...
"""


class Late:
    """A function as in Python 3.14: its annotations raise when somebody looks at them, unless as text."""

    __name__ = "late"

    @property
    def __annotations__(self) -> Any:  # type: ignore[override]
        raise NameError("name 'Missing' is not defined")

    def __call__(self, config: "Missing", more: "int" = 0, *args) -> "Missing":  # type: ignore[name-defined,no-untyped-def]  # noqa: F821
        ...


@pytest.fixture
def lately(monkeypatch: pytest.MonkeyPatch) -> None:
    """`inspect.signature` as in Python 3.14, for `Late`."""
    found = inspect.signature

    def signature(
        function: Any, *, follow_wrapped: bool = True, annotation_format: str | None = None
    ) -> inspect.Signature:
        if isinstance(function, Late) and annotation_format is None:
            raise NameError("name 'Missing' is not defined")
        return found(function.__call__ if isinstance(function, Late) else function, follow_wrapped=follow_wrapped)

    monkeypatch.setattr(inspect, "signature", signature)
    monkeypatch.setattr(signatures, "_AS_TEXT", {"annotation_format": "text"})


@pytest.mark.usefixtures("lately")
def test_annotations_whose_names_are_not_there_are_text() -> None:
    assert annotations_of(Late()) == {"config": "Missing", "more": "int", "return": "Missing"}
    assert [*signature_of(Late()).parameters] == ["config", "more", "args"]


def test_annotations_are_what_they_are_otherwise() -> None:
    def function(one: int, two: "int" = 5) -> None: ...

    assert annotations_of(function) == {"one": int, "two": "int", "return": None}
    assert signature_of(function) == inspect.signature(function)
    assert annotations_of(print) == annotations_of(5) == {}
    with pytest.raises(TypeError):
        signature_of(5)  # type: ignore[arg-type]


@pytest.mark.skipif(sys.version_info < (3, 14), reason="annotations are evaluated where they are written")
async def test_functions_with_names_for_type_checkers_are_agents_and_observers() -> None:
    made: dict[str, Any] = {}
    exec(LATE, made)
    assert isinstance(ensure_observer(made["watch"]), CallbackObserver)
    result = await run_agent(made["agent"], 5, observer=made["watch"])
    assert (result.status, result.output) == (RunStatus.success, [5, "agent"])
    assert annotations_of(made["make"]) == {"config": "RunnableConfig", "return": "CompiledStateGraph"}
