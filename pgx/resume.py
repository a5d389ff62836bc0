"""Go on with a run that was interrupted or failed: `python -m pgx.resume RUN_DIR [OVERRIDE …]`.

It is the run's own command once more, on the same folder, and gives bit for bit what an uninterrupted run would
have given. Overrides come last, e.g. a larger budget for a run that has finished:

  python -m pgx.resume outputs/2026-05-04/09-30-00 num_env_steps=1_000_000

Of that command only what sets the configuration of the run is taken from the folder. Where else the configuration is
(--config-dir, --config-name, hydra.searchpath) and whose code runs (--import) must be said again: a folder is data.
"""

import re
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException

from pgx.declared import Declared, folder_of
from pgx.errors import ConfigError
from pgx.gate import Gate, quoted, search_path
from pgx.runs.restore import Arguments, read_yaml, recorded, require_run, short_errors

OVERRIDES = ".hydra/overrides.yaml"


def command(
    folder: Path, more: Sequence[str], *, declared: Declared = Declared(modules=()), config_name: str | None = None
) -> list[str]:
    """The words after `python -m pgx.run` that resume the run in `folder`. Raises ConfigError if none was started
    there, or if it was made with what nobody has `declared` here.

    What `more` says replaces what was said before, so that the list does not grow with every resume, and so that a
    config group may be chosen anew.
    """
    _require_command(folder)
    for override in more:
        if _key(override) == "hydra.run.dir":
            raise ConfigError("hydra.run.dir", f"a run is resumed where it is, in {folder}")
    if len(declared.folders) > 1:
        both = ",".join(f"file://{place}" for place in declared.folders[1:])
        raise ConfigError("--config-dir", "pgx.run takes one", hint=f"hydra.searchpath=[{both}] adds more")
    keys = {_key(override) for override in more}
    before = [override for override in _task_overrides(folder) if _key(override.input_line) not in keys]
    if missing := _missing(folder, before, more, declared, config_name):
        given = [override for override in more if _key(override) not in map(_key, missing)]
        modules = [word for module in declared.modules or () for word in ("--import", module)]
        again = ["python", "-m", "pgx.resume", str(folder), *given, *_options(declared, config_name), *modules, *missing]
        what, hint = shlex.join(missing), f"if that is yours: {shlex.join(again)}"
        raise ConfigError("RUN_DIR", f"{folder} was made with {what}, which no folder decides", hint=hint)
    words = [override.input_line for override in before]
    return [*_options(declared, config_name), *words, *more, f"hydra.run.dir={quoted(str(folder))}"]


def _require_command(folder: Path) -> None:
    if (folder / "run.json").is_file() and not (folder / OVERRIDES).is_file():
        hint = f"repeat it with hydra.run.dir={folder}: run.json has the configuration"
        raise ConfigError("RUN_DIR", f"{folder} has not kept its command (no {OVERRIDES})", hint=hint)
    require_run(folder, OVERRIDES)


def _task_overrides(folder: Path) -> list[Override]:
    """What the run's command said about the run. Raises ConfigError if it says anything else."""
    file = folder / OVERRIDES
    lines = read_yaml(file)
    if not isinstance(lines, list) or not all(isinstance(line, str) for line in lines):
        raise ConfigError(str(file), "cannot be read: it is no list of overrides")
    try:
        overrides = _parsed(lines)
    except HydraException as error:
        raise ConfigError(str(file), f"cannot be read: {error}") from error
    for override in overrides:
        for name in (override.key_or_group, override.package or ""):
            if re.split(r"[./]", name)[0] == "hydra":
                raise ConfigError(str(file), f"{override.input_line!r} is about Hydra itself, which no folder decides")
    return overrides


def _parsed(overrides: Sequence[str]) -> list[Override]:
    return OverridesParser.create().parse_overrides(list(overrides))


def _missing(
    folder: Path, before: Sequence[Override], more: Sequence[str], declared: Declared, config_name: str | None
) -> list[str]:
    """The words that this command line lacks: what the run was made with, and no folder decides."""
    made_with, path = recorded(folder), search_path(more)
    here = Declared(
        (*declared.folders, *(place.absolute() for place in map(folder_of, path) if place)), (declared.modules or ())
    )
    words = [override.input_line for override in before if _reads_the_machine(override)]
    files = [*made_with.choices, ("", made_with.config_name)]
    if not all(here.has_option(group, option) for group, option in files):
        words += _where(made_with.sources, here, path)
    if config_name is None and made_with.config_name != "config":
        words += ["--config-name", made_with.config_name]
    modules = _modules([override for override in before if not _reads_the_machine(override)], here)
    return words + [word for module in modules if module not in _modules(_parsed(more), here) for word in ("--import", module)]


def _where(sources: Sequence[tuple[str, str]], here: Declared, path: Sequence[str]) -> list[str]:
    """The words that name these places of the configuration, beside the search path that is given, but for those that
    are named already."""
    named = {*path, *(f"file://{place}" for place in here.all_folders)}
    # what the run's own primary file puts on the search path comes with --config-name
    left = [(who, source) for who, source in sources if source not in named and who != "hydra.searchpath in main"]
    first = [source.removeprefix("file://") for who, source in left if who == "command-line" or len(left) == 1]
    if first and not here.folders and "://" not in first[0]:
        words, rest = ["--config-dir", first[0]], [source for _, source in left if source != f"file://{first[0]}"]
    else:
        words, rest = [], [source for _, source in left]
    return [*words, f"hydra.searchpath=[{','.join(map(_plain_or_quoted, [*path, *rest]))}]"] if rest else words


def _options(declared: Declared, config_name: str | None) -> list[str]:
    words = [word for place in declared.folders for word in ("--config-dir", str(place))]
    return words + (["--config-name", config_name] if config_name else [])


def _modules(overrides: Sequence[Override], declared: Declared) -> list[str]:
    """Those that ids in these overrides import, and nobody has declared."""
    nodes = ({override.key_or_group: _value(override)} for override in overrides)
    return list(dict.fromkeys(module for node in nodes for _, module in declared.undeclared_modules(node)))


def _reads_the_machine(override: Override) -> bool:
    """Whether it has an interpolation that is more than another key of the configuration."""
    return "$" in re.sub(r"\$\{[\w.]+\}", "", override.input_line)


def _value(override: Override) -> Any:
    try:
        return override.value()
    except HydraException:
        return override.input_line.partition("=")[2]


def _key(override: str) -> str:
    return override.lstrip("+~").split("=")[0]


def _plain_or_quoted(text: str) -> str:
    return text if re.fullmatch(r"[\w./:@%+-]+", text) else quoted(text)


def main(arguments: Sequence[str] | None = None) -> None:
    with short_errors():
        parser = Arguments("resume", __doc__)
        parser.add_argument("--config-name", metavar="NAME", help="the run's, if it was not `config`")
        parser.add_argument("overrides", metavar="OVERRIDE", nargs="*", help="changes to the configuration, as for pgx.run")
        chosen, typed = parser.read(arguments)
        words = command(chosen.folder, chosen.overrides, declared=typed.declared, config_name=chosen.config_name)
        sys.argv[1:] = words  # where Hydra looks
        Gate.modules = (*chosen.modules, *_modules(_parsed(chosen.overrides), typed.declared))

    from pgx import run

    run.main()


if __name__ == "__main__":
    main()
