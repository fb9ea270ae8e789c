"""Finds out who asks, before anything else looks at a request, and puts that into `scope["trackside.principal"]`.

An `Authenticator` knows one way in which clients say who they are: API keys (`keys`), tokens of an identity provider
(`tokens`), or a function of the user's (`own`). `middleware` asks it, `exposure` makes sure that no server without one
is open to others, and `browsers` that no web page drives a server without one.
"""

from trackside.app.server.auth.authenticator import Authenticator
from trackside.app.server.auth.middleware import Authentication

__all__ = ["Authentication", "Authenticator"]
