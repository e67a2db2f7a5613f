"""Our balancer, as the bench sets it up."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest

from app import config
from bench.peers.candidate import Candidate, Setup
from bench.peers.ours import FORM, VERSIONS, Ours, OursInterpreted, OursStock, OursTuned

TWO = ("127.0.0.1:7001", "127.0.0.1:7002")
ROOT = Path("/project")


@pytest.mark.parametrize("kind", [Ours, OursTuned])
@pytest.mark.parametrize("failing", [False, True], ids=["fast", "failing"])
def test_the_configuration_is_one_of_ours(kind: type[Ours], failing: bool) -> None:
    """No key that the product does not know any more."""
    setup = Setup(TWO, workers=2, servers_fail=failing)
    found = config.parse(kind(ROOT, ROOT).config(setup, 8080, Path("/run")))
    assert (found.port, found.workers, len(found.servers)) == (8080, 2, 2)


def test_for_speed_it_writes_an_access_line_and_for_failures_it_has_its_defaults() -> None:
    """Apart from the timeouts and checks, which are the same for everybody."""
    fast = json.loads(Ours(ROOT, ROOT).config(Setup(TWO), 8080, Path("/run")))
    assert fast["logging"] == {"level": "info", "access": True}
    safe = json.loads(Ours(ROOT, ROOT).config(Setup(TWO, servers_fail=True), 8080, Path("/run")))
    assert set(safe) == {
        "host", "port", "workers", "servers", "algorithm", "health_check", "timeouts"
    }  # fmt: skip
    assert safe["timeouts"] == {"connect": 1, "read": 2}


def test_health_checks_can_be_off() -> None:
    """For pools of thousands of addresses that are all one listener."""
    found = json.loads(Ours(ROOT, ROOT).config(Setup(TWO, health=False), 8080, Path("/run")))
    assert found["health_check"] is False


def test_the_tuned_one_has_an_algorithm_of_its_own() -> None:
    """Whatever the scenario asks for; so it is asked for no other."""
    tuned = OursTuned(ROOT, ROOT)
    assert tuned.algorithm("round_robin") == "peak_ewma"
    assert tuned.algorithms == ()
    assert Ours(ROOT, ROOT).algorithm("round_robin") == "round_robin"


def test_each_form_is_a_command_of_its_own() -> None:
    """The same files, compiled or not, under our worker or gevent's."""
    setup, path = Setup(TWO, workers=2), Path("/run/config.json")
    launches = {
        kind.name: kind(ROOT, ROOT).start(setup, 8080, path)
        for kind in (Ours, OursInterpreted, OursStock)
    }
    assert launches["ours"].env["LB_COMPILED"] == "auto"
    assert launches["ours-interpreted"].env["LB_COMPILED"] == "off"
    assert "gevent" in launches["ours-stock"].command
    for launch in launches.values():
        assert launch.env["LB_CONFIG"] == str(path)
        assert launch.env["WEB_CONCURRENCY"] == "2"
        assert launch.stop_signal == signal.SIGINT


def test_what_it_asks_for_its_version_can_be_run(capsys: pytest.CaptureFixture[str]) -> None:
    """In this tree: a traceback would stand in the report instead."""
    for code in (VERSIONS, FORM):
        exec(code, {})
    versions, form = capsys.readouterr().out.splitlines()
    assert versions.startswith("gunicorn ")
    assert form.startswith(("compiled", "not compiled"))


def test_a_folder_without_the_product_is_noticed(tmp_path: Path) -> None:
    """Run from elsewhere."""
    candidate: Candidate = Ours(tmp_path, tmp_path)
    assert candidate.missing() == "gunicorn.conf.py is not there yet"
