"""Who asks: finds it out before anything else looks at a request, and says it in `scope["trackside.principal"]`.

An `Authenticator` knows one way in which clients say who they are: API keys (`keys`), tokens of an identity provider
(`tokens`), a function of the user's (`own`). `middleware` asks it, `exposure` sees that no server is open to others without
one, `browsers` that no web page drives a server that asks nobody.
"""

from trackside.app.server.auth.authenticator import Authenticator
from trackside.app.server.auth.middleware import Authentication

__all__ = ["Authentication", "Authenticator"]
