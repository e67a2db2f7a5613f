"""The session that carries requests to backends, on which a user can mount another transport adapter.

Everything that ``requests`` does between a caller and an adapter is left out by design, because every part
of it changes messages: no cookie jar (it would hand one user's cookies to another), no redirects (they eat
3xx bodies), no .netrc, no proxy variables, no default header, no URL rewriting, no second length header, no
joined Set-Cookie, and 1xx is never taken for the answer.

Another adapter can be mounted for a prefix of server URLs, as with any session; it gets ``send(request,
stream=True, timeout=…, verify=…)`` with ``request.method/url/headers/body`` and returns a
``requests.Response``. Runs in workers. Never picks or retries.
"""

from __future__ import annotations

from collections.abc import Callable
from time import monotonic
from typing import Any

import requests
from requests import exceptions
from requests.adapters import BaseAdapter

from app.errors import BackendError, BackendReset, BadResponse, ConnectTimeout, ResponseTimeout
from app.worker.net.deadlines import NEVER, TICK
from app.worker.upstream.adapted_response import adapted
from app.worker.upstream.adapter import Adapter
from app.worker.upstream.request import UpstreamRequest

# What an adapter other than ours raises, and what it means here: the first that fits.
_MEANINGS: tuple[tuple[type[Exception], type[BackendError]], ...] = (
    (exceptions.ConnectTimeout, ConnectTimeout),
    (exceptions.Timeout, ResponseTimeout),
    (exceptions.ConnectionError, BackendReset),
    (exceptions.RequestException, BadResponse),
)


class Session(requests.Session):
    """A session that hands a request to its adapter and does nothing else to it.

    ``on_mount`` is called when an adapter was mounted: who keeps what ``get_adapter`` has said asks again.
    """

    on_mount: Callable[[], None] | None = None

    def __init__(self) -> None:
        super().__init__()
        self.trust_env = False
        self.adapters.clear()
        adapter = Adapter()
        for prefix in ("http://", "https://", "unix:"):
            self.mount(prefix, adapter)

    def mount(self, prefix: str | bytes, adapter: BaseAdapter) -> None:
        """As requests.Session.mount; from the next request on."""
        super().mount(prefix, adapter)
        if self.on_mount is not None:
            self.on_mount()

    def send(self, request: Any, **options: Any) -> Any:
        """Send with the adapter mounted for the server; give an UpstreamResponse whatever it returned."""
        adapter = request.adapter
        if type(adapter) is Adapter:
            return adapter.send(request)
        request.check_here()
        options = {
            "stream": True,
            "timeout": _timeouts(request, monotonic()),
            "verify": True,
            "cert": None,
            "proxies": {},
            **options,
        }
        try:
            return adapted(adapter.send(request, **options), request)
        except exceptions.RequestException as error:
            raise _meaning(error)(str(error)) from error


def _timeouts(request: UpstreamRequest, now: float) -> tuple[float | None, float | None]:
    """The timeouts of connecting and reading as requests has them: neither longer than what is left of all.

    At least a tick is: an adapter may refuse a timeout of zero.
    """
    left = max(request.expires_at - now, TICK)
    connect, read = min(request.connect_timeout, left), min(request.read_timeout, left)
    return None if connect == NEVER else connect, None if read == NEVER else read


def _meaning(error: exceptions.RequestException) -> type[BackendError]:
    return next(ours for theirs, ours in _MEANINGS if isinstance(error, theirs))
