"""How the demo of a stranger fails."""

from __future__ import annotations


class StrangerError(Exception):
    """Something that README.md says did not work; the message says what, and what came instead."""
