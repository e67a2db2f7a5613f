"""Certificates, and the contexts of connections with clients and with backends. No sockets."""
