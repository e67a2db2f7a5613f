"""The secret of sticky sessions that a master makes."""

from __future__ import annotations

from app import config as configuration
from app.config.secrets import with_secret


def test_a_secret_is_made_only_where_one_is_wanted() -> None:
    """Not without sticky sessions, and not beside the operator's own."""
    for text in ("{}", '{"sticky": {"secret": "chosen by the operator"}}'):
        config = configuration.parse(text)
        assert with_secret(config, "made") is config
    made = with_secret(configuration.parse('{"sticky": {}}'), "made").sticky
    assert made is not None
    assert made.secret == "made"
