"""What nobody is told: secrets in the log, internals in answers, more rights than needed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from harness import (
    GUNICORN,
    PROMPT,
    ROOT,
    STOCK_WORKER,
    Backend,
    Balancer,
    free_port,
    handlers,
    wait_until,
)

SECRET = "s3cr3t"
BOTH = pytest.mark.parametrize("command", [GUNICORN, STOCK_WORKER], ids=["ours", "stock"])


def whole_log(balancer: Balancer) -> str:
    """All lines so far: that of a request behind all others is the last to come."""
    with balancer.connect() as client:
        client.send_head("GET", "/end")
        client.read_head()
    balancer.wait_for_access(1, target="/end")
    return "\n".join(json.dumps(line) for line in balancer.log.lines)


@BOTH
def test_no_secret_in_the_log(command: tuple[str, ...]) -> None:
    """At level debug: served, refused, cut off, failing at the backend; in every field that has secrets."""
    secrets = (
        f"Authorization: Bearer {SECRET}\r\nCookie: sid={SECRET}\r\nX-Api-Key: {SECRET}\r\n"
    ).encode()
    start = b"GET /x?a=1&token=%b&b=2 HTTP/1.1\r\nHost: a\r\n" % SECRET.encode()
    with (
        Backend() as backend,
        Balancer([backend], command=command, logging={"level": "debug"}) as balancer,
    ):
        whole = [
            start + secrets + b"\r\n",
            start + secrets + b"Bad Header\r\n\r\n",
            start + b"Authorization : Bearer %b\r\n\r\n" % SECRET.encode(),
            start + b"Cookie: %b\0\r\n\r\n" % SECRET.encode(),
            start + b"Authorization\r\n\r\n" + SECRET.encode(),
            start.replace(b"HTTP/1.1", b"HTTP/1.1 " + SECRET.encode()) + b"\r\n",
            start.replace(b"GET ", b"G(T ") + b"\r\n",
        ]
        for data in whole:
            with balancer.connect() as client:
                client.send(data)
                assert client.read_response().status in (200, 400)
        with balancer.connect() as client:
            client.send(start + secrets)  # and away within the head
        backend.handler = handlers.raw(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf")
        with balancer.connect() as client:
            client.send(start + secrets + b"\r\n")
            client.read_head()
            client.read_some()
        text = whole_log(balancer)
        assert SECRET not in text
        assert "/x?a=1&token=***&b=2" in text


def test_which_parameters_are_secrets() -> None:
    """``logging.redact`` says; an empty list hides nothing."""
    with Backend() as backend, Balancer([backend], logging={"redact": ["Pin"]}) as balancer:
        balancer.get("/x?token=a&PIN=b")
        assert balancer.access_line(target="/x?token=a&PIN=***")
    with Backend() as backend, Balancer([backend], logging={"redact": []}) as balancer:
        balancer.get("/x?token=a")
        assert balancer.access_line(target="/x?token=a")


@pytest.mark.parametrize(
    ("setting", "expected", "own"),
    [("pass", ["Apache/2.4"], []), ("none", [], []), ("Example", ["Example"], ["Example"])],
)
def test_server_header(setting: str, expected: list[str], own: list[str]) -> None:
    """The backend's, none, or our own; also on answers of our own, and on those to unreadable requests."""
    backend_says = handlers.answer(200, b"ok", ("Server", "Apache/2.4"), ("X-Other", "1"))
    with Backend(backend_says) as backend, Balancer([backend], server_header=setting) as balancer:
        response = balancer.get("/")
        assert response.get_all("Server") == expected
        assert response.get("X-Other") == "1"
        with balancer.connect() as client:
            client.send(b"GET / HTTP/1.1\r\n\r\n")
            refused = client.read_response()
        assert (refused.status, refused.get_all("Server")) == (400, own)
        backend.down()
        failed = balancer.get("/")
        assert (failed.status, failed.get_all("Server")) == (502, own)


def test_one_server_header_under_the_stock_worker() -> None:
    """gunicorn names itself; the backend's is not added to that."""
    backend_says = handlers.answer(200, b"ok", ("Server", "Apache/2.4"))
    with Backend(backend_says) as backend, Balancer([backend], command=STOCK_WORKER) as balancer:
        assert balancer.get("/").get_all("Server") == ["gunicorn"]


@BOTH
def test_answers_of_our_own_tell_nothing_of_the_inside(command: tuple[str, ...]) -> None:
    """Neither a backend's address, nor its error, nor what the request said."""
    port = free_port()
    with Balancer([f"http://127.0.0.1:{port}"], command=command) as balancer:
        for accept in ("text/html", "application/json"):
            response = balancer.get(
                f"/<script>?{SECRET}", [("Accept", accept), ("X-Request-Id", "<script>")]
            )
            assert response.status == 502
            seen = response.head + response.body
            for inside in (str(port).encode(), b"script", SECRET.encode(), b"Traceback", b"gevent"):
                assert inside not in seen


def uid_of(pid: int) -> int:
    """Whose process it is."""
    return Path(f"/proc/{pid}").stat().st_uid


NOBODY = 65534


def nobody_can_run_python() -> bool:
    """Whether another user can read what we run on (a Python in root's home is nobody else's)."""
    command = [sys.executable, "-c", "import concurrent.futures.thread, gevent, requests"]
    try:
        done = subprocess.run(command, user=NOBODY, cwd=ROOT, capture_output=True)
    except PermissionError:
        return False
    return done.returncode == 0


def test_root_is_warned_of() -> None:
    """In one line of the log, with the remedy; who is not root is not."""
    with Balancer() as balancer:
        lines = balancer.log.select("privileges")
        assert [line["level"] for line in lines] == ["warning"] * (os.geteuid() == 0)


def test_workers_and_control_process_give_up_root() -> None:
    """``--user``: only the master stays root."""
    if not nobody_can_run_python():
        pytest.skip("needs root, and a Python that others can read")
    user = NOBODY
    with Backend() as backend:
        command = (*GUNICORN[:-1], "--user", str(user), "--group", str(user), GUNICORN[-1])
        with Balancer([backend], command=command, health_check={"interval": 0.2}) as balancer:
            pids = balancer.worker_pids() | balancer.control_pids()
            # A worker says that it boots, then does as it is told.
            wait_until(lambda: {uid_of(pid) for pid in pids} == {user}, PROMPT, "all another's")
            assert balancer.get("/").status == 200
            assert not balancer.log.select("privileges")
            backend.down()
            balancer.log.wait_for(1, "health")
