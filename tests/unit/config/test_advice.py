"""What is valid but looks like a mistake."""

from __future__ import annotations

import json
from typing import Any

import pytest

from app.config import (
    parse,
    warnings,
)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, []),
        ({"servers": []}, ["servers: there are none: every request is answered 503"]),
        ({"health_check": {"interval": 2, "timeout": 2}}, []),
        ({"health_check": {"interval": 1.5}},
         ["health_check.timeout: 2 s is longer than health_check.interval (1.5 s): a server that "
          "hangs is checked less often than the interval says"]),
        ({"health_check": False}, []),
        ({"timeouts": {"backend_keepalive": 4.9}}, []),
        ({"timeouts": {"backend_keepalive": 5}},
         ["timeouts.backend_keepalive: idle connections are kept for 5 s: many servers close "
          "theirs after 2 to 5 s, and a request may meet one being closed"]),
        ({"timeouts": {"backend_keepalive": 0}},
         ["timeouts.backend_keepalive: idle connections are kept for ever (0): many servers close "
          "theirs after 2 to 5 s, and a request may meet one being closed"]),
        ({"sticky": {}},
         ["sticky.secret: none is given, one is made at each start: clients get another server after a "
          "restart, and on another machine"]),
        ({"sticky": {"secret": "0123456789abcdef"}}, []),
        ({"trusted_proxies": ["10.0.0.0/8", "0.0.0.0/0"]},
         ["trusted_proxies[1]: 0.0.0.0/0 lets every client forge its address"]),
        ({"proxy_protocol": ["::/0"]},
         ["proxy_protocol[0]: ::/0 lets every client forge its address, and refuses those that send "
          "no header"]),
        ({"servers": ["https://a"]}, []),
        ({"backend_tls": {"ca": "a.pem"}},
         ["backend_tls: has no effect: no server's URL begins with https://"]),
        ({"servers": ["http://b", "https://a"], "backend_tls": {"verify": False, "ca": "a.pem"}},
         ["backend_tls.verify: certificates of https:// servers are not verified: whoever is on the "
          "way can read and change what is sent",
          "backend_tls.ca: has no effect while backend_tls.verify is false"]),
        ({"upgrade": ["websocket", "H2C"]},
         ["upgrade[1]: h2c: requests inside such a tunnel are neither checked, balanced nor logged"]),
        ({"port": 81, "servers": ["http://a:81", "http://localhost:81"]},
         ["servers[1]: http://localhost:81 is where this load balancer itself listens"]),
        ({"port": 81, "host": "10.0.0.1", "servers": ["http://127.0.0.1:81"]}, []),
        ({"port": 81, "host": "10.0.0.1", "servers": ["http://10.0.0.1:81"]},
         ["servers[0]: http://10.0.0.1:81 is where this load balancer itself listens"]),
    ],
)  # fmt: skip
def test_warnings(changes: dict[str, Any], expected: list[str]) -> None:
    """What is valid but looks like a mistake is said, and nothing else is."""
    config = parse(json.dumps({"servers": ["http://a"], **changes}))
    assert [str(problem) for problem in warnings(config)] == expected
