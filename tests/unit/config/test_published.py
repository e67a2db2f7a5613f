"""The published form, read by another release than wrote it."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given

from app import config as configuration
from tests.unit.config.documents import documents

WHOLE = {
    "servers": ["http://127.0.0.1:8001", {"url": "http://127.0.0.1:8002", "weight": 3}],
    "algorithm": {"name": "hash", "hash_on": "path", "balance_factor": 1.5},
    "sticky": {"secret": "0123456789abcdef"},
    "queue": {},
    "tls": {"certificate": "a.pem", "key": "a.key"},
    "health_check": {"headers": {"X-Probe": "1"}},
}
UNKNOWN = {"of": ["a", {"newer": "release"}]}


def with_a_key_more(value: Any, path: tuple[str, ...] = ()) -> Any:
    """Every object with a key that nobody knows; an object of header fields has only those."""
    if isinstance(value, list):
        return [with_a_key_more(one, path) for one in value]
    if not isinstance(value, dict) or path[-1:] == ("headers",):
        return value
    more = {name: with_a_key_more(one, (*path, name)) for name, one in value.items()}
    return {**more, "brand_new": UNKNOWN}


def published(document: dict[str, Any] = WHOLE) -> dict[str, Any]:
    config = configuration.parse(json.dumps(document))
    envelope: dict[str, Any] = json.loads(configuration.to_json(config))
    return envelope


def encoded(envelope: Any) -> bytes:
    return json.dumps(envelope).encode()


def test_keys_that_are_not_known_are_left_out_at_every_depth() -> None:
    """Objects, objects in lists, options of an algorithm, and the envelope itself."""
    newer = encoded(with_a_key_more(published()))
    assert newer.count(b"brand_new") > 10
    assert configuration.from_json(newer) == configuration.parse(json.dumps(WHOLE))


def test_a_policy_that_reads_no_key_may_have_got_one() -> None:
    envelope = published({})
    envelope["config"]["algorithm"] = {"name": "round_robin", "hash_on": "path", "more": [1]}
    assert configuration.from_json(encoded(envelope)).algorithm.name == "round_robin"


def test_keys_that_are_missing_have_their_defaults() -> None:
    """As in a configuration of an older release."""
    envelope = published()
    del envelope["config"]["outlier_detection"], envelope["config"]["health_check"]["interval"]
    del envelope["config"]["servers"][1]["weight"], envelope["config"]["algorithm"]["missing_key"]
    config = configuration.from_json(encoded(envelope))
    assert config.outlier_detection == configuration.parse("{}").outlier_detection
    assert config.health_check is not None
    assert (config.health_check.interval, config.servers[1].weight) == (5.0, 1)


def test_options_of_a_user_s_class_are_all_its_own() -> None:
    own = {"algorithm": {"name": "mypackage.NightShift", "limit": 20}}
    config = configuration.from_json(encoded(published(own)))
    assert dict(config.algorithm.options) == {"limit": 20}


UNREADABLE = [
    b"",
    b"{",
    b"[1]",
    b'"ab"',
    b"{}",
    encoded({"form": 2, "config": {}}),
    encoded({"form": True, "config": {}}),
    encoded({"form": 1}),
    encoded({"form": 1, "config": {"algorithm": "quantum"}}),
    encoded({"form": 1, "config": {"algorithm": {"name": ["quantum"]}}}),
    encoded({"form": 1, "config": {"servers": [{"weight": 1}]}}),
    encoded({"servers": []}),  # as releases before the form had a number
]


@pytest.mark.parametrize("blob", UNREADABLE)
def test_what_cannot_be_read_is_a_configuration_error(blob: bytes) -> None:
    """And nothing else: a worker meets it in the middle of a request."""
    with pytest.raises(configuration.ConfigError):
        configuration.from_json(blob)


def test_a_file_is_still_read_strictly() -> None:
    with pytest.raises(configuration.ConfigError):
        configuration.parse(json.dumps(with_a_key_more(WHOLE)))


@given(documents)
def test_published_and_described_forms_round_trip(document: dict[str, Any]) -> None:
    """to_json and describe lose nothing but secrets: reading either gives an equal configuration."""
    config = configuration.parse(json.dumps(document))
    assert configuration.from_json(configuration.to_json(config)) == config
    assert configuration.to_json(
        configuration.from_json(configuration.to_json(config))
    ) == configuration.to_json(config)
    if config.health_check is not None:  # the values of headers are not told
        config = replace(config, health_check=replace(config.health_check, headers=()))
    assert configuration.parse(configuration.describe(config)) == config
    assert max(map(len, configuration.describe(configuration.parse("{}")).splitlines())) <= 100
