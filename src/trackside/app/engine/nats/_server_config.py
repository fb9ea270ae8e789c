"""A configuration of nats-server for a fleet: TLS, users with roles, and no more rights than each role needs."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from trackside.app.engine.nats._names import Names, is_token, user_token

__all__ = ["NatsUser", "ServerTls", "server_config"]

type UserRole = Literal["server", "worker", "admin"]


@dataclass(frozen=True, slots=True, kw_only=True)
class NatsUser:
    """A user who may connect, with a password or the public key of an nkey.

    Give each worker a user of its own if workers are not to read each other's answers and stops; workers that trust
    each other may share one.
    """

    name: str
    role: UserRole
    password: str | None = field(default=None, repr=False)
    """In clear or (better) in the form that `nats server passwd` writes."""
    nkey: str | None = None
    """The public key, which begins with U; such a user's name in subjects is this key."""
    pools: Sequence[str] = ("default",)
    """For a worker: the pools whose runs it may take."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerTls:
    """How the server proves who it is."""

    certificate: Path
    key: Path
    client_ca: Path | None = None
    """Clients also have to show a certificate of these."""


def server_config(
    users: Sequence[NatsUser],
    *,
    store_dir: Path,
    listen: str = "0.0.0.0:4222",
    tls: ServerTls | None = None,
    prefix: str = "trackside",
    memory_bytes: int = 2**30,
    disk_bytes: int = 10 * 2**30,
) -> str:
    """Make the contents of the configuration file of nats-server.

    Args:
        users: the users who may connect. Nobody else gets anything.
        store_dir: where the work queue is kept.
        listen: address and port.
        tls: how the server proves who it is. None is for a network that nobody else is in.
        prefix: the fleet's prefix, as in `NatsOptions`.
        memory_bytes: for live output; at least what `NatsOptions.live_bytes` says.
        disk_bytes: for the work queue, which takes about 200 bytes for each run that waits.

    Raises:
        ValueError: a user has no way to log in, or a name that cannot be part of a subject.
    """
    names = Names(prefix)
    lines = [
        f"listen: {_text(listen)}",
        f"jetstream {{ store_dir: {_text(store_dir)}, max_memory_store: {memory_bytes}, max_file_store: {disk_bytes} }}",
    ]
    if tls is not None:
        lines += ["tls {", f"  cert_file: {_text(tls.certificate)}", f"  key_file: {_text(tls.key)}"]
        if tls.client_ca is not None:
            lines += [f"  ca_file: {_text(tls.client_ca)}", "  verify: true"]
        lines += ["}"]
    lines += ["accounts {", f"  {prefix.upper()} {{", "    jetstream: enabled", "    users: ["]
    for user in users:
        lines += [f"      {line}" for line in _user(user, names)]
    return "\n".join([*lines, "    ]", "  }", "}", ""])


def _user(user: NatsUser, names: Names) -> list[str]:
    if (user.password is None) == (user.nkey is None):
        raise ValueError(f"user {user.name} has a password or an nkey, one of them")
    for pool in user.pools:
        if not is_token(pool):
            raise ValueError(f"{pool!r} is not the name of a pool")
    login = (
        f"nkey: {_text(user.nkey)}"
        if user.nkey is not None
        else f"user: {_text(user.name)}, password: {_text(user.password)}"
    )
    publish, subscribe = _rights(user, user_token(user.nkey or user.name), names)
    return [
        "{",
        f"  {login}",
        "  permissions: {",
        "    publish: { allow: [",
        *(f"      {_text(subject)}" for subject in publish),
        "    ] }",
        "    subscribe: { allow: [",
        *(f"      {_text(subject)}" for subject in subscribe),
        "    ] }",
        "  }",
        "}",
    ]


def _rights(user: NatsUser, name: str, names: Names) -> tuple[list[str], list[str]]:
    """What a user may publish to, and subscribe to."""
    runs, live, prefix = names.runs_stream, names.live_stream, names.prefix
    inbox = f"_INBOX.{name}.>"
    match user.role:
        case "admin":
            return [">"], [">"]
        case "server":
            return [
                f"{prefix}.runs.>",  # announce runs
                f"{prefix}.workers.*.*.stop",
                names.roll_call,
                f"{prefix}.live.>",  # the end of a run that no worker has
                f"$JS.API.STREAM.INFO.{runs}",
                f"$JS.API.STREAM.CREATE.{runs}",
                f"$JS.API.STREAM.INFO.{live}",
                f"$JS.API.STREAM.CREATE.{live}",
                f"$JS.API.CONSUMER.INFO.{runs}.*",
                f"$JS.API.CONSUMER.CREATE.{runs}.>",
                f"$JS.API.DIRECT.GET.{live}",  # replay for those who come late
            ], [inbox, names.here("*"), names.asks("*"), f"{prefix}.live.>"]
        case "worker":
            pulls = [
                subject
                for pool in user.pools
                for subject in (
                    f"$JS.API.CONSUMER.INFO.{runs}.{pool}",
                    f"$JS.API.CONSUMER.MSG.NEXT.{runs}.{pool}",
                    f"$JS.ACK.{runs}.{pool}.>",
                    f"$JS.ACK.*.*.{runs}.{pool}.>",  # as later servers name it
                )
            ]
            return [
                *pulls,
                f"{prefix}.live.>",
                names.here(name),
                names.asks(name),
            ], [inbox, f"{prefix}.workers.{name}.*.stop", names.roll_call]


def _text(value: Any) -> str:
    return json.dumps(str(value))
