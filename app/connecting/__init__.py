"""How a connection to a server comes about: by requests and by health checks alike."""
