"""What the clients of a server were told: each thing once an answer said so."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass
class ToldRun:
    """A run that an answer has named."""

    run_id: str
    thread_id: str | None
    """None: it was not said, as of a stateless run's."""
    agent: str
    stateless: bool = False
    webhook: bool = False
    cancelled: bool = False
    """Somebody has asked for that, or started another that stops it."""


@dataclass
class Words:
    """All that clients were told, whatever the server was killed at."""

    runs: dict[str, ToldRun] = field(default_factory=dict)
    asked_again: list[tuple[str, str]] = field(default_factory=list)
    """The runs that one and the same request, made twice with its key, was told."""
    answers: dict[str, Any] = field(default_factory=dict)
    """What those got who waited for a run."""
    tokens: dict[str, str] = field(default_factory=dict)
    """What a run was to give back."""
    ends: dict[str, tuple[str, Any]] = field(default_factory=dict)
    """The last event of those who followed a run to its end, and its data."""
    followed: dict[str, list[int]] = field(default_factory=dict)
    """The numbers that followers of resumable streams have got, by run."""
    threads: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Metadata of threads that were made and changed, as they were last acknowledged."""
    deleted: set[str] = field(default_factory=set)
    """Threads whose removal was acknowledged."""
    unsure: set[str] = field(default_factory=set)
    """Threads that somebody has asked to remove and got no answer."""
    items: dict[str, Any] = field(default_factory=dict)
    """Values of items, by their key; None: it was deleted. Those whose last change got no answer are not here."""
    crons: dict[str, int] = field(default_factory=dict)
    """How many times of theirs have come."""
    graph_tokens: dict[str, list[str]] = field(default_factory=dict)
    """What graphs have acknowledged of each thread, in order."""
    wrong: list[str] = field(default_factory=list)
    """What the clients themselves found wrong."""
    counts: dict[str, int] = field(default_factory=dict)
    """How often each client got to its end."""
