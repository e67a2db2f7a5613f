"""What stands in for the rest of the world in tests: shared memory with servers in it, connections.

Importable as ``fakes`` from every test (pyproject.toml puts tests/ on the path).
"""
