"""Loads what settings name, as a program of its own, so that whatever its code does happens there.

    python -m trackside.app.wiring.try_loading NAME REFERENCE

ends with 0 if REFERENCE is an agent, and else with 1, saying why on the last line of standard error.
"""

from __future__ import annotations

import sys

from trackside.app.settings import Settings
from trackside.app.wiring.agents import AgentReference, load_agent
from trackside.app.wiring.redaction import load_redaction
from trackside.harness.errors import TracksideError

REDACTION = ":redact"
"""The NAME under which REFERENCE is a redaction hook; no agent has a colon in its name."""


def main(name: str, reference: str) -> int:
    """Load it."""
    try:
        if name == REDACTION:
            load_redaction(Settings(redact=reference))
        else:
            load_agent(AgentReference.parse(name, {name: reference}))
    except TracksideError as exc:
        why = exc.details.get("cause", exc.details.get("why", exc))
        sys.stderr.write(f"\n{' '.join(str(why).split())}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
