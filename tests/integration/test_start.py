"""Starting: what is refused, what wins over the file, and the ways to start that must agree."""

from __future__ import annotations

import json
import signal
import socket
from pathlib import Path

import pytest
from harness import (
    GUNICORN,
    MODULE,
    PATIENT,
    SCRIPT,
    STOCK_WORKER,
    Backend,
    Balancer,
    free_port,
    handlers,
    health_check,
    run,
    seconds,
    streams,
    wait_until,
)

EX_CONFIG = 78

VALIDATED = (
    *STOCK_WORKER[:-1],
    "--pythonpath",
    str(Path(__file__).parent),
    "harness.validated:application",
)

GOOD = '{"servers": ["http://127.0.0.1:1"]'

BAD_CONFIGS = {
    "not-json": ("{", ""),
    "empty": ("", ""),
    "array": ("[]", ""),
    "unknown-key": (GOOD + ', "worker": 2}', "workers"),
    "unknown-nested-key": (GOOD + ', "timeouts": {"conect": 1}}', "timeouts.conect"),
    "duplicate-key": (GOOD + ', "port": 1, "port": 2}', "port"),
    "wrong-type": (GOOD + ', "port": "8080"}', "port"),
    "out-of-range": (GOOD + ', "port": 70000}', "port"),
    "negative-timeout": (GOOD + ', "timeouts": {"read": -1}}', "timeouts.read"),
    "bad-server": ('{"servers": ["http://"]}', "servers[0]"),
    "bad-scheme": ('{"servers": ["ftp://127.0.0.1"]}', "servers[0]"),
    "same-server-twice": ('{"servers": ["http://a:1", "http://A:1/"]}', "servers[1]"),
    "bad-weight": ('{"servers": [{"url": "http://a:1", "weight": 0}]}', "servers[0].weight"),
    "unknown-algorithm": (GOOD + ', "algorithm": "round_robbin"}', "round_robin"),
    "bad-cidr": (GOOD + ', "trusted_proxies": ["10.0.0.0/99"]}', "trusted_proxies[0]"),
    "bad-status": (GOOD + ', "health_check": {"expected_status": "2xx!"}}', "expected_status"),
}


# The script shares the reading of the file: cases that differ only there are tried in one way to start.
BAD_STARTS = {
    f"{name}-{start}": (command, text, names)
    for name, (text, names) in BAD_CONFIGS.items()
    for start, command in (("gunicorn", GUNICORN), ("script", SCRIPT))
    if names or start == "gunicorn"
}


@pytest.mark.parametrize(("command", "text", "names"), BAD_STARTS.values(), ids=BAD_STARTS.keys())
def test_bad_configuration_is_refused(
    tmp_path: Path, command: tuple[str, ...], text: str, names: str
) -> None:
    """Exit status 78, the problem named by its path, and nothing started."""
    path = tmp_path / "config.json"
    path.write_text(text, encoding="utf-8")
    port = free_port()
    result = run(command, path, LB_PORT=str(port))

    assert result.returncode == EX_CONFIG, result
    assert names in result.stdout + result.stderr
    assert "Traceback" not in result.stdout + result.stderr
    assert "Listening" not in result.stdout
    for line in result.stdout.splitlines():
        assert isinstance(json.loads(line), dict)


@pytest.mark.parametrize("flag", ["--preload", "--reload", "--worker-class=gthread"])
def test_a_setting_of_gunicorns_that_does_harm_is_refused(tmp_path: Path, flag: str) -> None:
    """By its name, before anything listens, with the status of a bad configuration."""
    path = tmp_path / "config.json"
    path.write_text('{"servers": []}', encoding="utf-8")
    result = run((*GUNICORN[:-1], flag, GUNICORN[-1]), path, LB_PORT=str(free_port()))
    assert result.returncode == EX_CONFIG, result
    said = [json.loads(line) for line in result.stdout.splitlines()]
    (problem,) = [line for line in said if line["level"] == "error"]
    assert problem["path"] in (flag[2:].split("=", maxsplit=1)[0].replace("-", "_"), "preload_app")
    assert not any("Listening" in line["message"] for line in said)


def test_a_setting_of_gunicorns_that_does_nothing_is_said() -> None:
    """And what to do in its place; ours are no reason for a warning."""
    command = (*GUNICORN[:-1], "--keep-alive", "5", GUNICORN[-1])
    for given, warned in ((command, ["servers", "keepalive"]), (GUNICORN, ["servers"])):
        with Balancer(command=given) as balancer:
            lines = balancer.log.select("config", level="warning")
            assert [line["path"] for line in lines] == warned


def test_every_problem_is_listed_at_once(tmp_path: Path) -> None:
    """One start shows all mistakes, each with its path and, for a misspelt key, a suggestion."""
    path = tmp_path / "config.json"
    bad = {
        "servers": ["http://127.0.0.1:8001", {"url": "http://127.0.0.1:8002", "weight": 0}],
        "tiemouts": {},
        "port": "x",
        "limits": {"body": -1},
    }
    path.write_text(json.dumps(bad), encoding="utf-8")
    result = run(GUNICORN, path)

    assert result.returncode == EX_CONFIG
    for name in ("servers[1].weight", "tiemouts", "timeouts", "port", "limits.body"):
        assert name in result.stdout + result.stderr


def test_missing_file_is_refused(tmp_path: Path) -> None:
    """A file that is not there: exit status 78, and its name."""
    result = run(GUNICORN, tmp_path / "nowhere.json")
    assert result.returncode == EX_CONFIG
    assert "nowhere.json" in result.stdout + result.stderr


@pytest.mark.parametrize(
    ("command", "name", "value"),
    [
        (GUNICORN, "LB_PORT", "http"),
        (GUNICORN, "LB_PORT", "0"),
        (GUNICORN, "LB_HOST", "not a host"),
        (GUNICORN, "WEB_CONCURRENCY", "0"),
        # The gunicorn command reads this one before anybody else's code runs, and fails on words.
        (SCRIPT, "WEB_CONCURRENCY", "many"),
    ],
)
def test_bad_environment_is_refused(
    tmp_path: Path, command: tuple[str, ...], name: str, value: str
) -> None:
    """The variables are checked like the file."""
    path = tmp_path / "config.json"
    path.write_text('{"servers": []}', encoding="utf-8")
    result = run(command, path, **{name: value})
    assert result.returncode == EX_CONFIG
    assert name in result.stdout + result.stderr


def test_comments_and_trailing_commas(tmp_path: Path) -> None:
    """config.json may hold both kinds of comments and trailing commas."""
    with Backend() as backend, Balancer([backend]) as balancer:
        lines = [
            "{ // one",
            f'"servers": ["{backend.url}", /* two, */ ],',
            '"health_check": false, "workers": 1,',
            "}",
        ]
        balancer.write_config("\n".join(lines))
        balancer.reload()
        assert balancer.get().status == 200


def test_environment_wins_over_the_file() -> None:
    """LB_PORT, LB_HOST and WEB_CONCURRENCY win over port, host and workers."""
    with Backend() as backend:
        env = {"WEB_CONCURRENCY": "2"}
        balancer = Balancer([backend], host="127.0.0.2", env=env, port=free_port(), workers=2)
        balancer.config["workers"] = 1
        balancer.config["host"] = "127.0.0.3"
        with balancer:
            assert balancer.get().status == 200
            assert len(balancer.worker_pids()) == 2
            for address in (("127.0.0.1", balancer.port), ("127.0.0.3", balancer.config["port"])):
                with pytest.raises(ConnectionRefusedError):
                    socket.create_connection(address, timeout=seconds(2)).close()


def test_file_alone_is_enough() -> None:
    """Without any variable but LB_CONFIG the file's host, port and workers count."""
    with Backend() as backend:
        balancer = Balancer([backend], env={"LB_PORT": "", "LB_HOST": ""}, workers=2)
        balancer.config.update(host="127.0.0.1", port=balancer.port)
        with balancer:
            assert balancer.get().status == 200
            assert len(balancer.worker_pids()) == 2


def test_bad_configuration_at_hup_keeps_the_good_one() -> None:
    """HUP with a broken file: an error is logged, the old configuration serves, a good file is taken."""
    with Backend() as first, Backend() as second, Balancer([first], workers=2) as balancer:
        for broken in ('{"servers": [', '{"servers": ["ftp://x"]}', '{"nonsense": 1}'):
            mark = balancer.log_mark
            balancer.write_config(broken)
            balancer.signal(signal.SIGHUP)
            balancer.log.wait_for(since=mark, where=lambda line: line["level"].lower() == "error")
            assert {balancer.get().text for _ in range(4)} == {first.name}
            assert balancer.get().status == 200
        balancer.wait_for_workers()
        victim = min(balancer.worker_pids())
        balancer.signal(signal.SIGKILL, victim)
        balancer.wait_for_workers(gone={victim})
        assert {balancer.get().text for _ in range(4)} == {first.name}
        balancer.set_servers([second])
        balancer.write_config()
        balancer.reload()
        assert {balancer.get().text for _ in range(4)} == {second.name}


def exercise(balancer: Balancer, backend: Backend) -> None:
    """A bit of everything, for ways to start that share their code with the usual one."""
    with balancer.connect() as client:
        for _ in range(3):
            assert client.get("/%7ea//b?c=%41").text == backend.name
        assert backend.requests[-1].target == "/%7ea//b?c=%41"
        backend.handler = handlers.echo
        client.send_head("PUT", "/up", [("Content-Length", str(streams.MIB))])
        for block in streams.blocks(streams.MIB):
            client.send(block)
        assert client.read_response("PUT").text == streams.checksum(streams.MIB)
        client.send_head("PUT", "/up", [("Transfer-Encoding", "chunked")])
        client.send_chunked(streams.blocks(streams.MIB))
        assert client.read_response("PUT").text == streams.checksum(streams.MIB)
        backend.handler = handlers.stream_chunked(streams.MIB)
        assert len(client.get("/down").body) == streams.MIB
        backend.handler = handlers.answer(
            302, b"gone", ("Set-Cookie", "a=1"), ("Set-Cookie", "b=2")
        )
        response = client.get("/redirect")
        assert (response.status, response.body) == (302, b"gone")
        assert response.get_all("Set-Cookie") == ["a=1", "b=2"]
        assert client.request("HEAD", "/").body == b""
        backend.handler = handlers.raw(b"HTTP/1.1 204 No Content\r\n\r\n", keep=True)
        assert client.get("/empty").status == 204
        backend.handler = handlers.echo
        assert client.request("POST", "/none", body=b"").status == 200
        assert client.request("DELETE", "/none").status == 200
    request = backend.requests[-1]
    assert request.get("Host") == balancer.connect_host
    assert request.get("X-Forwarded-For") == "127.0.0.1"
    backend.handler = handlers.raw(b"garbage\r\n\r\n")
    assert balancer.get("/garbage").status == 502
    assert balancer.access_line(target="/garbage")["reason"] == "bad_response"
    backend.handler = handlers.raw(handlers.HEAD + b"Content-Length: 9\r\n\r\nhalf")
    with balancer.connect() as client:
        client.send_head("GET", "/half")
        assert client.read_head().status == 200
        assert client.read_some() == b"half"
        assert client.is_closed()


@pytest.mark.parametrize(
    "command",
    [SCRIPT, MODULE, STOCK_WORKER, VALIDATED],
    ids=["script", "module", "stock-worker", "validated"],
)
def test_other_ways_to_start(command: tuple[str, ...]) -> None:
    """load_balancer.py, gunicorn's own gevent worker, and wsgiref.validate around the application."""
    with Backend() as backend:
        check = health_check(0.2)
        with Balancer([backend], command=command, workers=2, health_check=check) as balancer:
            exercise(balancer, backend)
            errors = [line for line in balancer.log.lines if "AssertionError" in json.dumps(line)]
            assert errors == []
            victim = min(balancer.worker_pids())
            balancer.signal(signal.SIGKILL, victim)
            balancer.wait_for_workers(gone={victim})
            balancer.reload()
            backend.handler = handlers.ok
            assert balancer.get().text == backend.name


def test_script_checks_a_configuration(tmp_path: Path) -> None:
    """``load_balancer.py check`` prints the configuration with its defaults, or the problems."""
    good, bad = tmp_path / "good.json", tmp_path / "bad.json"
    good.write_text('{"servers": ["http://127.0.0.1:8001"]}', encoding="utf-8")
    bad.write_text('{"servers": [], "algorithm": "none"}', encoding="utf-8")
    accepted, refused = run((*SCRIPT, "check"), good), run((*SCRIPT, "check"), bad)

    assert accepted.returncode == 0
    assert '"healthy_threshold"' in accepted.stdout
    assert refused.returncode == EX_CONFIG
    assert "algorithm" in refused.stdout + refused.stderr


def test_ipv6_server() -> None:
    """An IPv6 literal as a server, and its name in the log."""
    try:
        backend = Backend(bind="::1")
    except OSError:
        pytest.skip("no IPv6 on this machine")
    with backend, Balancer([backend]) as balancer:
        assert balancer.get().status == 200
        assert balancer.access_line()["backend"] == f"[::1]:{backend.port}"


def test_unix_socket_server(tmp_path: Path) -> None:
    """A Unix socket as a server works, or is refused with its path in the message."""
    path = tmp_path / "backend.sock"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        config = tmp_path / "config.json"
        config.write_text(json.dumps({"servers": [f"unix:{path}"]}), encoding="utf-8")
        checked = run((*SCRIPT, "check"), config)
        if checked.returncode == EX_CONFIG:
            assert "servers[0]" in checked.stdout + checked.stderr
            return
        listener.settimeout(PATIENT)
        with Balancer([f"unix:{path}"]) as balancer, balancer.connect() as client:
            client.send_head("GET", "/unix")
            sock, _ = listener.accept()
            with sock:
                assert sock.recv(65536).startswith(b"GET /unix HTTP/1.1\r\n")
                sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
                assert client.read_response().body == b"ok"
            assert balancer.access_line()["backend"] == f"unix:{path}"


def test_port_in_use() -> None:
    """A port that somebody else holds: it says so and ends with a failure, leaving no process."""
    with socket.create_server(("127.0.0.1", 0)) as holder:
        balancer = Balancer([], is_ready_when_entered=False)
        balancer.port = holder.getsockname()[1]
        balancer.expected_status = None
        with balancer:
            assert balancer.wait_for_exit() != 0
            wait_until(lambda: not balancer.pids())
            assert any("in use" in json.dumps(line) for line in balancer.log.lines)
