"""What is read from the load tools' words."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from bench.load import closed_loop
from bench.procs import BenchError

WRK = """\
Running 1s test @ http://127.0.0.1:8080/
  20000 requests in 1.00s, 3.20MB read
@@ 20000 1000500 1500.000000 9000.000000 1 2
"""
H2LOAD = """\
Application protocol: h2
finished in 2.50s, 4000.00 req/s, 1.20MB/s
requests: 10000 total, 10032 started, 10000 done, 9990 succeeded, 10 failed, 0 errored, 0 timeout
"""


@pytest.fixture
def tool(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], list[list[str]]]:
    """Give it what the tool will say; it gives the commands that were run."""

    def say(output: str) -> list[list[str]]:
        commands: list[list[str]] = []

        def run(command: list[str], **_: object) -> str:
            commands.append(command)
            return output

        monkeypatch.setattr("bench.procs.run", run)
        return commands

    return say


def wrk(folder: Path, **more: object) -> closed_loop.Wrk:
    return closed_loop.wrk(
        "http://127.0.0.1:8080/", connections=32, seconds=1, cores=(0,), folder=folder, **more
    )


def h2load() -> closed_loop.H2load:
    url = "https://127.0.0.1:8080/"
    return closed_loop.h2load(url, connections=4, streams=8, seconds=1, cores=(0,))


def test_wrk_counts_in_microseconds(tool: Callable[[str], list[list[str]]], tmp_path: Path) -> None:
    """Failed connections and answers that were refused are counted apart."""
    tool(WRK)
    assert wrk(tmp_path) == closed_loop.Wrk(20000, 1.0005, 1.5, 9.0, errors=1, refused=2)


def test_wrk_is_told_by_a_script(tool: Callable[[str], list[list[str]]], tmp_path: Path) -> None:
    """To close each connection, to send a body."""
    commands = tool(WRK)
    wrk(tmp_path, close=True, body=Path("/run/body"))
    script = (tmp_path / "load.lua").read_text()
    assert commands[0][commands[0].index("-s") + 1] == str(tmp_path / "load.lua")
    assert 'wrk.headers["Connection"] = "close"' in script
    assert 'io.open("/run/body")' in script
    wrk(tmp_path)
    assert "wrk." not in (tmp_path / "load.lua").read_text()


@pytest.mark.parametrize("said", ["unable to connect", "@@ 0 1000000 0.0 0.0 32 0"])
def test_a_wrk_without_answers_is_no_measurement(
    tool: Callable[[str], list[list[str]]], tmp_path: Path, said: str
) -> None:
    """It ends well even so."""
    tool(said)
    with pytest.raises(BenchError, match="wrk"):
        wrk(tmp_path)


def test_h2load_counts_what_succeeded(tool: Callable[[str], list[list[str]]]) -> None:
    """And what was done without success is failed."""
    tool(H2LOAD)
    assert h2load() == closed_loop.H2load(9990, 2.5, failed=10)


@pytest.mark.parametrize(
    "said", [H2LOAD.replace(": h2", ": http/1.1"), H2LOAD.replace("9990", "0"), "Could not resolve"]
)
def test_what_was_not_http2_is_no_measurement(
    tool: Callable[[str], list[list[str]]], said: str
) -> None:
    """Nor what nobody answered."""
    tool(said)
    with pytest.raises(BenchError, match="h2load"):
        h2load()


def test_each_transfer_must_be_whole(tool: Callable[[str], list[list[str]]]) -> None:
    """The second of two was cut."""
    tool("200 1000\n200 1000\n")
    closed_loop.download("http://127.0.0.1:8080/", 1000, 2, (0,))
    tool("200 1000\n200 999\n")
    with pytest.raises(BenchError, match="1 of 2 transfers were whole"):
        closed_loop.download("http://127.0.0.1:8080/", 1000, 2, (0,))


def test_the_backend_must_have_counted_each_byte_of_an_upload(
    tool: Callable[[str], list[list[str]]], tmp_path: Path
) -> None:
    """Its answer is the count; curl's own follows it."""
    file = tmp_path / "file"
    file.write_bytes(b"x" * 1000)
    tool("1000\n200 1000\n" * 2)
    closed_loop.upload("http://127.0.0.1:8080/", file, 2, (0,))
    tool("1000\n200 1000\n7\n200 1000\n")
    with pytest.raises(BenchError, match="counted other bytes"):
        closed_loop.upload("http://127.0.0.1:8080/", file, 2, (0,))
