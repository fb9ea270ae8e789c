"""The streams and consumers that a fleet needs, looked for on each connection and made if they are not there."""

from __future__ import annotations

import json
from typing import Any, Final

import msgspec
from nats.aio.msg import Msg

from trackside.app.engine.nats._errors import JetStreamError, NotAllowedError
from trackside.app.engine.nats._link import Link
from trackside.app.engine.nats._options import NatsOptions

__all__ = ["ALREADY_THERE", "NO_STREAM", "JetStream", "api_error", "status_of"]

ALREADY_THERE: Final = 10_077
"""The `err_code` of a message whose subject already has one that is kept."""

_NANOSECONDS: Final = 1_000_000_000
_MOST_PULLS: Final = 100_000
"""How many pulls of workers may wait at once; JetStream's own limit is 512."""
NO_STREAM: Final = 10_059
_NO_CONSUMER: Final = 10_014
_NAME_IN_USE: Final = 10_058


class _Refusal(msgspec.Struct):
    code: int = 0
    err_code: int = 0
    description: str = ""


class _Answer(msgspec.Struct):
    error: _Refusal | None = None
    config: dict[str, Any] = {}
    created: str = ""


_ANSWER: Final = msgspec.json.Decoder(_Answer)


class JetStream:
    """What has to be there for a fleet, with these options."""

    def __init__(self, options: NatsOptions) -> None:
        self._options = options
        self._names = options.names

    async def see_to_runs(self, link: Link) -> None:
        """Make sure of the work queue: one message for each run, until somebody says that it is done.

        A run that is announced again while it is there is refused: exactly that, whatever the time between. With
        message ids and a time window, a run that is ready again soon after it was done would be refused, too, and
        nobody told.

        Raises:
            JetStreamError: it is not there and cannot be made, or is something else.
            NotAllowedError: this process may not look.
            TimeoutError: JetStream does not answer.
            ConnectionError: the connection is lost.
        """
        wanted: dict[str, Any] = {
            "description": "Runs that workers may claim",
            "subjects": [self._names.runs_of("*")],
            "retention": "workqueue",
            "storage": "file",
            "discard": "new",
            "max_msgs_per_subject": 1,
            "discard_new_per_subject": True,
        }
        await self._see_to_stream(link, self._names.runs_stream, wanted, fixed=("retention", "discard_new_per_subject"))

    async def see_to_live(self, link: Link) -> None:
        """Make sure of what was said lately, for those who come late. Raises as `see_to_runs`."""
        options = self._options
        wanted: dict[str, Any] = {
            "description": "What runs said of late",
            "subjects": [f"{self._names.prefix}.live.*.*"],
            "retention": "limits",
            "storage": "memory",
            "discard": "old",
            "max_age": int(options.live_seconds * _NANOSECONDS),
            "max_bytes": options.live_bytes,
            "max_msgs_per_subject": options.live_messages,
            "allow_direct": True,
        }
        await self._see_to_stream(link, self._names.live_stream, wanted, fixed=("allow_direct",))

    async def see_to_pool(self, link: Link, pool: str) -> str:
        """Make sure of the consumer that a pool's workers share; returns when it was made. Raises as `see_to_runs`."""
        stream = self._names.runs_stream
        try:
            answer = await _call(link, f"CONSUMER.INFO.{stream}.{pool}")
        except NotAllowedError:  # then try what else it may
            answer = _Answer(error=_Refusal(err_code=_NO_CONSUMER))
        if answer.error is not None and answer.error.err_code == NO_STREAM:
            await self.see_to_runs(link)
        if answer.error is not None and answer.error.err_code in {NO_STREAM, _NO_CONSUMER}:
            subject = f"CONSUMER.CREATE.{stream}.{pool}.{self._names.runs_of(pool)}"
            answer = await _call(link, subject, self._consumer(stream, pool))
        if answer.error is not None:
            raise _failure(answer.error, stream)
        return answer.created

    def _consumer(self, stream: str, pool: str) -> dict[str, Any]:
        config = {
            "name": pool,
            "durable_name": pool,
            "description": "Workers of a pool",
            "filter_subject": self._names.runs_of(pool),
            "ack_policy": "explicit",
            "ack_wait": int(self._options.ack_wait * _NANOSECONDS),
            "max_deliver": -1,
            "max_ack_pending": -1,
            "max_waiting": _MOST_PULLS,
        }
        return {"stream_name": stream, "config": config, "action": ""}

    async def _see_to_stream(self, link: Link, name: str, wanted: dict[str, Any], *, fixed: tuple[str, ...]) -> None:
        answer = await _call(link, f"STREAM.INFO.{name}")
        if answer.error is not None and answer.error.err_code == NO_STREAM:
            body = wanted | {"name": name, "num_replicas": self._options.replicas}
            answer = await _call(link, f"STREAM.CREATE.{name}", body)
            if answer.error is not None and answer.error.err_code == _NAME_IN_USE:  # somebody else has just made it
                answer = await _call(link, f"STREAM.INFO.{name}")
        if answer.error is not None:
            raise _failure(answer.error, name)
        wrong = [key for key in ("subjects", *fixed) if answer.config.get(key) != wanted[key]]
        if wrong:
            why = (
                f"stream {name} exists with other {', '.join(wrong)} than a fleet needs; delete it, and it is made anew"
            )
            raise JetStreamError(why=why)


async def _call(link: Link, what: str, body: dict[str, Any] | None = None) -> _Answer:
    payload = b"" if body is None else json.dumps(body).encode()
    message = await link.request(f"$JS.API.{what}", payload)
    if status_of(message) == 503:
        raise JetStreamError(why="it is off, has no leader now, or is not ready")
    return _decoded(message)


def api_error(message: Msg) -> tuple[int, str] | None:
    """Why JetStream refuses a message that was published, by `err_code` and in words; None if it has taken it."""
    if status_of(message) == 503:
        return NO_STREAM, "no stream takes it"
    error = _decoded(message).error
    return None if error is None else (error.err_code, error.description)


def status_of(message: Msg) -> int | None:
    """The number of a message that is only a status."""
    if message.data or not message.headers:
        return None
    status = message.headers.get("Status", "")
    return int(status) if status.isdigit() else None


def _decoded(message: Msg) -> _Answer:
    try:
        return _ANSWER.decode(message.data)
    except msgspec.MsgspecError as exc:
        raise JetStreamError(why="its answer cannot be understood") from exc


def _failure(error: _Refusal, name: str) -> JetStreamError:
    return JetStreamError(why=f"{name}: {error.description} (error {error.err_code})", code=error.err_code)
