"""Makes, from the settings, what identifies the clients of a server."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from trackside.app.settings import AccessSettings, Settings
from trackside.app.wiring.agents import AgentReference, AgentReferenceError, Wanted, load_object
from trackside.app.wiring.errors import MissingExtraError
from trackside.app.wiring.secrets import secret_in

if TYPE_CHECKING:
    from trackside.app.server.auth import Authenticator
    from trackside.app.storage import Store

_FORM: Final = "it is a function of a request's headers, or an `Auth` of langgraph_sdk"
_STREAMS: Final = 1_000


def authenticator_of(settings: Settings, store: Store) -> Authenticator | None:
    """What identifies clients; None: nobody is asked who they are. May import other people's code, and read files.

    Raises:
        SettingsError: it cannot be made from the settings; the message names the key.
        AgentImportError: the code of its module failed.
        MissingExtraError: it needs a package that is not installed.
    """
    if settings.access.auth == "keys":
        from trackside.app.server.auth.keys import KeyAuthenticator

        _check_unused(settings)
        return KeyAuthenticator(store.api_keys)
    return storeless_authenticator_of(settings)


def storeless_authenticator_of(settings: Settings) -> Authenticator | None:
    """As `authenticator_of`, for what needs no store: None also if clients are asked for API keys."""
    _check_unused(settings)
    match settings.access.auth:
        case "none" | "keys":
            return None
        case "jwt":
            return _tokens(settings)
        case _:
            return _own(settings)


def streams_of(access: AccessSettings) -> int | None:
    """How many streams a client may follow at once."""
    return access.max_streams or (None if access.auth == "none" else _STREAMS)


def _check_unused(settings: Settings) -> None:
    """See that nothing is set that has no effect: whoever sets the key of tokens relies on tokens being asked for."""
    if settings.access.auth == "jwt":
        return
    for key in settings.sources:
        if key.startswith("server.jwt_"):
            raise settings.complaint(key, 'it has no effect without server.auth = "jwt"')


def _tokens(settings: Settings) -> Authenticator:
    access = settings.access
    try:
        from trackside.app.server.auth.tokens import TokenAuthenticator, TokenOptionError, TokenRules
    except ImportError as exc:
        raise MissingExtraError(what='server.auth = "jwt"', package="pyjwt", extra="jwt") from exc
    rules = TokenRules(
        issuer=access.jwt_issuer,
        audience=access.jwt_audience,
        algorithms=access.jwt_algorithms,
        owner=access.jwt_owner,
        permission=access.jwt_permission,
    )
    try:
        key = secret_in(settings, "server.jwt_key", access.jwt_key)
        return TokenAuthenticator.of(rules, key=key, jwks=access.jwt_jwks)
    except TokenOptionError as exc:
        raise settings.complaint(f"server.jwt_{exc.details['option']}", exc.details["why"]) from exc


def _own(settings: Settings) -> Authenticator:
    from trackside.app.server.auth.handlers import UnsuitedHandlerError
    from trackside.app.server.auth.own import OwnAuthenticator, UnsuitedFunctionError

    access = settings.access
    try:
        found = load_object(AgentReference.parse(access.auth, {}), _WANTED)
        return OwnAuthenticator.of(found)
    except AgentReferenceError as exc:
        raise settings.complaint("server.auth", str(exc.details["why"])) from exc
    except (UnsuitedFunctionError, UnsuitedHandlerError) as exc:
        why = str(exc.details["why"])
        said = f" {why[3:]}" if why.startswith("it ") else f": {why}"
        raise settings.complaint("server.auth", f"{access.auth}{said}") from exc


def _is_one(value: Any) -> bool:
    return callable(value) or hasattr(value, "_authenticate_handler")


_WANTED: Final = Wanted(is_one=_is_one, if_there_is_none=f"nothing in it can say who the caller is: {_FORM}")
