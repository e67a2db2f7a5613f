"""Sockets under gevent: streams, TLS, splicing, deadlines. Knows nothing of HTTP."""
