"""Where a request has been and whom it is from: Via, CDN-Loop, Max-Forwards, Forwarded, Early-Data."""

from __future__ import annotations

import pytest
from harness import Backend, Balancer, handlers

TRUSTED = {"trusted_proxies": ["127.0.0.0/8"]}


def test_a_balancer_in_front_of_itself_finds_the_loop() -> None:
    """508, after one turn, whoever is trusted."""
    balancer = Balancer()
    balancer.set_servers([f"http://127.0.0.1:{balancer.port}"])
    with balancer:
        mark = balancer.log_mark
        response = balancer.get("/round")
        assert response.status == 508
        assert response.json()["reason"] == "loop"
        inner, outer = balancer.wait_for_access(2, since=mark, target="/round")
        assert (inner["reason"], inner["attempts"], inner["backend"]) == ("loop", [], None)
        assert outer["attempts"][0]["status"] == 508


@pytest.mark.parametrize("settings", [{}, TRUSTED], ids=["strangers", "trusting"])
def test_two_balancers_in_front_of_each_other_find_the_loop(settings: dict[str, list[str]]) -> None:
    """Also where neither trusts the other: the mark of each is kept."""
    one, other = Balancer(**settings), Balancer(**settings)
    one.set_servers([f"http://127.0.0.1:{other.port}"])
    other.set_servers([f"http://127.0.0.1:{one.port}"])
    with one, other:
        assert one.get("/round").status == 508
        assert len(one.wait_for_access(2, target="/round")) == 2
        assert len(other.wait_for_access(1, target="/round")) == 1


def test_the_mark_is_that_of_all_workers_through_a_reload() -> None:
    """A loop is found whichever worker the request comes back to."""
    with Backend() as backend, Balancer([backend], workers=2) as balancer:
        balancer.get("/")
        mark = backend.requests[-1].get("CDN-Loop") or ""
        assert mark.startswith("load-balancer-")
        balancer.reload()
        for _ in range(8):
            assert balancer.get("/", [("CDN-Loop", mark)]).status == 508
        assert balancer.get("/", [("CDN-Loop", "a.example; v=1")]).status == 200
        assert backend.requests[-1].get("CDN-Loop") == f"a.example; v=1, {mark}"


def test_via_is_written_where_it_is_wanted() -> None:
    """Neither way by default: nginx servers do not compress for requests that carry it."""
    handler = handlers.raw(b"HTTP/1.0 200 OK\r\nVia: 1.1 theirs\r\nContent-Length: 0\r\n\r\n")
    with Backend(handler) as backend:
        for setting, asked, told in (
            ("none", None, ["1.1 theirs"]),
            ("both", "1.1 load-balancer", ["1.1 theirs", "1.0 load-balancer"]),
        ):
            with Balancer([backend], via=setting) as balancer:
                assert balancer.get("/", [("Via", "1.1 forged")]).get_all("Via") == told
            assert backend.requests[-1].get("Via") == asked


def test_via_of_a_trusted_proxy_is_continued() -> None:
    """One field, in the order of the hops."""
    with Backend() as backend, Balancer([backend], via="request", **TRUSTED) as balancer:
        balancer.get("/", [("Via", "1.0 fred"), ("Via", "1.1 p.example (nginx)")])
        said = "1.0 fred, 1.1 p.example (nginx), 1.1 load-balancer"
        assert backend.requests[-1].get_all("Via") == [said]


def test_options_at_zero_is_answered_here(balancer: Balancer, backend: Backend) -> None:
    """With what is allowed, and the connection goes on."""
    mark = balancer.log_mark
    before = len(backend.requests)
    with balancer.connect() as client:
        response = client.request("OPTIONS", "/last", [("Max-Forwards", "0")])
        assert (response.status, response.body) == (200, b"")
        assert "OPTIONS" in (response.get("Allow") or "")
        assert client.get("/on").status == 200
    assert [request.target for request in backend.requests[before:]] == ["/on"]
    line = balancer.access_line(since=mark, target="/last")
    assert (line["status"], line["reason"], line["backend"]) == (200, "max_forwards", None)


@pytest.mark.parametrize("mode", ["forwarded", "both"])
def test_forwarded_for_strangers(mode: str) -> None:
    """RFC 7239 on request; what the client claims is dropped."""
    with Backend() as backend, Balancer([backend], forwarded=mode) as balancer:
        balancer.get("/", [("Forwarded", "for=203.0.113.9"), ("X-Forwarded-For", "203.0.113.9")])
        request = backend.requests[-1]
        host = request.get("Host")
        assert request.get_all("Forwarded") == [
            f'for=127.0.0.1;host="{host}";proto=http;by=_load-balancer'
        ]
        x_forwarded = ["127.0.0.1"] if mode == "both" else []
        assert request.get_all("X-Forwarded-For") == x_forwarded


def test_forwarded_of_a_trusted_proxy_is_believed() -> None:
    """From the right, in the log too; an X-Forwarded-For that the proxy did not write is not."""
    with Backend() as backend, Balancer([backend], forwarded="forwarded", **TRUSTED) as balancer:
        chain = 'for=198.51.100.1, for="[2001:db8::7]:4711";proto=https, for=127.0.0.2'
        balancer.get("/", [("Forwarded", chain), ("X-Forwarded-For", "203.0.113.9")])
        request = backend.requests[-1]
        (forwarded,) = request.get_all("Forwarded")
        assert forwarded.startswith(chain + ", for=127.0.0.1;host=")
        assert request.get_all("X-Forwarded-For") == []
        assert balancer.access_line()["client_ip"] == "2001:db8::7"


@pytest.mark.parametrize(("early", "seen"), [(True, 1), (False, 2)])
def test_425_to_an_early_request_is_the_clients(early: bool, seen: int) -> None:
    """RFC 8470 §5.2: it is not sent again by us, even where 425 is a status to retry."""
    with Backend(handlers.answer(425)) as one, Backend(handlers.answer(425)) as other:
        with Balancer([one, other], retries={"attempts": 2, "statuses": [425]}) as balancer:
            response = balancer.get("/", [("Early-Data", "1")] if early else [])
            assert response.status == 425
        requests = one.requests + other.requests
        assert len(requests) == seen
        assert [request.get("Early-Data") for request in requests] == [
            "1" if early else None
        ] * seen
