"""HTTP/2 in front: what attackers try costs them their own connection and nobody else."""

from __future__ import annotations

import random
import socket
import time
from collections.abc import Callable, Iterator

import pytest
from harness import (
    PATIENT,
    Backend,
    Balancer,
    Exchange,
    handlers,
    processes,
    wait_until,
)
from harness.http2 import Http2Client
from harness.secure import (
    CANCEL,
    ENHANCE_YOUR_CALM,
    FRAME_SIZE_ERROR,
    PROTOCOL_ERROR,
    connect,
    context,
)
from hyperframe.frame import (
    ContinuationFrame,
    DataFrame,
    HeadersFrame,
    PingFrame,
    PriorityFrame,
    RstStreamFrame,
    SettingsFrame,
    WindowUpdateFrame,
)

# -- attacks -------------------------------------------------------------------------------------


def rapid_reset(client: Http2Client) -> Iterator[bytes]:
    """Requests that are given up at once (CVE-2023-44487).

    No more of them than frames are allowed at once: read in one piece they would be a flood of frames.
    """
    for number in range(1, 1001, 2):
        frame = HeadersFrame(number, client.block(), flags=["END_HEADERS", "END_STREAM"])
        yield frame.serialize() + RstStreamFrame(number, error_code=CANCEL).serialize()


def patient_reset(client: Http2Client) -> Iterator[bytes]:
    """The same one by one, each when it has reached a backend: never many at once."""
    for number in range(1, 601, 2):
        block = client.block(path="/hang")
        yield HeadersFrame(number, block, flags=["END_HEADERS", "END_STREAM"]).serialize()
        time.sleep(0.002)
        yield RstStreamFrame(number, error_code=CANCEL).serialize()


def made_resets(client: Http2Client) -> Iterator[bytes]:
    """Requests that we are made to reset ourselves (CVE-2025-8671)."""
    for number in range(1, 4001, 2):
        block = client.block(("connection", "x"))
        yield HeadersFrame(number, block, flags=["END_HEADERS", "END_STREAM"]).serialize()


def more_streams(client: Http2Client) -> Iterator[bytes]:
    """Far more streams than allowed, whatever the answer."""
    for number in range(1, 4001, 2):
        block = client.block(path="/hang")
        yield HeadersFrame(number, block, flags=["END_HEADERS", "END_STREAM"]).serialize()


def continuations(client: Http2Client) -> Iterator[bytes]:
    """A header block without an end (CVE-2024-27316)."""
    yield HeadersFrame(1, client.block()).serialize()
    for _ in range(4000):
        yield ContinuationFrame(1, b"").serialize()


def large_continuations(client: Http2Client) -> Iterator[bytes]:
    """The same, filled."""
    yield HeadersFrame(1, client.block()).serialize()
    for _ in range(4000):
        yield ContinuationFrame(1, b"\x00\x01x\x7f\xff\x7e" + b"y" * 16000).serialize()


def hpack_bomb(client: Http2Client) -> Iterator[bytes]:
    """A field of 4 KB, named again and again at one byte each (CVE-2016-6581)."""
    entry = b"\x40\x01x\x7f\xc0\x1e" + b"y" * 3999
    block = client.block() + entry + b"\xbe" * 16000
    yield HeadersFrame(1, block[:16384], flags=["END_STREAM"]).serialize()
    yield ContinuationFrame(1, block[16384:], flags=["END_HEADERS"]).serialize()


def repeated(frame: bytes, count: int = 5000) -> Callable[[Http2Client], Iterator[bytes]]:
    """The same frame again and again."""

    def flood(client: Http2Client) -> Iterator[bytes]:
        for _ in range(0, count, 50):
            yield frame * min(count, 50)

    return flood


def empty_data(client: Http2Client) -> Iterator[bytes]:
    """A body of nothing that never ends (CVE-2019-9518)."""
    yield HeadersFrame(
        1, client.block(path="/hang", method="POST"), flags=["END_HEADERS"]
    ).serialize()
    yield from repeated(DataFrame(1, b"").serialize())(client)


def padding_only(client: Http2Client) -> Iterator[bytes]:
    """The same, padded."""
    yield HeadersFrame(
        1, client.block(path="/hang", method="POST"), flags=["END_HEADERS"]
    ).serialize()
    for _ in range(200):
        yield DataFrame(1, b"", flags=["PADDED"], pad_length=20).serialize() * 25


ATTACKS = [
    (rapid_reset, ENHANCE_YOUR_CALM, "reset_flood"),
    (patient_reset, ENHANCE_YOUR_CALM, "reset_flood"),
    (made_resets, ENHANCE_YOUR_CALM, "reset_flood"),
    (more_streams, ENHANCE_YOUR_CALM, "reset_flood"),
    (continuations, ENHANCE_YOUR_CALM, "header_block_too_large"),
    (large_continuations, ENHANCE_YOUR_CALM, "header_block_too_large"),
    (hpack_bomb, ENHANCE_YOUR_CALM, "bad_http2"),
    (repeated(SettingsFrame(0).serialize()), ENHANCE_YOUR_CALM, "frame_flood"),
    (repeated(PingFrame(0, b"12345678").serialize()), ENHANCE_YOUR_CALM, "frame_flood"),
    (repeated(PriorityFrame(1, stream_weight=1).serialize()), ENHANCE_YOUR_CALM, "frame_flood"),
    (repeated(b"\x00\x00\x00\x63\x00\x00\x00\x00\x00"), ENHANCE_YOUR_CALM, "frame_flood"),
    (
        repeated(WindowUpdateFrame(0, window_increment=1).serialize()),
        ENHANCE_YOUR_CALM,
        "frame_flood",
    ),
    (empty_data, ENHANCE_YOUR_CALM, "frame_flood"),
    (padding_only, ENHANCE_YOUR_CALM, "frame_flood"),
    (repeated(b"\xff\xff\xff\x00\x00\x00\x00\x00\x01", 1), FRAME_SIZE_ERROR, "frame_too_large"),
    (repeated(ContinuationFrame(1, b"").serialize(), 1), PROTOCOL_ERROR, "bad_http2"),
    (repeated(DataFrame(1, b"x").serialize()), PROTOCOL_ERROR, "bad_http2"),
]


@pytest.mark.parametrize(
    ("attack", "code", "reason"), ATTACKS, ids=lambda value: getattr(value, "__name__", str(value))
)
def test_attacks_end_their_own_connection(
    secure: tuple[Balancer, Backend],
    attack: Callable[[Http2Client], Iterator[bytes]],
    code: int,
    reason: str,
) -> None:
    """With the fitting code and a line in the log, before they cost much; others are served meanwhile."""
    balancer, backend = secure

    def hanging(exchange: Exchange) -> None:
        (handlers.hang if exchange.request.target == "/hang" else handlers.ok)(exchange)

    backend.handler = hanging
    (worker,) = balancer.worker_pids()
    since = balancer.log_mark
    with connect(balancer) as honest:
        assert honest.get("/before").status == 200
        before = processes.memory_kib(worker)
        with connect(balancer, is_greedy=False) as attacker:
            try:
                for piece in attack(attacker):
                    attacker.send(piece)
            except OSError:
                pass  # cut off while it went on
            else:
                assert attacker.until_closed() == code
            attacker.pump_for(0)
            assert honest.get("/meanwhile").status == 200
        wait_until(lambda: balancer.access_lines(since, reason=reason), PATIENT, "its line")
        assert honest.get("/after").status == 200
        assert processes.memory_kib(worker) - before < 16 * 1024
    assert balancer.worker_pids() == {worker}


def test_who_makes_us_talk_and_does_not_listen_is_cut_off(
    impatient: tuple[Balancer, Backend],
) -> None:
    """Answers to a client that reads nothing fill a bounded buffer; after the client timeout it is gone."""
    balancer, backend = impatient
    backend.handler = handlers.answer(200, b"", ("X-Fill", "y" * 7000))
    (worker,) = balancer.worker_pids()
    with connect(balancer, settings={1: 0}) as client:
        before = processes.memory_kib(worker)
        client.socket.settimeout(0.5)
        sent = 0
        try:
            for number in range(1, 8001, 2):
                block = client.block()
                client.send(HeadersFrame(number, block, flags=["END_HEADERS", "END_STREAM"]))
                sent += 1
                time.sleep(0.0005)
        except OSError:
            pass
        assert processes.memory_kib(worker) - before < 24 * 1024
        wait_until(lambda: not backend_is_busy(balancer), PATIENT, "it is given up")


def backend_is_busy(balancer: Balancer) -> bool:
    """Whether a request still goes on: each that ends has its line."""
    return not balancer.access_lines(status=499)


def test_the_table_for_answers_stays_small(secure: tuple[Balancer, Backend]) -> None:
    """A client may allow gigabytes for it; ours are 4 KiB, and what it decodes is right."""
    balancer, backend = secure
    count = 0

    def varied(exchange: Exchange) -> None:
        nonlocal count
        count += 1
        exchange.reply(200, b"", [(f"X-{count}", "v" * 500)])

    backend.handler = varied
    (_worker,) = balancer.worker_pids()
    with connect(balancer, settings={1: 2**32 - 1}) as client:
        client._decoder.max_allowed_table_size = 2**32 - 1
        for _ in range(30):
            reply = client.get("/")
            assert reply.get(f"x-{count}") == "v" * 500
        assert client._decoder.header_table_size == 4096


def test_rubbish_ends_its_connection(secure: tuple[Balancer, Backend]) -> None:
    """HTTP/1.1 where HTTP/2 was agreed upon, and bytes of no kind."""
    balancer, _ = secure
    dice = random.Random(4)
    for data in (b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", dice.randbytes(5000)):
        made = context()
        made.set_alpn_protocols(["h2"])
        with (
            socket.create_connection(balancer.address, PATIENT) as plain,
            made.wrap_socket(plain, server_hostname="127.0.0.1") as tls,
        ):
            tls.sendall(data)
            try:
                while tls.recv(1000):
                    pass
            except OSError:
                pass
    with connect(balancer) as client:
        assert client.get("/after").status == 200
