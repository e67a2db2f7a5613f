"""Published configurations, read where no request waits for it.

To read one of 10,000 servers takes 0.4 s, to import a user's own algorithm as long as that likes: in a worker
that serves it is done in a thread of gevent's pool, and until then the worker goes on with the configuration
it has. One that was read is kept: the next master (USR2) publishes the very same. Runs in workers. Knows
neither servers nor requests.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable

from app.config import Config, ConfigError, from_json
from app.policies import PolicyError, load_custom

_Key = tuple[int, int]


class Published:
    """What published bytes say. Read on the spot, until ``read_aside`` says where else.

    ``blob`` and ``config``: what is known already.
    """

    def __init__(self, blob: bytes = b"", config: Config | None = None) -> None:
        self._key = _key_of(blob)
        self._read: Config | ConfigError | None = config
        self._wanted: _Key | None = None
        self._on_ready: Callable[[], None] | None = None

    def __repr__(self) -> str:
        return f"<Published of {self._key[0]} bytes{', reading another' * self.is_reading}>"

    @property
    def is_reading(self) -> bool:
        """Whether something is being read aside."""
        return self._wanted is not None

    def read_aside(self, on_ready: Callable[[], None]) -> None:
        """From now on read in a thread, and call ``on_ready`` in a greenlet when that is done."""
        self._on_ready = on_ready

    def config(self, blob: bytes) -> Config | None:
        """What it says; None while it is being read. ConfigError if it cannot be read."""
        key = _key_of(blob)
        if key != self._key or self._read is None:
            if self._on_ready is not None:
                self._begin(key, blob)
                return None
            self._key, self._read = key, _read(blob)
        if isinstance(self._read, ConfigError):
            raise self._read
        return self._read

    def _begin(self, key: _Key, blob: bytes) -> None:
        import gevent

        if key != self._wanted:
            self._wanted = key
            gevent.spawn(self._finish, key, blob)

    def _finish(self, key: _Key, blob: bytes) -> None:
        import gevent

        read = gevent.get_hub().threadpool.apply(_read, (blob,))
        if key == self._wanted:  # else there is a newer one
            self._key, self._read, self._wanted = key, read, None
            if self._on_ready is not None:
                self._on_ready()


def _key_of(blob: bytes) -> _Key:
    return len(blob), hash(blob)


def _read(blob: bytes) -> Config | ConfigError:
    """In any thread."""
    try:
        config = from_json(blob)
    except ConfigError as error:
        return error
    if config.algorithm.is_custom:
        with contextlib.suppress(PolicyError):  # said when it is taken up
            load_custom(config.algorithm.name)
    return config
