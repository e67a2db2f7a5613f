"""A resolver that a test controls, in the place of the C library's, inside every process of a balancer.

``sitecustomize`` is imported by each Python at its start; it replaces ``_socket.getaddrinfo``, which all
look-ups end in, gevent's too. What a name leads to stands in a file that is read at each look-up, so a test
can change it, or have the look-up block its thread as a silent resolver does.
"""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path
from types import TracebackType

HANG = "hang"
"""The look-up does not come back as long as this stands there."""

UNKNOWN = "unknown"
"""There is no such name."""

_SITECUSTOMIZE = """
import _socket, json, os, time
_real, _sleep = _socket.getaddrinfo, time.sleep
_folder = os.environ["LB_TEST_NAMES"]

def _answer(name):
    with open(_folder + "/names.json", encoding="utf-8") as file:
        return json.load(file).get(name)

def getaddrinfo(host, port, family=0, type=0, proto=0, flags=0):
    name = host.decode() if isinstance(host, bytes) else host
    answer = _answer(name)
    if answer is None:
        return _real(host, port, family, type, proto, flags)
    with open(_folder + "/asked", "a", encoding="utf-8") as file:
        file.write(f"{os.getpid()} {name}\\n")
    while answer == "hang":
        _sleep(0.02)
        answer = _answer(name)
    if answer == "unknown":
        raise _socket.gaierror(_socket.EAI_NONAME, "Name or service not known")
    return [entry for address in answer for entry in _real(address, port, family, type, proto, flags)]

_socket.getaddrinfo = getaddrinfo
"""


class Names:
    """Names and what they lead to: a list of addresses, HANG or UNKNOWN. Use as a context manager."""

    def __init__(self, **answers: list[str] | str) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="lb-test-names-")
        self._path = Path(self._folder.name)
        (self._path / "sitecustomize.py").write_text(_SITECUSTOMIZE, encoding="utf-8")
        (self._path / "asked").touch()
        self._answers = answers
        self.set()

    def __enter__(self) -> Names:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.set(**dict.fromkeys(self._answers, UNKNOWN))  # whatever hangs comes back
        self._folder.cleanup()

    @property
    def env(self) -> dict[str, str]:
        """For the balancer."""
        return {"PYTHONPATH": str(self._path), "LB_TEST_NAMES": str(self._path)}

    def set(self, **answers: list[str] | str) -> None:
        """Have these names lead there from now on."""
        self._answers |= answers
        new = self._path / "new"
        new.write_text(json.dumps(self._answers), encoding="utf-8")
        os.replace(new, self._path / "names.json")

    def asked(self, name: str) -> list[int]:
        """The processes that have looked it up, one for each look-up."""
        lines = (self._path / "asked").read_text(encoding="utf-8").splitlines()
        return [int(pid) for pid, asked in map(str.split, lines) if asked == name]
