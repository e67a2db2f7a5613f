"""A reverse proxy in aiohttp (``aiohttp_proxy.py``), from PyPI: for speed alone, it has no health checks."""

from __future__ import annotations

import json
from pathlib import Path

from bench import install
from bench.peers.candidate import KEEPALIVE_SECONDS, Candidate, Launch, Setup, said

SCRIPT = Path(__file__).with_name("aiohttp_proxy.py")


class Aiohttp(Candidate):
    """On asyncio's own loop."""

    name = "aiohttp"
    title = "aiohttp proxy"
    file = "settings.json"
    pypi: tuple[str, ...] = ("aiohttp", "orjson")
    tls = False
    lacks_tls = "the aiohttp peer does no TLS"
    uvloop = False

    def missing(self) -> str | None:
        for package in self.pypi:
            if not install.package_file(self.build, f"{package}/__init__.py"):
                return f"{package} is not installed from PyPI"
        return None

    def version(self) -> str:
        packages = ["aiohttp"] + ["uvloop"] * self.uvloop
        code = f"from importlib.metadata import version as v; print(*map(v, {packages!r}))"
        return said(str(install.python(self.build)), "-c", code).replace(" ", " + uvloop ")

    def config(self, setup: Setup, port: int, folder: Path) -> str:
        return json.dumps(
            {
                "port": port,
                "workers": setup.workers,
                "backends": setup.backends,
                "log": str(folder / "access.log"),
                "keepalive": KEEPALIVE_SECONDS,
                "uvloop": self.uvloop,
            }
        )

    # "-I" keeps this folder out of sys.path, where this very file would be taken for aiohttp itself.
    def start(self, setup: Setup, port: int, path: Path) -> Launch:
        return Launch((str(install.python(self.build)), "-I", str(SCRIPT), str(path)), path.parent)


class AiohttpUvloop(Aiohttp):
    """On uvloop."""

    name = "aiohttp-uvloop"
    title = "aiohttp proxy on uvloop"
    pypi = ("aiohttp", "orjson", "uvloop")
    uvloop = True
