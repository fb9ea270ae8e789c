"""What mirrors are told about time, and what they tell of themselves."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class MirrorOptions:
    """Times of mirrors, in seconds."""

    linger: float = 5.0
    """How long a mirror is kept that nobody follows."""
    grace: float = 1.0
    """How long the end of a run that the log has waits for what its worker may still have said."""
    patience: float = 5.0
    """How long it waits at most, while such things come."""
    doubt: float = 2.0
    """After so long the log is asked how a run of a thread has ended of which only something else was heard."""
    look_every: float = 60.0
    """How often the log is asked whether a thread is there still: the word that it is gone may be lost."""


@dataclass(slots=True)
class MirrorStats:
    """What mirrors have done so far, and how many there are."""

    open: int = 0
    messages: int = 0
    not_understood: int = 0
    """Messages of another version, or of none."""
    ends_said: int = 0
    """Ends that workers said."""
    ends_logged: int = 0
    """Those that the log had to tell."""
