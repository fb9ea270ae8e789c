"""Checks whether what settings name could be opened, with the parts that open it, but without opening it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from trackside.app.settings import Settings
from trackside.app.wiring.access import storeless_authenticator_of
from trackside.app.wiring.checkpointers import check_saver
from trackside.app.wiring.database import blaming
from trackside.app.wiring.fleet import check_engine_access
from trackside.app.wiring.observers import build_observers, close_at_once
from trackside.app.wiring.projects import enter_project
from trackside.app.wiring.redaction import load_redaction


def check_app(settings: Settings, agents: Mapping[str, Any]) -> None:
    """See that `open_app` would open these agents, and its server know who asks, as far as that can be told beforehand.

    Observers are made and closed; the database is looked at, and neither made nor changed. Blocks; call it where no
    event loop is running.

    Raises:
        SettingsError, AgentImportError, MissingExtraError, StorageError: what `open_app` would raise.
    """
    from trackside.app.storage.maintenance import check_usable

    enter_project(settings)
    load_redaction(settings)
    close_at_once({one.name: one.observer for one in build_observers(settings)})
    with blaming(settings):
        check_usable(settings.database_url)
    check_saver(settings, agents)
    check_engine_access(settings)
    storeless_authenticator_of(settings)
