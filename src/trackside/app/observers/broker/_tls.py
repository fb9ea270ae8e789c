"""How a broker proves who it is."""

from __future__ import annotations

import ssl
from typing import Any, override

from trackside.app.delivery import ObserverOptionError

__all__ = ["WatchedTls", "tls_context"]


class WatchedTls(ssl.SSLContext):
    """Counts how often a connection was secured by it, for who has to know whether one was."""

    handshakes: int

    @override
    def wrap_bio(self, *args: Any, **options: Any) -> ssl.SSLObject:
        self.handshakes += 1
        return super().wrap_bio(*args, **options)


def tls_context(ca_file: Any, *, secure: bool) -> WatchedTls | None:
    """One that trusts the certificates that this machine trusts, or those in a file alone; None if nothing is to be secure.

    Raises:
        ObserverOptionError: there are none in the file, or nothing that they would be good for.
    """
    if not secure:
        if ca_file is not None:
            raise ObserverOptionError(option="ca_file", why="it is for tls:// and rediss:// alone")
        return None
    context = WatchedTls(ssl.PROTOCOL_TLS_CLIENT)
    context.handshakes = 0
    try:
        if ca_file is None:
            context.load_default_certs()
        else:
            context.load_verify_locations(cafile=ca_file)
    except (ssl.SSLError, TypeError, ValueError) as exc:
        raise ObserverOptionError(option="ca_file", why="it is no file of certificates (PEM)") from exc
    except OSError as exc:
        raise ObserverOptionError(option="ca_file", why=exc.strerror or "it cannot be read") from exc
    return context
