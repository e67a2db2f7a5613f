"""The client's side of the wire, one file a protocol: HTTP/1.1, HTTP/2, WSGI, the PROXY header."""
