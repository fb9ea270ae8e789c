"""Recipients of notifications: a mail server and an HTTP receiver that keep what they get, in threads, on loopback."""

from __future__ import annotations

import socketserver
import threading
from dataclasses import dataclass, field
from email import message_from_bytes, policy
from email.message import EmailMessage
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self, override


class _Served:
    """A server that serves in a thread for the length of an `async with` block."""

    _server: socketserver.BaseServer

    @property
    def port(self) -> int:
        address: Any = self._server.server_address
        return int(address[1])

    def __enter__(self) -> Self:
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,), name="inbox")
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


@dataclass(frozen=True, slots=True)
class Request:
    """What somebody sent over HTTP."""

    path: str
    headers: dict[str, str]
    body: bytes


class HttpInbox(_Served):
    """Keeps requests in `requests`; answers with `status`, or not at all until `released` while that is None."""

    def __init__(self, port: int = 0) -> None:
        self.requests: list[Request] = []
        self.status: int | None = 200
        self.released = threading.Event()
        inbox = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                inbox.requests.append(Request(self.path, dict(self.headers), body))
                if inbox.status is None:
                    inbox.released.wait(60)
                self.send_response(inbox.status or 200)
                self.send_header("Content-Length", "0")
                self.end_headers()

            @override
            def log_message(self, format: str, *args: Any) -> None: ...

        class Server(ThreadingHTTPServer):
            request_queue_size = 64

            @override
            def handle_error(self, request: Any, client_address: Any) -> None: ...

        self._server = Server(("127.0.0.1", port), Handler)


@dataclass(frozen=True, slots=True)
class Mail:
    """A mail as it arrived."""

    sender: str
    recipients: list[str]
    raw: bytes

    @property
    def message(self) -> EmailMessage:
        return message_from_bytes(self.raw, policy=policy.default)


@dataclass
class SmtpInbox(_Served):
    """Keeps mails in `mails`; with `refusal` it refuses each with that line once it has read the text."""

    mails: list[Mail] = field(default_factory=list[Mail])
    refusal: str | None = None

    def __post_init__(self) -> None:
        inbox = self

        class Handler(socketserver.StreamRequestHandler):
            def say(self, line: str) -> None:
                self.wfile.write(f"{line}\r\n".encode())

            @override
            def handle(self) -> None:
                sender, recipients = "", list[str]()
                self.say("220 inbox")
                while line := self.rfile.readline().decode().strip():
                    match line[:4].upper():
                        case "EHLO":
                            self.say("250-inbox")
                            self.say("250 8BITMIME")
                        case "MAIL":
                            sender, recipients = line[10:], []
                            self.say("250 ok")
                        case "RCPT":
                            recipients.append(line[8:])
                            self.say("250 ok")
                        case "DATA":
                            self.say("354 go on")
                            text = self.read_text()
                            if inbox.refusal is None:
                                inbox.mails.append(Mail(sender, recipients, text))
                            self.say(inbox.refusal or "250 ok")
                        case "QUIT":
                            self.say("221 bye")
                            return
                        case _:
                            self.say("250 ok")

            def read_text(self) -> bytes:
                lines = list[bytes]()
                while (line := self.rfile.readline()) not in {b".\r\n", b""}:
                    lines.append(line.removeprefix(b".") if line.startswith(b"..") else line)
                return b"".join(lines)

        class Server(socketserver.ThreadingTCPServer):
            daemon_threads = True
            allow_reuse_address = True

        self._server = Server(("127.0.0.1", 0), Handler)
