"""A request as the functions of endpoints get it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from trackside.app.server.auth.handlers import Handlers
from trackside.app.server.failures import HttpError
from trackside.app.server.parts import ServerParts
from trackside.app.server.principal import Principal
from trackside.app.server.responses import Receive, Scope, header_of
from trackside.harness.ids import is_uuid
from trackside.harness.types import JsonObject


@dataclass(frozen=True, slots=True)
class Call[B, Q]:
    """One request, read and checked."""

    parts: ServerParts
    principal: Principal
    body: B
    query: Q
    path: Mapping[str, str]
    scope: Scope
    receive: Receive
    handlers: Handlers | None = None
    """Who decides on what, besides ownership; None: nobody."""
    wanted: JsonObject | None = None
    """What the metadata of what this is about must contain; None: no handler has decided, and ownership does."""
    agent: str | None = None
    """For a request that starts a run with a thread's agent: the one that handlers were asked about. No other runs."""
    is_answer: bool | None = None
    """For a run whose input may be an answer: whether handlers were asked about it as one. It starts only as that."""
    limits: JsonObject | None = None
    """For a run that does the same as another: the timeout and the budgets that the other had of its own. No client says
    any."""

    def header(self, name: str) -> str | None:
        """The value of a header; None if it was not sent."""
        value = header_of(self.scope, name.lower().encode())
        return None if value is None else value.decode("latin-1")

    @property
    def thread_id(self) -> str:
        """The thread that the path names.

        Raises:
            HttpError: it is no UUID.
        """
        return self._id("thread_id")

    @property
    def run_id(self) -> str:
        """The run that the path names.

        Raises:
            HttpError: it is no UUID.
        """
        return self._id("run_id")

    @property
    def cron_id(self) -> str:
        """The cron that the path names.

        Raises:
            HttpError: it is no UUID.
        """
        return self._id("cron_id")

    @property
    def root(self) -> str:
        """The prefix under which the app is mounted somewhere; empty if it is not."""
        return str(self.scope.get("root_path", ""))

    @property
    def wants_little(self) -> bool:
        """Whether the client wants no body, where there might be one (`Prefer: return=minimal`)."""
        prefer = self.header("prefer")
        return prefer is not None and "return=minimal" in prefer.replace(" ", "").lower()

    def _id(self, name: str) -> str:
        return uuid_of(self.path[name], name)


def uuid_of(value: str, name: str) -> str:
    """A UUID in the form in which it is kept; clients may write it in capitals.

    Raises:
        HttpError: it is no UUID; `name` is what the client calls it.
    """
    if not is_uuid(value):
        raise HttpError(status=422, detail=f"{name} = {value!r:.80} is not a UUID")
    return value.lower()


def id_of(value: str) -> str:
    """An id of any kind in the form in which it is kept: for a UUID, as `uuid_of`."""
    return value.lower() if is_uuid(value) else value


def is_served(thread_id: str) -> bool:
    """Whether clients can name a thread with this id: one that has capitals stands for another id."""
    return is_uuid(thread_id) and thread_id == thread_id.lower()


def place_name(field: str, said: str) -> str:
    """The name that a client gives for a place in a thread.

    Raises:
        HttpError: no database could hold it.
    """
    if "\0" in said:
        raise HttpError(status=422, detail=f"{field} = {said!r:.120}: it is a text without NUL")
    return said
