"""Loads what settings name, as a program of its own, so that whatever its code does happens there.

    python -m trackside.app.wiring.try_loading NAME REFERENCE

ends with 0 if REFERENCE is an agent, and else with 1, saying why on the last line of standard error. An observer is tried
as the settings in the current folder have it, so that no secret stands on a command line.
"""

from __future__ import annotations

import os
import sys

from trackside.app.settings import Settings, load_settings
from trackside.app.wiring.agents import AgentReference, load_agent
from trackside.app.wiring.observers import build_observer
from trackside.app.wiring.projects import enter_project
from trackside.app.wiring.redaction import load_redaction
from trackside.harness.errors import TracksideError

REDACTION = ":redact"
"""The NAME under which REFERENCE is a redaction hook; no agent has a colon in its name."""
OBSERVER = ":observer"
"""The NAME under which REFERENCE is what an observer of the settings is called."""


def main(name: str, reference: str) -> int:
    """Load it."""
    try:
        if name == REDACTION:
            load_redaction(Settings(redact=reference))
        elif name == OBSERVER:
            _build(reference)
        else:
            _load(name, reference)
    except TracksideError as exc:
        why = exc if name == OBSERVER else exc.details.get("cause", exc.details.get("why", exc))
        sys.stderr.write(f"\n{' '.join(str(why).split())}\n")
        return 1
    return 0


def _load(name: str, reference: str) -> None:
    settings = load_settings()
    enter_project(settings)
    load_agent(AgentReference.parse(name, {name: reference}), makes_graphs=reference in settings.project.graphs)


def _build(name: str) -> None:
    for observer in load_settings().observers:
        if observer.name == name:
            build_observer(observer, os.environ)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
