"""How long threads live, on the wire."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, Struct

type Minutes = Annotated[float, Meta(gt=0, le=52_560_000)]


class Ttl(Struct, forbid_unknown_fields=True):
    """After how many minutes a thread is removed."""

    ttl: Minutes
    strategy: Literal["delete"] = "delete"


def minutes_of(ttl: Ttl | float | None) -> float | None:
    """A time to live in minutes, however it was said."""
    return ttl.ttl if isinstance(ttl, Ttl) else ttl
