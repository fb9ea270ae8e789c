"""Clients whom one of the user's functions identifies, or an `Auth` of `langgraph_sdk` with such a function."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, Self, override
from urllib.parse import parse_qsl

from starlette.requests import Request
from starlette.routing import Match

from trackside.app.server.auth.authenticator import highest, listed, path_of, unknown
from trackside.app.server.auth.calling import Called
from trackside.app.server.auth.handlers import Handlers
from trackside.app.server.failures import FAILED, HttpError
from trackside.app.server.principal import OURS, Permission, Principal
from trackside.app.server.responses import Scope
from trackside.harness.errors import TracksideError
from trackside.harness.foreign.signatures import signature_of
from trackside.harness.payload import canonical

logger = logging.getLogger("trackside.server")

_LONGEST_IDENTITY: Final = 255
_SECRET: Final = re.compile(
    r"(?i:token|secret|passw|pwd|key|credential|cookie|session|authoriz|bearer|jwt)"
    r"|(?<![A-Za-z])(?i:t?otp)|(?i:otp)(?![A-Za-z])|Totp|Otp|(?<=[a-z])T?OTP"
)
"""In names of what is said of a user and never kept: `totp_seed`, `smsotp`, `mfaOtpCode`; not in `footprint`."""


class UnsuitedFunctionError(TracksideError, TypeError):
    """This cannot say who the caller is: {why}."""

    fault = "caller"


class Headers(dict[bytes, bytes]):
    """The headers of a request, by lower-case names. They are bytes; a look-up by `str` returns a `str`."""

    @override
    def __getitem__(self, name: Any) -> Any:
        if isinstance(name, str):
            return super().__getitem__(name.lower().encode("latin-1", "replace")).decode("latin-1")
        return super().__getitem__(name)

    @override
    def get(self, name: Any, default: Any = None) -> Any:
        try:
            return self[name]
        except KeyError:
            return default

    @override
    def __contains__(self, name: object) -> bool:
        return super().__contains__(name.lower().encode("latin-1", "replace") if isinstance(name, str) else name)


def _path_params_of(scope: Scope) -> Mapping[str, Any]:
    """The parameters of the path, which nothing has routed yet."""
    for route in scope[OURS].routes:
        match, child = route.matches(scope)
        if match is not Match.NONE:
            found: Mapping[str, Any] = child.get("path_params", {})
            return found
    return {}


_PARAMETERS: Mapping[str, Callable[[Scope], Any]] = {
    "request": Request,
    "scope": lambda scope: scope,
    "method": lambda scope: scope.get("method"),
    "path": path_of,
    "path_params": _path_params_of,
    "query_params": lambda scope: dict(
        parse_qsl(scope.get("query_string", b"").decode("latin-1"), keep_blank_values=True)
    ),
    "headers": lambda scope: Headers(scope["headers"]),
    "authorization": lambda scope: Headers(scope["headers"]).get("authorization"),
}
"""What a function may ask for by name, as with LangGraph's servers."""


class OwnAuthenticator:
    """Asks the user's function. Made with `of`.

    What the function returns says who asks: a text, a mapping with `identity`, or an object that has one. Whoever it
    knows may start runs, unless `trackside:read`, `trackside:run` or `trackside:admin` among their permissions says
    otherwise. Any other permissions are the user's program's business.
    """

    def __init__(self, function: Callable[..., Any], names: Sequence[str], handlers: Handlers | None = None) -> None:
        self.handlers = handlers
        """The handlers of the same `Auth`, which decide on all that is asked for."""
        self._function = Called(function)
        self._takes = [(name, _PARAMETERS[name]) for name in names]

    @classmethod
    def of(cls, found: Any) -> Self:
        """An authenticator that asks a function, or the handler of an `Auth`.

        Raises:
            UnsuitedFunctionError: it is neither, or asks for something that does not exist.
            UnsuitedHandlerError: its handlers cannot be asked.
        """
        function = _handler_of(found) if hasattr(found, "_authenticate_handler") else found
        if not callable(function):
            raise UnsuitedFunctionError(why="it cannot be called")
        return cls(function, _names_of(function), Handlers.of(found))

    async def __call__(self, scope: Scope) -> Principal:
        given = {name: make(scope) for name, make in self._takes}
        return principal_of(await self._function("the function that says who the caller is", scope, given, _unknown))


def _unknown(exc: AssertionError) -> HttpError:
    return unknown(str(exc) or "you are not known here")


def principal_of(user: Any) -> Principal:
    """Who asks, by what the user's function says of the caller.

    Raises:
        HttpError: it does not say who the caller is, or does not say in a known form what the caller may do.
    """
    if user is None or user is False:
        raise unknown("you are not known here")
    identity = user if isinstance(user, str) else _of(user, "identity")
    if not isinstance(identity, str) or not 0 < len(identity) <= _LONGEST_IDENTITY or "\0" in identity:
        logger.error(
            "the function that says who the caller is returned %s, which has no identity that is a text",
            type(user).__name__,
        )
        raise HttpError(status=500, detail=FAILED)
    if _of(user, "is_authenticated", default=True) is False:
        raise unknown("you are not known here")
    permissions = _of(user, "permissions", default=())
    if (names := listed(permissions)) is None:  # what the caller may do is unknown: ignoring that would let them run
        logger.error(
            "the function that says who the caller is returned permissions that are %s, not a list of texts",
            type(permissions).__name__,
        )
        raise HttpError(status=500, detail=FAILED)
    said = {
        **_kept(user),
        "identity": identity,
        "display_name": _of(user, "display_name", default=identity),
        "is_authenticated": True,
        "permissions": names,
    }
    permission = highest(names, prefixed=True) or Permission.run
    return Principal(identity=identity, permission=permission, user=said, said=user)


def _kept(user: Any) -> Mapping[str, Any]:
    """What else is said of a user, for agents: nothing that looks secret, as each run that the user starts keeps it."""
    if not isinstance(user, Mapping):
        return {}
    plain, _ = canonical({str(name): value for name, value in user.items() if not _SECRET.search(str(name))})
    return _unsecret(plain) if isinstance(plain, dict) else {}


def _unsecret(plain: Any) -> Any:
    """A plain value without whatever looks secret in it, at any depth."""
    if isinstance(plain, dict):
        return {name: _unsecret(value) for name, value in plain.items() if not _SECRET.search(name)}
    return [_unsecret(value) for value in plain] if isinstance(plain, list) else plain


def _of(user: Any, name: str, *, default: Any = None) -> Any:
    if isinstance(user, str):
        return default
    found = user.get(name) if isinstance(user, Mapping) else getattr(user, name, None)
    return default if found is None else found


def _handler_of(auth: Any) -> Callable[..., Any]:
    if auth._authenticate_handler is None:  # noqa: SLF001  # the SDK promises this to servers
        raise UnsuitedFunctionError(why="it has no handler: none is marked with @auth.authenticate")
    handler: Callable[..., Any] = auth._authenticate_handler  # noqa: SLF001
    return handler


def _names_of(function: Callable[..., Any]) -> list[str]:
    try:
        parameters = signature_of(function).parameters.values()
    except (TypeError, ValueError) as exc:
        raise UnsuitedFunctionError(why="what it takes cannot be found out") from exc
    names: list[str] = []
    for parameter in parameters:
        if parameter.kind in {parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL}:
            continue
        if parameter.name in _PARAMETERS and parameter.kind is not parameter.POSITIONAL_ONLY:
            names.append(parameter.name)
        elif parameter.default is parameter.empty:
            why = f"it takes {parameter.name!r}, and may take by name {', '.join(sorted(_PARAMETERS))}"
            raise UnsuitedFunctionError(why=why)
    return names
