"""What a configuration is refused with, from a text and from a file."""

from __future__ import annotations

from pathlib import Path

import pytest

from app.config import (
    ConfigError,
    load,
    parse,
)

PROJECT = Path(__file__).parents[3]


def refusals(text: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        parse(text)
    return [str(problem) for problem in caught.value.problems]


def load_refusals(path: Path | str, environ: dict[str, str] | None = None) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load(str(path), environ or {})
    return [str(problem) for problem in caught.value.problems]
