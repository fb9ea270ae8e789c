"""Loads the user's own app that is served behind ours, and checks whether it could be served."""

from __future__ import annotations

from typing import Any, Final

from trackside.app.settings import Settings
from trackside.app.wiring.agents import AgentReference, AgentReferenceError, Wanted, load_object
from trackside.harness.foreign.signatures import signature_of

_KEY: Final = "server.app"
_FORM: Final = "it is an ASGI app, as those of Starlette and FastAPI are"
_NEARLY: Final = (
    ", that is called with scope, receive and send; name the app itself and not what makes it, and wrap one of WSGI, as "
    "Flask's: a2wsgi.WSGIMiddleware(app)"
)


def load_guest(settings: Settings) -> Any:
    """The app that the settings name; None if they name none.

    Raises:
        SettingsError: there is no such app, or it is not an app.
        AgentImportError: the code of its module failed.
    """
    name = settings.server.app
    if name is None:
        return None
    try:
        app = load_object(AgentReference.parse(name, {}), _WANTED)
    except AgentReferenceError as exc:
        raise settings.complaint(_KEY, str(exc.details["why"])) from exc
    if not _is_one(app):
        hint = _NEARLY if callable(app) else ""
        raise settings.complaint(_KEY, f"{name} is {app!r:.80}; {_FORM}{hint}")
    return app


def check_guest(settings: Settings, app: Any) -> None:
    """See that this app, which `load_guest` gave, could be served, as far as that can be told without its lifespan.

    Raises:
        GuestError: its middleware cannot be made.
    """
    if app is None:
        return
    from trackside.app.server.guest import made

    made(app, {}, name=str(settings.server.app))


def _is_one(value: Any) -> bool:
    """Whether it can be called as ASGI apps are. A WSGI app takes two arguments; what makes an app takes none."""
    if not callable(value) or isinstance(value, type):
        return False
    try:
        signature_of(value).bind("scope", "receive", "send")
    except TypeError:
        return False
    except Exception:  # noqa: BLE001  # a user's object that says nothing of its arguments may be one
        return True
    return True


_WANTED: Final = Wanted(is_one=_is_one, if_there_is_none=f"nothing in it is one: {_FORM}")
