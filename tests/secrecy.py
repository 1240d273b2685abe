"""Looks for the tests' own secrets wherever the whole suite may have let one slip: logs, journals, task definitions."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from pathlib import Path

S3_SECRET = "canary-of-the-bucket"
DOK_SECRET = "canary-of-the-service"
SECRETS = (S3_SECRET, DOK_SECRET)
# What talks with secrets in its hands.
LOGGERS = ("boto3", "botocore", "dokrun", "httpcore", "httpx", "s3transfer", "urllib3", "websockets")


class Listener(logging.Handler):
    """Hears all that these libraries say at debug level, in every test, and keeps what holds a secret."""

    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.heard = 0
        self.slips: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.heard += 1
        told = self.format(record)
        if any(secret in told for secret in SECRETS):
            self.slips.append(f"{record.name} {record.levelname}: {record.msg}")

    def listen(self) -> None:
        for name in LOGGERS:
            logging.getLogger(name).setLevel(logging.DEBUG)
            logging.getLogger(name).addHandler(self)

    def stop(self) -> None:
        for name in LOGGERS:
            logging.getLogger(name).setLevel(logging.NOTSET)
            logging.getLogger(name).removeHandler(self)


def slips_in_files(folders: Iterable[Path]) -> list[str]:
    """Tell the files below some folders that hold a secret."""
    files = (path for folder in folders for path in folder.rglob("*") if path.is_file() and not path.is_symlink())
    return [str(path) for path in files if any(secret.encode() in path.read_bytes() for secret in SECRETS)]
