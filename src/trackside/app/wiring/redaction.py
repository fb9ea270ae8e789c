"""Loads the function that takes out of events what nobody may see."""

from __future__ import annotations

from trackside.app.settings import Settings
from trackside.app.wiring.agents import AgentReference, AgentReferenceError, load_object
from trackside.harness.redaction import Redact, fault_of

_KEY = "runs.redact"
_FORM = "a redaction hook is a function that takes a type of events and a payload, and returns what may be seen of it"


def load_redaction(settings: Settings) -> Redact | None:
    """The hook that the settings name; None if they name none.

    Raises:
        SettingsError: there is no such hook, or it is not a hook.
        AgentImportError: the code of its module failed.
    """
    if settings.redact is None:
        return None
    try:
        hook = load_object(AgentReference.parse(settings.redact, {}))
    except AgentReferenceError as exc:
        raise settings.complaint(_KEY, str(exc.details["why"])) from exc
    if (why := fault_of(hook)) is not None:
        raise settings.complaint(_KEY, f"{settings.redact} {why}; {_FORM}")
    found: Redact = hook
    return found
