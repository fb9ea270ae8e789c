"""Asks a running server over HTTP, and says in a sentence what is wrong if that does not work."""

from __future__ import annotations

import asyncio
import json
import os
import shlex
import ssl
from collections.abc import AsyncGenerator, AsyncIterator, Coroutine, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import Any, ClassVar, Final, NoReturn
from urllib.parse import quote, urlsplit

import httpx
import msgspec

from trackside._version import __version__
from trackside.app.cli.arguments import ArgumentError, check_whole, is_whole
from trackside.app.cli.records.protocol import Home
from trackside.harness.errors import Fault, TracksideError
from trackside.harness.payload import with_whole_characters

_SECONDS: Final = 30.0  # the longest that an answer may take
_CONNECTING: Final = 10.0
_KIND: Final = "trackside"
_OPTIONS: Final = ("--url", "--api-key")
_CERTIFICATES: Final = "SSL_CERT_FILE"
_PROXIES: Final = ("all_proxy", "http_proxy", "https_proxy", "no_proxy")
_NO_ENDPOINT: Final = ("there is nothing at ", "Not Found", "it answers ")
"""How a 404 begins when it comes from a server that lacks what is asked for, from an app that is its guest, or from
others that say no more. A missing record has a sentence of its own."""

type Query = Mapping[str, Any]


class RemoteError(TracksideError):
    """The server at {url} {why}."""

    fault: ClassVar[Fault] = "store"


class ServerAwayError(RemoteError):
    """No server answers at {url}: {why}; `trackside serve` starts one."""

    retryable: ClassVar[bool] = True


class ServerTimeoutError(ServerAwayError):
    """The server at {url} did not answer within {seconds:g} s; `trackside doctor --url {url}` says how it is doing."""


class UntrustedServerError(RemoteError):
    """The server at {url} is not trusted: {why}; set SSL_CERT_FILE to the certificate that signed your own."""

    fault: ClassVar[Fault] = "caller"


class NotTracksideError(RemoteError):
    """What answers at {url} is not a Trackside server: {why}; --url is the address that `trackside serve` prints."""

    fault: ClassVar[Fault] = "caller"


class NobodyError(RemoteError, code="key-missing"):
    """The server at {url} wants to know who you are; give a key with --api-key or TRACKSIDE_API_KEY (`trackside auth create NAME` makes one where its database is)."""  # noqa: E501

    fault: ClassVar[Fault] = "caller"


class WrongKeyError(RemoteError):
    """The server at {url} does not let this key in: {why}; give another one with --api-key (`trackside auth list` shows the existing ones where its database is)."""  # noqa: E501

    fault: ClassVar[Fault] = "caller"


class NotAllowedError(RemoteError):
    """The server at {url} does not allow it: {why}; give a key that may with --api-key (`trackside auth create NAME --permission {permission}` makes one where its database is)."""  # noqa: E501

    fault: ClassVar[Fault] = "caller"


class ServerFailedError(RemoteError):
    """The server at {url} could not do it: {why}."""

    retryable: ClassVar[bool] = True


class RefusedError(RemoteError):
    """The server at {url} refuses it: {why}."""

    fault: ClassVar[Fault] = "caller"


class NotThereError(RefusedError, LookupError):
    """The server at {url} does not have it: {why}."""


class OtherVersionError(RemoteError):
    """The server at {url} has version {theirs} and this command {ours}, and they do not understand each other: {why}; use the same version of both."""  # noqa: E501


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer: the bytes of its body, and where the next page is."""

    body: bytes
    headers: Mapping[str, str]


class _Said(msgspec.Struct):
    """What a refusal says; it may come from a server that is not ours."""

    detail: Any = ""
    code: Any = None
    field: Any = None
    why: Any = None

    def coded(self) -> dict[str, str]:
        """The code of the error that the server met, which is shown instead of the code of the refusal."""
        return {"code": self.code} if isinstance(self.code, str) else {}

    @property
    def unfit(self) -> tuple[str, str] | None:
        """Which field of the request does not fit, and why, if the server says so."""
        known = isinstance(self.field, str) and isinstance(self.why, str)
        return (self.field, self.why) if known else None


class _Host(msgspec.Struct):
    kind: str


class _Info(msgspec.Struct):
    version: str
    host: _Host


class Connection:
    """A connection to a server that is known to be one of ours. Made by `connected`."""

    def __init__(self, client: httpx.AsyncClient, url: str, *, flags: str, has_key: bool) -> None:
        self.client = client
        self.home = Home(url, flags)
        self.version = ""
        self._has_key = has_key
        self._tasks: set[asyncio.Task[Any]] = set()

    def own(self, work: Coroutine[Any, Any, None], *, name: str) -> asyncio.Task[None]:
        """Run this until it is done or the connection is closed."""
        task = asyncio.create_task(work, name=name)
        self._tasks.add(task)
        return task

    async def aclose(self) -> None:
        """End everything that the connection does."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def get(self, path: str, query: Query | None = None, *, accepted: int = 200) -> Answer:
        """Get something; an answer with the status `accepted` counts, too.

        Raises:
            RemoteError: there is no answer, or it is a refusal.
        """
        return await self.ask("GET", path, query, accepted=accepted)

    async def ask(
        self,
        method: str,
        path: str,
        query: Query | None = None,
        body: Any = None,
        *,
        headers: Mapping[str, str] | None = None,
        accepted: int = 200,
    ) -> Answer:
        """Ask for something, or have something done.

        Raises:
            RemoteError: there is no answer, or it is a refusal.
        """
        content = None if body is None else _encoded(body)
        sent = {} if content is None else {"Content-Type": "application/json"}
        with self.translated():
            answer = await self.client.request(
                method,
                path.lstrip("/"),
                params=_parameters(query),
                content=content,
                headers={**sent, **(headers or {})},
            )
        if not answer.is_success and answer.status_code != accepted:
            self.refuse(answer.status_code, answer.content, answer.headers)
        return Answer(answer.content, answer.headers)

    @asynccontextmanager
    async def stream(
        self,
        method: str,
        path: str,
        query: Query | None = None,
        *,
        silence: float,
        headers: Mapping[str, str] | None = None,
    ) -> AsyncGenerator[AsyncIterator[bytes]]:
        """Stream an answer, in pieces as they come.

        Args:
            method: the HTTP method.
            path: the path.
            query: the parameters of the query.
            silence: seconds without a piece after which the connection counts as lost.
            headers: further headers.

        Raises:
            RemoteError: there is no answer, it is a refusal, or it was cut off.
        """
        request = self.client.build_request(
            method,
            path.lstrip("/"),
            params=_parameters(query),
            headers=dict(headers or {}),
            timeout=httpx.Timeout(silence, connect=_CONNECTING),
        )
        with self.translated(silence):
            answer = await self.client.send(request, stream=True)
            try:
                if not answer.is_success:
                    self.refuse(answer.status_code, await answer.aread(), answer.headers)
                yield answer.aiter_bytes()
            finally:
                await answer.aclose()

    def decode[T](self, body: bytes, kind: type[T]) -> T:
        """Decode a body.

        Raises:
            OtherVersionError: its form is not one that this version knows.
        """
        try:
            return msgspec.json.decode(body, type=kind)
        except (msgspec.MsgspecError, ValueError) as exc:
            raise self._other_version(f"an answer has an unexpected form ({exc})") from exc

    def translated(self, seconds: float | None = None) -> _Translated:
        """In this block, failures on the way become sentences for people; it may take `seconds`, or else as usual."""
        return _Translated(self.home.shown, _SECONDS if seconds is None else seconds)

    def refuse(self, status: int, body: bytes, headers: Mapping[str, str]) -> NoReturn:
        """Raise the error that says why the answer is a refusal.

        Raises:
            RemoteError: always.
        """
        url, said = self.home.shown, _said_in(body)
        why = said.detail or f"it answers {status}"
        if status == 401 and not self._has_key:
            raise NobodyError(url=url)
        if status == 401:
            raise WrongKeyError(url=url, why=why)
        if status == 403:
            raise NotAllowedError(url=url, why=why, permission="admin" if "admin" in why else "run")
        if status == 405 or (status == 404 and why.startswith(_NO_ENDPOINT)):
            raise self._other_version(f"it does not have what is asked for ({why})")
        if status == 404:
            raise NotThereError(url=url, why=why, **said.coded())
        if status in {400, 409, 413, 422}:
            raise RefusedError(url=url, why=why, unfit=said.unfit, **said.coded())
        if 300 <= status < 400:
            where = headers.get("location", "elsewhere")
            raise RemoteError(url=url, why=f"redirects to {where}: give that as --url", fault="caller")
        raise ServerFailedError(url=url, why=why)

    def _other_version(self, why: str) -> OtherVersionError:
        return OtherVersionError(url=self.home.shown, theirs=self.version or "unknown", ours=__version__, why=why)

    async def see_who_answers(self) -> None:
        """Check that a server of ours answers.

        Raises:
            RemoteError: nobody answers, or something else does.
        """
        url = self.home.shown
        with self.translated():
            answer = await self.client.get("info")
        if answer.is_redirect:
            self.refuse(answer.status_code, answer.content, answer.headers)
        try:
            info = msgspec.json.decode(answer.content, type=_Info)
        except (msgspec.MsgspecError, ValueError):
            if answer.status_code in {429, 500, 502, 503, 504}:
                self.refuse(answer.status_code, answer.content, answer.headers)
            why = f"it answers {answer.status_code} to {url}/info, and does not say what it is"
            raise NotTracksideError(url=url, why=why) from None
        if info.host.kind != _KIND:
            raise NotTracksideError(url=url, why=f"it calls itself {info.host.kind!r:.80}")
        self.version = info.version


class _Translated:
    """Says in our own words what httpx raises; a context manager, so that streams can use it, too."""

    def __init__(self, url: str, seconds: float) -> None:
        self._url = url
        self._seconds = seconds

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None) -> None:
        if isinstance(exc, httpx.TimeoutException):
            seconds = _CONNECTING if isinstance(exc, httpx.ConnectTimeout) else self._seconds
            raise ServerTimeoutError(url=self._url, seconds=seconds) from exc
        if isinstance(exc, httpx.ConnectError) and (why := _untrusted(exc)) is not None:
            raise UntrustedServerError(url=self._url, why=why) from exc
        if isinstance(exc, httpx.RemoteProtocolError):
            raise ServerAwayError(url=self._url, why="it dropped the connection, or does not speak HTTP") from exc
        if isinstance(exc, httpx.HTTPError):
            raise ServerAwayError(url=self._url, why=_why(exc)) from exc


def _untrusted(exc: BaseException) -> str | None:
    """Why the certificate is not accepted or TLS does not work; None if the failure is about something else."""
    found: BaseException | None = exc
    while found is not None:
        if isinstance(found, ssl.SSLCertVerificationError):
            return found.verify_message
        if isinstance(found, ssl.SSLError):
            return f"it does not speak TLS ({found.reason or found})"
        found = found.__cause__ or found.__context__
    return None


def _why(exc: httpx.HTTPError) -> str:
    text = str(exc) or type(exc).__name__
    found: BaseException | None = exc
    while found is not None:
        if isinstance(found, ConnectionRefusedError) or "Connect call failed" in str(found):
            return "nobody listens there"
        if "Name or service not known" in str(found) or "name resolution" in str(found):
            return "there is no host of this name"
        found = found.__cause__ or found.__context__
    return "nobody listens there" if text == "All connection attempts failed" else text


def _said_in(body: bytes) -> _Said:
    """The sentence in a refusal, and its code, if there are any."""
    try:
        said = msgspec.json.decode(body, type=_Said)
    except (msgspec.MsgspecError, ValueError):
        return _Said()
    said.detail = said.detail.rstrip(".") if isinstance(said.detail, str) else ""
    return said


def _encoded(body: Any) -> bytes:
    """A body as JSON, with U+FFFD in place of half characters, as in the records."""
    try:
        return msgspec.json.encode(body)
    except UnicodeEncodeError:
        return with_whole_characters(json.dumps(body, ensure_ascii=False)).encode()


def _parameters(query: Query | None) -> httpx.QueryParams:
    """The parameters of a query: one for each of several values, and none for None.

    Raises:
        ArgumentError: a text is not valid text.
    """
    pairs: list[tuple[str, str | int | float | bool | None]] = []
    for name, value in (query or {}).items():
        for one in value if isinstance(value, list | tuple) else () if value is None else (value,):
            text = (
                str(one).lower()
                if isinstance(one, bool)
                else one.isoformat()
                if hasattr(one, "isoformat")
                else str(one)
            )
            check_whole(text)
            pairs.append((name, text))
    return httpx.QueryParams(pairs)


def part_of_path(name: str) -> str:
    """A name as one part of a path, even a name that would lead elsewhere.

    Raises:
        ArgumentError: servers would take it for more than one part, or for none.
    """
    if not name or "/" in name or not is_whole(name):
        raise ArgumentError(
            name=repr(name), why="no server can be asked for something with this name; ask its database"
        )
    return quote(name, safe="") if name.strip(".") else name.replace(".", "%2E")


def path_of_run(thread_id: str, run_id: str) -> str:
    """The path of a run of a thread."""
    return f"threads/{part_of_path(thread_id)}/runs/{part_of_path(run_id)}"


def _address(url: str, name: str) -> str:
    """The address that the option or variable `name` gives, without a trailing slash.

    Raises:
        ArgumentError: it is not an address.
    """
    try:
        found = urlsplit(url.strip())
        valid = found.scheme in {"http", "https"} and bool(found.hostname) and found.port != 0
        httpx.URL(url.strip())
    except (ValueError, httpx.InvalidURL) as exc:
        raise ArgumentError(name=name, why=f"{url!r} is not an address of a server: {exc}") from None
    if not valid:
        raise ArgumentError(name=name, why=f"{url!r} is not an address of a server, as http://127.0.0.1:2024")
    if found.username is not None or found.password is not None:
        raise ArgumentError(name=name, why="a key does not belong in the address; give it with --api-key")
    if found.query or found.fragment:
        raise ArgumentError(name=name, why=f"{url!r} has something after ? or #, which no server's address has")
    return url.strip().rstrip("/")


@asynccontextmanager
async def connected(url: str, key: str | None, *, said_by: tuple[str, str] = _OPTIONS) -> AsyncGenerator[Connection]:
    """Connect to a server, for the length of an `async with`.

    Args:
        url: its address, with the prefix under which it is mounted, if there is one.
        key: an API key; None: none is sent.
        said_by: what named the two; other commands will also find an address that is in the environment.

    Raises:
        ArgumentError: the address or the key cannot be one, or the environment names what cannot be used.
        RemoteError: nobody answers there, or something other than a server of ours.
    """
    said_url, said_key = said_by
    address = _address(url, said_url)
    if key is not None and not (key.isascii() and key.isprintable() and key.strip() == key and key):
        raise ArgumentError(name=said_key, why="it has characters that no key has")
    headers = {"User-Agent": f"trackside/{__version__}"}
    if key is not None:
        headers["x-api-key"] = key
    async with _client_for(address, headers) as client:
        flags = f" --url {shlex.quote(address)}" if said_url == _OPTIONS[0] else ""
        connection = Connection(client, address, flags=flags, has_key=key is not None)
        await connection.see_who_answers()
        try:
            yield connection
        finally:
            await connection.aclose()


def _client_for(address: str, headers: Mapping[str, str]) -> httpx.AsyncClient:
    """A client that trusts the certificates, and goes by way of the proxies, that the environment names.

    Raises:
        ArgumentError: these cannot be used. The message has no proxy in it, as that may contain a password.
    """
    timeout = httpx.Timeout(_SECONDS, connect=_CONNECTING)
    try:
        return httpx.AsyncClient(base_url=f"{address}/", headers=headers, timeout=timeout)
    except OSError as exc:
        if not (file := os.environ.get(_CERTIFICATES)):
            raise
        why = "there are no certificates in it" if isinstance(exc, ssl.SSLError) else exc.strerror
        raise ArgumentError(name=_CERTIFICATES, why=f"{file} cannot be used: {why}") from exc
    except (ImportError, ValueError, httpx.InvalidURL) as exc:
        named = ", ".join(name for name in os.environ if name.lower() in _PROXIES) or "the proxy of this system"
        hint = "; for SOCKS: pip install 'httpx[socks]'" if isinstance(exc, ImportError) else ""
        why = f"it cannot be used; a proxy is written http://host:port, and hosts without one localhost,::1{hint}"
        raise ArgumentError(name=named, why=why) from exc
