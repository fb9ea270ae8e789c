"""Who asks, and what he may."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final

from trackside.harness.context import keep_to_run


class Permission(StrEnum):
    """What a request needs. Each includes those before it; `public` nobody needs to be known for."""

    public = "public"
    read = "read"
    run = "run"
    admin = "admin"


_INCLUDES = {
    Permission.read: frozenset({Permission.public, Permission.read}),
    Permission.run: frozenset({Permission.public, Permission.read, Permission.run}),
    Permission.admin: frozenset(Permission),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Principal:
    """Whoever asks. `identity` is the name by which what he makes is his; None where nobody is asked who he is."""

    identity: str | None
    permission: Permission
    user: Mapping[str, Any] = field(default_factory=dict)
    """What the user's own function says of him, for agents that are made for each call."""
    said: Any = field(default=None, repr=False, compare=False)
    """What that function returned, secrets and all, for the handlers that stand beside it. It is kept nowhere."""
    sees_all: bool = False
    """A handler has decided on what the request is about, instead of whose it is."""

    def may(self, needed: Permission) -> bool:
        """Whether he may do what needs this."""
        return needed is Permission.public or needed in _INCLUDES.get(self.permission, ())

    @property
    def owner(self) -> str | None:
        """Whose threads are all that he may see; None: everybody's."""
        return None if self.sees_all or self.permission is Permission.admin else self.identity


ANYBODY = Principal(identity=None, permission=Permission.admin)
"""Who asks a server without authentication."""

NOBODY = Principal(identity=None, permission=Permission.public)
"""Who asks without having said who he is."""

OURS: Final = "trackside.app"
"""In the scope of a request: the app that answers. Under `app` there may be one that is served with it."""

WITHIN: Final = "trackside.within"
"""In the scope of a request of code in this process (`in_process`), which has no key that could be looked at again."""


@dataclass(slots=True)
class Asking:
    """A request while it is answered: by which app, and who asks."""

    app: Any
    principal: Principal | None
    """None once it has been answered: what it has left behind, as a task, goes on in nobody's name."""
    is_somebodys: bool
    """Who asks had to be known, by this server or by an app around it. So that counts for what is left behind, too."""


asking: Final[ContextVar[Asking | None]] = ContextVar("trackside_asking", default=None)
"""The request that the calling code belongs to, if it is no run's."""

keep_to_run(asking, None)

guest_asking: Final[ContextVar[object]] = ContextVar("trackside_guest_asking", default=None)
"""The guest whose middleware the calling code is, or answers a request of; None: it has to do with none."""

keep_to_run(guest_asking, None)


@contextmanager
def from_elsewhere() -> Generator[None]:
    """Around a request that was sent to the server: it belongs to no other one, and to no guest, whatever its context says.
    Servers may begin it in that of an earlier one on the same connection, as uvicorn does.
    """
    asked, guest = asking.set(None), guest_asking.set(None)
    try:
        yield
    finally:
        guest_asking.reset(guest)
        asking.reset(asked)
