"""An error that cannot say what it is."""

from __future__ import annotations

from typing import override


class UnsayableError(Exception):
    """Its message cannot be read."""

    @override
    def __str__(self) -> str:
        raise RuntimeError("this has no words")
