"""HTTP/1.1 heads and framing: bytes in, bytes out.

Pure: no socket, no clock, no configuration object, nothing of the rest of the application but its errors.
``fields`` what a header field means to an intermediary · ``request`` reads a request head, ``target`` what it
is about · ``response`` reads a response head · ``chunked`` the chunked coding · ``upgrade`` which protocols ·
``forwarded`` what we tell a backend about the client, ``forwarded_syntax`` the syntax of Forwarded · ``via``
Via and Max-Forwards · ``hash_key`` what a request is recognised by · ``proxy_protocol`` the header of the
PROXY protocol, read and written.
"""
