"""The request path as compiled: which modules run as C extensions, where they are, when they are used.

mypyc makes them of the very sources that run without them (``make compile``; decision 0010): there is no
second code base, and whoever does not compile has the same balancer with a fifth more CPU for each request.
They are used all or none, and only if nothing of the package has changed since, for a constant of one module
may be part of the code of another. Runs at the first import of the package; imports nothing of it.
"""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Mapping, Sequence
from importlib.machinery import EXTENSION_SUFFIXES, ModuleSpec
from importlib.util import spec_from_file_location
from pathlib import Path
from types import ModuleType

PACKAGE = Path(__file__).parent
FOLDER = PACKAGE / "_compiled"
STAMP = "stamp"
# The one extension that has all code; the others only name their part of it.
GROUP = "load_balancer"
VARIABLE = "LB_COMPILED"
_VALUES = ("auto", "off", "required")

# From socket to socket, nothing else: what runs rarely gains nothing. app.worker.proxy.exchange and
# app.worker.client.contract must not be here: a protocol's compiled form takes compiled classes only, and
# app.worker.client.wsgi and app.worker.admission have some that are not.
MODULES = (
    "telemetry.access_log",
    "telemetry.sink",
    "wire.chunked",
    "wire.fields",
    "wire.forwarded",
    "wire.h2",
    "wire.h2_guard",
    "wire.request",
    "wire.response",
    "wire.target",
    "wire.trailers",
    "wire.via",
    "worker.balance.backend",
    "worker.balance.pool",
    "worker.balance.snapshot",
    "worker.client.body_timeout",
    "worker.client.date",
    "worker.client.http1",
    "worker.client.http1_body",
    "worker.client.http1_writer",
    "worker.client.http2.connection",
    "worker.client.http2.patience",
    "worker.client.http2.protocol",
    "worker.client.http2.sender",
    "worker.client.http2.stream",
    "worker.client.silence",
    "worker.net.deadlines",
    "worker.net.hang_up",
    "worker.net.progress",
    "worker.net.splice",
    "worker.net.stream",
    "worker.net.tls_socket_stream",
    "worker.net.tls_stream",
    "worker.net.turns",
    "worker.proxy.access",
    "worker.proxy.attempt",
    "worker.proxy.body_limit",
    "worker.proxy.forward",
    "worker.proxy.handler",
    "worker.proxy.to_backend",
    "worker.proxy.to_client",
    "worker.upstream.adapted_response",
    "worker.upstream.adapter",
    "worker.upstream.connections",
    "worker.upstream.request",
    "worker.upstream.response",
    "worker.upstream.send_proxy",
    "worker.upstream.session",
    "worker.upstream.upload",
)

# What came of it: whether they are used, and why not if they could have been.
is_used = False
problem = ""


class Finder:
    """Finds the compiled modules before the sources are looked at."""

    def __init__(self, files: Mapping[str, Path]) -> None:
        self._files = files

    def find_spec(
        self,
        name: str,
        path: Sequence[str] | None = None,
        target: ModuleType | None = None,
    ) -> ModuleSpec | None:
        """As importlib.abc.MetaPathFinder; None for what is not compiled."""
        file = self._files.get(name)
        return spec_from_file_location(name, file) if file is not None else None


def use() -> None:
    """Have the modules imported as compiled, if they are and may be. ImportError if they must and cannot."""
    global is_used, problem
    asked = os.environ.get(VARIABLE, "auto")
    if asked not in _VALUES:
        raise ImportError(f"{VARIABLE} must be auto, off or required, got {asked!r}")
    if asked == "off" or is_used:
        return
    is_there = FOLDER.is_dir()
    problem = problem_of(FOLDER) if is_there else ""
    if is_there and not problem:
        sys.meta_path.insert(0, Finder(files(FOLDER)))
        is_used = True
    elif asked == "required":
        raise ImportError(
            f"{VARIABLE}=required, but {problem or 'nothing is compiled'}: make compile"
        )


def files(folder: Path) -> dict[str, Path]:
    """Where each compiled module is, by its full name."""
    suffix = EXTENSION_SUFFIXES[0]
    places = {f"app.{name}": f"app/{name.replace('.', '/')}" for name in MODULES}
    places[f"{GROUP}__mypyc"] = f"{GROUP}__mypyc"
    return {name: folder / (place + suffix) for name, place in places.items()}


def stamp() -> str:
    """A digest of all sources of the package as they are now."""
    digest = hashlib.sha256()
    for source in sorted(PACKAGE.rglob("*.py")):
        digest.update(b"%b\0" % source.relative_to(PACKAGE).as_posix().encode())
        digest.update(source.read_bytes())
    return digest.hexdigest()


def problem_of(folder: Path) -> str:
    """Why what is compiled there cannot be used; "" if it can."""
    if not all(file.is_file() for file in files(folder).values()):
        return f"it was compiled for another Python than {sys.version.split()[0]}"
    try:
        was = (folder / STAMP).read_text(encoding="ascii").strip()
    except (OSError, ValueError) as error:
        return f"app/_compiled/{STAMP} cannot be read: {error}"
    return "" if was == stamp() else "the sources have changed since it was compiled"
