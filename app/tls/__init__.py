"""Certificates and contexts, towards clients and towards backends. No sockets."""
