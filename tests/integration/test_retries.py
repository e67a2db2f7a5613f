"""Retries by status: whose answer the client gets, and who was asked."""

from __future__ import annotations

from harness import Backend, Balancer, handlers


def test_a_listed_status_makes_another_server_be_asked() -> None:
    """A GET that meets a 500 is answered by the other server; a POST keeps its 500."""
    broken = Backend(handlers.answer(500, b"x" * 100_000))
    broken.probe = handlers.ok
    with broken, Backend() as good:
        settings = {"retries": {"statuses": [500]}, "outlier_detection": False}
        with Balancer([broken, good], **settings) as balancer, balancer.connect() as client:
            read = [client.get(f"/{number}").status for number in range(10)]
            written = [client.request("POST", "/once", body=b"x").status for _ in range(10)]
            lines = balancer.wait_for_access(10, method="GET")

    assert read == [200] * 10
    assert sorted(set(written)) == [200, 500]
    assert max(len(line["attempts"]) for line in lines) == 2
    assert {attempt["status"] for line in lines for attempt in line["attempts"]} == {200, 500}
