"""The secret that signs the cookies of sticky sessions, where the file gives none.

Every process has to have the same one, so a master makes it at start and publishes it with the configuration;
its successor (USR2) goes on with it, for which a secret says whether a master made it. Pure: the random part
comes from the caller.
"""

from __future__ import annotations

from dataclasses import replace

from app.config.model import Config

# How a secret begins that a master has made. One that an operator chose, and has taken out since, must not
# be used again.
MADE_HERE = "made at start: "


def with_secret(config: Config, secret: str) -> Config:
    """The configuration with a secret for sticky sessions, if it wants one and has none."""
    if config.sticky is None or config.sticky.secret is not None:
        return config
    return replace(config, sticky=replace(config.sticky, secret=secret))
