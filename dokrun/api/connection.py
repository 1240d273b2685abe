"""Requests and answers as values; every failure of the network and the service becomes one of our errors here."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any, TypeVar

import httpx
import msgspec

from dokrun import errors, redact
from dokrun.api import models
from dokrun.api.clock import Clock, DatedTransport, Skew
from dokrun.api.transport import NOT_SENT, Backoff, NetworkTransport, RetryTransport, WholeBodyTransport
from dokrun.secret import Secret

T = TypeVar("T")

_REFUSALS: dict[int, type[errors.Refused]] = {
    400: errors.BadRequest,
    401: errors.Unauthorized,
    403: errors.Forbidden,
    404: errors.NotFound,
    413: errors.BadRequest,
    422: errors.BadRequest,
    429: errors.TooManyRequests,
}
_ADVICE = {
    401: "check the API key (DOKRUN_ACCESS_TOKEN, DOKRUN_ACCESS_TOKEN_SECRET) and that it has been granted DOK",
    429: "wait a minute, then try again",
}


# What costs money from then on.
_PAID = ("POST", "/tasks/")
# What a proxy says that stands before nobody.
_REACHES_NOBODY = frozenset({502, 503, 504})
# How long a server may take to answer a request that asks whether it does.
ANSWER_S = 10.0
# Of the service's own words.
_LONGEST_WORDS = 2000
_decoders: dict[type[Any], msgspec.json.Decoder[Any]] = {}
_looking = threading.Lock()

redact.guard_logs()


class Connection:
    """One pool of connections to the service, and one without credentials for the addresses that it hands out."""

    def __init__(
        self,
        access_token: str,
        access_token_secret: Secret,
        *,
        base_url: str,
        timeout_s: float,
        backoff: Backoff,
        transport: httpx.BaseTransport | None,
        clock: Clock,
    ) -> None:
        try:
            self._base = httpx.URL(base_url.rstrip("/"))
        except httpx.InvalidURL:
            # The problem's text tells the part of the address that is wrong, which may be one of a password.
            raise errors.ConfigError("the API's address is not a URL; look at DOKRUN_API_URL") from None
        if self._base.scheme not in ("https", "http") or not self._base.host:
            raise errors.ConfigError("the API's address has no https:// or no host; look at DOKRUN_API_URL")
        self.backoff = backoff
        self.clock = clock
        self._skew = Skew()
        network = transport or NetworkTransport()
        answers = WholeBodyTransport(DatedTransport(network, self._skew, clock.now), steady=clock.steady)
        self._service = httpx.Client(
            auth=(access_token, access_token_secret.reveal()),
            timeout=timeout_s,
            transport=RetryTransport(answers, backoff),
            headers={"Accept": "application/json", "User-Agent": "dokrun"},
        )
        self._once = RetryTransport(network, Backoff(attempts=1))
        # No credentials here: a download address names whatever host it likes.
        self._elsewhere = httpx.Client(
            timeout=timeout_s, transport=RetryTransport(network, backoff), headers={"Accept-Encoding": "identity"}
        )

    def answers(self, address: str) -> bool:
        """Tell whether a server answers at an address, by one GET without credentials, redirect or body."""
        timeout = httpx.Timeout(ANSWER_S).as_dict()
        try:
            request = httpx.Request("GET", address, headers={"User-Agent": "dokrun"}, extensions={"timeout": timeout})
            response = self._once.handle_request(request)
        except (httpx.TransportError, httpx.InvalidURL):
            return False
        response.close()
        return response.status_code not in _REACHES_NOBODY

    @property
    def shown(self) -> str:
        """The service's address, without whatever credentials somebody may have written into it."""
        return redact.url(self._base).rstrip("/")

    @property
    def clock_ahead_s(self) -> float | None:
        """By how many seconds this machine's clock is surely ahead of the service's; None while nobody knows."""
        return self._skew.ahead_s

    def check_clock(self) -> None:
        """Make sure that this machine's clock is good enough to sign; asks the service the time if it must.

        Raises:
            ConfigError: it is ten minutes or more off the service's.
            NoAnswer: the service does not tell.
        """
        if not self._skew.known:
            try:
                self.execute("GET", "/auth/")
            except errors.Refused:
                pass  # it tells the time all the same
        self._skew.check()

    def request(
        self,
        method: str,
        path: str,
        answer: type[T],
        *,
        query: dict[str, Any] | None = None,
        body: models.Model | None = None,
    ) -> T:
        """Send a request to the service and read its answer as `answer`. `path` begins and ends with a slash.

        Raises:
            NotSent: the service cannot have received it.
            NoAnswer: it may have been received; of what creates something, nobody knows whether it did.
            Refused: the answer is an error; the class tells which kind.
            InvalidAnswer: the answer does not keep the service's contract.
            ConfigError: it is a task to be created, and this machine's clock is known to be ten minutes or more off.
        """
        if (method, path) == _PAID:
            self._skew.check()
        return _decode(self._send(method, path, query, body), answer)

    def execute(self, method: str, path: str, *, query: dict[str, Any] | None = None) -> None:
        """Send a request whose answer has no body. Raises as `request` does."""
        self._send(method, path, query, None)

    def open(self, url: str, *, start: int = 0) -> httpx.Response:
        """Open an address that the service handed out, from byte `start` on; its body is not read yet.

        Raises as `request` does. To be closed by the caller.
        """
        failure: Exception
        try:
            request = self._elsewhere.build_request("GET", url, headers={"Range": f"bytes={start}-"} if start else {})
            response = self._elsewhere.send(request, stream=True)
        except (httpx.RequestError, httpx.InvalidURL) as error:
            failure = error
        else:
            if not response.is_success:
                response.close()
                raise refused(response)
            return response
        raise no_answer(failure, "GET", redact.url(url))

    def close(self) -> None:
        """Close all connections."""
        self._service.close()
        self._elsewhere.close()

    def _send(self, method: str, path: str, query: dict[str, Any] | None, body: models.Model | None) -> httpx.Response:
        content = None if body is None else msgspec.json.encode(body)
        headers = None if content is None else {"Content-Type": "application/json"}
        params = {name: value for name, value in (query or {}).items() if value is not None}
        url = self._base.copy_with(path=self._base.path.rstrip("/") + path)
        failure: Exception
        try:
            response = self._service.request(method, url, params=params, content=content, headers=headers)
        except httpx.RequestError as error:
            failure = error
        else:
            if not response.is_success:
                raise refused(response)
            return response
        raise no_answer(failure, method, url.path)


def chunks(response: httpx.Response) -> Iterator[bytes]:
    """Yield the pieces of a body as they come. Raises NoAnswer where it breaks."""
    failure: Exception
    try:
        yield from response.iter_raw()
    except httpx.RequestError as error:
        failure = error
    else:
        return
    raise no_answer(failure, response.request.method, response.request.url.path)


def no_answer(failure: Exception, method: str, path: str) -> errors.NoAnswer:
    """Make our error in place of httpx's, which carries the request with its query and its credentials.

    To be raised where the original is no longer being handled: it would stay attached as the context.
    """
    kind = errors.NotSent if isinstance(failure, (*NOT_SENT, httpx.InvalidURL)) else errors.NoAnswer
    problem = "its address is not a URL" if isinstance(failure, httpx.InvalidURL) else redact.text(str(failure))
    return kind(f"{method} {path}: no answer from DOK ({problem or type(failure).__name__})", method=method, path=path)


def refused(response: httpx.Response) -> errors.Refused:
    """Make the error of an answer that is one, whatever its body is."""
    status = response.status_code
    told = _words(response)
    kind = _REFUSALS.get(status, errors.ServerError if response.is_server_error else errors.Refused)
    method, path = response.request.method, response.request.url.path
    message = f"{method} {path}: {told.status or f'{status} {response.reason_phrase}'}"
    if told.error_msg:
        message += f": {told.error_msg}"
    if status in _ADVICE:
        message += f"; {_ADVICE[status]}"
    return kind(
        message,
        method=method,
        path=path,
        status=status,
        error_code=told.error_code,
        error_msg=told.error_msg,
        serial=told.serial,
    )


def _words(response: httpx.Response) -> models.Error:
    """Read the service's own words, as many of them as can be read; they may repeat what was sent."""
    try:
        body = msgspec.json.decode(response.content, type=dict[str, Any])
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, httpx.ResponseNotRead):
        return models.Error()
    words = {name: redact.text(value[:_LONGEST_WORDS]) for name, value in body.items() if isinstance(value, str)}
    _decoder(models.Error)  # looks at the type
    return msgspec.convert(words, models.Error)


def _decode(response: httpx.Response, answer: type[T]) -> T:
    try:
        return _decoder(answer).decode(response.content)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        pass  # a null where none is foreseen, perhaps: read again without them, which takes longer
    try:
        return msgspec.convert(_without_nulls(msgspec.json.decode(response.content)), answer)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        problem = str(error)
    for word in ("Invalid RFC3339 encoded datetime", "Expected `datetime` with a timezone component"):
        problem = problem.replace(word, "Invalid date format")
    method, path = response.request.method, response.request.url.path
    raise errors.InvalidAnswer(f"{method} {path}: DOK's answer cannot be read: {problem}", method=method, path=path)


def _decoder(answer: type[T]) -> msgspec.json.Decoder[T]:
    # msgspec 0.22 looks at a type when it first reads one, and two threads that do so at once may crash the process.
    with _looking:
        if answer not in _decoders:
            _decoders[answer] = msgspec.json.Decoder(answer)
        return _decoders[answer]


def _without_nulls(value: Any) -> Any:
    """Leave out what is null: the service may say so of anything that it has nothing to say about."""
    if isinstance(value, dict):
        return {name: _without_nulls(part) for name, part in value.items() if part is not None}
    if isinstance(value, list):
        return [_without_nulls(part) for part in value]
    return value
