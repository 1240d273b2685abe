"""Single calls whose container stays for the next one, for nothing, while what is billed at least is not over."""

from __future__ import annotations

from dokrun import errors
from dokrun.engine.wanted import Asked, Wanted
from dokrun.options import DEFAULT_TIMEOUT_S, Options

# How long a container may last in all, for calls that keep coming.
LINGERING_S = 4 * 3600.0


def check_lingers(name: str, options: Options) -> None:
    """Refuse what is said of a function and cannot hold in a container that others use too. Raises OptionError."""
    for other in ("max_yen", "http"):
        if getattr(options, other) is not None:
            raise errors.OptionError(
                f"{name} has linger= and {other}=, and a container that lingers serves other calls too; take one of "
                f"them back, as with {name}.options(linger=None)"
            )


def lingering(name: str, options: Options, billed_s: float) -> Wanted:
    """Tell what a container shall be like that a function's calls find warm, and those of others like it.

    Args:
        name: the function's.
        options: its own, and the profile's.
        billed_s: what is billed at least, in seconds.
    """
    own = Options(
        plan=options.plan,
        image=options.image,
        env=options.env,
        tags=options.tags,
        detach=options.detach,
        profile=options.profile,
        name=options.name or name,
        timeout_s=max(LINGERING_S, 2 * (options.timeout_s or DEFAULT_TIMEOUT_S)),
    )
    return Wanted(str(options.plan), own, Asked(0.0, reconnect=True), billed_s=billed_s)
