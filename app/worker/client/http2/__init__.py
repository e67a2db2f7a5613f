"""HTTP/2 in front: connection, exchange, outlet. Loaded by workers that serve TLS only."""
