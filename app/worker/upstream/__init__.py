"""The backend's side of the wire: session and adapter, connections, the request sent, the answer read."""
