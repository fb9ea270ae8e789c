"""Which subjects and streams a fleet has, all of them below one prefix."""

from __future__ import annotations

import re
from dataclasses import dataclass
from hashlib import blake2b
from typing import Final

from trackside.app.streams.wire import Topic

__all__ = ["Names", "is_token", "token_of", "user_token"]

NOBODY: Final = "anyone"
"""The user that all who come without a name are."""

_TOKEN: Final = re.compile(r"[A-Za-z0-9_-]{1,64}")


def is_token(text: str) -> bool:
    """Whether a text can stand between two dots of a subject, and be the name of a consumer."""
    return _TOKEN.fullmatch(text) is not None


def token_of(text: str) -> str:
    """A token for an id, which may contain anything: 24 hexadecimal digits, the same for the same id."""
    return blake2b(text.encode("utf-8", "surrogatepass"), digest_size=12).hexdigest()


def user_token(user: str | None) -> str:
    """The name under which a user has subjects of its own: the user's name, if it can be part of one."""
    if user is None:
        return NOBODY
    return user if is_token(user) else token_of(user)


@dataclass(frozen=True, slots=True)
class Names:
    """The subjects and streams of the fleet with this prefix."""

    prefix: str

    @property
    def runs_stream(self) -> str:
        """The work queue."""
        return f"{self.prefix.upper()}_RUNS"

    @property
    def live_stream(self) -> str:
        """The stream of what was said lately."""
        return f"{self.prefix.upper()}_LIVE"

    def run(self, pool: str, run_id: str) -> str:
        """Where a run is announced: a subject of its own, of which the stream keeps one message."""
        return f"{self.prefix}.runs.{pool}.{token_of(run_id)}"

    def runs_of(self, pool: str) -> str:
        """All runs of a pool."""
        return f"{self.prefix}.runs.{pool}.*"

    def live(self, topic: Topic) -> str:
        """What is said on a topic."""
        run = "*" if topic.run_id is None else token_of(topic.run_id)
        return f"{self.prefix}.live.{token_of(topic.thread_id)}.{run}"

    def stop(self, user: str, worker_id: str) -> str:
        """Where a worker that comes as this user is asked to stop runs."""
        return f"{self.prefix}.workers.{user}.{token_of(worker_id)}.stop"

    def here(self, user: str) -> str:
        """Where workers of a user say that they are there."""
        return f"{self.prefix}.workers.{user}.here"

    @property
    def roll_call(self) -> str:
        """Where a server asks workers to say so again."""
        return f"{self.prefix}.rollcall"

    def asks(self, user: str) -> str:
        """Where workers of a user ask servers for what they may not do."""
        return f"{self.prefix}.asks.{user}"

    @property
    def servers(self) -> str:
        """The queue group of the servers, one of which does what a worker asks for."""
        return f"{self.prefix}-servers"
