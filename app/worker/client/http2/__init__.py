"""HTTP/2 in front: connection, stream, sender. Loaded by workers that serve TLS only."""
