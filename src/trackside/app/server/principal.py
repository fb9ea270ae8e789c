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
    """What a request needs. Each includes those before it; for `public`, nobody needs to be known."""

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
    """The caller. `identity` is the name by which the caller owns things; None on a server without authentication."""

    identity: str | None
    permission: Permission
    user: Mapping[str, Any] = field(default_factory=dict)
    """What the project's own function says of the caller, for agents that are made for each call."""
    said: Any = field(default=None, repr=False, compare=False)
    """What that function returned, secrets and all, for the handlers of the same `Auth`. It is kept nowhere."""
    sees_all: bool = False
    """A handler has decided on what the request is about, instead of whose it is."""

    def may(self, needed: Permission) -> bool:
        """Whether the caller may do what needs this."""
        return needed is Permission.public or needed in _INCLUDES.get(self.permission, ())

    @property
    def owner(self) -> str | None:
        """The owner whose threads are all that the caller may see; None: everybody's."""
        return None if self.sees_all or self.permission is Permission.admin else self.identity


ANYBODY = Principal(identity=None, permission=Permission.admin)
"""Who asks a server without authentication."""

NOBODY = Principal(identity=None, permission=Permission.public)
"""A caller who has not said who they are."""

OURS: Final = "trackside.app"
"""In the scope of a request: the app that answers. Under `app` there may be another app that is served with it."""

WITHIN: Final = "trackside.within"
"""In the scope of a request of code in this process (`in_process`), which has no key that could be checked again."""


@dataclass(slots=True)
class Asking:
    """A request while it is answered: which app answers, and who asks."""

    app: Any
    principal: Principal | None
    """None once the request has been answered: a task, say, that it has left behind goes on in nobody's name."""
    is_somebodys: bool
    """Whether this server or an app around it had to know the caller; that counts for what is left behind, too."""


asking: Final[ContextVar[Asking | None]] = ContextVar("trackside_asking", default=None)
"""The request that the calling code belongs to, if that code is no run's."""

keep_to_run(asking, None)

guest_asking: Final[ContextVar[object]] = ContextVar("trackside_guest_asking", default=None)
"""The guest whose middleware the calling code is, or whose request it answers; None: it has to do with no guest."""

keep_to_run(guest_asking, None)


@contextmanager
def from_elsewhere() -> Generator[None]:
    """Around a request that was sent to the server: it belongs to no other request and no guest, whatever its context
    says. Servers may begin it in the context of an earlier request on the same connection, as uvicorn does.
    """
    asked, guest = asking.set(None), guest_asking.set(None)
    try:
        yield
    finally:
        guest_asking.reset(guest)
        asking.reset(asked)
