"""The commands."""

from __future__ import annotations

import signal
import threading
from enum import Enum
from pathlib import Path
from typing import Annotated, Optional

import typer
from rich.console import Console
from rich.table import Table

import dokrun
from dokrun import config, redact
from dokrun.cli import image, jobs, registry
from dokrun.cli.cost import cost
from dokrun.cli.explain import explain
from dokrun.cli.shell import shell
from dokrun.errors import ConfigError

app = typer.Typer(help="A cloud GPU that feels like a function call.", no_args_is_help=True, add_completion=True)
show = typer.Typer(help="What dokrun is told.", no_args_is_help=True)
app.add_typer(show, name="config")
app.add_typer(image.app, name="image")
app.add_typer(registry.registry, name="registry")
app.command()(explain)
app.command("ls")(jobs.list_jobs)
app.command()(jobs.logs)
app.command()(jobs.cancel)
app.command()(cost)
app.command()(shell)

Profile = Annotated[Optional[str], typer.Option(help="Whose account, in place of the one that is chosen.")]  # noqa: UP045 - typer reads it at run time


class Runtime(str, Enum):
    """What the emulator's tasks run as."""

    PROCESS = "process"
    DOCKER = "docker"


def _version(asked: bool) -> None:  # noqa: FBT001 - typer calls it so
    if asked:
        print(dokrun.__version__)
        raise typer.Exit


@app.callback()
def options(
    _version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Tell it.")] = False,  # noqa: FBT002 - it is named
) -> None:
    """Take the options that go before a command."""


@app.command()
def plans(profile: Profile = None) -> None:
    """List the plans and what they cost."""
    table = Table("plan", "yen per second", "yen per hour", "least billed")
    for price in dokrun.prices(profile).values():
        hour = f"{price.yen_per_second * 3600:,.0f}"
        table.add_row(price.plan, str(price.yen_per_second), hour, f"{price.minimum_seconds} s")
    Console().print(table)


@app.command()
def emulator(
    port: Annotated[int, typer.Option(help="Where it listens on 127.0.0.1; 0 is a free port.")] = 0,
    data: Annotated[Optional[Path], typer.Option(help="Keep tasks, artifacts and logs here over restarts.")] = None,  # noqa: UP045 - typer reads it at run time
    slots: Annotated[int, typer.Option(min=1, help="How many tasks run at once.")] = 1,
    runtime: Annotated[
        Runtime, typer.Option(help="What tasks run as: processes of this machine, or containers of Docker.")
    ] = Runtime.PROCESS,
) -> None:
    """Serve DOK's API on this machine, until Ctrl-C."""
    from dokrun.emulator import Behaviour, Emulator

    try:
        service = Emulator(port=port, data=data, behaviour=Behaviour(slots=slots, runtime=runtime.value))
    except OSError as error:
        raise ConfigError(f"cannot listen on port {port}: {error.strerror}; try --port 0") from error
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with service:
        print("# An emulator of DOK listens; Ctrl-C ends it. In another terminal:")
        print(f"export DOKRUN_API_URL={service.api_url}")
        print(f"export DOKRUN_ACCESS_TOKEN={service.token}")
        print(f"export DOKRUN_ACCESS_TOKEN_SECRET={service.secret}", flush=True)
        try:
            threading.Event().wait()
        except KeyboardInterrupt:
            print("# ended", flush=True)


@show.command("show")
def config_show(profile: Profile = None) -> None:
    """Tell which settings are used, and where they came from. Secrets are not shown."""
    settings = config.load(profile)
    table = Table("setting", "value", "from")
    table.add_row("profile", settings.profile, settings.source["profile"])
    if settings.profile != config.LOCAL:
        table.add_row("api_url", redact.url(settings.api_url), settings.source["api_url"])
        table.add_row("access_token", "…", settings.source["access_token"])
        for table_name, keys in (("bucket", ("name", "endpoint_url", "region")), ("registry", ("name", "username"))):
            for key in keys:
                value = getattr(getattr(settings, table_name), key, None)
                value = redact.url(value) if value and key == "endpoint_url" else value
                where = settings.source.get(f"{table_name}.{key}", "")
                table.add_row(f"{table_name}.{key}", value or "not set", where)
        if settings.budget_yen_per_day is not None:
            where = settings.source["budget_yen_per_day"]
            table.add_row("budget_yen_per_day", str(settings.budget_yen_per_day), where)
    table.add_row("state_dir", str(settings.state_dir), "")
    Console().print(table)
