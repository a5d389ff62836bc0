"""Random damage to what runs leave behind, for tests of one sentence: whoever goes on with it is refused by name with
everything untouched, or ends with the bits of what nobody damaged. Of a run's folder or of a whole sweep's."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from random import Random

from pgx.errors import ConfigError, RunFailed
from pgx.runs.checkpoint import CheckpointError

Damage = Callable[[Path, Path, Random], None]
"""What is done to a path, given the same path in a stranger's folder."""


def remove(path: Path, _: Path, chance: Random) -> None:
    shutil.rmtree(path) if path.is_dir() else path.unlink()


def empty(path: Path, _: Path, chance: Random) -> None:
    path.write_bytes(b"")


def cut(path: Path, _: Path, chance: Random) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: chance.randrange(len(data) or 1)])


def flip(path: Path, _: Path, chance: Random) -> None:
    data = bytearray(path.read_bytes())
    if data:
        data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
    path.write_bytes(data)


def exchange(path: Path, stranger: Path, chance: Random) -> None:
    remove(path, stranger, chance)
    if stranger.is_dir():
        shutil.copytree(stranger, path)
    elif stranger.exists():
        shutil.copy(stranger, path)


def link(path: Path, stranger: Path, chance: Random) -> None:
    """To where it was moved, to a stranger's, or to nothing."""
    elsewhere = path.parent / f"{path.name}.moved"
    path.rename(elsewhere)
    path.symlink_to(chance.choice([elsewhere, stranger, path.parent / "nothing"]))


def rename(path: Path, _: Path, chance: Random) -> None:
    """To something else, or to the number of another step."""
    name = str(chance.randrange(1, 30)) if path.name.isdecimal() else f"{path.name}.old"
    if not (path.parent / name).exists():
        path.rename(path.parent / name)


OF_A_FOLDER: tuple[Damage, ...] = (remove, exchange, link, rename)
OF_A_FILE: tuple[Damage, ...] = (*OF_A_FOLDER, empty, cut, flip)
IGNORED = (".lock", ".room")


def damage(folder: Path, stranger: Path, chance: Random) -> str:
    """Damage one thing somewhere in `folder`; what was done. Every level is as likely as the next, so that few files of
    one kind are not lost among many of another."""
    path = folder
    while path == folder or (path.is_dir() and not path.is_symlink() and chance.random() < 0.7):
        inside = sorted(inner for inner in path.iterdir() if inner.name not in IGNORED)
        if not inside:
            break
        path = chance.choice(inside)
    if path == folder:
        return "nothing is left"
    how = chance.choice(OF_A_FOLDER if path.is_dir() or path.is_symlink() else OF_A_FILE)
    inside = path.relative_to(folder)
    if path.exists():  # else a link to nothing, of an earlier damage
        how(path, stranger / inside, chance)
    return f"{how.__name__} {inside}"


def contents(folder: Path) -> dict[str, bytes | str]:
    """Every file, and where every link points to."""
    found: dict[str, bytes | str] = {}
    for place, folders, files in os.walk(folder):
        for path in (Path(place) / name for name in (*folders, *files) if name not in IGNORED):
            if path.is_symlink():
                found[str(path.relative_to(folder))] = os.readlink(path)
            elif path.is_file():
                found[str(path.relative_to(folder))] = path.read_bytes()
    return found


def assert_refused_or_whole(folder: Path, go_on: Callable[[], object], end: Callable[[Path], object], expected: object) -> str:
    """The sentence. `go_on` raises what a person reads as one line; `end` tells the bits that `folder` ends with."""
    before = contents(folder)
    try:
        go_on()
    except (ConfigError, CheckpointError, RunFailed) as error:
        text = str(error)
        assert text and "\n" not in text and "Traceback" not in text
        after = contents(folder)
        changed = [name for name in before.keys() | after.keys() if before.get(name) != after.get(name)]
        assert not changed, f"refused ({text}), and yet changed: {changed}"
        return "refused"
    assert end(folder) == expected, "went on to another end"
    return "whole"
