"""What the integration tests are made of: a balancer, scripted backends, raw clients, conditions."""

from __future__ import annotations

from . import handlers, processes, streams
from .backend import PROBE_PATH, Backend, Exchange
from .balancer import (
    GUNICORN,
    MODULE,
    ROOT,
    SCRIPT,
    STOCK_WORKER,
    Balancer,
    environment,
    free_port,
    health_check,
    run,
)
from .client import Client, NoAnswer, Response, Truncated
from .load import Load, burst
from .separate import SeparateBackend
from .timing import PATIENT, PROMPT, NotReached, seconds, wait_until

__all__ = [
    "GUNICORN",
    "MODULE",
    "PATIENT",
    "PROBE_PATH",
    "PROMPT",
    "ROOT",
    "SCRIPT",
    "STOCK_WORKER",
    "Backend",
    "Balancer",
    "Client",
    "Exchange",
    "Load",
    "NoAnswer",
    "NotReached",
    "Response",
    "SeparateBackend",
    "Truncated",
    "burst",
    "environment",
    "free_port",
    "handlers",
    "health_check",
    "processes",
    "run",
    "seconds",
    "streams",
    "wait_until",
]
