"""Whether what a proxy did to a case is what the case says."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace

from . import messages
from .corpus import Case, Outcome
from .messages import Malformed, Message

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
OK_TO_HEAD = OK[:-2]
# Stands in a case for the address of the backend, which HTTP/1.0 without a Host makes the Host.
BACKEND_HOST = b"backend.example"
# What a backend gets from the balancer itself, each exactly once.
ADDED = (
    b"x-forwarded-for",
    b"x-forwarded-proto",
    b"x-forwarded-host",
    b"x-request-id",
    b"cdn-loop",
)


@dataclass
class Transcript:
    """Every byte of one replay. One entry a connection in ``backend`` and ``backend_closed``."""

    client: bytes = b""
    client_reset: bool = False
    client_closed: bool = True
    backend: list[bytes] = field(default_factory=list)
    backend_closed: list[bool] = field(default_factory=list)

    def requests(self) -> list[Message]:
        """The complete requests that backends saw. Malformed if they could not be read."""
        return [m for data in self.backend for m in messages.read_requests(data)[0]]


def methods(case: Case) -> list[bytes]:
    """The methods of the case's requests, as far as they can be told."""
    found = []
    for outcome in case.outcomes:
        word = b"GET"
        if outcome.expected is not None and outcome.kind == "forwarded":
            word = outcome.expected.split(b" ")[0]
        elif not found:
            word = case.request.lstrip(b"\r\n").split(b" ")[0]
        found.append(word)
    return found


def expected_requests(case: Case) -> list[Message]:
    """The requests that a backend must see."""
    data, found = case.request, []
    for outcome in case.outcomes:
        if outcome.kind == "answered":
            answered = messages.read_request(data)
            assert answered is not None, f"{case}: the request is not complete"
            data = answered[1]
            continue
        if outcome.kind != "forwarded":
            break
        source = data if outcome.expected is None else outcome.expected
        read = messages.read_request(source)
        assert read is not None, f"{case}: the expected request is not complete"
        found.append(read[0])
        if outcome.expected is None:
            data = read[1]
    return found


def difference(
    expected: Message, seen: Message, ignored: tuple[bytes, ...], is_ours: bool = True
) -> str:
    """How two messages differ; empty when they say the same. Only ours has to keep the case of names."""
    if not is_ours:
        expected, seen = _in_lower_case(expected), _in_lower_case(seen)
    for name in ("start", "body", "trailers"):
        if getattr(expected, name) != getattr(seen, name):
            return f"{name}: {getattr(seen, name)[:300]!r}, not {getattr(expected, name)[:300]!r}"
    if expected.without(*ignored) != seen.without(*ignored):
        return f"fields: {seen.without(*ignored)}, not {expected.without(*ignored)}"
    return ""


def _in_lower_case(message: Message) -> Message:
    fields = [(name.lower(), value) for name, value in message.fields]
    trailers = [(name.lower(), value) for name, value in message.trailers]
    return replace(message, fields=fields, trailers=trailers)


def judge(case: Case, transcript: Transcript, is_ours: bool = True) -> list[str]:
    """What is wrong; empty when the case holds.

    Of other products (``is_ours`` false) neither our slugs nor our forwarding fields are asked for, and any
    refusal of a request is as good as another.
    """
    try:
        got = messages.read_responses(
            transcript.client,
            methods(case),
            at_end=transcript.client_closed,
            was_reset=transcript.client_reset,
        )
        seen = transcript.requests()
    except Malformed as error:
        return [f"malformed: {error}"]
    problems = _answers(case, got, transcript, is_ours)
    if is_ours:
        for message in got.messages:
            if message.status == 405 and not message.get_all(b"allow"):
                problems.append("405 without Allow")
            if len(message.get_all(b"date")) != 1 and message.status != 101:
                problems.append(f"Date: {message.get_all(b'date')}")
    if case.is_about_responses:
        if not seen and case.outcomes[0].kind != "refused" and "early" not in case.settings:
            problems.append("no request reached the backend")
    else:
        problems += _forwarded(case, seen, is_ours)
    if "ends" in case.settings and not (got.messages and got.messages[-1].will_close):
        problems.append("the last answer does not say that the connection ends")
    wanted = case.settings.get("backend")
    if (
        wanted
        and transcript.backend_closed
        and transcript.backend_closed[0] != (wanted == "closed")
    ):
        problems.append(f"the backend's connection was not {wanted}")
    return problems


def _forwarded(case: Case, seen: list[Message], is_ours: bool) -> list[str]:
    problems = []
    expected = expected_requests(case)
    if len(seen) != len(expected):
        starts = [message.start[:80] for message in seen]
        problems.append(f"{len(seen)} requests reached the backend, not {len(expected)}: {starts}")
    for want, have in zip(expected, seen, strict=False):
        for name in ADDED if is_ours else ():
            if len(have.get_all(name)) != 1:
                problems.append(f"{name.decode()}: {have.get_all(name)}")
        ignored: tuple[bytes, ...] = ADDED if is_ours else (*ADDED, b"connection")
        if have.get_all(b"expect") == [b"100-continue"]:
            # It is forwarded where the body has not come yet; where it has, there is nothing to expect.
            ignored += (b"expect",)
        if want.get_all(b"host") == [BACKEND_HOST] and len(have.get_all(b"host")) == 1:
            ignored += (b"host",)
        if problem := difference(want, have, ignored, is_ours):
            problems.append(problem)
        if want.framing != have.framing:
            problems.append(f"framing {have.framing}, not {want.framing}")
    return problems


def _answers(
    case: Case, got: messages.Responses, transcript: Transcript, is_ours: bool
) -> list[str]:
    problems = []
    answers = list(got.messages)
    for outcome in case.outcomes:
        if outcome.kind == "waits":
            break
        is_refused = outcome.kind == "broken" and [a.status for a in answers] == [502]
        if outcome.kind in ("cut", "broken") and not is_refused:
            if got.partial is None:
                problems.append(f"not cut: {transcript.client[-300:]!r}")
            return problems + _superfluous(answers, got.rest)
        if not answers:
            if outcome.kind == "refused" and not is_ours and not transcript.client:
                return problems  # closed without a word: a refusal too
            return [*problems, f"no answer, not {outcome}; got {transcript.client[-300:]!r}"]
        problems += _answer(case, outcome, answers.pop(0), is_ours)
        if outcome.kind == "refused" and not case.is_about_responses:
            if not transcript.client_closed:
                problems.append("the connection did not end")
            break
    if got.partial is not None:
        problems.append(f"an answer is not whole: {got.partial}")
    return problems + _superfluous(answers, got.rest)


def _superfluous(answers: list[Message], rest: bytes) -> list[str]:
    return [f"more than was asked for: {answers} {rest[:200]!r}"] if answers or rest else []


def _answer(case: Case, outcome: Outcome, answer: Message, is_ours: bool) -> list[str]:
    if outcome.kind == "broken":
        return []
    if outcome.kind == "refused" and not is_ours:
        expected = "45" if not case.is_about_responses else "5"
        return [] if str(answer.status)[0] in expected else [f"status {answer.status}"]
    if outcome.kind == "refused":
        if answer.status != outcome.status:
            return [f"status {answer.status}, not {outcome.status}: {answer.body[:300]!r}"]
        if not case.is_about_responses and not answer.will_close:
            return ["a refusal that does not say that the connection ends"]
        if outcome.reason and answer.body and (reason := _reason(answer)) != outcome.reason:
            return [f"reason {reason}, not {outcome.reason}"]
        return []
    if outcome.kind == "answered":
        return [] if answer.status == outcome.status else [f"status {answer.status}"]
    if outcome.kind == "forwarded":
        return [] if answer.status == 200 else [f"status {answer.status}: {answer.body[:300]!r}"]
    source = outcome.expected if outcome.expected is not None else case.response
    assert source is not None
    wanted = messages.read_responses(source, methods(case)[:1])
    if not wanted.messages:
        raise AssertionError(f"{case}: the expected answer is not complete")
    want = wanted.messages[0]
    more = (b"x-request-id",) if is_ours else (b"x-request-id", b"server", b"keep-alive")
    ignored = tuple(name for name in (b"date", b"connection", *more) if not want.get_all(name))
    problems = [problem] if (problem := difference(want, answer, ignored, is_ours)) else []
    if is_ours and len(answer.get_all(b"x-request-id")) != 1:
        problems.append(f"x-request-id: {answer.get_all(b'x-request-id')}")
    if len(want.interim) != len(answer.interim) or any(
        difference(one, other, (), is_ours)
        for one, other in zip(want.interim, answer.interim, strict=True)
    ):
        problems.append(f"interim answers: {answer.interim}, not {want.interim}")
    return problems


def _reason(answer: Message) -> str:
    try:
        return str(json.loads(answer.body).get("reason"))
    except (ValueError, AttributeError):
        return repr(answer.body[:100])
