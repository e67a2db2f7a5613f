"""app.worker.net.progress: what the kernel knows of what a peer has taken. Over Unix sockets."""

from __future__ import annotations

import socket

from app.worker.net.progress import acknowledged, pending, taken


def test_what_a_peer_takes_shows() -> None:
    """Each read of it, and nothing else."""
    ours, peer = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    with ours, peer:
        assert acknowledged(ours) == -1, "a Unix socket acknowledges nothing"
        ours.sendall(b"x" * 1000)
        ours.sendall(b"x" * 1000)
        assert pending(ours) > 0
        before = taken(ours)
        assert taken(ours) == before
        peer.recv(1000)
        assert taken(ours) != before
        peer.recv(1000)
        assert pending(ours) == 0


def test_where_nobody_knows_nothing_is_said() -> None:
    """A server's own socket may be hidden, or closed."""
    for raw in (None, object(), socket.socket(socket.AF_UNIX)):
        if isinstance(raw, socket.socket):
            raw.close()
        assert (taken(raw), pending(raw)) == (0, 0)
