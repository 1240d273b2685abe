"""What is never shown: secrets, what a URL has besides its place, and what other libraries log of either."""

from __future__ import annotations

import base64
import copy
import dataclasses
import json
import logging
import pickle
import pprint
import socket
import subprocess
import sys
import traceback
from collections.abc import Callable
from typing import NoReturn

import httpx
import pytest
from emulated import end_of, request
from heard import Heard, shown

from dokrun import redact
from dokrun.api import Client
from dokrun.bucket import Bucket
from dokrun.config import BucketSettings
from dokrun.emulator import Emulator
from dokrun.emulator.objects import ObjectStore
from dokrun.errors import StorageError
from dokrun.secret import Secret

CANARY = "canary-d3adb33f"


# --- URLs


@pytest.mark.parametrize(
    ("address", "told"),
    [
        ("https://host/a/b", "https://host/a/b"),
        (f"https://host:8443/a?X-Amz-Signature={CANARY}", "https://host:8443/a"),
        (f"https://ann:{CANARY}@host/a", "https://host/a"),
        (f"https://ann:p@{CANARY}@host/a@1.0", "https://host/a@1.0"),
        (f"https://host/a#{CANARY}", "https://host/a"),
        (f"http://[::1]:80/a?{CANARY}", "http://[::1]:80/a"),
        (f"https://ann:{CANARY}?x@host/", "https://…"),
        (f"https://ann:{CANARY}/x@host/", "https://…"),
        (f"http://[{CANARY}", "http://…"),
        (f"/a/b?{CANARY}", "/a/b"),
        ("", ""),
    ],
)
def test_a_url_is_shown_without_credentials_query_and_fragment(address: str, told: str) -> None:
    assert redact.url(address) == told


def test_a_url_of_httpx_is_shown_likewise() -> None:
    assert redact.url(httpx.URL(f"https://ann:{CANARY}@host/a?{CANARY}")) == "https://host/a"


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (f'http://h:1 "GET /b/k?X-Amz-Signature={CANARY} HTTP/1.1" 404 0', 'http://h:1 "GET /b/k HTTP/1.1" 404 0'),
        (f"Redirecting https://a:{CANARY}@h/x -> https://h/y?{CANARY}", "Redirecting https://h/x -> https://h/y"),
        (f"Authorization: Basic {CANARY}, and {CANARY}\nnext", "Authorization: …\nnext"),
        (f"[(b'set-cookie', b'{CANARY}')]", "[(b'set-cookie: …"),
        (f"x-amz-security-token={CANARY}", "x-amz-security-token: …"),
        (f'{{"password": "a {CANARY}", "host": "h"}}', '{"password": …, "host": "h"}'),
        (f"access_token_secret={CANARY}&x=1", "access_token_secret=…&x=1"),
    ],
)
def test_a_text_of_somebody_else_is_shown_without_what_looks_like_a_secret(words: str, told: str) -> None:
    assert redact.text(words) == told


@pytest.mark.parametrize(
    "words", ["Invalid token: expired", "what? and/or why", "is this it?", "the cookie, and 1=2", "a://b", "HTTP/1.1"]
)
def test_ordinary_words_stay_as_they_are(words: str) -> None:
    assert redact.text(words) == words


# --- secrets


def fail(secret: object) -> NoReturn:
    raise KeyError(secret)


def seen_in_a_traceback(secret: object) -> str:
    try:
        fail(secret)
    except KeyError as error:
        return "".join(traceback.TracebackException.from_exception(error, capture_locals=True).format())


@dataclasses.dataclass
class Holder:
    secret: Secret


SHOWN: list[Callable[[Secret], object]] = [
    str,
    repr,
    pprint.pformat,
    seen_in_a_traceback,
    lambda secret: f"{secret}",
    lambda secret: f"{secret!s:>40} {secret:>40}",
    "{0} {0:^60}".format,
    lambda secret: "%s %r" % (secret, secret),  # noqa: UP031 - as somebody's own code may do it
    lambda secret: repr([secret, {"a": secret}, Holder(secret)]),
    lambda secret: repr(dataclasses.asdict(Holder(secret))),
    lambda secret: json.dumps({"a": secret}, default=str),
    lambda secret: repr(getattr(secret, "__dict__", "")),
]


@pytest.mark.parametrize("show", SHOWN)
def test_a_secret_is_not_shown_however_it_is_written(show: Callable[[Secret], object]) -> None:
    assert CANARY not in str(show(Secret(CANARY)))


@pytest.mark.parametrize(
    "take",
    [vars, json.dumps, pickle.dumps, lambda secret: secret.__getstate__(), lambda secret: secret.__reduce_ex__(4)],
    ids=["vars", "json", "pickle", "state", "reduce"],
)
def test_a_secret_is_not_taken_apart(take: Callable[[Secret], object]) -> None:
    with pytest.raises(TypeError) as caught:
        take(Secret(CANARY))
    assert CANARY not in str(caught.value)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_no_pickle_holds_a_secret(protocol: int) -> None:
    with pytest.raises(TypeError, match="a secret is not pickled"):
        pickle.dumps(Holder(Secret(CANARY)), protocol)


def test_a_copy_of_a_secret_is_itself() -> None:
    secret = Secret(CANARY)
    assert copy.copy(secret) is secret
    assert copy.deepcopy(Holder(secret)).secret is secret


def test_a_secret_tells_its_value_when_asked_and_whether_it_is_the_same() -> None:
    assert Secret(CANARY).reveal() == CANARY
    assert Secret(CANARY) == Secret(CANARY) != Secret("another")
    assert Secret(CANARY) != CANARY
    assert len({Secret(CANARY), Secret(CANARY)}) == 1
    assert (bool(Secret("")), bool(Secret(CANARY))) == (False, True)


# --- what other libraries log


def test_httpx_and_httpcore_log_neither_queries_nor_headers(dok: Emulator, client: Client) -> None:
    with Heard() as heard:
        client.tasks.list(tag=CANARY)
        httpx.get(dok.api_url, params={"a": CANARY}, headers={"Authorization": CANARY, "Cookie": CANARY})
    assert f'HTTP Request: GET {dok.api_url}/tasks/ "HTTP/1.1 200 OK"' in heard.messages("httpx")
    assert {"send_request_headers.started", "receive_response_headers.complete"} <= set(heard.messages("httpcore"))
    key = base64.b64encode(f"{dok.token}:{dok.secret}".encode()).decode()
    assert not [word for word in (CANARY, dok.secret, key) if word in heard.shown()]


def test_an_answers_headers_are_not_logged(dok: Emulator, client: Client) -> None:
    task = end_of(client, client.tasks.create(request()))
    assert task.artifact is not None
    with Heard() as heard:
        address = httpx.URL(client.artifacts.download_url(task.artifact.id))
        httpx.get(address)
    assert f'HTTP Request: GET {redact.url(address)} "HTTP/1.1 200 OK"' in heard.messages("httpx")
    assert address.params["signature"] not in heard.shown()


def bucket_of(url: str, name: str) -> Bucket:
    return Bucket(BucketSettings(name, url, None, "canary-key-id", Secret(CANARY)))


def test_boto3_and_urllib3_log_neither_signatures_nor_bodies_nor_addresses(store: ObjectStore) -> None:
    bucket = bucket_of(store.url, store.bucket)
    with Heard() as heard:
        bucket.put("canary-object", b"canary-body")
        address = httpx.URL(bucket.address("canary-object"))
        bucket.delete("canary-object")
    told = "\n".join(heard.messages("botocore"))
    for beginning in ("Making request for …", "CanonicalRequest:\n…", "StringToSign:\n…", "Signature:\n…"):
        assert beginning in told
    assert any('"PUT ' in line and line.endswith(" 200 0") for line in heard.messages("urllib3"))
    said = heard.shown()
    assert not [word for word in (CANARY, "canary-key-id", "canary-body") if word in said]
    assert address.params["X-Amz-Signature"] not in said
    assert "Credential=" not in said


def test_a_failed_request_is_logged_without_its_traceback_which_holds_it() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    with Heard() as heard, pytest.raises(StorageError):
        bucket_of(f"http://127.0.0.1:{port}", "bucket").put("k", b"x")
    assert "Exception received when sending HTTP request. (EndpointConnectionError)" in heard.messages("botocore")
    assert all(record.exc_info is None for record in heard.records if record.name.startswith("botocore"))
    assert CANARY not in heard.shown()


@pytest.mark.parametrize("library", ["httpx", "httpcore", "urllib3", "boto3", "botocore", "s3transfer", "websockets"])
@pytest.mark.parametrize("below", ["", ".made.later"])
def test_it_holds_for_each_logger_of_a_library_even_before_handlers_of_its_own(library: str, below: str) -> None:
    with Heard(f"{library}{below}") as heard:
        logger = logging.getLogger(f"{library}{below}")
        logger.debug("told https://a:%s@h/x?y=%s", CANARY, CANARY)
        logger.debug(f"told https://h/x?y={CANARY}")  # noqa: G004 - as libraries do
        logger.debug("%(a)s", {"a": CANARY})
        logger.debug("%s", {"Authorization": CANARY})
        logger.debug("%d of %s", "no number", CANARY.encode())
        try:
            fail(CANARY)
        except KeyError:
            logger.exception("failed")
    assert len(heard.records) == 6
    assert heard.records[-1].getMessage() == "failed (KeyError)"
    assert heard.records[0].getMessage().startswith("told")
    assert CANARY not in heard.shown()


def test_numbers_stay_in_what_the_libraries_log() -> None:
    with Heard("botocore") as heard:
        logging.getLogger("botocore.retries").debug("attempt %d of %s after %.1f s: %s", 2, 5, 0.25, CANARY)
    assert [record.getMessage() for record in heard.records] == ["attempt 2 of 5 after 0.2 s: …"]


def test_all_other_records_stay_as_they_are() -> None:
    error = ValueError("https://h/x?y=1")
    with Heard("mine.httpx") as heard:
        logging.getLogger("mine.httpx").error("%s at https://h/x?y=1", "word", exc_info=error)
    (record,) = heard.records
    assert (record.msg, record.args) == ("%s at https://h/x?y=1", ("word",))
    assert record.exc_info is not None
    assert record.exc_info[1] is error
    assert "https://h/x?y=1" in shown(record)


def test_a_record_factory_of_the_program_is_kept_and_is_shown_no_secret() -> None:
    script = f"""
import logging
seen = []
class Mine(logging.LogRecord): pass
def make(*arguments, **named):
    seen.append(arguments)
    return Mine(*arguments, **named)
logging.setLogRecordFactory(make)
from dokrun import redact
redact.guard_logs(); guarded = logging.getLogRecordFactory()
redact.guard_logs(); assert logging.getLogRecordFactory() is guarded
heard = []
handler = logging.Handler(); handler.emit = heard.append
logging.getLogger("httpx").addHandler(handler)
logging.getLogger("httpx").warning("%s", "https://h/?{CANARY}")
assert type(heard[0]) is Mine and heard[0].getMessage() == "https://h/", heard
assert len(seen) == 1 and "{CANARY}" not in repr(seen)
"""
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60)


def test_nothing_is_guarded_before_a_door_is_opened() -> None:
    script = "import logging, dokrun, dokrun.redact; assert logging.getLogRecordFactory() is logging.LogRecord"
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60)
