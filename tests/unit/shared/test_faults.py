"""Whose fault an error is."""

from __future__ import annotations

import errno
import socket
import ssl

import pytest

from app.shared.faults import is_ours


@pytest.mark.parametrize(
    "number", [errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM, errno.EADDRNOTAVAIL]
)
def test_what_has_run_out_here_is_ours(number: int) -> None:
    """Descriptors, memory, ports."""
    assert is_ours(OSError(number, "run out"))


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.EHOSTUNREACH, "No route to host"),
        ConnectionRefusedError(errno.ECONNREFUSED, "refused"),
        FileNotFoundError(errno.ENOENT, "no socket"),
        socket.gaierror(socket.EAI_NONAME, "unknown"),
        ssl.SSLError(1, "handshake failure"),
        TimeoutError(),
        ValueError("no errno at all"),
        None,
    ],
    ids=repr,
)
def test_everything_else_is_the_server_s(error: BaseException | None) -> None:
    """Or its network's, which is the same to our users."""
    assert not is_ours(error)
