"""gunicorn's master: hooks, the segment, publishing, supervision. One thread, neither gevent nor requests."""
