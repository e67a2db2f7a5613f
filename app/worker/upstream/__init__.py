"""One backend as a worker talks to it: its connections, the request sent, the answer read."""
