"""`dokrun init`: an account, a bucket and a registry are asked for, tried, and written down."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Optional

import typer

from dokrun import config, profiles
from dokrun.cli.doctor import tell
from dokrun.cli.ends import say
from dokrun.errors import OptionError

_SAID_BY_VARIABLES = (
    "there is no terminal to ask on; set DOKRUN_ACCESS_TOKEN and DOKRUN_ACCESS_TOKEN_SECRET, for a bucket "
    "DOKRUN_BUCKET, DOKRUN_S3_ENDPOINT_URL, DOKRUN_S3_ACCESS_KEY_ID and DOKRUN_S3_SECRET_ACCESS_KEY, and for a "
    "registry DOKRUN_REGISTRY, DOKRUN_REGISTRY_USERNAME and DOKRUN_REGISTRY_PASSWORD; dokrun doctor tries them"
)
_ENDPOINT = "https://s3.isk01.sakurastorage.jp"
# These come before what stands in the file.
_BEFORE = ("DOKRUN_ACCESS_TOKEN", "DOKRUN_API_URL", "DOKRUN_BUCKET", "DOKRUN_REGISTRY", "DOKRUN_PROFILE")


def init(
    profile: Annotated[str, typer.Option(help="How the profile shall be called.")] = profiles.DEFAULT,
    api_url: Annotated[Optional[str], typer.Option(help="DOK's address, if it is another than the service's.")] = None,  # noqa: UP045 - typer reads it at run time
    untried: Annotated[bool, typer.Option("--untried", help="Write it down without trying it.")] = False,
) -> None:
    """Ask for an account, a bucket and a registry, try them, and write them down.

    They go to config.toml in your config folder, which only you can read; what else stands there stays.
    """
    if not sys.stdin.isatty():
        raise OptionError(_SAID_BY_VARIABLES)
    if profile == config.LOCAL:
        raise OptionError("the profile local is built in, and needs nothing; give yours another name")
    path = config.config_file()
    say(f"this goes to {path}, as the profile {profile}; an empty answer leaves away what is not needed")
    table = _asked(api_url)
    if not untried and not _works(path, profile, table):
        typer.confirm("Something is wrong. Write it down all the same?", abort=True, err=True)
    profiles.write(path, profile, table)
    print(f"written to {path}")
    for name in _BEFORE:
        if os.environ.get(name):
            say(f"{name} is set in the environment, and comes before what stands there")
    if profile != profiles.DEFAULT:
        say(f"@remote(profile={profile!r}), --profile {profile} or DOKRUN_PROFILE={profile} takes it")


def _asked(api_url: str | None) -> dict[str, Any]:
    table: dict[str, Any] = {
        "access_token": _ask("Access token of an API key of Sakura Cloud that is granted DOK"),
        "access_token_secret": _ask("Its secret (not shown)", hidden=True),
    }
    # What is not said is the service's own, whatever was there before: another's address gets no new key.
    table |= {"api_url": api_url, "bucket": None, "registry": None}
    if bucket := _ask("Bucket, of any S3-compatible store (none: calls up to 64 KiB)", needed=False):
        table["bucket"] = {
            "name": bucket,
            "endpoint_url": _ask("Its endpoint", default=_ENDPOINT),
            "access_key_id": _ask("Its access key id"),
            "secret_access_key": _ask("Its secret access key (not shown)", hidden=True),
        }
    if registry := _ask("Registry for images that dokrun builds, as HOST/NAMESPACE (none)", needed=False):
        table["registry"] = {"name": registry}
        if username := _ask("Its username (none: as docker login has it)", needed=False):
            table["registry"] |= {"username": username, "password": _ask("Its password (not shown)", hidden=True)}
    return table


def _ask(question: str, *, hidden: bool = False, needed: bool = True, default: str | None = None) -> str:
    if default is None and not needed:
        default = ""
    shown = bool(default)
    return str(typer.prompt(question, hide_input=hidden, default=default, show_default=shown, err=True)).strip()


def _works(path: Path, profile: str, table: Mapping[str, Any]) -> bool:
    """Try what was said, as it would be read from the file."""
    from dokrun.engine.doctor import examine

    with tempfile.TemporaryDirectory(prefix="dokrun-") as folder:
        aside = Path(folder, path.name)
        if path.exists():
            aside.write_bytes(path.read_bytes())
            aside.chmod(0o600)
        profiles.write(aside, profile, table)
        environ = {name: value for name, value in os.environ.items() if not name.startswith("DOKRUN_")}
        environ["DOKRUN_STATE_DIR"] = os.environ.get("DOKRUN_STATE_DIR", "")

        def load(name: str | None) -> config.Settings:
            return config.load(name, environ=environ, config_dir=Path(folder))

        return not any(check.state == "wrong" for check in list(tell(examine(profile, load))))
