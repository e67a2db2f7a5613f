from __future__ import annotations

import errno
import json
import os
import sys
from pathlib import Path

import pytest

import load_balancer
from app.config import Problem
from app.master import file_modes, preflight
from app.master.exit_status import EX_CONFIG, EX_FAILED
from load_balancer import ROOT

VALID = '{"port": 9999, "servers": ["http://127.0.0.1:8001", "https://far.example"],}'


@pytest.fixture
def at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory away from the project, an environment without settings, argv to restore."""
    for name in ("LB_CONFIG", "LB_HOST", "LB_PORT", "WEB_CONCURRENCY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(sys, "argv", ["load_balancer.py"])
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The arguments that gunicorn would have been started with; every port is free."""
    calls: list[list[str]] = []
    monkeypatch.setattr(load_balancer, "_gunicorn", lambda: calls.append(list(sys.argv)) or 0)
    monkeypatch.setattr(load_balancer, "cannot_listen", lambda host, port, whose="": "")
    return calls


def test_no_command_runs_the_balancer_from_the_project(at: Path, started: list[list[str]]) -> None:
    """Wherever it is called from, gunicorn finds gunicorn.conf.py and app beside the program."""
    assert load_balancer.main([]) == 0
    assert started == [
        [str(ROOT / "load_balancer.py"), "-c", "gunicorn.conf.py", "app:application"]
    ]
    assert Path.cwd() == ROOT


def test_settings_for_gunicorn_are_passed_on(at: Path, started: list[list[str]]) -> None:
    """What follows `--` reaches gunicorn as it was typed, after our own settings, so that it wins."""
    load_balancer.main(["run", "--", "--max-requests", "7"])
    assert started[0][-3:] == ["app:application", "--max-requests", "7"]


def test_gunicorn_starting_itself_again_asks_nothing(
    at: Path, started: list[list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """At USR2 the port is taken, by the old master: the new one must not look, nor read its argv."""
    monkeypatch.setattr(load_balancer, "cannot_listen", lambda *_: "taken")
    monkeypatch.setattr(sys, "argv", ["x", "-c", "gunicorn.conf.py", "app:application"])
    assert load_balancer.main(sys.argv[1:]) == 0
    assert started == [["x", "-c", "gunicorn.conf.py", "app:application"]]


def test_a_relative_configuration_keeps_its_meaning(
    at: Path, started: list[list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """LB_CONFIG is relative to where the user is, not to the project."""
    (at / "mine.json").write_text(VALID)
    monkeypatch.setenv("LB_CONFIG", "mine.json")
    load_balancer.main(["run"])
    assert os.environ["LB_CONFIG"] == str(at / "mine.json")


def test_a_refused_configuration_is_in_the_log_and_starts_nothing(
    at: Path, started: list[list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same lines as from gunicorn.conf.py, without gunicorn, which stumbles over some itself."""
    told: list[str] = []
    monkeypatch.setattr(preflight, "load_config", lambda: told.append(os.environ["LB_CONFIG"]))
    monkeypatch.setenv("LB_CONFIG", "missing.json")
    assert load_balancer.main(["run"]) == EX_CONFIG
    assert told == [str(at / "missing.json")]
    assert not started


def test_a_taken_port_starts_nothing(
    at: Path,
    started: list[list[str]],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The reason is on standard error, and standard output, which carries JSON, is untouched."""
    monkeypatch.setattr(load_balancer, "cannot_listen", lambda *_: "port 8080 is taken")
    assert load_balancer.main(["run"]) == EX_FAILED
    assert not started
    assert capsys.readouterr() == ("", "load_balancer: port 8080 is taken\n")


@pytest.mark.parametrize("command", [["check"], ["demo"]])
def test_only_run_takes_settings_for_gunicorn(at: Path, command: list[str]) -> None:
    """Settings that would be ignored are refused."""
    assert load_balancer.main([*command, "--", "--max-requests", "7"]) == EX_FAILED


def test_check_prints_the_configuration_with_its_defaults(
    at: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A named file is relative to where the user is; what it prints can be loaded again."""
    (at / "mine.json").write_text(VALID)
    assert load_balancer.main(["check", "mine.json"]) == 0
    effective = json.loads(capsys.readouterr().out)
    assert effective["port"] == 9999
    assert effective["algorithm"] == "round_robin"


def test_check_reads_what_run_would_read(
    at: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """LB_CONFIG names the file and LB_PORT wins over it."""
    (at / "mine.json").write_text(VALID)
    monkeypatch.setenv("LB_CONFIG", "mine.json")
    monkeypatch.setenv("LB_PORT", "7777")
    assert load_balancer.main(["check"]) == 0
    assert json.loads(capsys.readouterr().out)["port"] == 7777


def test_the_shipped_configuration_is_valid(at: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Without LB_CONFIG it is the file beside the program, and there is nothing to say about it."""
    assert load_balancer.main(["check"]) == 0
    assert capsys.readouterr().err == ""


def test_check_lists_every_problem(at: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One a line on standard error, with its path; nothing on standard output; sysexits' 78."""
    (at / "mine.json").write_text('{"prot": 1, "servers": [{"url": "http://a", "weight": 0}]}')
    assert load_balancer.main(["check", "mine.json"]) == EX_CONFIG
    said = capsys.readouterr()
    assert said.out == ""
    assert [line.split(":")[0] for line in said.err.splitlines()] == ["prot", "servers[0].weight"]


def test_check_warns_of_what_is_valid_but_odd(at: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """No server at all is a valid start, and hardly what was meant."""
    (at / "mine.json").write_text("{}")
    assert load_balancer.main(["check", "mine.json"]) == 0
    assert capsys.readouterr().err.startswith("warning: servers: ")


def test_demo_needs_a_server_it_can_play(
    at: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A configuration with only far or encrypted servers has nothing to demonstrate."""
    (at / "mine.json").write_text('{"servers": ["https://127.0.0.1:1", "http://far.example"]}')
    monkeypatch.setenv("LB_CONFIG", "mine.json")
    assert load_balancer.main(["demo"]) == EX_FAILED
    assert "http://127.0.0.1:8001" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("number", "whose", "words"),
    [
        (errno.EADDRINUSE, "", ["port 80 on ::1 is taken", "ss -ltnp", "LB_PORT=81"]),
        (errno.EADDRINUSE, "the demo backend's ", ["demo backend's port 80", "change its url"]),
        (errno.EACCES, "", ["port 80 needs the right", "LB_PORT=81"]),
        (errno.EADDRNOTAVAIL, "", ["cannot listen on ::1 port 80: nope"]),
    ],
)
def test_a_refused_port_comes_with_its_remedy(number: int, whose: str, words: list[str]) -> None:
    """Which port, why, and what to do about it."""
    message = load_balancer.in_words(OSError(number, "nope"), "::1", 80, whose)
    assert all(word in message for word in words), message


def test_help_tells_all(capsys: pytest.CaptureFixture[str]) -> None:
    """Commands, environment, exit status and the way to gunicorn's own settings."""
    with pytest.raises(SystemExit) as ended:
        load_balancer.main(["--help"])
    assert ended.value.code == 0
    text = capsys.readouterr().out
    told = ["run", "check", "demo", "LB_CONFIG", "LB_PORT", "WEB_CONCURRENCY", "78", "-- --max-req"]
    assert [word for word in told if word not in text] == []


def test_a_quiet_check_says_nothing_where_all_is_well(
    at: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """For a service's reload, whose output is in the journal: problems only."""
    (at / "good.json").write_text('{"health_check": {"headers": {"Authorization": "s3cr3t"}}}')
    (at / "bad.json").write_text('{"port": 0}')
    assert load_balancer.main(["check", "-q", "good.json"]) == 0
    assert capsys.readouterr() == ("", "")
    assert load_balancer.main(["check", "-q", "bad.json"]) == EX_CONFIG
    assert capsys.readouterr() == ("", "port: must be ≥ 1, got 0\n")


def test_a_service_is_reloaded_quietly() -> None:
    """What ``check`` prints without -q is for people."""
    unit = (ROOT / "deploy" / "load-balancer.service").read_text("utf-8")
    assert "load_balancer.py check -q\n" in unit


def test_check_says_who_can_read_a_secret(
    at: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As a warning: it does not keep anybody from starting. Not with -q."""
    monkeypatch.setattr(file_modes, "exposed", lambda settings, path: [Problem("tls.key", path)])
    (at / "mine.json").write_text("{}")
    assert load_balancer.main(["check", "mine.json"]) == 0
    assert f"warning: tls.key: {at}/mine.json\n" in capsys.readouterr().err
    assert load_balancer.main(["check", "-q", "mine.json"]) == 0
    assert capsys.readouterr().err == ""
