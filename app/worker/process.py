"""The worker process: its life from the fork to its end.

Owns the process: the wiring of what serves connections, the beat for the master, SIGTERM and the drain.
A subclass of gunicorn's gevent worker. Imported by the master for the class, run in workers. A new socket is
app.worker.accept's affair, or app.worker.gunicorn_handler's; one connection's requests are
app.worker.client's; picking a backend is nobody's here.
"""

from __future__ import annotations

import os
import ssl
import sys
from collections.abc import Callable
from functools import partial
from time import monotonic
from typing import TYPE_CHECKING, Any

import gevent
from gunicorn import sock as gunicorn_sock
from gunicorn.workers.ggevent import GeventWorker

from app.shared import descriptors
from app.shared.inherited import inheritance
from app.shared.layout import GOES, LEAVING, LEDGER, WISHES_TO_GO
from app.telemetry import log
from app.telemetry.interpreter import install_gevent
from app.tls.clients import certificates, protocols
from app.tls.failures import HandshakeFailures
from app.tls.files import WatchedContext
from app.tls.handshake import ServerSide
from app.tls.tickets import Tickets
from app.wire.forwarded import trust_in
from app.wire.request import HeadLimits
from app.worker.accept import Acceptor
from app.worker.admission import Admission
from app.worker.client.contract import DRAIN_IDLE_SECONDS, ConnectionContext, DrainState
from app.worker.gunicorn_handler import GunicornHandler
from app.worker.listener import Listener, Share
from app.worker.memory import Trim
from app.worker.net.deadlines import NEVER, PAUSE_SECONDS, deadlines
from app.worker.parking import Parking

if TYPE_CHECKING:
    from app.worker.application import Application
    from app.worker.client.http2.connection import Http2Connection

# What does not finish in time is cut, answered and logged this long before the master kills the worker.
CUT_SECONDS = 1.0
# How often the worker looks whether it has to go. A drain looks more often: its end is waited for.
LOOK_SECONDS = 0.1
BEAT_SECONDS = 1.0
# A worker boots in 0.3 s, and in seconds on a busy machine or with a user's slow imports.
SUCCESSOR_SECONDS = 10.0

Accepted = Callable[[Any, Any, Any], None]  # (listener's socket, new connection's, its address)


class Worker(GeventWorker):
    """gunicorn's worker with its own connection loop."""

    slot = -1  # of the shared table; set by the pre_fork hook
    max_requests: int  # gunicorn's --max-requests with its jitter

    def __init__(self, *arguments: Any) -> None:
        self._drain_state = DrainState()  # before gunicorn sets ``alive``
        self._handshake_failures = HandshakeFailures()
        self._is_quick = False
        super().__init__(*arguments)

    @property
    def alive(self) -> bool:
        """gunicorn's flag, which its signal handlers take down. Connections see it as the DrainState."""
        return not self._drain_state.is_on

    @alive.setter
    def alive(self, is_alive: bool) -> None:
        self._drain_state.is_on = not is_alive

    def notify(self) -> None:
        """Show the master that this worker does not hang; go, as at a SIGTERM, when there is no master.

        gunicorn's own would end the process at once, and with it all that is in flight.
        """
        self.tmp.notify()
        if self.alive and os.getppid() != self.ppid:
            log.event("worker", "warning", "the master is gone, this worker drains", pid=self.pid)
            self.alive = False

    def handle_quit(self, *_: Any) -> None:
        """SIGQUIT, SIGINT: go at once, but what is cut is answered and has its line.

        gunicorn's own would end the process a moment later, whatever goes on.
        """
        self.alive = False
        self._is_quick = True
        gevent.spawn(self.cfg.worker_int, self)

    def init_process(self) -> None:
        """In the child, first of all: descriptors for many connections."""
        descriptors.raise_limit()
        super().init_process()

    def run(self) -> None:
        """Serve until told to stop, then drain."""
        # Loads requests: not before gevent has patched.
        from app.worker.application import Application

        install_gevent()
        deadlines.start()
        deadlines.every_tick(self._handshake_failures.tick)
        if isinstance(self.wsgi, Application):
            self._run_application(self.wsgi)
        else:
            # Whoever wraps the application in middleware gets a real environ.
            admission = Admission()
            tls = self._own_tls()
            handler = GunicornHandler(self, admission, lambda: tls, self._handshake_failures)
            self._serve(handler.accepted, None, admission, Parking(0.0), lambda: self.nr)
        self._handshake_failures.tell_rest()

    def _run_application(self, application: Application) -> None:
        """Serve our own application, by our own connection loop where gunicorn's flags allow it."""
        limits, pool = application.config.limits, application.pool
        admission = Admission(
            limits.connections, limits.connections_per_client, application.proxy.is_trusted
        )
        parking = Parking(application.config.timeouts.keepalive)
        for look in (parking.sweep, Trim().look):
            deadlines.every_tick(look)
        accepted = self._accepted_for(application, admission, parking)
        share = Share(
            pool.cells, pool.table, self.slot, lambda: admission.count, lambda: self.alive
        )
        deadlines.every_tick(share.announce)
        self._serve(accepted, share, admission, parking, lambda: application.proxy.requests)
        application.close()

    def _accepted_for(
        self, application: Application, admission: Admission, parking: Parking
    ) -> Accepted:
        """What is called with each new connection: by the configuration, and by gunicorn's own flags."""
        config = application.config
        sends_header = trust_in(config.proxy_protocol) if config.proxy_protocol else None
        is_read_by_gunicorn = sends_header is None and self.cfg.proxy_protocol != "off"
        watched: WatchedContext | None = None
        tls: ServerSide | None = None
        http2: type[Http2Connection] | None = None
        if config.tls is not None:
            # gunicorn's own handler would serve the streams of a connection one after another.
            if config.tls.http2 and not is_read_by_gunicorn:
                from app.worker.client.http2.connection import Http2Connection

                http2 = Http2Connection
            table = application.pool.table
            tickets = Tickets.for_sockets(table) if is_read_by_gunicorn else Tickets(table)
            watched = certificates(config.tls, http2 is not None, tickets)
            deadlines.every_tick(watched.look)
            if tickets is not None:
                deadlines.every_tick(tickets.look)
            tls = ServerSide(watched, tickets, protocols(http2 is not None))
        # Without a certificate in our file gunicorn's own flags decide.
        own_tls = self._own_tls() if watched is None else None
        failures = self._handshake_failures
        gunicorn_handler = GunicornHandler(
            self, admission, lambda: own_tls if watched is None else watched.context, failures
        )
        if is_read_by_gunicorn:
            return gunicorn_handler.accepted
        limits, timeouts = config.limits, config.timeouts
        context = ConnectionContext(
            application.proxy,
            limits,
            HeadLimits(
                limits.request_line, limits.header_count, limits.header_size, limits.headers_size
            ),
            client_timeout=timeouts.client or NEVER,
            head_timeout=timeouts.head or timeouts.client or NEVER,
            idle_timeout=timeouts.keepalive or NEVER,
            half_close=timeouts.half_close,
            drain=self._drain_state,
            parking=parking,
        )
        secured_by = gunicorn_handler if own_tls is not None else None
        return Acceptor(context, admission, sends_header, tls, secured_by, http2, failures).accepted

    def _own_tls(self) -> ssl.SSLContext | None:
        """TLS by gunicorn's own flags (--certfile …), None without them."""
        context: ssl.SSLContext | None = (
            gunicorn_sock.ssl_context(self.cfg) if self.cfg.is_ssl else None
        )
        return context

    def _serve(
        self,
        accepted: Accepted,
        share: Share | None,
        admission: Admission,
        parking: Parking,
        requests: Callable[[], int],
    ) -> None:
        """Accept until told to stop, then drain. ``share``: with the other workers, None without a table.

        ``requests``: how many there have been. After ``max_requests`` the master is asked for a successor,
        and tells this worker to go when that one serves.
        """
        defers = share.defers if share is not None else None
        listeners = [Listener(sock, partial(accepted, sock), defers) for sock in self.sockets]
        for listener in listeners:
            if self.cfg.workers > 1:
                listener.max_accept = 1  # as gunicorn: leave some for the others
            listener.start()
        if share is not None:
            share.announce()  # before the first beat, at which the master lets older workers go
        beat = 0.0
        # gunicorn's own handler would have the worker go at once, before there is another.
        most = self.max_requests
        self.max_requests = sys.maxsize
        while self.alive:
            if (now := monotonic()) - beat >= BEAT_SECONDS:
                beat = now
                self.notify()
            if requests() >= most:
                self._say(WISHES_TO_GO)
            gevent.sleep(LOOK_SECONDS)
        self._say(GOES)
        if share is not None:
            self._wait_for_successor(share)
        for listener in listeners:
            listener.close()
        if share is not None:
            share.announce()
        is_alone = share.is_alone if share is not None else lambda: True
        self._drain(admission, parking, is_alone)

    def _say(self, leaving: int) -> None:
        """Let the master know whether this worker stays; one without a slot is missed when it has gone."""
        inherited = inheritance()
        if inherited is not None and self.slot > LEDGER:
            inherited.table.slot(self.slot)[LEAVING] = leaving

    def _wait_for_successor(self, share: Share) -> None:
        """Accept on while nobody else does, if there is somebody who soon will.

        So it is where the old master has its TERM (after USR2) while the new one's workers import what they
        need. At a stop there is nobody: all the others say that they go too.
        """
        until = monotonic() + SUCCESSOR_SECONDS
        while share.is_alone() and share.is_awaited() and monotonic() < until:
            if self._is_quick:
                break
            self.notify()
            gevent.sleep(LOOK_SECONDS / 2)

    def _drain(self, admission: Admission, parking: Parking, is_alone: Callable[[], bool]) -> None:
        """Finish what is in flight, within graceful_timeout; idle connections have their time too.

        While there are workers that accept (``is_alone`` says no), idle clients are kept until their next
        request, which is answered with ``Connection: close``, or until timeouts.keepalive: nginx closes them
        at once and loses requests that are on their way (nginx#303, #437). When nobody accepts any more it is
        a stop, which is not to wait for long for who asks for nothing.
        """
        drain = self._drain_state
        succeeded_at = monotonic()
        limit = succeeded_at + self.cfg.graceful_timeout - CUT_SECONDS
        drain.idle_until = min(succeeded_at + DRAIN_IDLE_SECONDS, limit) if is_alone() else limit
        for connection in admission.running():
            connection.drain()
        looked_at = succeeded_at
        while admission.count:
            now = monotonic()
            if now - looked_at > PAUSE_SECONDS:
                limit += now - looked_at  # a stopped group: nobody could finish anything meanwhile
            looked_at = now
            if not is_alone():
                succeeded_at = now
            idle_until = min(succeeded_at + DRAIN_IDLE_SECONDS, limit)
            # Who has not come to a request has no more time than who has asked for nothing more.
            if self._is_quick or now > (idle_until if admission.only_arriving() else limit):
                break
            if now > idle_until:
                for connection in admission.running():
                    if connection.is_idle:
                        connection.deadline.at = now  # at the next tick
                parking.close_idle()
            self.notify()
            gevent.sleep(LOOK_SECONDS / 2)
        hub_loop = gevent.get_hub().loop
        for connection in admission.running():
            # In the hub: a plain throw would switch to the connection's greenlet and never come back.
            hub_loop.run_callback(connection.cut)
        until = monotonic() + CUT_SECONDS / 2
        while admission.running() and monotonic() < until:
            gevent.sleep(LOOK_SECONDS / 5)
