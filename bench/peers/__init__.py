"""Proxies written for the comparison alone."""
