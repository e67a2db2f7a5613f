"""The sink never waits, never raises, keeps lines whole, and tells how many it had to drop."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import pty
import resource
import socket
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from app.telemetry import sink as sink_module
from app.telemetry.sink import CLOSED, FLUSH_BYTES, LIMIT_BYTES, STALLED, Sink


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    """A pipe's ends; whatever a test leaves open is closed."""
    reader, writer = os.pipe()
    yield reader, writer
    for fd in (reader, writer):
        try:
            os.close(fd)
        except OSError:
            pass


def line_of(size: int, **fields: Any) -> bytes:
    """A JSON line of exactly ``size`` bytes."""
    empty = json.dumps({**fields, "pad": ""}).encode()
    return json.dumps({**fields, "pad": "x" * (size - len(empty) - 1)}).encode() + b"\n"


def read_available(fd: int) -> bytes:
    """All that is in the pipe now."""
    os.set_blocking(fd, False)
    chunks = []
    while True:
        try:
            chunk = os.read(fd, 1 << 20)
        except BlockingIOError:
            break
        if not chunk:
            break
        chunks.append(chunk)
    return b"".join(chunks)


def read_through(fd: int, sink: Sink) -> list[dict[str, Any]]:
    """Read and flush in turn until the sink is empty: a reader that has caught up."""
    data = b""
    for _ in range(1000):
        data += read_available(fd)
        if sink.flush():
            break
    data += read_available(fd)
    return [json.loads(line) for line in data.splitlines()]


def is_nonblocking(fd: int) -> bool:
    return bool(fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_NONBLOCK)


def test_lines_arrive_in_order(pipe: tuple[int, int]) -> None:
    """What is written comes out after a flush, nothing before it."""
    reader, writer = pipe
    sink = Sink(writer)
    sink.write(b"one\n")
    sink.write(b"two\n")
    assert read_available(reader) == b""
    assert sink.flush()
    assert read_available(reader) == b"one\ntwo\n"


def test_it_flushes_by_itself_past_16_kib(pipe: tuple[int, int]) -> None:
    """A busy worker does not wait for its timer."""
    reader, writer = pipe
    sink = Sink(writer)
    for _ in range(FLUSH_BYTES // 1000 + 1):
        sink.write(line_of(1000))
    assert len(read_available(reader)) > FLUSH_BYTES


def test_a_stalled_reader_never_blocks_and_the_number_dropped_is_told_once(
    pipe: tuple[int, int],
) -> None:
    """Past 1 MiB the newest lines go; all older ones arrive, then one line counts the rest."""
    reader, writer = pipe
    sink = Sink(writer)
    total = 3 * LIMIT_BYTES // 1000
    for number in range(total):
        sink.write(line_of(1000, number=number))
        if number % 100 == 0:
            sink.flush()
    assert not sink.flush()

    records = read_through(reader, sink)
    report = records.pop()
    kept = [record["number"] for record in records]
    assert kept == list(range(len(kept)))
    assert LIMIT_BYTES <= len(kept) * 1000 <= LIMIT_BYTES + 70_000
    assert report["dropped"] == total - len(kept)
    assert (report["logger"], report["level"], report["reason"]) == ("log", "warning", STALLED)
    assert report["pid"] == os.getpid()

    sink.write(b'{"after":1}\n')
    assert read_through(reader, sink) == [{"after": 1}]


def test_a_slow_reader_loses_lines_but_counts_each(pipe: tuple[int, int]) -> None:
    """Every line either arrives or is in the sum of the reports, whatever the rhythm."""
    reader, writer = pipe
    sink = Sink(writer)
    total = 6000
    data = b""
    for number in range(total):
        sink.write(line_of(1000, number=number))
        if number % 50 == 0:
            data += os.read(reader, 10_000) if number else b""
            sink.flush()
    records = [json.loads(line) for line in data.rpartition(b"\n")[0].splitlines()]
    tail = data.rpartition(b"\n")[2]
    rest = b""
    for _ in range(1000):
        rest += read_available(reader)
        if sink.flush():
            break
    rest += read_available(reader)
    records += [json.loads(line) for line in (tail + rest).splitlines()]
    dropped = sum(record.get("dropped", 0) for record in records)
    arrived = [record["number"] for record in records if "number" in record]
    assert dropped > 0
    assert len(arrived) + dropped == total
    assert arrived == sorted(set(arrived))


def test_a_stall_is_cheap(pipe: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    """A full pipe is tried again once in 16 KiB of lines, not at each line."""
    _, writer = pipe
    sink = Sink(writer)
    for _ in range(100):
        sink.write(line_of(1000))
    calls = Counter[str]()

    def full(fd: int, data: bytes) -> int:
        calls["write"] += 1
        raise BlockingIOError(errno.EAGAIN, "full")

    monkeypatch.setattr(os, "write", full)
    for _ in range(160):
        sink.write(line_of(1000))
    assert calls["write"] <= 10


@pytest.mark.parametrize("size", [100, 450, 1365, 4095, 4096])
def test_writes_are_whole_lines_within_pipe_buf(
    pipe: tuple[int, int], monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    """Each write to a pipe ends with a line's end and has at most 4096 bytes."""
    _, writer = pipe
    sink = Sink(writer)
    pieces: list[bytes] = []

    def record(fd: int, data: bytes) -> int:
        pieces.append(bytes(data))
        return len(data)

    monkeypatch.setattr(os, "write", record)
    lines = [line_of(size, n=number) for number in range(40)]
    for line in lines:
        sink.write(line)
    assert sink.flush()
    assert b"".join(pieces) == b"".join(lines)
    assert all(piece.endswith(b"\n") and len(piece) <= 4096 for piece in pieces)
    assert len(pieces) <= len(lines) // (4096 // size) + 3


def test_a_line_longer_than_a_piece_still_arrives(pipe: tuple[int, int]) -> None:
    """The sink does not depend on its callers' limit."""
    reader, writer = pipe
    sink = Sink(writer)
    lines = [b"a" * 10 + b"\n", b"b" * 9000 + b"\n", b"c" * 10 + b"\n"]
    for line in lines:
        sink.write(line)
    assert sink.flush()
    assert read_available(reader) == b"".join(lines)


def test_a_write_cut_short_goes_on_where_it_stopped(
    pipe: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A terminal or a full disk takes a part; the rest follows, nothing is sent twice."""
    _, writer = pipe
    sink = Sink(writer)
    taken = bytearray()
    outcomes = iter([7, None, 3, OSError(errno.ENOSPC, "full"), 5])

    def short(fd: int, data: bytes) -> int:
        outcome = next(outcomes, len(data))
        if outcome is None:
            raise BlockingIOError(errno.EAGAIN, "later")
        if isinstance(outcome, OSError):
            raise outcome
        taken.extend(data[:outcome])
        return min(outcome, len(data))

    monkeypatch.setattr(os, "write", short)
    lines = [b'{"a":1}\n', b'{"b":2}\n', b'{"c":3}\n']
    for line in lines:
        sink.write(line)
    assert [sink.flush() for _ in range(3)] == [False, False, True]
    assert bytes(taken) == b"".join(lines)


class FullDisk:
    """A log that may have so many bytes, as on a disk without room (EFBIG in the place of ENOSPC)."""

    def __init__(self, path: Path, flags: int) -> None:
        self.path = path
        self.fd = os.open(path, os.O_CREAT | flags)
        self._before = resource.getrlimit(resource.RLIMIT_FSIZE)

    def has_room_for(self, size: int) -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, self._before[1]))

    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.path.read_bytes().splitlines()]

    def close(self) -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, self._before)
        os.close(self.fd)


@pytest.fixture(
    name="disk", params=[os.O_WRONLY, os.O_WRONLY | os.O_APPEND], ids=["shared", "append"]
)
def _disk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[FullDisk]:
    disk = FullDisk(tmp_path / "log", request.param)
    yield disk
    disk.close()


def test_a_full_disk_gets_whole_lines_or_none(disk: FullDisk) -> None:
    """Two processes: the rest of one's line would come behind a line of the other's."""
    one, other = Sink(disk.fd), Sink(disk.fd)
    disk.has_room_for(1_230)
    for number in range(3):
        one.write(line_of(500, of="one", n=number))
    assert not one.flush()
    assert [line["n"] for line in disk.lines()] == [0, 1]
    other.write(line_of(220, of="other", n=0))
    assert other.flush()
    other.write(line_of(220, of="other", n=1))
    assert not other.flush()
    disk.has_room_for(1 << 20)
    assert one.flush()
    assert other.flush()
    assert [(line["of"], line["n"]) for line in disk.lines()] == [
        ("one", 0),
        ("one", 1),
        ("other", 0),
        ("one", 2),
        ("other", 1),
    ]


@pytest.mark.parametrize("is_readable", [True, False])
def test_a_torn_line_that_cannot_be_taken_back_is_counted(
    disk: FullDisk, monkeypatch: pytest.MonkeyPatch, is_readable: bool
) -> None:
    """Its rest is never sent. Who wrote behind it is glued to it, if that is known; else ours begins anew."""
    sink = Sink(disk.fd)
    disk.has_room_for(750)
    write = os.write

    def followed(fd: int, data: bytes) -> int:
        written = write(fd, data)
        if is_readable and written == 750:
            disk.has_room_for(1 << 20)
            write(fd, b'{"of": "other"}\n')
        return written

    monkeypatch.setattr(os, "write", followed)
    if not is_readable:
        monkeypatch.setattr(sink_module, "_is_last", lambda *_: None)
    for number in range(3):
        sink.write(line_of(500, n=number))
    assert not sink.flush()
    disk.has_room_for(1 << 20)
    assert sink.flush()
    torn, *rest = [line for line in disk.path.read_bytes().splitlines() if b'"n": 0' not in line]
    assert torn.startswith(b'{"n": 1')
    assert torn.endswith(b'{"of": "other"}') is is_readable
    kept, report = map(json.loads, rest)
    assert (kept["n"], report["dropped"], report["reason"]) == (2, 1, STALLED)


def test_a_torn_report_is_not_forgotten(disk: FullDisk, monkeypatch: pytest.MonkeyPatch) -> None:
    """What it told of is told by the next."""
    sink = Sink(disk.fd)
    sink._dropped = 7
    disk.has_room_for(520)
    monkeypatch.setattr(sink_module, "_is_last", lambda *_: None)
    sink.write(line_of(500))
    sink.flush()
    disk.has_room_for(1 << 20)
    assert sink.flush()
    assert json.loads(disk.path.read_bytes().splitlines()[-1])["dropped"] == 7


def test_lines_of_several_processes_never_mix(pipe: tuple[int, int]) -> None:
    """Four processes write to one pipe: every line is whole, and every one is there."""
    reader, writer = pipe
    lines_each = 3000
    children = []
    for child in range(4):
        pid = os.fork()
        if pid == 0:
            status = 1
            try:
                os.close(reader)
                sink = Sink(writer)
                for number in range(lines_each):
                    sink.write(
                        line_of(60 + (number * 37 + child * 11) % 4000, child=child, n=number)
                    )
                    if number % 50 == 0:
                        sink.drain(10)
                status = 0 if sink.drain(10) else 2
            finally:
                os._exit(status)
        children.append(pid)
    os.close(writer)
    with os.fdopen(reader, "rb", closefd=False) as stream:
        records = [json.loads(line) for line in stream]
    assert [os.waitpid(pid, 0)[1] for pid in children] == [0, 0, 0, 0]
    for child in range(4):
        assert [r["n"] for r in records if r["child"] == child] == list(range(lines_each))


def test_the_inherited_pipe_is_not_changed(pipe: tuple[int, int]) -> None:
    """O_NONBLOCK is set on a description of our own: whoever shares stdout does not notice."""
    _, writer = pipe
    sink = Sink(writer)
    sink.write(b"x\n")
    sink.flush()
    assert not is_nonblocking(writer)
    sink.close()


def test_a_terminal_is_not_changed_either() -> None:
    """A shell whose terminal became non-blocking would misbehave after we are gone."""
    master, slave = pty.openpty()
    try:
        sink = Sink(slave)
        sink.write(b'{"a":1}\n')
        assert sink.flush()
        assert os.read(master, 100) == b'{"a":1}\r\n'
        assert not is_nonblocking(slave)
        sink.close()
    finally:
        os.close(master)
        os.close(slave)


def test_without_the_right_to_open_it_the_inherited_one_is_used(
    pipe: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A container's stdout belongs to root: then O_NONBLOCK on the shared one is the only way."""
    reader, writer = pipe

    def refuse(*_: object) -> int:
        raise PermissionError(errno.EACCES, "no")

    monkeypatch.setattr(os, "open", refuse)
    sink = Sink(writer)
    assert is_nonblocking(writer)
    for _ in range(2000):
        sink.write(line_of(1000))
    assert not sink.flush()
    assert len(read_available(reader)) > 0


def test_a_socket_is_written_without_blocking() -> None:
    """systemd connects stdout to the journal's socket, which cannot be opened again (ENXIO)."""
    left, right = socket.socketpair()
    with left, right:
        sink = Sink(left.fileno())
        for _ in range(2000):
            sink.write(line_of(1000))
        assert not sink.flush()
        records = read_through(right.fileno(), sink)
    assert records[-1]["dropped"] + len(records) - 1 == 2000


def test_a_reader_that_is_gone_costs_nothing_but_the_lines(pipe: tuple[int, int]) -> None:
    """EPIPE is neither raised nor a signal; no line is kept for nobody."""
    reader, writer = pipe
    sink = Sink(writer)
    os.close(reader)
    for _ in range(3000):
        sink.write(line_of(1000))
    assert sink.flush()
    assert "buffered=0 dropped=3000" in repr(sink)
    started = time.monotonic()
    sink.close()
    assert time.monotonic() - started < 0.5


def test_a_reader_that_returns_is_told_what_it_missed(tmp_path: Path) -> None:
    """A named pipe whose reader was restarted gets the number of lines lost in between."""
    path = tmp_path / "fifo"
    os.mkfifo(path)
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    writer = os.open(path, os.O_WRONLY)
    sink = Sink(writer)
    os.close(reader)
    sink.write(b'{"lost":1}\n')
    sink.flush()
    sink.flush()
    sink.write(b'{"lost":2}\n')
    sink.flush()
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    sink.write(b'{"kept":3}\n')
    kept, report = read_through(reader, sink)
    assert (report["dropped"], report["reason"]) == (2, CLOSED)
    assert kept == {"kept": 3}
    os.close(reader)
    os.close(writer)


def test_stdout_closed_at_start_is_quiet(pipe: tuple[int, int]) -> None:
    """A number that was closed at start is never written to, even when something else gets it."""
    reader, writer = pipe
    number = os.dup(writer)
    os.close(number)
    sink = Sink(number)
    os.dup2(writer, number)
    try:
        sink.write(b"x\n")
        sink.flush()
        sink.refresh()
        sink.write(b"x\n")
        sink.flush()
        assert read_available(reader) == b""
    finally:
        os.close(number)


def test_a_file_keeps_its_offset_and_gets_large_pieces(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A regular file is written through the inherited descriptor, after what others wrote."""
    path = tmp_path / "log"
    fd = os.open(path, os.O_WRONLY | os.O_CREAT)
    os.write(fd, b"before\n")
    sink = Sink(fd)
    calls = Counter[str]()
    real_write = os.write

    def counted(fd: int, data: bytes) -> int:
        calls["write"] += 1
        return real_write(fd, data)

    monkeypatch.setattr(os, "write", counted)
    lines = [line_of(1000) for _ in range(500)]
    for line in lines:
        sink.write(line)
    assert sink.flush()
    monkeypatch.undo()
    os.write(fd, b"after\n")
    assert path.read_bytes() == b"before\n" + b"".join(lines) + b"after\n"
    assert calls["write"] <= 500_000 // FLUSH_BYTES + 1
    os.close(fd)


def test_a_child_leaves_the_parents_lines_alone(pipe: tuple[int, int]) -> None:
    """What was buffered at a fork is written once, by the parent; the child's own lines stay."""
    reader, writer = pipe
    sink = Sink(writer)
    sink.write(b"parent\n")
    pid = os.fork()
    if pid == 0:
        try:
            sink.after_fork()
            sink.write(b"child\n")
            sink.after_fork()
            sink.flush()
        finally:
            os._exit(0)
    os.waitpid(pid, 0)
    assert read_available(reader) == b"child\n"
    sink.after_fork()
    sink.flush()
    assert read_available(reader) == b"parent\n"


def test_a_line_logged_by_a_signal_during_a_flush_is_not_lost(
    pipe: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A flush inside a flush returns at once, and the outer one writes its line too."""
    _, writer = pipe
    sink = Sink(writer)
    written = []

    def interrupted(fd: int, data: bytes) -> int:
        if not written:
            sink.write(b"signal\n")
            assert not sink.flush()
        written.append(bytes(data))
        return len(data)

    monkeypatch.setattr(os, "write", interrupted)
    sink.write(b"first\n")
    assert sink.flush()
    assert written == [b"first\n", b"signal\n"]


def test_close_tries_for_a_second_at_most(
    pipe: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last lines wait for a slow reader, not for one that never comes."""
    _, writer = pipe
    sink = Sink(writer)
    for _ in range(200):
        sink.write(line_of(1000))
    clock = [0.0]
    monkeypatch.setattr(sink_module, "monotonic", lambda: clock[0])

    def sleep(seconds: float) -> None:
        clock[0] += seconds

    monkeypatch.setattr(sink_module, "sleep", sleep)
    sink.close()
    assert 0.9 < clock[0] < 1.1
    sink.write(b"late\n")
    assert sink.flush()


def test_close_gets_the_last_lines_out(
    pipe: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """More than a pipe holds is written when the reader reads on."""
    reader, writer = pipe
    sink = Sink(writer)
    received = []
    monkeypatch.setattr(sink_module, "sleep", lambda _: received.append(read_available(reader)))
    for number in range(300):
        sink.write(line_of(1000, number=number))
    sink.close()
    received.append(read_available(reader))
    assert b"".join(received).count(b"\n") == 300


def test_refresh_follows_a_redirected_stdout(pipe: tuple[int, int], tmp_path: Path) -> None:
    """After dup2 onto the number (daemon mode, captured output) lines go to the new file."""
    reader, writer = pipe
    sink = Sink(writer)
    sink.write(b"old\n")
    file = os.open(tmp_path / "log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    sink.refresh()
    os.dup2(file, writer)
    sink.refresh()
    sink.write(b"new\n")
    sink.flush()
    os.close(file)
    assert read_available(reader) == b"old\n"
    assert (tmp_path / "log").read_bytes() == b"new\n"
