"""The commands about what calls leave: `dokrun download`, `dokrun rescue`, `dokrun gc`."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Optional

import typer

from dokrun import config
from dokrun.cli import render
from dokrun.cli.completion import handles
from dokrun.cli.ends import NotYet, Status, say
from dokrun.cli.opened import engine_of
from dokrun.cli.parameters import Handle, Json, Profile
from dokrun.errors import ConfigError, NotFound, OptionError, suggest
from dokrun.options import seconds

if TYPE_CHECKING:
    from dokrun.engine.rescue import Rescued


def download(
    handle: Handle,
    names: Annotated[
        Optional[list[str]],  # noqa: UP045 - typer reads it at run time
        typer.Argument(metavar="NAME", help="Which files, or patterns as '*.pt'; all if none is named."),
    ] = None,
    output: Annotated[Path, typer.Option("--output", "-o", help="A folder of their own, which is made.")] = Path(
        "files"
    ),
    only_list: Annotated[bool, typer.Option("--list", "-l", help="Only list them.")] = False,
    as_json: Json = False,
    profile: Profile = None,
) -> None:
    """Fetch the files that a call has left in dok.artifact_dir().

    DOK keeps them for 72 hours after the task's end. Of a session it is what all of its calls have left.
    """
    engine = engine_of(profile)
    from dokrun import artifact
    from dokrun.engine.remains import fetched, kept_in

    one = engine.desk.find(handle)
    if not one.task.ended:
        raise NotYet(f"{one.name} has not ended yet; dokrun attach {one.short_handle} waits for it")
    left = kept_in(engine.client, one.task)
    if left is None:
        raise NotFound(f"{one.name} (task {one.task.id}) left no files, or its 72 hours are over")
    with fetched(engine.client, left) as remains:
        sizes = {file.name: file.size_bytes for file in remains.files}
        wanted = _wanted(names or [], list(sizes))
        rows: list[dict[str, Any]] = [{"file": name, "bytes": sizes[name]} for name in wanted]
        if not only_list and wanted:
            paths = artifact.download(remains, wanted, output)
            rows = [{**row, "path": str(path)} for row, path in zip(rows, paths, strict=True)]
    columns = ("file", "bytes") if only_list else ("path", "bytes")
    render.table(rows, columns, as_json=as_json, numbers=("bytes",))
    if not rows and not as_json:
        say(f"{one.name} left no files")


def _wanted(names: list[str], known: list[str]) -> list[str]:
    import fnmatch

    wanted: dict[str, None] = dict.fromkeys(() if names else known)
    for name in names:
        found = [name] if name in known else fnmatch.filter(known, name)
        if not found:
            raise NotFound(f"it left no file {name!r}{suggest(name, known)}")
        wanted.update(dict.fromkeys(found))
    return sorted(wanted)


def rescue(
    given: Annotated[
        Optional[list[str]],  # noqa: UP045 - typer reads it at run time
        typer.Argument(metavar="HANDLE", help="Whose; their beginnings will do.", autocompletion=handles),
    ] = None,
    everything: Annotated[
        bool, typer.Option("--all", help="Of all calls that dokrun has made in the project.")
    ] = False,
    output: Annotated[Path, typer.Option("--output", "-o", help="Where to; a folder for each task.")] = Path("rescued"),
    as_json: Json = False,
    profile: Profile = None,
) -> None:
    """Save the results and files of ended calls before DOK deletes them.

    That is 72 hours after their end. Each task has a folder, with its values as pickles that were verified and not
    opened, its files, and outcome.json, which says what became of each call. What was saved before is passed over.
    What was verified and cannot be read by this version of dokrun is kept as it came, in its folder raw.
    Opening such a pickle needs what the value is made of, and runs what it holds, as result would.
    """
    if bool(given) is everything:
        raise OptionError("name the calls, or say --all for all of the project's; dokrun ls tells which there are")
    engine = engine_of(profile)
    from dokrun.engine.rescue import rescue as save

    chosen = None if everything else {engine.desk.find(text).job_id for text in given or []}
    listed = [one for one in engine.desk.listed() if chosen is None or one.job_id in chosen]
    told = []
    with render.each_done(as_json=as_json) as done:
        for each in save(engine.client, engine.bucket, listed, output):
            told.append(each)
            done(_line(each), _row(each))
    counts = {what: sum(each.what == what for each in told) for what in ("saved", "there", "gone", "failed")}
    running = sum(not one.task.ended for one in listed)
    unfinished = f", {running} not ended yet" if running else ""
    say(
        f"{counts['saved']} saved, {counts['there']} saved before, {counts['gone']} with nothing left, "
        f"{counts['failed']} failed{unfinished}"
    )
    if counts["failed"] or any(each.unreadable for each in told):
        raise typer.Exit(Status.FAILED)


def _line(each: Rescued) -> str | None:
    if each.what == "gone":
        return None
    counted = f": {each.calls} call{'s' * (each.calls != 1)}, {each.files} file{'s' * (each.files != 1)}"
    where = f"{each.folder}{counted if each.what == 'saved' else ''}"
    return f"{each.what}\t{each.one.short_handle}\t{where}\t{render.text(each.told)}"


def _row(each: Rescued) -> render.Row:
    return {
        "handle": each.one.handle,
        "task": each.one.task.id,
        "what": each.what,
        "folder": str(each.folder),
        "told": each.told,
        "calls": each.calls,
        "files": each.files,
    }


def gc(
    older_than: Annotated[str, typer.Option(help="How old what calls share must be, as 30d; 14d at least.")] = "30d",
    puts: Annotated[bool, typer.Option("--puts", help="What dok.put has sent as well, if that is as old.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", "-n", help="Only list what would go.")] = False,
    as_json: Json = False,
    profile: Profile = None,
) -> None:
    """Remove from the bucket what no call needs any more.

    That is what ended jobs have left, 72 hours after their end, and what calls have shared, such as large arguments,
    when it has not been used for a month. Nothing goes that a call may need which waits or runs, or is just being sent,
    from whatever machine. What dok.put has sent stays until you say --puts, and even then while any call waits or
    runs, or did a day ago. Where projects share the bucket, the calls of the others are known by their age alone:
    run it with an --older-than that none of them reaches.
    """
    age = timedelta(seconds=seconds("--older-than", older_than))
    settings = config.load(profile)
    if settings.outlasts and settings.bucket is None:
        raise ConfigError(f"there is nothing to remove: {config.NO_BUCKET}")
    engine = engine_of(profile)
    from dokrun.engine.sweep import LEAST_AGE

    if age < LEAST_AGE:
        least = f"{LEAST_AGE.days}d"
        raise OptionError(f"--older-than {older_than} is too short: {least} is the least at which nothing needed goes")
    rows: list[dict[str, Any]] = []
    size = 0
    for one, gone in engine.desk.sweep(age, puts=puts, dry_run=dry_run):
        what = "would go" if dry_run else "gone" if gone else "stays, since it was sent again"
        stored = one.stored
        rows.append({"key": stored.key, "bytes": stored.size, "stored": stored.modified, "why": one.why, "what": what})
        size += stored.size if gone or dry_run else 0
    render.table(rows, ("key", "bytes", "stored", "why", "what"), as_json=as_json, numbers=("bytes",))
    say(f"{len(rows)} objects, {size / 1e6:,.1f} MB {'would go' if dry_run else 'removed'}")
