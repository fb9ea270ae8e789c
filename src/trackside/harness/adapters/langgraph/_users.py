"""The user who asks, as graphs written for LangGraph's server find them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


class User(dict[str, Any]):
    """The user who asks, as LangGraph's `BaseUser` shows one: by attribute and by key; and as JSON a plain object."""

    @property
    def identity(self) -> str:
        """The name by which the user is known."""
        return str(self.get("identity", ""))

    @property
    def display_name(self) -> str:
        """What the user is called."""
        return str(self.get("display_name", self.identity))

    @property
    def is_authenticated(self) -> bool:
        """Whether the user has shown who they are."""
        return bool(self.get("is_authenticated", True))

    @property
    def permissions(self) -> Sequence[str]:
        """What the user may do."""
        return list(self.get("permissions", ()))

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(name) from None


def user_of(said: Any) -> Any:
    """What is known of a user, as graphs find it."""
    return User(said) if isinstance(said, Mapping) and not isinstance(said, User) else said
