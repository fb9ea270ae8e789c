"""The times that mirrors go by, and the statistics that they keep."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class MirrorOptions:
    """Times of mirrors, in seconds."""

    linger: float = 5.0
    """How long a mirror that nobody follows is kept."""
    grace: float = 1.0
    """How long a run's end that the log has waits for what the run's worker may still have said."""
    patience: float = 5.0
    """How long that end waits at most, while such things come."""
    doubt: float = 2.0
    """How long after something else was heard of a thread's run the log is asked how the run has ended."""
    look_every: float = 60.0
    """How often the log is asked whether a thread still exists: the word that it is gone may be lost."""


@dataclass(slots=True)
class MirrorStats:
    """What mirrors have done so far, and how many there are."""

    open: int = 0
    messages: int = 0
    not_understood: int = 0
    """Messages of another version, or of no version."""
    ends_said: int = 0
    """Ends that workers said."""
    ends_logged: int = 0
    """Those that the log had to tell."""
