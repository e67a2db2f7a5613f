"""What a worker knows of a server's addresses: what the control process wrote, no less and no more."""

from __future__ import annotations

import socket
from typing import Any

import gevent.socket
import pytest

from app.shared import addresses, publication
from app.shared.addresses import Address
from app.shared.table import Table, identity_of
from app.worker.upstream.addresses import AddressBook, looked_up_here

APP, OTHER = "http://app:80", "http://other:80"
ONE, TWO = Address(bytes([192, 0, 2, 1])), Address(bytes([192, 0, 2, 2]))
AT_ONE, AT_TWO = (socket.AF_INET, ("192.0.2.1", 80)), (socket.AF_INET, ("192.0.2.2", 80))


class Bench:
    """A table with servers, and the control process's part."""

    def __init__(self) -> None:
        self.table = Table.create(rows=3, slots=2, blob_bytes=8)
        self.book = AddressBook(self.table)

    def publish(self, *urls: str) -> None:
        sequence = publication.propose(self.table, b"", [identity_of(url) for url in urls])
        publication.publish(self.table, sequence)

    def write(self, url: str, *found: Address) -> None:
        addresses.write(self.table, self.row(url), identity_of(url), found)

    def row(self, url: str) -> int:
        return self.table.row_index()[identity_of(url)]


@pytest.fixture(name="bench")
def _bench() -> Bench:
    bench = Bench()
    bench.publish(APP)
    return bench


def test_news_are_told_once(bench: Bench) -> None:
    """With the port of the server, in the order of the table."""
    news = bench.book.news_of(APP, 80)
    assert news() is None
    bench.write(APP, ONE, TWO)
    assert [news(), news()] == [(AT_ONE, AT_TWO), None]
    bench.write(APP, TWO)
    assert [news(), news()] == [(AT_TWO,), None]


def test_a_row_that_is_being_written_is_read_the_next_time(bench: Bench) -> None:
    """What was known before stays until then."""
    news = bench.book.news_of(APP, 80)
    bench.write(APP, ONE)
    at = bench.table.addresses_at * 8 + 30
    bench.table.memory[at] ^= 1
    assert news() is None
    bench.table.memory[at] ^= 1
    assert news() == (AT_ONE,)


def test_a_server_is_found_when_its_row_is_another(bench: Bench) -> None:
    """Its old row may be somebody else's by then, with other addresses."""
    news = bench.book.news_of(OTHER, 80)
    assert news() is None
    bench.publish(APP, OTHER)
    bench.write(OTHER, ONE)
    assert news() == (AT_ONE,)
    before = bench.row(OTHER)
    for urls in (["http://b:1"], ["http://b:1", "http://c:1"], ["http://b:1", "http://d:1"]):
        bench.publish(*urls)
    assert bench.row("http://d:1") == before
    bench.write("http://d:1", TWO)
    assert news() is None
    bench.publish("http://b:1", OTHER)
    assert bench.row(OTHER) != before
    bench.write(OTHER, TWO)
    assert news() == (AT_TWO,)


def test_without_a_master_the_resolver_is_asked_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another order of the same addresses is nothing new."""
    answers = [["192.0.2.1", "192.0.2.2"], ["192.0.2.2", "192.0.2.1"], ["192.0.2.2"]]

    def resolve(host: str, port: int, **_: Any) -> list[Any]:
        return [(socket.AF_INET, 1, 6, "", (address, port)) for address in answers.pop(0)]

    monkeypatch.setattr(gevent.socket, "getaddrinfo", resolve)
    news = looked_up_here("app", 80)
    assert [news(), news(), news()] == [(AT_ONE, AT_TWO), None, (AT_TWO,)]
