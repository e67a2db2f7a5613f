"""An HTTP load balancer: gunicorn in front, requests sessions behind, one shared table between.

``app:application`` is the WSGI callable. It is made on first access (PEP 562) because gunicorn.conf.py
imports this package in the master, which must not load requests nor use gevent (gunicorn loads that there
with the worker's class): it is made in the workers, after gevent has patched the standard library.
"""

from __future__ import annotations

from typing import Any

from app import compiled

__version__ = "0.1.0"

compiled.use()


def __getattr__(name: str) -> Any:
    if name == "application":
        from app.worker.application import make_application

        globals()["application"] = application = make_application()
        return application
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
