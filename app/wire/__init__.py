"""Syntax of HTTP and of the PROXY protocol: bytes in, values out.

Pure: no socket, no clock, no configuration object, nothing of the rest of the application but its errors.
``request`` reads a request head, ``target`` what it is about, ``response`` a response head, over one of two
parsers (``parser`` chooses, ``python_parser`` is the one in Python) · ``fields`` what a header field means to
an intermediary, ``claims`` those that strangers may not send · ``lenient`` heads of servers that are mended ·
``chunked`` the chunked coding · ``upgrade`` which protocols · ``status`` phrases and methods · ``line_ends``
those of odd heads · ``h2`` a request of HTTP/2 as one of HTTP/1.1, ``h2_guard`` floods of frames ·
``forwarded`` what we tell a backend about the client, ``forwarded_syntax`` the syntax of Forwarded · ``via``
Via, CDN-Loop, Max-Forwards · ``hash_key`` what a request is recognised by · ``proxy_protocol`` PROXY headers,
read and written · ``authority`` a host and a port in one text.
"""
