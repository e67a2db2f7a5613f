"""Judging a configuration before anything depends on it, and the one that gunicorn's settings come from.

Owns three steps: read the file, judge it (a user's own algorithm, TLS files), say in the log what is wrong.
Keeps the configuration in use and, while a reload is at work, the one that was judged for it: in this module,
because gunicorn.conf.py is executed again at every reload and this is not. Runs in the master, at start and
at every reload. Must never know the table or a worker.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator, Mapping

from app import config as configuration
from app.config import Config, ConfigError
from app.master import policy_trial
from app.master.exit_status import EX_CONFIG
from app.telemetry import log
from app.telemetry.gunicorn import set_redact
from app.tls import clients as tls
from app.wire.authority import host_and_port

_in_use: Config | None = None  # what gunicorn's settings come from
_judged: Config | None = None  # what they are to come from, while a reload is at work


def load_config() -> Config:
    """The configuration for gunicorn.conf.py. A bad one ends a start; at a reload it was judged before."""
    if _judged is not None:
        return _judged
    try:
        candidate = judge(configuration.path_from(os.environ), os.environ)
    except ConfigError as error:
        report(error)
        sys.exit(EX_CONFIG)
    adopt(candidate)
    return candidate


def judge(path: str, environ: Mapping[str, str]) -> Config:
    """The configuration as it is on disk now. ConfigError with every problem, if it is not fit for use."""
    candidate = configuration.load(path, environ)
    policy_trial.require(candidate)
    tls.require(candidate)
    return candidate


@contextlib.contextmanager
def reloading(config: Config) -> Iterator[None]:
    """Meanwhile gunicorn.conf.py and the on_reload hook get ``config``, which was judged for a reload."""
    global _judged
    _judged = config
    try:
        yield
    finally:
        _judged = None


def judged() -> Config:
    """The configuration that a reload, which is at work, is to end with."""
    assert _judged is not None, "no reload is at work"
    return _judged


def in_use() -> Config:
    """The configuration that gunicorn's settings come from."""
    assert _in_use is not None, "no configuration was loaded"
    return _in_use


def adopt(config: Config) -> None:
    """Make it the configuration in use, and log what an operator may want to know of it."""
    global _in_use
    for problem in configuration.warnings(config):
        log.event("config", "warning", str(problem), path=problem.path, problem=problem.message)
    _in_use = config
    set_redact(config.logging.redact)


def report(error: ConfigError) -> None:
    """Log every problem; at a start also on a terminal, for the person who has just typed the command.

    Not where the log is to be seen as well: there each would stand twice.
    """
    is_told = _in_use is None and os.isatty(2) and not os.isatty(log.STDOUT_FD)
    for problem in error.problems:
        log.event("config", "error", str(problem), path=problem.path, problem=problem.message)
        if is_told:
            sys.stderr.write(f"{problem}\n")
    sys.stderr.flush()


def bind_address(config: Config) -> str:
    """Where gunicorn is to listen, in its notation: IPv6 addresses in brackets."""
    return host_and_port(config.host, config.port)
