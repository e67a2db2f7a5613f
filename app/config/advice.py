"""What is valid but looks like a mistake: said at each start and reload, and by ``check``.

Owns the suspicions and their words. Pure: a Config in, Problems out; must never refuse anything.
"""

from __future__ import annotations

from collections.abc import Iterator

from app.config.model import Config
from app.config.problems import Problem
from app.config.server_keys import BACKEND_TLS

# Node and uvicorn close idle connections after 5 s, gunicorn after 2 s: at or above this, a request
# can meet a connection that its server is just closing.
KEEPALIVE_RACE_S = 5


def warnings(config: Config) -> tuple[Problem, ...]:
    """Everything about a configuration that an operator may want to look at again."""
    return tuple(Problem(path, message) for path, message in suspicions(config))


def suspicions(config: Config) -> Iterator[tuple[str, str]]:
    """Path and message of each."""
    if not config.servers:
        yield "servers", "there are none: every request is answered 503"
    for index, server in enumerate(config.servers):
        if server.port == config.port and _is_own_host(server.host, config.host):
            yield f"servers[{index}]", f"{server.url} is where this load balancer itself listens"
    check = config.health_check
    if check and check.timeout > check.interval:
        late = "a server that hangs is checked less often than the interval says"
        longer = f"is longer than health_check.interval ({check.interval:g} s)"
        yield "health_check.timeout", f"{check.timeout:g} s {longer}: {late}"
    idle = config.timeouts.backend_keepalive
    if idle == 0 or idle >= KEEPALIVE_RACE_S:
        kept = f"for {idle:g} s" if idle else "for ever (0)"
        race = "many servers close theirs after 2 to 5 s, and a request may meet one being closed"
        yield "timeouts.backend_keepalive", f"idle connections are kept {kept}: {race}"
    yield from _about_backend_tls(config)
    if config.sticky is not None and config.sticky.secret is None:
        lost = "clients get another server after a restart, and on another machine"
        yield "sticky.secret", f"none is given, one is made at each start: {lost}"
    for index, network in enumerate(config.trusted_proxies):
        if network.endswith("/0"):
            yield f"trusted_proxies[{index}]", f"{network} lets every client forge its address"
    for index, network in enumerate(config.proxy_protocol):
        if network.endswith("/0"):
            forged = "lets every client forge its address, and refuses those that send no header"
            yield f"proxy_protocol[{index}]", f"{network} {forged}"
    for index, protocol in enumerate(config.upgrade):
        if protocol in ("h2c", "http", "tls"):
            passed = "requests inside such a tunnel are neither checked, balanced nor logged"
            yield f"upgrade[{index}]", f"{protocol}: {passed}"


def _about_backend_tls(config: Config) -> Iterator[tuple[str, str]]:
    settings = config.backend_tls
    if not any(server.scheme == "https" for server in config.servers):
        if settings != BACKEND_TLS.defaults():
            yield "backend_tls", "has no effect: no server's URL begins with https://"
    elif not settings.verify:
        anybody = "whoever is on the way can read and change what is sent"
        yield "backend_tls.verify", f"certificates of https:// servers are not verified: {anybody}"
        if settings.ca is not None:
            yield "backend_tls.ca", "has no effect while backend_tls.verify is false"


def _is_own_host(host: str, listen: str) -> bool:
    everywhere = listen in {"0.0.0.0", "::"}
    return host == listen or (everywhere and host in {"localhost", "127.0.0.1", "::1"})
