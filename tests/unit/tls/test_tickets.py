"""Sessions of clients that go on at another worker: two tables' worth of contexts, handshakes in memory."""

from __future__ import annotations

import os
import ssl
from dataclasses import replace
from pathlib import Path

import pytest
from fakes.certificates import AUTHORITY, SECOND, store

from app.config import Tls
from app.shared import ticket_keys
from app.shared.table import Table
from app.tls import openssl, tickets
from app.tls.clients import certificates, prepare
from app.tls.tickets import Tickets
from tests.unit.tls.test_parameters import config_of

DAY = ticket_keys.RENEWAL_NS
VERSIONS = [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3]


class OneWorker:
    """As far as it shakes hands: ``table`` is that of all workers."""

    def __init__(self, table: Table, tls: Tls) -> None:
        self.tickets = Tickets(table)
        self.watched = certificates(tls, False, self.tickets)

    def shake_hands(self, client: Client) -> bool:
        """Whether the session of an earlier handshake was resumed; the client keeps the new one."""
        to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
        ours = client.context.wrap_bio(
            to_client, to_server, server_hostname="first.example", session=client.session
        )
        theirs = self.watched.context.wrap_bio(to_server, to_client, server_side=True)
        said = b""
        for _ in range(4):
            try:
                ours.do_handshake()
            except ssl.SSLWantReadError:
                pass
            said = to_server.read()
            to_server.write(said)
            try:
                self.tickets.step(theirs, said)
            except ssl.SSLWantReadError:
                pass
        theirs.write(b"x")
        assert ours.read(1) == b"x"  # in TLS 1.3 the ticket comes before it
        client.session = ours.session
        return bool(ours.session_reused)


class Client:
    def __init__(self, version: ssl.TLSVersion) -> None:
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        AUTHORITY.configure_trust(self.context)
        self.context.check_hostname = False
        self.context.maximum_version = version
        self.session: ssl.SSLSession | None = None


@pytest.fixture(name="table")
def _table() -> Table:
    table = Table.create(rows=1, slots=2, blob_bytes=8)
    assert ticket_keys.renew(table, 1, os.urandom)
    return table


@pytest.mark.parametrize("version", VERSIONS)
def test_another_worker_resumes(table: Table, tmp_path: Path, version: ssl.TLSVersion) -> None:
    """Whichever made the session; also when its certificate was replaced meanwhile."""
    tls, client = store(tmp_path), Client(version)
    first, second = OneWorker(table, tls), OneWorker(table, tls)
    assert [first.shake_hands(client), second.shake_hands(client)] == [False, True]
    store(tmp_path, SECOND)
    assert OneWorker(table, tls).shake_hands(client)


@pytest.mark.parametrize("version", VERSIONS)
def test_tickets_of_the_keys_before_are_read(
    table: Table, tmp_path: Path, version: ssl.TLSVersion
) -> None:
    """For a day after a renewal; and whoever brings one goes on with a ticket of the new keys."""
    tls, client = store(tmp_path), Client(version)
    worker, other = OneWorker(table, tls), OneWorker(table, tls)
    worker.shake_hands(client)
    issued_before = client.session
    assert ticket_keys.renew(table, 1 + DAY, os.urandom)
    for each in (worker, other):
        each.tickets.look(0.0)
    assert other.shake_hands(client)
    issued_since = client.session
    assert ticket_keys.renew(table, 1 + 2 * DAY, os.urandom)
    other.tickets.look(0.0)
    client.session = issued_before
    assert not other.shake_hands(client)
    if version == ssl.TLSVersion.TLSv1_3:  # in TLS 1.2 the client keeps the ticket that it has
        client.session = issued_since
        assert other.shake_hands(client)


@pytest.mark.parametrize("version", VERSIONS)
def test_a_session_of_an_open_context_is_none_of_a_strict_one(
    table: Table, tmp_path: Path, version: ssl.TLSVersion
) -> None:
    """Which would let in a client that never showed a certificate."""
    tls, client = store(tmp_path), Client(version)
    OneWorker(table, tls).shake_hands(client)
    AUTHORITY.issue_cert("client.example").configure_cert(client.context)
    strict = OneWorker(table, replace(tls, client_ca=str(tmp_path / "ca")))
    assert [strict.shake_hands(client), strict.shake_hands(client)] == [False, False]
    assert client.session is None or not client.session.has_ticket


@pytest.mark.parametrize("version", VERSIONS)
def test_where_openssl_is_not_reachable_the_master_hands_a_context_down(
    table: Table, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: ssl.TLSVersion
) -> None:
    """Also to workers that come after a reload, and with a certificate that was replaced."""
    monkeypatch.setattr(openssl, "_control", None)
    monkeypatch.setattr(tickets, "_inherited", None)
    tls, client = store(tmp_path), Client(version)
    prepare(config_of(tls))
    first = OneWorker(table, tls)
    assert not first.shake_hands(client)
    assert OneWorker(table, tls).shake_hands(client)
    prepare(config_of(store(tmp_path, SECOND)))
    assert OneWorker(table, tls).shake_hands(client)
    assert Tickets.for_sockets(table) is None


def test_without_a_master_each_context_has_its_own(tmp_path: Path) -> None:
    """There are no keys in such a table, and nothing is put in."""
    table, tls, client = (
        Table.create(rows=1, slots=2, blob_bytes=8),
        store(tmp_path),
        Client(VERSIONS[1]),
    )
    worker = OneWorker(table, tls)
    worker.tickets.look(0.0)
    assert [worker.shake_hands(client), worker.shake_hands(client)] == [False, True]
    assert not OneWorker(table, tls).shake_hands(client)
