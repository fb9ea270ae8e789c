"""Whether a JSON value has all that another one has, as PostgreSQL's `@>` means it."""

from __future__ import annotations

from trackside.harness.types import Json

__all__ = ["contains"]


def contains(having: Json, wanted: Json) -> bool:
    """Whether an object has these keys with values that contain those; a list has an element for each that is wanted."""
    if isinstance(wanted, dict):
        return isinstance(having, dict) and all(key in having and contains(having[key], wanted[key]) for key in wanted)
    if isinstance(wanted, list):
        return isinstance(having, list) and all(any(contains(one, other) for one in having) for other in wanted)
    if isinstance(wanted, bool) or isinstance(having, bool):  # to Python, True is 1
        return having is wanted
    return bool(having == wanted)
