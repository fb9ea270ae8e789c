"""Whoever asks, as graphs find him that were written for LangGraph's server."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


class User(dict[str, Any]):
    """Whoever asks, as LangGraph's `BaseUser` shows him: by attribute and by key; and as JSON says him, a plain object."""

    @property
    def identity(self) -> str:
        """By which name he is known."""
        return str(self.get("identity", ""))

    @property
    def display_name(self) -> str:
        """How he is called."""
        return str(self.get("display_name", self.identity))

    @property
    def is_authenticated(self) -> bool:
        """Whether he has shown who he is."""
        return bool(self.get("is_authenticated", True))

    @property
    def permissions(self) -> Sequence[str]:
        """What he may do."""
        return list(self.get("permissions", ()))

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(name) from None


def user_of(said: Any) -> Any:
    """What is known of a user, as graphs find it."""
    return User(said) if isinstance(said, Mapping) and not isinstance(said, User) else said
