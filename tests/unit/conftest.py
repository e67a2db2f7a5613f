"""Unit tests have no network: an address in one is a mistake, even of a socket made by a C extension.

An audit hook sees every connect, whoever makes it, gevent included. It cannot be removed again, so a
flag says whether a unit test is running. Unix sockets and socketpairs stay: they reach nobody else.
"""

from __future__ import annotations

import socket
import sys
from collections.abc import Iterator
from typing import Any

import pytest

NETWORK = {"socket.connect", "socket.bind", "socket.sendto"}

_running = False


def _refuse(event: str, arguments: tuple[Any, ...]) -> None:
    if _running and event in NETWORK and arguments[0].family != socket.AF_UNIX:
        raise AssertionError(f"a unit test has no network: {event} {arguments[1]!r}")


sys.addaudithook(_refuse)


@pytest.fixture(autouse=True)
def _no_network() -> Iterator[None]:
    global _running
    _running = True
    yield
    _running = False
