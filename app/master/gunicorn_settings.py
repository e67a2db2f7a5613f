"""Which of gunicorn's settings the balancer can be started with, and which do nothing here.

Owns the list: what is refused, because it would do harm, and what is said to have no effect, because our
worker or our log takes it from config.json. All others work as gunicorn describes them; ``--max-requests``
waits for a successor besides. Runs in the master, at start and at every reload. Must never know the table.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from app.config import Config, ConfigError, Problem
from app.telemetry import log

_GEVENT = "gunicorn.workers.ggevent"
_OURS = "app.worker.process"

# Given in any way but its default.
_REFUSED = {
    "preload_app": "the application is loaded after the fork, when gevent has patched the standard library",
    "reload": "it ends workers in the middle of requests: send HUP, or start again",
    "protocol": "the balancer speaks HTTP with its clients",
    "dirty_apps": "the master has no children but workers and the control process",
}
# Of gunicorn's TLS where config.json has its own: to leave them out would let in who should not be.
_REFUSED_BESIDE_TLS = {
    "ca_certs": "set tls.client_ca in config.json",
    "cert_reqs": "set tls.client_ca in config.json",
    "ciphers": "set tls in config.json alone",
    "ssl_version": "set tls in config.json alone",
}

_LOG = "access lines are JSON on standard output: see logging in config.json"
_HANDLERS = "it is read by gunicorn's own request handlers, which serve nothing here"
_TRUST = "set trusted_proxies in config.json"
_ASGI = "the application is not an ASGI one"
# Whatever the worker.
_WITHOUT_EFFECT = {
    "accesslog": _LOG,
    "access_log_format": _LOG,
    "statsd_host": "it needs gunicorn's own logger",
    "enable_backlog_metric": "it needs gunicorn's own logger, and statsd_host",
    "asgi_lifespan": _ASGI,
    "asgi_loop": _ASGI,
    "websocket_max_message_size": _ASGI,
    "uwsgi_allow_ips": "the balancer speaks HTTP with its clients",
    "threads": "a worker serves all its requests in one thread",
}
# With our worker, which reads requests itself.
_WITHOUT_EFFECT_ON_OURS = {
    "forwarded_allow_ips": _TRUST,
    "secure_scheme_headers": _TRUST,
    "forwarder_headers": _HANDLERS,
    "header_map": _HANDLERS,
    "strip_header_spaces": _HANDLERS,
    "permit_obsolete_folding": _HANDLERS,
    "permit_unconventional_http_method": _HANDLERS,
    "permit_unconventional_http_version": _HANDLERS,
    "casefold_http_method": _HANDLERS,
    "root_path": _HANDLERS,
    "sendfile": _HANDLERS,
    "pre_request": _HANDLERS,
    "post_request": _HANDLERS,
    "http2_cleartext": _HANDLERS,
    "worker_connections": "set limits.connections in config.json",
    "keepalive": "set timeouts.keepalive in config.json",
    "limit_request_line": "set limits.request_line in config.json",
    "limit_request_fields": "set limits.header_count in config.json",
    "limit_request_field_size": "set limits.header_size in config.json",
    "http_parser": "it is read by gunicorn's own request handlers: LB_PARSER chooses ours",
}


def from_config(config: Config) -> dict[str, Any]:
    """What gunicorn.conf.py sets for gunicorn's own request handlers; ours read config.json."""
    return {
        # The faster one takes a bare LF for a line end, and spare spaces.
        "http_parser": "python",
        # Any token, as RFC 9110 §9.1 has it and as our worker takes it.
        "permit_unconventional_http_method": True,
        # Of one worker. Far above what a process's descriptors allow, so that those are the limit.
        "worker_connections": config.limits.connections or 65536,
        # They allow no longer request line than this.
        "limit_request_line": min(config.limits.request_line, 8190),
        "limit_request_fields": config.limits.header_count,
        "limit_request_field_size": config.limits.header_size,
        "keepalive": math.ceil(config.timeouts.keepalive),
    }


def require(cfg: Any, config: Config) -> None:
    """ConfigError with each of gunicorn's settings that cannot be used here, and why."""
    refused = dict(_REFUSED)
    if config.tls is not None:
        refused |= _REFUSED_BESIDE_TLS
    problems = [Problem(name, why) for name, why in refused.items() if _is_given(cfg, name)]
    if not _is_from(cfg.worker_class, _GEVENT):
        why = f"{cfg.worker_class_str}: only {_OURS}.Worker and gevent can run the application"
        problems.append(Problem("worker_class", why))
    if problems:
        raise ConfigError(problems)


def warn(cfg: Any, config: Config) -> None:
    """Say in the log which of the given settings do nothing here, and what to do in their place."""
    for name, why in _idle(cfg, config):
        log.event(
            "config", "warning", f"gunicorn's {name} has no effect: {why}", path=name, problem=why
        )
    if cfg.reuse_port:
        log.event(
            "config",
            "warning",
            "gunicorn's reuse_port loses connections: what waits for a worker is lost when it goes",
            path="reuse_port",
            problem="what waits for a worker is lost when it goes",
        )


def _idle(cfg: Any, config: Config) -> Iterator[tuple[str, str]]:
    idle, expected = dict(_WITHOUT_EFFECT), from_config(config)
    # By its own flag gunicorn reads the PROXY header, and all that follows on such a connection.
    is_read_here = config.proxy_protocol or cfg.proxy_protocol == "off"
    if is_read_here and _is_from(cfg.worker_class, _OURS):
        idle |= _WITHOUT_EFFECT_ON_OURS
    for name, why in idle.items():
        if _is_given(cfg, name) and (name not in expected or getattr(cfg, name) != expected[name]):
            yield name, why


def _is_given(cfg: Any, name: str) -> bool:
    setting = cfg.settings.get(name)  # None: a gunicorn that has no such setting
    return setting is not None and setting.get() != type(setting)().get()


def _is_from(kind: type, module: str) -> bool:
    return any(base.__module__ == module for base in getattr(kind, "__mro__", ()))
