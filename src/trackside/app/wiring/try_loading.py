"""Loads what settings name, as a program of its own, so that whatever its code does happens there.

    python -m trackside.app.wiring.try_loading NAME REFERENCE

ends with 0 if REFERENCE is an agent, with `FORGETFUL` if it is one that forgets its threads, and otherwise with 1,
saying why on the last line of standard error. Observers, and what a server needs, are tried as the settings in the
current folder have them, so that no secret is on a command line; a database named by a flag is in the environment, as
`DATABASE_VARIABLE`.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from typing import Any, Final

from trackside.app.settings import Settings, SettingsError, load_settings
from trackside.app.wiring.access import storeless_authenticator_of
from trackside.app.wiring.agents import AgentReference, forgets, load_agent
from trackside.app.wiring.guests import check_guest, load_guest
from trackside.app.wiring.observers import build_observer, close_at_once
from trackside.app.wiring.projects import enter_project
from trackside.app.wiring.redaction import load_redaction
from trackside.app.wiring.secrets import webhook_secret_of
from trackside.harness.errors import TracksideError

REDACTION = ":redact"
"""The NAME under which REFERENCE is a redaction hook; no agent has a colon in its name."""
OBSERVER = ":observer"
"""The NAME under which REFERENCE is what an observer of the settings is called."""
SETTING = ":setting"
"""The NAME under which REFERENCE is one of `SETTINGS`."""
SETTINGS: Final[Mapping[str, Callable[[Settings], Any]]] = {
    "server.auth": storeless_authenticator_of,
    "server.app": lambda settings: check_guest(settings, load_guest(settings)),
    "server.webhook_secret": webhook_secret_of,
}
"""Settings without which a server does not start, by their keys, and what checks whether they will do."""
DATABASE_VARIABLE: Final = "_TRACKSIDE_DATABASE_URL"
"""Has the database of `--database`, without which the settings of a fleet may be invalid; unset if none was typed."""
FORGETFUL: Final = 3
BEHIND_PLACE = "\t"
"""What comes after the place of such a setting, and before why it will not do."""


def main(name: str, reference: str) -> int:
    """Load it."""
    try:
        settings = load_settings({"database.url": os.environ.pop(DATABASE_VARIABLE, None)})
        enter_project(settings)
        if name == REDACTION:
            load_redaction(Settings(redact=reference))
        elif name == OBSERVER:
            _build(reference, settings)
        elif name == SETTING:
            return _try_setting(reference, settings)
        else:
            return _load(name, reference, settings)
    except TracksideError as exc:
        return _failed(exc if name == OBSERVER else _cause(exc))
    return 0


def _cause(exc: TracksideError) -> object:
    return exc.details.get("cause", exc.details.get("why", exc))


def _failed(why: object, place: str = "") -> int:
    sys.stderr.write(f"\n{place}{' '.join(str(why).split())}\n")
    return 1


def _try_setting(key: str, settings: Settings) -> int:
    try:
        SETTINGS[key](settings)
    except SettingsError as exc:  # which may be about another key
        return _failed(exc.details["why"], f"{exc.details['where']}{BEHIND_PLACE}")
    except TracksideError as exc:
        return _failed(_cause(exc), f"{settings.place_of(key)}{BEHIND_PLACE}")
    return 0


def _load(name: str, reference: str, settings: Settings) -> int:
    agent = load_agent(AgentReference.parse(name, {name: reference}), makes_graphs=reference in settings.project.graphs)
    return FORGETFUL if forgets(agent) else 0


def _build(name: str, settings: Settings) -> None:
    """Make it, and close it again: this process does not end before threads of an observer do."""
    for observer in settings.observers:
        if observer.name == name:
            close_at_once({name: build_observer(observer, os.environ).observer})


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
