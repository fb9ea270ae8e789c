"""HTTP and server-sent events: what unmodified LangGraph clients speak, and Trackside's own interface beside it.

The server knows the harness, storage, observers and streams, but no settings: whoever assembles the app hands it
`ServerParts`. `routing` says what an endpoint is, `routes` has the endpoints, `wire` what goes over the wire. The
OpenAPI document, the table in the docs and the tests that walk all endpoints are made from the same list.
"""

from trackside.app.server.application import create_app
from trackside.app.server.parts import ServerOptions, ServerParts

__all__ = ["ServerOptions", "ServerParts", "create_app"]
