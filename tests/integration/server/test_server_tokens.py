"""Clients with an identity provider's tokens: good ones are recognised, and no way of forging one works."""

from __future__ import annotations

import asyncio
import base64
import json
import ssl
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import jwt
import pytest
from certificates import Certificates
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from langgraph_sdk import get_client

from trackside.app.server.auth import jwks
from trackside.app.server.auth.jwks import KeySet
from trackside.app.server.auth.tokens import TokenAuthenticator, TokenOptionError, TokenRules
from trackside.app.server.failures import HttpError
from trackside.app.settings import AccessSettings, Settings, SettingsError
from trackside.app.wiring import open_app

DIALECTS = ("sqlite",)

type ServeAgents = Callable[..., Any]

ISSUER, AUDIENCE = "https://id.example", "trackside"
RSA = rsa.generate_private_key(public_exponent=65537, key_size=2048)
OTHER_RSA = rsa.generate_private_key(public_exponent=65537, key_size=2048)
EC = ec.generate_private_key(ec.SECP256R1())
ED = ed25519.Ed25519PrivateKey.generate()
SECRET = "s" * 40


async def whoami(input: Any) -> Any:
    return input


def pem(key: Any) -> str:
    public = key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    return str(public.decode())


def jwk(key: Any, key_id: str | None, algorithm: str, **more: Any) -> dict[str, Any]:
    made: dict[str, Any] = json.loads(jwt.get_algorithm_by_name(algorithm).to_jwk(key.public_key()))
    return {**made, **({} if key_id is None else {"kid": key_id}), **more}


def claims(**more: Any) -> dict[str, Any]:
    now = int(time.time())
    said = {"sub": "ada", "iss": ISSUER, "aud": AUDIENCE, "exp": now + 600, "iat": now} | more
    return {name: value for name, value in said.items() if value is not ...}


def token(key: Any = RSA, algorithm: str = "RS256", key_id: str | None = None, **more: Any) -> str:
    headers = {} if key_id is None else {"kid": key_id}
    return jwt.encode(claims(**more), key, algorithm=algorithm, headers=headers)


def scope_with(text: str) -> dict[str, Any]:
    return {"type": "http", "headers": [(b"authorization", f"Bearer {text}".encode("latin-1", "replace"))]}


RULES = TokenRules(issuer=ISSUER, audience=AUDIENCE)


async def status_of(known: TokenAuthenticator, text: str) -> int:
    try:
        await known(scope_with(text))
    except HttpError as exc:
        said = str(exc)
        status = int(exc.details["status"])
    else:
        return 200
    assert not text or text == "." or text not in said
    return status


def unsigned(header: dict[str, Any], body: dict[str, Any], signature: str = "") -> str:
    def part(value: Any) -> str:
        return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=").decode()

    return f"{part(header)}.{part(body)}.{signature}"


@pytest.mark.parametrize(
    ("key", "private", "algorithm"),
    [
        (pem(RSA), RSA, "RS256"),
        (pem(RSA), RSA, "PS384"),
        (pem(EC), EC, "ES256"),
        (pem(ED), ED, "EdDSA"),
        (SECRET, SECRET, "HS256"),
    ],
)
async def test_a_good_token_says_who_asks(key: str, private: Any, algorithm: str) -> None:
    known = TokenAuthenticator.of(RULES, key=key, jwks=None)
    for _ in range(2):
        principal = await known(scope_with(token(private, algorithm)))
        assert principal.identity == "ada"
        assert principal.owner == "ada"
        assert principal.permission == "run"


@pytest.mark.parametrize(
    "bad",
    [
        lambda: token(OTHER_RSA),
        lambda: token(EC, "ES256"),
        lambda: token(iss="https://evil.example"),
        lambda: token(iss=...),
        lambda: token(aud="somebody else"),
        lambda: token(aud=...),
        lambda: token(exp=int(time.time()) - 60),
        lambda: token(exp=...),
        lambda: token(exp="soon"),
        lambda: token(nbf=int(time.time()) + 600),
        lambda: token(sub=...),
        lambda: token(sub=""),
        lambda: token(sub="a" * 300),
        lambda: unsigned({"alg": "none", "typ": "JWT"}, claims()),
        lambda: unsigned({"alg": "None"}, claims()),
        lambda: unsigned({"alg": "RS256"}, claims()),
        lambda: unsigned({"alg": "RS256"}, claims(), "AAAA"),
        lambda: unsigned({}, claims(), "AAAA"),
        # Everybody knows a public key: signing with it as the secret makes no good token.
        lambda: hmac_with(pem(RSA).encode()),
        lambda: token() + "x",
        lambda: token()[:-10],
        lambda: token().replace(".", ".."),
        lambda: "a.b.c",
        lambda: "",
        lambda: ".",
        lambda: "x" * 20_000,
        lambda: "\xff.\xff.\xff",
        lambda: jwt.encode(claims(), OTHER_RSA, algorithm="RS256", headers={"jwk": jwk(OTHER_RSA, None, "RS256")}),
        lambda: jwt.encode(claims(), OTHER_RSA, algorithm="RS256", headers={"jku": "https://evil.example/jwks"}),
        lambda: jwt.encode(claims(), RSA, algorithm="RS256", headers={"crit": ["x"], "x": 1}),
    ],
)
async def test_a_token_that_is_made_up_is_refused(bad: Callable[[], str]) -> None:
    known = TokenAuthenticator.of(RULES, key=pem(RSA), jwks=None)
    assert await status_of(known, token()) == 200
    assert await status_of(known, bad()) == 401


def hmac_with(key: bytes) -> str:
    import hashlib
    import hmac

    head = unsigned({"alg": "HS256", "typ": "JWT"}, claims()).rstrip(".")
    signature = base64.urlsafe_b64encode(hmac.new(key, head.encode(), hashlib.sha256).digest()).rstrip(b"=").decode()
    return f"{head}.{signature}"


async def test_a_token_is_believed_for_a_minute_and_no_longer_than_it_says() -> None:
    clock = Clock()
    known = TokenAuthenticator.of(RULES, key=pem(RSA), jwks=None, clock=clock)
    expires = int(time.time()) - 5  # clocks may differ a little
    text = token(exp=expires)
    assert await status_of(known, text) == 200
    ((until, end, _, _),) = known._believed.values()
    assert (until, end) == (clock.now + 60, expires + 10)
    assert text not in repr(known._believed)


async def test_of_many_tokens_the_latest_are_remembered() -> None:
    known = TokenAuthenticator.of(RULES, key=SECRET, jwks=None)
    for number in range(1_010):
        assert await status_of(known, token(SECRET, "HS256", jti=str(number))) == 200
    assert len(known._believed) == 1_000


@pytest.mark.parametrize(
    ("said", "permission"),
    [
        ("read", "read"),
        ("openid run", "run"),
        (["x", "admin"], "admin"),
        ("trackside:run other", "run"),
        ("read admin", "admin"),
    ],
)
async def test_a_claim_says_what_may_be_done(said: Any, permission: str) -> None:
    rules = TokenRules(issuer=ISSUER, audience=AUDIENCE, permission="scope", owner="email")
    known = TokenAuthenticator.of(rules, key=pem(RSA), jwks=None)
    principal = await known(scope_with(token(scope=said, email="ada@example.org")))
    assert principal.permission == permission
    assert principal.identity == "ada@example.org"


@pytest.mark.parametrize("said", [..., "", "openid", ["x"], {"admin": True}, 1, None, "administrator", "Admin"])
async def test_a_claim_that_permits_nothing_permits_nothing(said: Any) -> None:
    rules = TokenRules(issuer=ISSUER, audience=AUDIENCE, permission="scope")
    known = TokenAuthenticator.of(rules, key=pem(RSA), jwks=None)
    assert await status_of(known, token(scope=said)) == 403


@pytest.mark.parametrize(
    ("rules", "key", "jwks", "option"),
    [
        (RULES, None, None, "jwks"),
        (RULES, SECRET, "https://id.example/jwks", "jwks"),
        (TokenRules(issuer=ISSUER), None, "https://id.example/jwks", "audience"),
        (TokenRules(audience=AUDIENCE), None, "https://id.example/jwks", "issuer"),
        (RULES, None, "http://id.example/jwks", "jwks"),
        (RULES, None, "ftp://id.example/jwks", "jwks"),
        (RULES, None, "file:///etc/passwd", "jwks"),
        (RULES, "short", None, "key"),
        (RULES, "-----BEGIN PUBLIC KEY-----\nnonsense\n-----END PUBLIC KEY-----", None, "key"),
        (TokenRules(algorithms=("HS256",)), pem(RSA), None, "algorithms"),
        (TokenRules(algorithms=("RS256", "HS256")), pem(RSA), None, "algorithms"),
        (TokenRules(algorithms=("RS256",)), SECRET, None, "algorithms"),
        (TokenRules(algorithms=("none",)), SECRET, None, "algorithms"),
        (
            TokenRules(issuer=ISSUER, audience=AUDIENCE, algorithms=("HS256",)),
            None,
            "https://id.example/jwks",
            "algorithms",
        ),
    ],
)
def test_options_that_would_let_anybody_in_are_refused(
    rules: TokenRules, key: str | None, jwks: str | None, option: str
) -> None:
    with pytest.raises(TokenOptionError) as refused:
        TokenAuthenticator.of(rules, key=key, jwks=jwks)
    assert refused.value.details["option"] == option
    assert SECRET not in str(refused.value)


def test_a_private_key_is_not_for_a_server() -> None:
    private = RSA.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    ).decode()
    with pytest.raises(TokenOptionError, match="private key"):
        TokenAuthenticator.of(RULES, key=private, jwks=None)


class Provider:
    """An identity provider that publishes its keys."""

    def __init__(self) -> None:
        self.keys: list[dict[str, Any]] = [jwk(RSA, "first", "RS256")]
        self.asked = 0
        self.answer: bytes | None = None
        self.url = ""
        self.drips = False
        self.has_dripped = threading.Event()
        self.was_left = asyncio.Event()
        """Set once the client that was answered drop by drop has gone."""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        self.asked += 1
        body = json.dumps({"keys": self.keys}).encode()
        head = b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\nconnection: close\r\n\r\n" % len(body)
        writer.write(head + body if self.answer is None else self.answer)
        await writer.drain()
        while self.drips and not self.was_left.is_set():
            await asyncio.sleep(0.02)
            writer.write(b" ")
            self.has_dripped.set()
            try:
                await writer.drain()
            except ConnectionError:
                self.was_left.set()
        writer.close()


@asynccontextmanager
async def a_provider(certificate: ssl.SSLContext | None = None) -> AsyncIterator[Provider]:
    provider = Provider()
    server = await asyncio.start_server(provider.serve, "127.0.0.1", 0, ssl=certificate)
    async with server:
        scheme = "http" if certificate is None else "https"
        provider.url = f"{scheme}://127.0.0.1:{server.sockets[0].getsockname()[1]}/jwks"
        yield provider


class Clock:
    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now


def with_keys_at(url: str, clock: Clock) -> TokenAuthenticator:
    return TokenAuthenticator(RULES, ("RS256", "ES256"), KeySet(url, clock=clock), clock=clock)


async def test_keys_are_fetched_once_and_again_when_they_are_old() -> None:
    async with a_provider() as provider:
        clock = Clock()
        known = with_keys_at(provider.url, clock)
        for number in range(5):
            assert await status_of(known, token(key_id="first", jti=str(number))) == 200
        assert provider.asked == 1
        clock.now += 301
        assert await status_of(known, token(key_id="first", jti="6")) == 200
        assert provider.asked == 2


async def test_a_key_that_was_rotated_in_is_known_and_one_that_was_rotated_out_is_not() -> None:
    async with a_provider() as provider:
        clock = Clock()
        known = with_keys_at(provider.url, clock)
        old = token(key_id="first")
        assert await status_of(known, old) == 200
        provider.keys = [jwk(OTHER_RSA, "second", "RS256")]
        clock.now += 11
        assert await status_of(known, token(OTHER_RSA, key_id="second")) == 200
        assert await status_of(known, old) == 401
        assert provider.asked == 2


async def test_ids_that_somebody_makes_up_do_not_have_keys_fetched_for_each() -> None:
    async with a_provider() as provider:
        known = with_keys_at(provider.url, Clock())
        for number in range(50):
            assert await status_of(known, token(OTHER_RSA, key_id=f"x{number}")) == 401
        assert provider.asked == 1


async def test_a_token_that_names_no_key_is_checked_with_the_only_one() -> None:
    async with a_provider() as provider:
        clock = Clock()
        known = with_keys_at(provider.url, clock)
        assert await status_of(known, token()) == 200
        provider.keys.append(jwk(OTHER_RSA, "second", "RS256"))
        clock.now += 400
        assert await status_of(known, token(jti="1")) == 401


async def test_a_key_that_names_no_algorithm_is_good_for_all_of_its_kind() -> None:
    async with a_provider() as provider:
        provider.keys.append(jwk(RSA, "bound", "RS256", alg="RS256"))
        known = TokenAuthenticator.of(RULES, key=None, jwks=provider.url)
        for algorithm, alone in (("RS256", 200), ("RS512", 401), ("PS256", 401)):
            assert await status_of(known, token(RSA, algorithm, "first")) == 200
            assert await status_of(known, token(RSA, algorithm, "bound")) == alone
        assert await status_of(known, token(EC, "ES256", "first")) == 401


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 500 No\r\ncontent-length: 0\r\n\r\n",
        b"HTTP/1.1 302 Found\r\nlocation: http://127.0.0.1:1/\r\ncontent-length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n\r\n<html>",
        b'HTTP/1.1 200 OK\r\n\r\n{"keys": []}',
        b"HTTP/1.1 200 OK\r\n\r\n[]",
        b'HTTP/1.1 200 OK\r\n\r\n{"keys": [{"kty": "oct", "k": "c2VjcmV0", "kid": "first"}]}',
        b'HTTP/1.1 200 OK\r\n\r\n{"keys": [{"kty": "RSA"}, 1, null]}',
        b"HTTP/1.1 200 OK\r\n\r\n" + b" " * 1_100_000,
        b"",
    ],
)
async def test_without_keys_it_is_said_that_it_cannot_be_known_now(answer: bytes) -> None:
    async with a_provider() as provider:
        provider.answer = answer
        clock = Clock()
        known = with_keys_at(provider.url, clock)
        assert await status_of(known, token(key_id="first")) == 503
        provider.answer = None
        clock.now += 11
        assert await status_of(known, token(key_id="first")) == 200
        provider.answer = answer
        clock.now += 1_000
        assert await status_of(known, token(key_id="first", jti="2")) == 200  # the old keys are good for an hour
        clock.now += 3_000
        assert await status_of(known, token(key_id="first", jti="3")) == 503


class TimesOutOnce:
    """`asyncio` whose timeouts end once something has happened, however long that takes."""

    def __init__(self, happened: threading.Event) -> None:
        self._happened = happened
        self.limits: list[float] = []
        """The seconds that were asked for."""

    def __getattr__(self, name: str) -> Any:
        return getattr(asyncio, name)

    @asynccontextmanager
    async def timeout(self, seconds: float) -> AsyncIterator[None]:
        self.limits.append(seconds)

        async def ends() -> None:
            while not self._happened.is_set():
                await asyncio.sleep(0.01)
            limit.reschedule(0)

        async with asyncio.timeout(None) as limit:
            ending = asyncio.create_task(ends())
            try:
                yield
            finally:
                ending.cancel()


@pytest.mark.parametrize("begun", [b"HTTP/1.1 200 OK\r\nx-filler: ", b"HTTP/1.1 200 OK\r\n\r\n"], ids=["head", "body"])
async def test_a_provider_that_never_comes_to_an_end_is_left(begun: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each byte comes soon, and the last never comes."""
    async with a_provider() as provider:
        limited = TimesOutOnce(provider.has_dripped)
        monkeypatch.setattr(jwks, "asyncio", limited)
        provider.drips = True
        provider.answer = begun
        clock = Clock()
        known = with_keys_at(provider.url, clock)
        both = [status_of(known, token(key_id="first", jti=name)) for name in "ab"]
        assert await asyncio.gather(*both) == [503, 503]
        await provider.was_left.wait()
        assert limited.limits == [jwks._TIMEOUT] * 2, "of who waits, and of the thread that fetches"
        provider.has_dripped.clear()
        provider.drips, provider.answer = False, None
        clock.now += 11
        assert await status_of(known, token(key_id="first")) == 200
        assert provider.asked == 2


async def test_keys_come_from_whom_the_system_trusts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    certificates = await asyncio.to_thread(Certificates, tmp_path)
    async with a_provider(await asyncio.to_thread(certificates.server, "127.0.0.1")) as provider:
        clock = Clock()
        known = with_keys_at(provider.url, clock)
        assert await status_of(known, token(key_id="first")) == 503
        monkeypatch.setenv("SSL_CERT_FILE", str(certificates.ca_file))
        clock.now += 11
        assert await status_of(known, token(key_id="first")) == 200


async def test_keys_come_through_the_proxy_that_the_environment_names(monkeypatch: pytest.MonkeyPatch) -> None:
    async with a_provider() as proxy:
        monkeypatch.setenv("http_proxy", proxy.url.removesuffix("/jwks"))
        for no_proxy, status in (("", 200), ("127.0.0.1", 503)):
            monkeypatch.setenv("no_proxy", no_proxy)
            known = with_keys_at("http://127.0.0.1:1/jwks", Clock())
            assert await status_of(known, token(key_id="first")) == status


async def test_keys_are_read_from_a_file(tmp_path: Path) -> None:
    file = tmp_path / "jwks.json"
    file.write_text(json.dumps({"keys": [jwk(EC, "e", "ES256"), jwk(RSA, "r", "RS256", use="enc")]}))
    known = with_keys_at(str(file), Clock())
    assert await status_of(known, token(EC, "ES256", key_id="e")) == 200
    assert await status_of(known, token(RSA, key_id="r")) == 401
    assert await status_of(known, token(RSA, key_id="e")) == 401


async def test_the_sdk_asks_with_a_token(serve_agents: ServeAgents, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KEY_OF_TOKENS", pem(RSA))
    access = AccessSettings(auth="jwt", jwt_key="env:KEY_OF_TOKENS", jwt_issuer=ISSUER, jwt_audience=AUDIENCE)
    async with serve_agents({"whoami": whoami}, access=access) as served:
        for sub in ("ada", "bob"):
            headers = {"Authorization": f"Bearer {token(sub=sub)}"}
            async with get_client(url=served.url, api_key=None, headers=headers) as client:
                thread = await client.threads.create()
                assert await client.runs.wait(thread["thread_id"], "whoami", input={"a": 1}) == {"a": 1}
                assert [found["thread_id"] for found in await client.threads.search()] == [thread["thread_id"]]
        with pytest.raises(httpx.HTTPStatusError) as refused:
            await served.client.threads.search()
        assert refused.value.response.status_code == 401


@pytest.mark.parametrize(
    ("access", "said"),
    [
        (AccessSettings(auth="jwt"), "server.jwt_jwks: set either"),
        (AccessSettings(auth="jwt", jwt_key="env:NO_SUCH_KEY"), "no variable NO_SUCH_KEY"),
        (AccessSettings(auth="jwt", jwt_key="short"), "32 bytes at least"),
        (AccessSettings(auth="jwt", jwt_jwks="https://id.example/jwks"), "server.jwt_issuer"),
    ],
)
async def test_settings_that_do_not_fit_refuse_the_start(database_url: str, access: AccessSettings, said: str) -> None:
    with pytest.raises(SettingsError, match=said):
        async with open_app(Settings(database_url=database_url, access=access), {"whoami": whoami}):
            raise AssertionError


async def test_keys_of_tokens_without_tokens_are_a_mistake(database_url: str) -> None:
    sources = {"server.jwt_key": "trackside.toml"}
    settings = Settings(database_url=database_url, access=AccessSettings(jwt_key=SECRET), sources=sources)
    with pytest.raises(SettingsError, match="no effect") as refused:
        async with open_app(settings, {"whoami": whoami}):
            raise AssertionError
    assert SECRET not in str(refused.value) + repr(settings)
