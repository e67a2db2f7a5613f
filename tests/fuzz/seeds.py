"""The wire cases as seeds for the fuzzer, beside the committed corpus."""

from __future__ import annotations

from pathlib import Path

from replay import corpus

CORPUS = Path(__file__).parent / "corpus"
MAX_SEED = 2048


def seeds(target: str) -> list[bytes]:
    """Inputs for one target."""
    found = [path.read_bytes() for path in sorted((CORPUS / target).glob("*"))]
    for case in corpus.load():
        if target == "request" and not case.is_about_responses:
            found.append(case.request)
        elif target == "response" and case.response:
            found.append(b"\0" + case.response)
        elif target == "chunked" and not case.is_about_responses and b"hunked" in case.request:
            found.append(b"\x03\x09" + case.request.partition(b"\r\n\r\n")[2])
    return [data for data in found if len(data) <= MAX_SEED]
