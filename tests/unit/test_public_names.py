"""Users can import what they handle from where they are told to."""

import inspect
import re

import trackside
from trackside.harness import errors


def promised_by(public: object) -> set[str]:
    """The errors of the harness that a docstring names under "Raises:": its own, or that of a public method."""
    members = vars(public).items() if inspect.isclass(public) else ()
    documented = [public, *(member for name, member in members if not name.startswith("_"))]
    promises = [(inspect.getdoc(one) or "").partition("Raises:")[2] for one in documented]
    named = {name for promise in promises for name in re.findall(r"^ +(\w+):", promise, re.MULTILINE)}
    return {name for name in named if hasattr(errors, name)}


def test_every_error_that_is_promised_is_there_beside_what_raises_it() -> None:
    promised = {error for name in trackside.__all__ for error in promised_by(getattr(trackside, name))}
    assert {"ThreadBusyError", "RunDepthError", "InvalidUsageError"} <= promised
    assert promised - set(trackside.__all__) == set()
