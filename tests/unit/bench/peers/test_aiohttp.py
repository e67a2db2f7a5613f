"""The aiohttp proxy, as the bench starts it."""

from __future__ import annotations

import json
from pathlib import Path

from bench.peers.aiohttp import SCRIPT, Aiohttp, AiohttpUvloop
from bench.peers.candidate import Setup

TWO = ("127.0.0.1:7001", "127.0.0.1:7002")


def test_the_forms_differ_in_their_loop() -> None:
    """And in the package that has it."""
    configs = [
        json.loads(kind(Path(), Path()).config(Setup(TWO), 8080, Path("/run")))
        for kind in (Aiohttp, AiohttpUvloop)
    ]
    assert [config.pop("uvloop") for config in configs] == [False, True]
    assert configs[0] == configs[1]
    assert set(AiohttpUvloop.pypi) - set(Aiohttp.pypi) == {"uvloop"}


def test_its_script_does_not_take_our_modules_for_packages() -> None:
    """It lies beside an ``aiohttp.py``: "-I" keeps its folder out of sys.path."""
    command = (
        Aiohttp(Path(), Path("/b")).start(Setup(TWO), 8080, Path("/run/settings.json")).command
    )
    assert command == ("/b/venv/bin/python", "-I", str(SCRIPT), "/run/settings.json")
    assert SCRIPT.exists()


def test_what_is_not_installed_is_named(tmp_path: Path) -> None:
    """The first of its packages that is missing."""
    site = tmp_path / "venv/lib/python3.11/site-packages"
    assert AiohttpUvloop(Path(), tmp_path).missing() == "aiohttp is not installed from PyPI"
    for package in ("aiohttp", "orjson"):
        (site / package).mkdir(parents=True)
        (site / package / "__init__.py").touch()
    assert Aiohttp(Path(), tmp_path).missing() is None
    assert AiohttpUvloop(Path(), tmp_path).missing() == "uvloop is not installed from PyPI"
