"""What can be wrong about NATS."""

from __future__ import annotations

from trackside.harness.errors import TracksideError

__all__ = ["EngineOptionError", "JetStreamError", "NotAllowedError"]


class EngineOptionError(TracksideError, ValueError):
    """engine.{option}: {why}."""

    def __init__(self, *, option: str, why: str) -> None:
        """An option for reaching NATS does not fit; raised before anything is connected.

        Args:
            option: the key in the table `[engine]`.
            why: what is wrong about it. Never the value itself, for it may be a secret.
        """
        super().__init__(option=option, why=why)


class NotAllowedError(TracksideError, code="nats-not-allowed"):
    """NATS does not let this process use {subject}; see docs/nats.md for what each role needs."""

    def __init__(self, *, subject: str) -> None:
        """The user of this process has no right to a subject.

        Args:
            subject: which.
        """
        super().__init__(subject=subject)


class JetStreamError(TracksideError, code="jetstream"):
    """JetStream: {why}."""

    retryable = True

    def __init__(self, *, why: str, code: int = 0) -> None:
        """JetStream does not do what it was asked for.

        Args:
            why: what it said.
            code: its `err_code`; 0 if it said none.
        """
        super().__init__(why=why, code=code)
