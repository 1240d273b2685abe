"""Bring the payload, and whatever it names, into the container; all of it is verified before anything is read.

Stdlib only, Python 3.9 syntax: this file runs in other people's images.
"""

import base64
import functools
import importlib.util
import json
import os
import re
import sys
import zlib
from typing import TYPE_CHECKING, Any, Dict, Iterator, List, NamedTuple, Optional

from . import envelope, fetch, protocol
from .digests import digest_of
from .envelope import Span
from .layout import lay_out, lay_out_given
from .packs import Packs

if TYPE_CHECKING:
    from .supplies import Supplies


class PayloadRefused(Exception):
    """The payload cannot be used; no code of the user's was started."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class Received(NamedTuple):
    """A payload: its header, which of its calls are to be run, and what they need that is fetched while they do."""

    header: Dict[str, Any]
    spans: List[Span]
    supplies: Optional["Supplies"]


def read_addresses(text: str) -> Dict[str, Any]:
    """Read the table of addresses, which may itself lie at one."""
    table: Dict[str, Any] = json.loads(text)
    if "addresses" in table:
        try:
            table = dict(json.loads(fetch.read(table["addresses"])))
        except (OSError, ValueError, TypeError) as error:
            raise PayloadRefused(
                protocol.NOT_FETCHED, f"the table of addresses could not be fetched: {error}"
            ) from error
    return table


def receive(folder: str, payload: str, addresses: Dict[str, Any], calls: str) -> Received:
    """Bring the payload and what its functions need, and lay out the user's source; all of it verified."""
    path, blobs = os.path.join(folder, "payload"), os.path.join(folder, "blobs")
    try:
        if payload == protocol.FETCHED:
            sha256, size = (os.environ.get(name, "") for name in protocol.PAYLOAD_VARIABLES)
            fetch.fetch(addresses.get("payload", ""), path, sha256, int(size))
        else:
            unfold(payload, path)
        with open(path, "rb") as file:
            header, segments = envelope.unpack(file.read())
        check_versions(header)
        packs = Packs(header["calls"])
        spans = envelope.read_chosen(calls, len(packs))
        os.makedirs(blobs)
        supplies = None
        elsewhere = {segment.sha256: segment for segment in segments if segment.data is None}
        if elsewhere:
            from .supplies import Supplies, needs_of

            first = (segments[number].sha256 for number in _first(header) if segments[number].data is None)
            needs = needs_of(packs, segments, spans)
            supplies = Supplies(elsewhere, addresses.get("blobs", {}), blobs, first, needs)
            supplies.wait()
        lay_out(header.get("source", []), segments, folder)
        lay_out_given([segments[number] for number in header.get("given", [])], blobs)
    except envelope.FormatError as error:
        raise PayloadRefused(protocol.WRONG_VERSION, str(error)) from error
    except (OSError, ValueError, zlib.error) as error:
        raise refused(error, "the payload") from error
    return Received(header, spans, supplies)


def _first(header: Dict[str, Any]) -> Iterator[int]:
    """Tell which segments are needed before any call."""
    for function in header["functions"]:
        yield from function.get("value", ())
        yield from function.get("given", ())
    for entry in header.get("source", ()):
        yield entry["bundle"] if "bundle" in entry else entry["segment"]


def refused(error: Exception, what: str) -> PayloadRefused:
    """Say why something could not be received."""
    reason = protocol.UNREADABLE_PAYLOAD
    if isinstance(error, fetch.FetchError):
        reason = protocol.TAMPERED if isinstance(error, fetch.DigestError) else protocol.NOT_FETCHED
    return PayloadRefused(reason, f"{what} could not be received: {error}")


def unfold(payload: str, path: str) -> None:
    """Write the payload that came with the command to a file."""
    data = zlib.decompress(base64.b64decode(payload))
    if digest_of(data) != os.environ.get(protocol.PAYLOAD_SHA256):
        raise PayloadRefused(protocol.TAMPERED, "the command's payload does not match its digest; nothing was started")
    with open(path, "wb") as file:
        file.write(data)


def check_versions(header: Dict[str, Any]) -> None:
    """Refuse what this side cannot unpickle.

    That is what another minor version of Python has pickled, since code objects do not survive the difference, and what
    another cloudpickle has, which promises nothing across its versions.
    """
    theirs = header["python"]
    ours = "{}.{}.{}".format(*sys.version_info[:3])
    if theirs.split(".")[:2] != ours.split(".")[:2]:
        wanted = ".".join(theirs.split(".")[:2])
        message = (
            f"the call was pickled by Python {theirs}, and the image has Python {ours}; "
            f'write image=dok.Image.debian_slim("{wanted}"), or another image that has Python {wanted}'
        )
        raise PayloadRefused(protocol.WRONG_VERSION, message)
    if header["cloudpickle"] != (carried := cloudpickle_version()):
        message = (
            f"the call was pickled by cloudpickle {header['cloudpickle']}, and the shim carries {carried}; "
            "bake the shim of the dokrun that makes the call, or none"
        )
        raise PayloadRefused(protocol.WRONG_VERSION, message)


@functools.cache
def cloudpickle_version() -> str:
    """Tell the version of the cloudpickle that the worker will use, without the cost of loading it here."""
    spec = importlib.util.find_spec("cloudpickle")
    if spec is None or spec.loader is None:
        return "none"
    source = spec.loader.get_source("cloudpickle")  # type: ignore[attr-defined]  # a file's loader and zipimport's do
    found = re.search(r"^__version__ = ['\"]([^'\"]+)", source or "", re.MULTILINE)
    return found.group(1) if found else "unknown"
