"""Any configuration that is valid, as a person may write it."""

from __future__ import annotations

import re
from typing import Any

from hypothesis import strategies as st

from app.config import (
    LIMITS,
    TIMEOUTS,
)

labels = st.from_regex(r"[a-z0-9]([a-z0-9-]{0,8}[a-z0-9])?", fullmatch=True)


hosts = st.one_of(
    st.builds("{}.example".format, labels),
    st.ip_addresses(v=4).map(str),
    st.ip_addresses(v=6).map("[{}]".format),
)


prefixes = st.from_regex(r"(/[A-Za-z0-9._~;=%-]*)*", fullmatch=True).filter(
    lambda path: re.search(r"%(?![0-9A-F]{2})", path) is None
)


urls = st.one_of(
    st.builds(
        "{}://{}:{}{}".format, st.sampled_from(["http", "HTTPS"]), hosts,
        st.integers(1, 65535), prefixes,
    ),
    st.from_regex(r"unix:/[a-zé0-9.]{1,20}", fullmatch=True),
)  # fmt: skip


seconds = st.floats(0.01, 3600)


thresholds = st.integers(1, 100)


header_values = st.from_regex(r"[!-~]([ -~]*[!-~])?", fullmatch=True)


def told_apart(servers: list[Any]) -> list[Any]:
    """The same servers with a path that makes each the only one of its kind."""
    return [
        f"{server}/{index}"
        if isinstance(server, str)
        else {**server, "url": f"{server['url']}/{index}"}
        for index, server in enumerate(servers)
    ]


documents = st.fixed_dictionaries(
    {},
    optional={
        "host": st.sampled_from(["0.0.0.0", "::", "localhost"]),
        "port": st.integers(1, 65535),
        "workers": st.integers(1, 1024),
        "servers": st.lists(
            urls | st.fixed_dictionaries(
                {"url": urls},
                optional={"weight": st.integers(1, 1000), "backup": st.booleans(),
                          "max_connections": st.integers(0, 9),
                          "state": st.sampled_from(["ready", "drain", "maint"])}),
            max_size=4).map(told_apart),
        "algorithm": st.sampled_from(["first", "hash", "a.b.C"]) | st.fixed_dictionaries(
            {"name": st.sampled_from(["hash", "a.b:C"])},
            optional={"hash_on": st.sampled_from(["path", "query:id"]),
                      "balance_factor": st.floats(1, 10)}),
        "health_check": st.just(False) | st.fixed_dictionaries(
            {},
            optional={"interval": seconds, "timeout": seconds, "healthy_threshold": thresholds,
                      "unhealthy_threshold": thresholds,
                      "panic_threshold": st.integers(0, 100),
                      "expected_status": st.lists(st.integers(100, 599), min_size=1),
                      "host": st.none() | hosts, "jitter": st.floats(0, 0.5),
                      "headers": st.dictionaries(labels.map("X-{}".format), header_values)}),
        "outlier_detection": st.just(False) | st.fixed_dictionaries(
            {}, optional={"resets": st.integers(0, 9), "ejection_time": st.floats(0.1, 100)}),
        "sticky": st.just(False) | st.fixed_dictionaries(
            {}, optional={"cookie": labels, "path": st.just("/a"), "max_age": st.integers(0, 99),
                          "secret_file": st.none() | labels}),
        "timeouts": st.dictionaries(
            st.sampled_from([key.name for key in TIMEOUTS.keys]), st.floats(0, 86400)),
        "limits": st.fixed_dictionaries(
            {}, optional={key.name: st.integers(key.type.low, key.type.high)
                          for key in LIMITS.keys}),
        "trusted_proxies": st.lists(st.ip_addresses().map(str), unique=True, max_size=3),
        "upgrade": st.lists(labels, unique_by=str.lower, max_size=3),
        "graceful_timeout": st.integers(0, 86400),
    },
)  # fmt: skip
