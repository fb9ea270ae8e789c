"""Reads of what a receiver answers to `requests` no more than anybody wants to know, and follows it nowhere."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, override

import requests
from requests.adapters import HTTPAdapter

__all__ = ["MOST_OF_AN_ANSWER", "bound_answers"]

MOST_OF_AN_ANSWER: Final = 65_536
"""Bytes."""


def bound_answers(session: requests.Session) -> requests.Session:
    """Have a session cut bodies of answers, which `requests` would read into memory to their end, and fail where it is
    sent on to another address: what is said, and the keys that go with it, are for the one in the settings. Retries stay.
    """
    session.max_redirects = 0
    adapters: Mapping[str, Any] = dict(session.adapters)
    for prefix, adapter in adapters.items():
        session.mount(prefix, _BoundedAdapter(max_retries=adapter.max_retries))
    return session


class _BoundedAdapter(HTTPAdapter):
    @override
    def send(
        self,
        request: requests.PreparedRequest,
        stream: bool = False,
        timeout: Any = None,
        verify: bool | str = True,
        cert: Any = None,
        proxies: dict[str, str] | None = None,
    ) -> requests.Response:
        response = super().send(request, stream=True, timeout=timeout, verify=verify, cert=cert, proxies=proxies)
        beginning = b""
        for chunk in response.iter_content(8_192):
            beginning += chunk
            if len(beginning) >= MOST_OF_AN_ANSWER:
                response.close()  # with the connection, on which the rest would come
                break
        response._content = beginning[:MOST_OF_AN_ANSWER]  # noqa: SLF001  # what `content` gives; there is no other way to set it
        return response
