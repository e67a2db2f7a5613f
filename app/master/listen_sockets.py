"""Listening sockets: those of new addresses beside those there are, and why one cannot be opened.

Owns the change from one set of addresses to another, in which what stays keeps its very socket and nothing is
closed before everything is open, and the words for what stands in the way. Runs in the master, and in
``load_balancer.py`` before a start. Must never know which key of the configuration an address comes from.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
from collections.abc import Iterable, Sequence
from typing import Any, TypeAlias

# gunicorn's: host and port, the path of a Unix socket, or an inherited descriptor.
Address: TypeAlias = "tuple[str, int] | str | int"


class CannotListen(Exception):
    """``address`` cannot be listened on; ``cause`` says why."""

    def __init__(self, address: Address, cause: Exception) -> None:
        super().__init__(address, cause)
        self.address = address
        self.cause = cause


class Change:
    """From the listeners there are to those for other addresses; nothing is closed before ``finish``."""

    def __init__(self, before: Sequence[Any]) -> None:
        self.before = tuple(before)
        self.now = list(before)
        self._freed: frozenset[int] = frozenset()

    def open(self, cfg: Any, log: Any, freed: Iterable[int]) -> None:
        """Open what the addresses in ``cfg`` need. CannotListen, with nothing opened, if one cannot be had.

        ``freed``: ports whose listeners a reload has closed, but that workers which drain may still hold.
        """
        self._freed = frozenset(freed)
        self.now = []
        # gunicorn's Unix socket sets it for its bind, and leaves it so where that fails.
        mask = os.umask(0)
        os.umask(mask)
        for address in cfg.address:
            try:
                listener = self._at(address) or self._open(address, cfg, log)
            except (OSError, ValueError, TypeError, OverflowError) as error:
                os.umask(mask)
                self.undo()
                raise CannotListen(address, error) from error
            if listener not in self.now:
                self.now.append(listener)

    def undo(self) -> None:
        """Close what ``open`` has opened, and leave the listeners there were."""
        opened = [listener for listener in self.now if listener not in self.before]
        self.now = list(self.before)
        for listener in opened:
            path = listener.cfg_addr
            listener.close()
            if isinstance(path, str) and not path.startswith("\0"):
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(path)

    def finish(self) -> set[int]:
        """Close what is not wanted any more; returns the ports that draining workers may still hold."""
        gone = [listener for listener in self.before if listener not in self.now]
        # For good, as a socket that only drains must not keep a later reload from this address.
        _share(gone, True)
        for listener in gone:
            listener.close()
        return set(filter(None, map(_port_of, gone)))

    def _at(self, address: Address) -> Any:
        """The listener that is there already."""
        for listener in self.before:
            # Of an inherited one as the kernel says it, in IPv6 with more to it.
            at = listener.cfg_addr
            if (at[:2] if isinstance(at, tuple) else at) == address:
                return listener
        return None

    def _open(self, address: Address, cfg: Any, log: Any) -> Any:
        from gunicorn import sock

        if isinstance(address, int):
            raise OSError("an inherited descriptor can only be taken at a start")
        kind = sock._sock_type(address)
        try:
            return kind(address, cfg, log)
        except OSError as error:
            if error.errno != errno.EADDRINUSE or isinstance(address, str):
                raise
            neighbours = [one for one in self.before if _port_of(one) == address[1]]
            if not neighbours and address[1] not in self._freed:
                raise
        # 127.0.0.1 beside 0.0.0.0: Linux lets them listen on one port at a time if both allow it and are one
        # user's (SO_REUSEPORT, socket(7)), which it asks at this bind alone. Nobody else is to come in by it.
        _share(neighbours, True)
        cfg.set("reuse_port", True)
        try:
            listener = kind(address, cfg, log)
        finally:
            cfg.set("reuse_port", False)
            _share(neighbours, False)
        _share([listener], False)
        return listener


def in_words(error: Exception, host: str, port: int, elsewhere: str, whose: str = "") -> str:
    """Why nobody can listen there, with a remedy; ``elsewhere`` is the one that always helps."""
    number = getattr(error, "errno", None)
    if number == errno.EADDRINUSE:
        return (
            f"{whose}port {port} on {host} is taken by another program: stop it "
            f"(ss -ltnp 'sport = :{port}' names it), or {elsewhere}"
        )
    if number == errno.EACCES:
        return f"{whose}port {port} needs the right to open ports below 1024: {elsewhere}"
    why = f"cannot listen on {whose}{host} port {port}: {getattr(error, 'strerror', '') or error}"
    if number == errno.EADDRNOTAVAIL or isinstance(error, socket.gaierror):
        why += ": name an address of this machine (ip address lists them)"
    return why


def _share(listeners: Iterable[Any], is_shared: bool) -> None:
    for listener in listeners:
        if _port_of(listener):
            listener.sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, is_shared)


def _port_of(listener: Any) -> int:
    """The TCP port it listens on; 0 for a Unix socket."""
    at = listener.cfg_addr
    return int(at[1]) if isinstance(at, tuple) else 0
