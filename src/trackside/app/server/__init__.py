"""HTTP and server-sent events: what unmodified LangGraph clients speak, and our own surface beside it.

It knows the harness, storage, observers and streams, and no settings: whoever assembles the app hands it `ServerParts`.
`routing` says what an endpoint is, `routes` has them, `wire` what goes over the wire; the OpenAPI document, the table in the
docs and the tests that walk all endpoints are made of the same list.
"""

from trackside.app.server.application import create_app
from trackside.app.server.parts import ServerOptions, ServerParts

__all__ = ["ServerOptions", "ServerParts", "create_app"]
