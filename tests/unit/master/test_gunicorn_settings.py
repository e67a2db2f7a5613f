"""Which of gunicorn's settings are refused, which are said to do nothing, and that ours are neither."""

from __future__ import annotations

from typing import Any

import pytest
from gunicorn import config as gunicorn_config

from app import config as configuration
from app.config import Config, ConfigError
from app.master import gunicorn_settings
from app.master.gunicorn_settings import from_config, require, warn
from app.telemetry import log

TLS = '{"tls": {"certificate": "a.pem", "key": "b.pem"}}'


def given(config: Config, **settings: Any) -> Any:
    """gunicorn's settings as gunicorn.conf.py leaves them, and then these."""
    cfg = gunicorn_config.Config()
    ours = {"worker_class": "app.worker.process.Worker", "accesslog": None}
    for name, value in {**ours, **from_config(config), **settings}.items():
        cfg.set(name, value)
    return cfg


def warned(monkeypatch: pytest.MonkeyPatch, config: Config, **settings: Any) -> list[Any]:
    told: list[Any] = []
    monkeypatch.setattr(log, "event", lambda *_, path, **__: told.append(path))
    warn(given(config, **settings), config)
    return told


def test_our_own_settings_are_neither_refused_nor_idle(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever config.json says."""
    for text in ("{}", TLS, '{"limits": {"connections": 7}, "timeouts": {"keepalive": 3.5}}'):
        config = configuration.parse(text)
        require(given(config), config)
        assert warned(monkeypatch, config) == []


@pytest.mark.parametrize(
    ("text", "name", "value"),
    [
        ("{}", "preload_app", True),
        ("{}", "reload", True),
        ("{}", "protocol", "uwsgi"),
        ("{}", "dirty_apps", ["app:thing"]),
        ("{}", "worker_class", "sync"),
        ("{}", "worker_class", "gthread"),
        (TLS, "ca_certs", "ca.pem"),
        (TLS, "cert_reqs", 2),
        (TLS, "ciphers", "ECDHE"),
    ],
)
def test_what_would_do_harm_is_refused_by_name(text: str, name: str, value: Any) -> None:
    """With the reason, or what to do in its place."""
    config = configuration.parse(text)
    with pytest.raises(ConfigError) as caught:
        require(given(config, **{name: value}), config)
    (problem,) = caught.value.problems
    assert problem.path == name
    assert len(problem.message) > 20


def test_gunicorns_tls_is_its_own_affair_where_ours_is_not_set() -> None:
    config = configuration.parse("{}")
    require(given(config, certfile="a.pem", keyfile="b.pem", ca_certs="ca.pem"), config)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("accesslog", "-"),
        ("statsd_host", "127.0.0.1:8125"),
        ("threads", 4),
        ("worker_connections", 10),
        ("keepalive", 5),
        ("limit_request_line", 1000),
        ("forwarded_allow_ips", "*"),
        ("sendfile", False),
        ("pre_request", lambda _worker, _request: None),
        ("reuse_port", True),
    ],
)
def test_what_does_nothing_is_said(monkeypatch: pytest.MonkeyPatch, name: str, value: Any) -> None:
    config = configuration.parse("{}")
    require(given(config, **{name: value}), config)
    assert warned(monkeypatch, config, **{name: value}) == [name]


def test_what_gunicorns_handlers_read_is_theirs(monkeypatch: pytest.MonkeyPatch) -> None:
    """In its own worker, and on connections with a PROXY header that it was told to read."""
    config = configuration.parse("{}")
    settings = {"forwarded_allow_ips": "*", "keepalive": 5}
    assert warned(monkeypatch, config, worker_class="gevent", **settings) == []
    assert warned(monkeypatch, config, proxy_protocol="auto", **settings) == []


def test_settings_that_work_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    config = configuration.parse("{}")
    settings = {"max_requests": 1000, "max_requests_jitter": 50, "timeout": 10, "backlog": 64}
    require(given(config, **settings), config)
    assert warned(monkeypatch, config, **settings) == []


def test_every_name_is_one_of_gunicorns() -> None:
    """Of this version at least: a misspelt one would never be found."""
    known = gunicorn_config.Config().settings
    for names in (
        gunicorn_settings._REFUSED,
        gunicorn_settings._REFUSED_BESIDE_TLS,
        gunicorn_settings._WITHOUT_EFFECT,
        gunicorn_settings._WITHOUT_EFFECT_ON_OURS,
    ):
        assert names.keys() <= known.keys()
