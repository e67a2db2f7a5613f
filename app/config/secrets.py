"""The secret that signs the cookies of sticky sessions, where config.json itself gives none.

It stands in a file of its own, read by ``load`` with the configuration, or in none. Every process has to have
the same one, so a master makes it then at start and publishes it with the configuration; its successor (USR2)
goes on with it, for which a secret says whether a master made it. The random part comes from the caller.
"""

from __future__ import annotations

from dataclasses import replace

from app.config import checks
from app.config.jsonc import read_text
from app.config.model import Config, Sticky
from app.config.problems import Problem, attempt

# How a secret begins that a master has made. One that an operator chose, and has taken out since, must not
# be used again.
MADE_HERE = "made at start: "


def from_file(problems: list[Problem], sticky: Sticky) -> Sticky:
    """The settings with the secret that stands in ``secret_file``, if they name one.

    What is wrong with it is added to ``problems``.
    """
    if sticky.secret_file is None:
        return sticky
    path = "sticky.secret_file"
    if sticky.secret is not None:
        problems.append(Problem(path, "is given beside sticky.secret: keep one of them"))
        return sticky
    return replace(sticky, secret=attempt(problems, path, _secret_in, sticky.secret_file))


def with_secret(config: Config, secret: str) -> Config:
    """The configuration with a secret for sticky sessions, if it wants one and has none."""
    if config.sticky is None or config.sticky.secret is not None:
        return config
    return replace(config, sticky=replace(config.sticky, secret=secret))


def _secret_in(path: str) -> str:
    return checks.secret(read_text(path, "name another one").strip())
