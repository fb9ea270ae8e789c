"""The variables by which Kubernetes tells every container of a namespace where its Services are, unless a pod has
`enableServiceLinks: false`. A Service called `trackside-server` has some that begin as ours do; nobody has set those.
"""

from __future__ import annotations

import re
from typing import Final

_ADDRESS: Final = r"[0-9A-Fa-f.:]+"
_NUMBER: Final = r"[0-9]{1,5}"
_PLACE: Final = rf"(?:tcp|udp|sctp)://(?:[0-9.]+|\[{_ADDRESS}\]):{_NUMBER}"
_PORT: Final = r".+_PORT_[0-9]{1,5}_(?:TCP|UDP|SCTP)"
_LINKS: Final = tuple(
    (re.compile(name), re.compile(value))
    for name, value in (
        (r".+_SERVICE_HOST", _ADDRESS),
        (r".+_SERVICE_PORT(?:_[A-Z0-9_]+)?", _NUMBER),
        (r".+_PORT", _PLACE),
        (_PORT, _PLACE),
        (rf"{_PORT}_PROTO", r"tcp|udp|sctp"),
        (rf"{_PORT}_PORT", _NUMBER),
        (rf"{_PORT}_ADDR", _ADDRESS),
    )
)


def is_service_link(variable: str, value: str) -> bool:
    """Whether a variable has both the name and the value of one that says where a Service is."""
    return any(name.fullmatch(variable) and said.fullmatch(value) for name, said in _LINKS)
