"""How runs get from the process that admits them to the one that executes them: `[engine]`, `[worker]`, `[pools]`."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal, cast
from urllib.parse import urlsplit

from trackside.app.settings._values import (
    parse_bytes,
    parse_count,
    parse_port,
    parse_seconds,
    parse_text,
)

type EngineKind = Literal["inline", "postgres", "nats"]
type Isolation = Literal["none", "process"]

DEFAULT_POOL: Final = "default"
ENGINE_FILES: Final = ("credentials", "ca", "certificate", "key")
"""The keys of `[engine]` that name files, all of them for NATS."""

_SCHEMES: Final = ("nats", "tls")
_SHORTEST_LEASE, _LONGEST_LEASE = 1.0, 600.0  # seconds
_MOST_CONCURRENCY = 10_000
_LONGEST_VERSION = 128  # characters
_POOL: Final = re.compile(r"[a-z0-9_-]{1,64}")
_OF_ONE: Final = re.compile(r"\A([a-z0-9+.-]*:?//)(?:([^:@/]*:).*|.*)(?=@)", re.IGNORECASE | re.DOTALL)
_OF_ANY: Final = re.compile(r"(//|\A).*(?=@)", re.DOTALL)


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineSettings:
    """The engine that moves runs between processes, and how it is reached."""

    url: str = field(default="inline", repr=False)
    """`inline`, `postgres`, or where NATS is: `nats://host:4222`, `tls://host:4222`; separate several with commas."""
    credentials: Path | None = None
    """The credentials file with which NATS lets this process in."""
    ca: Path | None = None
    """The certificates from which that of NATS has to descend; None: those that the system trusts."""
    certificate: Path | None = None
    """The certificate that this process shows to NATS, with its `key`."""
    key: Path | None = None
    """The private key of that certificate."""
    agents_version: str | None = None
    """The version of the agents that this process has loaded; None: any worker may execute the runs of any server."""
    lease: float = 15.0
    """How many seconds a silent process is believed to be alive."""

    @property
    def kind(self) -> EngineKind:
        """Which engine this is."""
        return "nats" if "://" in self.url else cast("EngineKind", self.url)

    @property
    def servers(self) -> tuple[str, ...]:
        """The addresses of NATS; none for other engines."""
        return tuple(self.url.split(",")) if self.kind == "nats" else ()

    @property
    def shown(self) -> str:
        """The engine as it may be shown: without passwords and tokens."""
        return ",".join(_OF_ONE.sub(_without_secret, url) for url in self.url.split(","))


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerSettings:
    """How a worker of a fleet behaves."""

    pools: tuple[str, ...] = (DEFAULT_POOL,)
    """The pools whose runs the worker takes."""
    concurrency: int = 16
    """How many runs the worker executes at once; no more than `runs.max_running`, if that is set."""
    host: str = "127.0.0.1"
    """The address at which the worker can be asked how it is doing."""
    port: int | None = None
    """The port for that; 0 is any that is free; None: the worker cannot be asked."""
    isolation: Isolation = "none"
    """Whether each run has a process of its own."""
    memory_limit: int | None = None
    """How many bytes of memory such a process may have."""
    drain: float | None = None
    """How many seconds the worker waits for its runs when a signal tells it to end; None: as long as every process
    does (`runs.shutdown_grace`)."""
    isolated_in: str | None = None
    """The worker of which this process is a part; not a setting, as only that worker knows."""


def _without_secret(found: re.Match[str]) -> str:
    return f"{found[1]}{found[2] or ''}…"


def parse_engine(value: Any) -> str:
    """Which engine: `inline`, `postgres`, or addresses of NATS.

    Raises:
        ValueError: it is not one. The message leaves out what may be a secret.
    """
    text = parse_text(value).strip()
    if text.lower() in {"inline", "postgres"}:
        return text.lower()
    urls = [url.strip() for url in text.split(",")]
    if all(map(_is_nats, urls)):
        return ",".join(urls)
    shown = _OF_ANY.sub(r"\1…", text)
    if text.lower().startswith(("postgres:", "postgresql:", "postgresql+")):
        raise ValueError(f'{shown!r} belongs under [database]; the engine that uses it is "postgres"')
    raise ValueError(f'{shown!r} is not an engine; write "inline", "postgres", "nats://host:4222" or "tls://host:4222"')


def _is_nats(url: str) -> bool:
    try:
        parts = urlsplit(url)
        is_whole = bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:
        return False
    return is_whole and parts.scheme in _SCHEMES and parts.path in {"", "/"} and not (parts.query or parts.fragment)


def parse_pool(value: Any) -> str:
    """The name of a pool.

    Raises:
        ValueError: it is not one.
    """
    if isinstance(value, str) and _POOL.fullmatch(value):
        return value
    raise ValueError(f"{value!r} is not the name of a pool: a to z, 0 to 9, _ and -, at most 64 of them")


def _pools(value: Any) -> tuple[str, ...]:
    listed = [part.strip() for part in value.split(",")] if isinstance(value, str) else value
    if not isinstance(listed, list) or not listed:
        raise ValueError(f'{value!r} is not a list of pools; write ["default", "gpu"]')
    return tuple(dict.fromkeys(map(parse_pool, listed)))


def _lease(value: Any) -> float:
    seconds = parse_seconds(value)
    if not _SHORTEST_LEASE <= seconds <= _LONGEST_LEASE:
        raise ValueError(f"{value!r} is not a time from {_SHORTEST_LEASE:g}s to {_LONGEST_LEASE / 60:g}m")
    return seconds


def _version(value: Any) -> str:
    text = parse_text(value)
    if not 0 < len(text) <= _LONGEST_VERSION or not text.isprintable() or text != text.strip():
        raise ValueError(f"{text!r:.200} is not a version: a text of 1 to {_LONGEST_VERSION} characters on one line")
    return text


def _file(value: Any) -> Path:
    text = parse_text(value)
    if not text or "\0" in text:
        raise ValueError(f"{text!r} is not the name of a file")
    return Path(text)


def _isolation(value: Any) -> str:
    if value not in {"none", "process"}:
        raise ValueError(f'{value!r} is not a kind of isolation; choose "none" or "process"')
    return str(value)


def _concurrency(value: Any) -> int:
    if (number := parse_count(value)) > _MOST_CONCURRENCY:
        raise ValueError(f"{number:,} runs at once are too many for a process; at most {_MOST_CONCURRENCY:,}")
    return number


ENGINE_KEYS: Final[Mapping[str, Callable[[Any], Any]]] = {
    "url": parse_engine,
    **dict.fromkeys(ENGINE_FILES, _file),
    "agents_version": _version,
    "lease": _lease,
}
"""The keys of `[engine]`, and the parser of each."""

WORKER_KEYS: Final[Mapping[str, Callable[[Any], Any]]] = {
    "pools": _pools,
    "concurrency": _concurrency,
    "host": parse_text,
    "port": parse_port,
    "isolation": _isolation,
    "memory_limit": parse_bytes,
    "drain": parse_seconds,
}
"""The keys of `[worker]`, and the parser of each."""
