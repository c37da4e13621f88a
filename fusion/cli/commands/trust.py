"""`fusion trust`: let the fusion.toml of a project count in full, list such files, or revoke it."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from fusion.core.config.reading import Source
    from fusion.core.config.trust import Trust


def trust(
    path: Annotated[
        str | None,
        typer.Argument(metavar="PATH", help="A fusion.toml or its folder; by default the nearest one."),
    ] = None,
    listed: Annotated[bool, typer.Option("--list", help="List the files and their state.")] = False,
    revoke: Annotated[bool, typer.Option("--revoke", help="Take the trust back.")] = False,
) -> None:
    """Trust the settings of a project.

    The endpoints, prices and store of a fusion.toml in a project count once it is trusted. A change of them must be
    trusted anew.
    """
    from fusion.core.config.trust import Trust
    from fusion.core.errors import UsageError

    if listed and (revoke or path is not None):
        raise UsageError("--list shows all files; leave out PATH and --revoke")
    if listed:
        _list(Trust())
    elif revoke:
        _revoke(Trust(), path)
    else:
        _trust(Trust(), path)


def _trust(trust: "Trust", given: str | None) -> None:
    from fusion.cli.settings import contents
    from fusion.cli.terminal import printable, write
    from fusion.core.config.reading import load_file
    from fusion.core.config.tables import bound_tables
    from fusion.core.config.trust import digest_of, shown, unfit
    from fusion.core.errors import UsageError

    named = _named(given)
    reason = unfit(named)
    if reason is not None:
        raise UsageError(f"{str(named)!r} cannot be trusted: {reason}; `--config FILE` takes it for one command")
    source = load_file(named.resolve())
    if not bound_tables(source.data):
        write(f"{shown(source.path)} needs no trust\n")
        return
    trust.record(source.path, digest_of(source.data), trusted=True)
    lines = [f"  {printable(line)}" for line in contents(source.content)]
    write("\n".join([f"trusted {shown(source.path)}", *lines]) + "\n")


def _revoke(trust: "Trust", given: str | None) -> None:
    from fusion.cli.terminal import write
    from fusion.core.config.trust import shown
    from fusion.core.errors import UsageError

    path = _named(given, must_exist=False).resolve()
    if not trust.revoke(path):
        raise UsageError(f"{str(path)!r} is not trusted; `fusion trust --list` names the files that are")
    write(f"revoked {shown(path)}\n")


def _list(trust: "Trust") -> None:
    from fusion.cli.terminal import complain, table, write
    from fusion.core.config.trust import shown

    rows = [[_state(path, *answer), shown(path)] for path, answer in trust.answers().items()]
    if rows:
        write("\n".join(table(rows)) + "\n")
    else:
        complain("no file is trusted")


def _state(path: Path, digest: str, trusted: bool) -> str:
    from fusion.core.config.trust import digest_of

    source = _readable(path)
    if source is None:
        return "unreadable" if path.exists() else "missing"
    if digest_of(source.data) != digest:
        return "changed"
    return "trusted" if trusted else "refused"


def _readable(path: Path) -> "Source | None":
    from fusion.core.config.reading import load_file
    from fusion.core.errors import UsageError

    try:
        return load_file(path)
    except UsageError:
        return None


def _named(given: str | None, *, must_exist: bool = True) -> Path:
    """Return the named file, or the nearest one. Raises UsageError if there is none."""
    from fusion.core.config.trust import NAME, project_files
    from fusion.core.errors import UsageError
    from fusion.core.paths import user_path, working_directory

    if given is None:
        here = working_directory()
        found = None if here is None else next(project_files(here), None)
        if found is None:
            raise UsageError(f"no {NAME} in this folder or above it; name one: fusion trust PATH")
        return found
    path = user_path(given)
    path = path / NAME if path.is_dir() else path
    if must_exist and not path.is_file():
        raise UsageError(f"no file {str(path)!r}")
    return path
