"""The commands, by name: each is loaded when it is called, so that `dokrun --help` and the others begin at once."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Mapping
from typing import Annotated, Any, NamedTuple

import typer
from typer.core import TyperGroup

import dokrun
from dokrun.cli import ends
from dokrun.cli.ends import Status
from dokrun.errors import DokrunError


class Entry(NamedTuple):
    """Where a command is, which is a function or an app, and what it does: the first sentence of its help."""

    home: str
    summary: str


_SECTIONS: Mapping[str, Mapping[str, Entry]] = {
    "Calls": {
        "run": Entry("run:run", "Call a function of a script, and print its result."),
        "ls": Entry("jobs:list_jobs", "List the tasks that dokrun has made, on whatever machine, newest first."),
        "show": Entry("show:show", "Tell everything that is known of a call, a map or a session."),
        "logs": Entry("jobs:logs", "Show what a task has written; with -f as it grows, until it has ended."),
        "attach": Entry("follow:attach", "Follow a call's log and progress until its end, and exit as it has ended."),
        "result": Entry("follow:result", "Wait for the value of a call, or of a map's calls, and print it."),
        "download": Entry("files:download", "Fetch the files that a call has left in dok.artifact_dir()."),
        "cancel": Entry("jobs:cancel", "End tasks, whether they wait or run."),
        "rescue": Entry("files:rescue", "Save the results and files of ended calls before DOK deletes them."),
        "shell": Entry("shell:shell", "Open a shell in a container: of a task that runs, or of a new one."),
    },
    "Money": {
        "plans": Entry("money:plans", "List the machines that tasks can run on, as DOK tells."),
        "prices": Entry("money:prices", "List what the plans cost: a second, an hour, and a task at least."),
        "quote": Entry("run:quote", "Tell what a call of a function will cost, before it is made."),
        "cost": Entry(
            "cost:cost", "Tell what tasks cost, by day in Japan, function and plan, and what DOK has billed."
        ),
        "bills": Entry("money:bills", "List what DOK has billed, line by line."),
    },
    "This machine": {
        "init": Entry("init:init", "Ask for an account, a bucket and a registry, try them, and write them down."),
        "doctor": Entry("doctor:doctor", "Try all that dokrun needs, and tell what is wrong and what to do."),
        "config": Entry("config:app", "What dokrun is told."),
        "explain": Entry(
            "explain:explain", "Tell what an error means; or list the files that would go along, and why."
        ),
        "image": Entry("image:app", "The images that tasks run in."),
        "gc": Entry("files:gc", "Remove from the bucket what no call needs any more."),
        "emulator": Entry("emulator:emulator", "Serve DOK's API on this machine, until Ctrl-C."),
    },
    "DOK's API, all of it": {
        "tasks": Entry("tasks:app", "Tasks: one container each, whoever has made them."),
        "artifacts": Entry("artifacts:app", "What tasks leave behind, for 72 hours."),
        "registry": Entry("registry:registry", "Credentials for private images, which DOK keeps."),
        "ssh-key": Entry("ssh_key:app", "Public keys that open the ssh door of tasks."),
        "notify": Entry("notify:app", "Who is told when a task ends."),
        "account": Entry("account:app", "The account behind the API key, and its agreement to the terms of service."),
    },
}
ENTRIES = {name: entry for section in _SECTIONS.values() for name, entry in section.items()}


class Desk(TyperGroup):
    """All commands: their list is there without them, and whatever one ends with becomes an exit status here."""

    def list_commands(self, ctx: Any) -> list[str]:  # noqa: ARG002 - click's own
        """Tell the names."""
        return list(ENTRIES)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:  # noqa: ARG002 - click's own
        """Load a command."""
        return _load(cmd_name) if cmd_name in ENTRIES else None

    @property
    def commands(self) -> Any:
        """All of them, loaded."""
        return {name: _load(name) for name in ENTRIES}

    @commands.setter
    def commands(self, none: Any) -> None:
        """Take what typer has registered, which is nothing."""

    def format_commands(self, ctx: Any, formatter: Any) -> None:  # noqa: ARG002 - click's own
        """List them, without loading any."""
        for title, entries in _SECTIONS.items():
            with formatter.section(title):
                formatter.write_dl([(name, entry.summary) for name, entry in entries.items()])

    def invoke(self, ctx: Any) -> Any:
        """Run the command that is meant. Whatever goes wrong is a line on standard error, and an exit status."""
        try:
            told = super().invoke(ctx)
            if sys.stdout is not None:
                sys.stdout.flush()
        except DokrunError as error:
            ends.tell(error)
            raise typer.Exit(ends.status_of(error)) from None
        except (KeyboardInterrupt, typer.Abort):
            raise typer.Exit(Status.INTERRUPTED) from None
        except BrokenPipeError:
            ends.let_go_of_output()
            raise typer.Exit(Status.CLOSED) from None
        except OSError as error:
            where = f"{error.filename}: " if error.filename else ""
            ends.say(f"{where}{error.strerror or error}")
            raise typer.Exit(Status.FAILED) from None
        else:
            return told


def _load(name: str) -> Any:
    """Make the command of a name."""
    module, _, attribute = ENTRIES[name].home.partition(":")
    found = getattr(importlib.import_module(f"dokrun.cli.{module}"), attribute)
    if not isinstance(found, typer.Typer):
        # Not loaded by what only lists the commands.
        from dokrun.cli.groups import Commands

        alone = Commands(rich_markup_mode=None, add_completion=False)
        alone.command(name)(found)
        found = alone
    command = typer.main.get_command(found)
    command.name = name
    return command


app = typer.Typer(
    cls=Desk,
    help="A cloud GPU that feels like a function call.",
    epilog=ends.EXPLAINED,
    no_args_is_help=True,
    add_completion=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


def _version(asked: bool) -> None:  # noqa: FBT001 - typer calls it so
    if asked:
        print(dokrun.__version__)
        raise typer.Exit


@app.callback()
def options(
    _version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Tell it.")] = False,
) -> None:
    """Take the options that go before a command."""
