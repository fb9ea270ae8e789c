"""The authorization handlers of an `Auth` of `langgraph_sdk`: which one decides on a request, and what its answer means.

A handler has the last word. It lets a request go on, refuses it, or says what the metadata of whatever the request is
about have to contain. A handler that fails has refused the request.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final, Literal, Self
from uuid import UUID

from trackside.app.server.auth.calling import Called, Failure
from trackside.app.server.failures import HttpError
from trackside.app.server.principal import Principal
from trackside.app.server.responses import Scope
from trackside.harness.errors import TracksideError
from trackside.harness.foreign.signatures import signature_of
from trackside.harness.types import JsonObject

type Resource = Literal["threads", "assistants", "crons", "store"]
type Action = Literal[
    "create", "create_run", "read", "update", "delete", "search", "put", "get", "list_namespaces"
]  # fmt: skip

_ANY: Final = "*"
_FORBIDDEN: Final = "you may not do this"


class UnsuitedHandlerError(TracksideError, TypeError):
    """An authorization handler cannot be asked: {why}."""

    fault = "caller"


class User:
    """Who asks, for handlers and apps behind ours: what `@auth.authenticate` has returned, by attribute and by key."""

    def __init__(self, principal: Principal) -> None:
        name = principal.identity
        self._said = principal.said
        self._known: dict[str, Any] = {
            "identity": name,
            "display_name": name,
            "is_authenticated": True,
            "permissions": [],
            **principal.user,
        }
        if isinstance(self._said, Mapping):
            self._known = {**self._said, **self._known}

    @property
    def identity(self) -> str:
        """The user's name."""
        return str(self._known["identity"])

    @property
    def display_name(self) -> str:
        """The name to show for the user."""
        return str(self._known["display_name"])

    @property
    def is_authenticated(self) -> bool:
        """Whether the user is known: no handler is asked about one who is not."""
        return True

    @property
    def permissions(self) -> list[str]:
        """What the project's own function lets the user do."""
        return list(self._known["permissions"])

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        if name in self._known:
            return self._known[name]
        return getattr(self._said, name)

    def __getitem__(self, name: str) -> Any:
        if name in self._known or isinstance(self._said, Mapping | str):
            return self._known[name]
        try:
            return getattr(self._said, name)
        except AttributeError:
            raise KeyError(name) from None

    def get(self, name: str, default: Any = None) -> Any:
        """As of a mapping."""
        try:
            return self[name]
        except KeyError:
            return default

    def __contains__(self, name: object) -> bool:
        return name in self._known or (isinstance(name, str) and hasattr(self._said, name))

    def __iter__(self) -> Iterator[str]:
        return iter(self._known)


class Handlers:
    """The handlers of an `Auth`. Made with `of`."""

    def __init__(self, auth: Any, found: Mapping[tuple[str, str], Callable[..., Any]]) -> None:
        self._types = auth.types
        self._found = {key: Called(handler) for key, handler in found.items()}

    @classmethod
    def of(cls, found: Any) -> Self | None:
        """The handlers of an `Auth`; None if it has none, or is no `Auth`.

        Raises:
            UnsuitedHandlerError: one of them cannot be asked.
        """
        listed = {key: handlers[-1] for key, handlers in getattr(found, "_handlers", {}).items() if handlers}
        if everywhere := getattr(found, "_global_handlers", ()):
            listed[_ANY, _ANY] = everywhere[-1]
        for (resource, action), handler in listed.items():
            _check(handler, f"@auth.on.{resource}.{action}".replace(f".{_ANY}", ""))
        return cls(found, listed) if listed else None

    async def ask(
        self, principal: Principal, scope: Scope, resource: Resource, action: Action, value: dict[str, Any]
    ) -> JsonObject | None:
        """Have the most specific handler decide. It may change the value.

        Returns:
            What the metadata of what is asked about must contain, nothing if all will do; None: no handler decides.

        Raises:
            HttpError: the request is refused, or the handler failed.
        """
        if (handler := self._deciding_on(resource, action)) is None:
            return None
        said = principal.said
        user = said if isinstance(said, self._types.BaseUser) else User(principal)
        permissions = list(principal.user.get("permissions", ()))
        context = self._types.AuthContext(permissions=permissions, user=user, resource=resource, action=action)
        what = f"the authorization handler for {resource}.{action}"
        answer = await handler(what, scope, {"ctx": context, "value": value}, _refusal)
        if answer is None or answer is True:
            return {}
        if answer is False:
            raise HttpError(status=403, detail=_FORBIDDEN)
        try:
            return wanted_by(answer)
        except ValueError as exc:
            raise Failure(f"{what} returned something that cannot be understood: {exc}").answer() from None

    def decide_on(self, resource: Resource, action: Action) -> bool:
        """Whether one of them decides on this."""
        return self._deciding_on(resource, action) is not None

    def _deciding_on(self, resource: Resource, action: Action) -> Called | None:
        keys = ((resource, action), (resource, _ANY), (_ANY, action), (_ANY, _ANY))
        return next((self._found[key] for key in keys if key in self._found), None)


def wanted_by(rules: Any) -> JsonObject:
    """What metadata that fit a handler's filter contain, by the keys of the filter.

    Raises:
        ValueError: it is no such filter. Leaving a part of it out would let callers see what they may not.
    """
    if not isinstance(rules, Mapping):
        raise ValueError(f"a {type(rules).__name__}, which is not a filter, None, True or False")  # noqa: TRY004  # one kind for all
    wanted: JsonObject = {}
    for key, rule in rules.items():
        if not isinstance(key, str):
            raise ValueError("the keys of a filter are texts")  # noqa: TRY004  # as above
        wanted[key] = _wanted(key, rule)
    return wanted


def _wanted(key: str, rule: Any) -> Any:
    if not isinstance(rule, Mapping):
        return _plain(key, rule)
    if len(rule) != 1:
        raise ValueError(f"{key!r} has {len(rule)} operators, and needs one")
    ((operator, value),) = rule.items()
    if operator == "$eq":
        return _plain(key, value)
    if operator == "$contains":
        several = isinstance(value, list | tuple | set | frozenset)
        return [_plain(key, one) for one in value] if several else [_plain(key, value)]
    raise ValueError(f"{key!r} has the operator {operator!r:.80}; there are $eq and $contains")


def _plain(key: str, value: Any) -> Any:
    if isinstance(value, UUID):
        return str(value)
    if value is None or isinstance(value, str | int | float | bool):
        return str(value) if isinstance(value, str) else value
    raise ValueError(f"{key!r} is compared with a {type(value).__name__}, which is no plain value")


def _refusal(exc: AssertionError) -> HttpError:
    return HttpError(status=403, detail=str(exc) or _FORBIDDEN)


def _check(handler: Any, name: str) -> None:
    if not callable(handler):
        raise UnsuitedHandlerError(why=f"{name} cannot be called")
    try:
        parameters = signature_of(handler).parameters
    except (TypeError, ValueError) as exc:
        raise UnsuitedHandlerError(why=f"what {name} takes cannot be found out") from exc
    named = {"ctx", "value"} - parameters.keys()
    if named and not any(one.kind is one.VAR_KEYWORD for one in parameters.values()):
        raise UnsuitedHandlerError(why=f"{name} has to take ctx and value")
