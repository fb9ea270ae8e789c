"""What an authenticator is, and what all of them need from a request."""

from __future__ import annotations

from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from typing import Final, Protocol

from trackside.app.server.failures import HttpError
from trackside.app.server.principal import Permission, Principal
from trackside.app.server.responses import Scope, header_of

_BEARER: Final = b"bearer "

PERMISSION_PREFIX: Final = "trackside:"
"""The prefix of our permissions where others keep theirs beside them."""


class Authenticator(Protocol):
    """Identifies clients.

    An authenticator that is cheap to ask, and may later know that somebody is no longer let in, says so with
    `asks_again = True`. Then streams that such a client has begun end, and it is told nothing of the runs that it waits
    for.
    """

    async def __call__(self, scope: Scope) -> Principal:
        """Who asks, by the headers of a request.

        Raises:
            HttpError: the client does not say, or what it says is not true (401), or this cannot be found out now
                (503).
        """
        ...


def path_of(scope: Scope) -> str:
    """The path of a request in this app, wherever it is mounted."""
    path: str = scope["path"]
    root: str = scope.get("root_path", "")
    return path[len(root) :] if root and path.startswith(f"{root}/") else path


def bearer_of(scope: Scope) -> str | None:
    """The token in `Authorization: Bearer …`; None if there is none."""
    value = header_of(scope, b"authorization")
    if value is None or value[: len(_BEARER)].lower() != _BEARER:
        return None
    return value[len(_BEARER) :].strip().decode("latin-1")


def unknown(why: str) -> HttpError:
    """The error for a client that is not known. It says nothing of what the client sent."""
    return HttpError(status=401, detail=why, headers={"WWW-Authenticate": "Bearer"})


def listed(names: object) -> list[str] | None:
    """The texts in `names`: one text with spaces between them, or a list, tuple or set; None if it is none of these."""
    if isinstance(names, str):
        return names.split()
    if isinstance(names, bytes | bytearray | memoryview) or not isinstance(names, Sequence | AbstractSet):
        return None
    return [name for name in names if isinstance(name, str)]


def highest(names: object, *, prefixed: bool) -> Permission | None:
    """The highest of our permissions among names, in a form that `listed` takes; None if there is none.

    With `prefixed`, only names that begin with `trackside:` count, because the others are somebody else's.
    """
    given = listed(names) or ()
    for permission in (Permission.admin, Permission.run, Permission.read):
        if PERMISSION_PREFIX + permission.value in given or (not prefixed and permission.value in given):
            return permission
    return None
