"""Go on with a run that was interrupted or failed: `python -m pgx.resume RUN_DIR [OVERRIDE …]`.

It is the run's own command once more, on the same folder, and gives bit for bit what an uninterrupted run would
have given. Overrides come last, e.g. a larger budget for a run that has finished:

  python -m pgx.resume outputs/2026-05-04/09-30-00 num_env_steps=1_000_000
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from omegaconf import OmegaConf

from pgx.errors import ConfigError
from pgx.restore import Arguments, require_run, short_errors

OVERRIDES, HYDRA = ".hydra/overrides.yaml", ".hydra/hydra.yaml"


def command(folder: Path, more: Sequence[str]) -> list[str]:
    """The overrides that go on with the run in `folder`. Raises ConfigError if none was started there.

    What `more` says replaces what was said before, so that the list does not grow with every resume, and so that a
    config group may be chosen anew.
    """
    require_run(folder, OVERRIDES)
    for override in more:
        if _key(override) == "hydra.run.dir":
            raise ConfigError("hydra.run.dir", f"a run goes on where it is, in {folder}")
    said = {_key(override) for override in more}
    before = [override for override in OmegaConf.load(folder / OVERRIDES) if _key(override) not in said]
    return [*before, *more, *_search_path(folder), f"hydra.run.dir={_quoted(str(folder))}"]


def _search_path(folder: Path) -> list[str]:
    """Where else the run found its configuration: a study's variants are not in conf/."""
    file = folder / HYDRA
    path = OmegaConf.load(file).hydra.searchpath if file.exists() else []
    return [f"hydra.searchpath=[{','.join(map(_quoted, path))}]"] if path else []


def _key(override: str) -> str:
    return override.lstrip("+~").split("=")[0]


def _quoted(text: str) -> str:
    """A string of Hydra's grammar: the folder of a sweep's member may be called `gamma=0.9,seed=1`."""
    return "'" + text.replace("'", r"\'") + "'"


def main(arguments: Sequence[str] | None = None) -> None:
    with short_errors():
        parser = Arguments("resume", __doc__)
        parser.add_argument("overrides", metavar="OVERRIDE", nargs="*", help="changes to the configuration, as for pgx.run")
        chosen = parser.parse_args(arguments)
        sys.argv[1:] = command(chosen.folder, chosen.overrides)  # where Hydra looks

    from pgx import run

    run.main()


if __name__ == "__main__":
    main()
