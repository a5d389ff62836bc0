"""A run's folder on the command line of evaluate, play and resume, and the policy that was trained in it.

jax is imported by `trained` alone, so that a wrong command line is answered at once.
"""

import argparse
import contextlib
import copy
import logging
import os
import shlex
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import pgx
from pgx.config import Rule, check_plain
from pgx.declared import Declared, Undeclared
from pgx.errors import CheckpointError, ConfigError, one_line
from pgx.gate import one_line_errors, refuse
from pgx.runs.record import called, read_summary, run_hash
from pgx.streams import tolerant_streams


class Typed(NamedTuple):
    """A command line and what it declares: a refusal shows what to type instead."""

    declared: Declared = Declared(modules=())
    command: str = ""

    def and_(self, words: Sequence[str]) -> str:
        return f"if that is yours: {self.command} {shlex.join(words)}"


class Parser(argparse.ArgumentParser):
    """argparse whose complaints are ConfigErrors: one line, as everywhere else."""

    def error(self, message: str) -> NoReturn:
        refuse(message)


class Arguments(Parser):
    """The command line of a program that works on a run's folder."""

    def __init__(self, command: str, description: str, *, many: bool = False, what: str = "a run's folder"):
        form = argparse.RawDescriptionHelpFormatter
        super().__init__(prog=f"python -m pgx.{command}", description=description, formatter_class=form)
        self._command = f"python -m pgx.{command}"
        if many:
            self.add_argument("folders", metavar="SWEEP_DIR", type=Path, nargs="+", help="a folder with runs anywhere below it")
        else:
            self.add_argument("folder", metavar="RUN_DIR", type=Path, help=f"{what}, e.g. outputs/2026-05-04/09-30-00")
        where = "a folder of the configuration that the run was made with, as for pgx.run (also PGX_CONFIG_DIR)"
        self.add_argument("--config-dir", metavar="DIR", type=_folder, action="append", default=[], help=where)
        what = "a module that the environment's id may import (also PGX_IMPORT)"
        self.add_argument("--import", metavar="MODULE", action="append", default=[], dest="modules", help=what)

    def read(self, arguments: Sequence[str] | None) -> tuple[argparse.Namespace, Typed]:
        """The arguments, and what they declare."""
        words = sys.argv[1:] if arguments is None else [str(word) for word in arguments]
        chosen = self.parse_intermixed_args(words)
        return chosen, Typed(Declared(tuple(chosen.config_dir), tuple(chosen.modules)), f"{self._command} {shlex.join(words)}")

    def choose_policy(self) -> None:
        """Add the options that choose how, and from which checkpoint, a trained policy acts."""
        self.add_argument("--greedy", action="store_true", help="always the most probable action, instead of sampling")
        self.add_argument("--best", action="store_true", help="the best checkpoint that was kept, instead of the newest")


def _folder(name: str) -> Path:
    if not Path(name).is_dir():
        raise argparse.ArgumentTypeError(f"there is no folder {name}")
    return Path(name).absolute()


def read_as(rule: Rule) -> Callable[[str], Any]:
    """An argparse type for a number that follows one of the configuration's rules."""

    def read(text: str) -> Any:
        try:
            return rule.read(float(text))
        except ValueError:
            raise argparse.ArgumentTypeError(f"{text!r} is not allowed; allowed: {rule.allowed}") from None

    return read


@contextlib.contextmanager
def short_errors() -> Iterator[None]:
    """An error ends the program with one line on stderr: exit code 2 if the command line is wrong, 1 if the
    checkpoints are, 130 after Ctrl-C. Warnings (a checkpoint that was passed over) go to stderr as well."""
    pgx.started()
    logging.basicConfig(format="%(message)s")
    with tolerant_streams(), one_line_errors(unforeseen=True):
        try:
            yield
        except ConfigError:
            raise
        except KeyboardInterrupt:
            sys.exit(130)
        except Exception as error:
            if isinstance(error, CheckpointError):
                print(f"pgx: {error}", file=sys.stderr)
                sys.exit(1)
            raise


def require_run(folder: Path, file: str = "run.json") -> None:
    """Raise ConfigError, with a run that may have been meant, unless `folder` holds this file of a run."""
    if (folder / file).is_file():
        return
    problem = f"{folder} holds no run (no {file})" if folder.is_dir() else f"there is no folder {folder}"
    run = _nearest_run(folder)
    raise ConfigError("RUN_DIR", problem, hint=run and f"the newest run near it is {run}")


def runs_below(folder: Path) -> Iterator[Path]:
    """Every folder with run.json below this one, once, whatever links lead there."""
    seen: set[str] = set()
    for path, subfolders, files in os.walk(folder, followlinks=True):
        if (real := os.path.realpath(path)) in seen:
            subfolders.clear()
            continue
        seen.add(real)
        subfolders[:] = sorted((name for name in subfolders if not name.startswith(".")), key=lambda x: (len(x), x))
        if "run.json" in files:
            subfolders.clear()
            yield Path(path)


def _nearest_run(folder: Path) -> Path | None:
    """The newest run in this folder (a sweep, a day), else around it, else under outputs/."""
    places = ((folder, ("*", "*/*")), (folder.parent, (".", "*")), (Path("outputs"), ("*/*",)))
    for place, depths in places:
        runs = [path for depth in depths for path in place.glob(f"{depth}/run.json")]
        if runs:
            return max(runs, key=lambda path: path.stat().st_mtime).parent
    return None


def read_run(folder: Path, typed: Typed = Typed()) -> dict[str, Any]:
    """run.json of a run that has something to show, its configuration checked as if it had been typed, but that its
    names must be `typed` or declared elsewhere on this machine. Raises ConfigError."""
    file = folder / "run.json"
    require_run(folder)
    try:
        summary = read_summary(folder)
        checked = check_plain(copy.deepcopy(summary["config"]), typed.declared)
    except Undeclared as error:
        words = _missing_words(folder, summary["config"], typed.declared)
        raise ConfigError(str(file), str(error), hint=typed.and_(words) if words else None) from error
    except ConfigError as error:
        raise ConfigError(str(file), str(error)) from error
    except (OSError, ValueError, LookupError, TypeError, AttributeError, ArithmeticError, RecursionError) as error:
        raise ConfigError(str(file), f"cannot be read: {one_line(error)}") from error
    if not any(path.name.isdecimal() for path in folder.glob("checkpoints/*")):
        raise _no_checkpoint(folder, checked)
    return summary | {"config": checked, "variant": checked["variant"], "env": checked["env"]["id"], "seed": checked["seed"]}


def _missing_words(folder: Path, config: dict[str, Any], declared: Declared) -> list[str]:
    """The options that would declare what this configuration names, as far as the folder says where it is from."""
    folders = [] if declared.knows_targets(config) else recorded(folder).folders
    words = [word for place in folders if place not in declared.all_folders for word in ("--config-dir", str(place))]
    modules = dict.fromkeys(module for _, module in declared.undeclared_modules(config))
    return words + [word for module in modules for word in ("--import", module)]


class Recorded(NamedTuple):
    """Hydra's notes on the command that made a run. They are shown to people, and never used."""

    config_name: str = "config"
    sources: tuple[tuple[str, str], ...] = ()
    """(who named it, `file://DIR` or `pkg://PACKAGE`) of what the person put on the search path."""
    choices: tuple[tuple[str, str], ...] = ()
    """(config group, option)."""

    @property
    def folders(self) -> list[Path]:
        return [Path(source.removeprefix("file://")) for _, source in self.sources if source.startswith("file://")]


HYDRA = ".hydra/hydra.yaml"


def recorded(folder: Path) -> Recorded:
    """From .hydra/hydra.yaml; nothing where there is none. Raises ConfigError if it cannot be read."""
    file = folder / HYDRA
    if not file.exists():
        return Recorded()
    settings = read_yaml(file)
    try:
        hydra = settings["hydra"]
        sources = [(x["provider"], x["schema"], x["path"]) for x in hydra["runtime"]["config_sources"]]
        named = [x for x in sources if x[0] not in ("hydra", "main", "schema")]
        cwd, inside = Path(hydra["runtime"]["cwd"]), folder.resolve()
        places = [(who, schema, str(Path(cwd, path)) if schema == "file" else path) for who, schema, path in named]
        choices = [(str(group).split("@")[0], option) for group, option in hydra["runtime"]["choices"].items()]
        return Recorded(
            str(hydra["job"]["config_name"]),
            # a folder that brings its own configuration is not worth a line that somebody may copy
            tuple(
                (who, f"{schema}://{path}") for who, schema, path in places if not Path(path).resolve().is_relative_to(inside)
            ),
            tuple((group, option) for group, option in choices if isinstance(option, str) and not group.startswith("hydra/")),
        )
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise ConfigError(str(file), f"cannot be read: {one_line(error)}") from error


def read_yaml(file: Path) -> Any:
    """A YAML file as plain data. Raises ConfigError if it is none."""
    import yaml

    try:
        return yaml.load(file.read_text(encoding="utf-8"), getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        raise ConfigError(str(file), f"cannot be read: {one_line(error)}") from error


def _no_checkpoint(folder: Path, config: dict[str, Any]) -> ConfigError:
    hint = f"one is written every {config['checkpoint_every']} updates and at the end"
    return ConfigError("RUN_DIR", f"{folder} has no checkpoint yet", hint=hint)


class Trained(NamedTuple):
    """A policy and where it was trained."""

    env: Any
    """JittedEnv | HostEnv"""
    policy: Callable
    """It acts on the environment's own observations: with its scaling, if it was trained with one."""
    key: Any
    """The run's stream of random numbers for evaluation: training never draws from it."""
    update: int
    """Of the checkpoint."""


def trained(folder: Path, config: dict[str, Any], *, best: bool, num_lanes: int | None = None) -> Trained:
    """The policy of the newest good checkpoint, or of the best. Writes nothing. `num_lanes`: of an environment on the
    host, if not as many as in training.

    A defective checkpoint, or another run's, is named in a warning, and the one before it used. Raises CheckpointError
    if none is good, ConfigError if there is none.
    """
    from pgx import backend

    backend.prepare(config["xla_threads"])
    from pgx.build import build, skeleton
    from pgx.loop import Keys
    from pgx.runs.checkpoint import Checkpoints

    played = config if num_lanes is None else config | {"env": config["env"] | {"num_lanes": num_lanes}}
    try:
        env, algorithm = build(played)
        state = skeleton(config, env, algorithm)
    except Exception as error:  # say, of another version; or a part of somebody's own that is not as it was
        raise ConfigError(str(folder / "run.json"), f"its configuration cannot be built: {one_line(error)}") from error
    with Checkpoints(folder / "checkpoints", run=run_hash(config)) as checkpoints:
        restored = checkpoints.best(state) if best else checkpoints.restore(state)
    if restored is None and best:
        every = config["evaluate_every"]
        hint = "it takes 100 episodes to get one" if every is None else f"those of updates that {every} divides get one"
        raise ConfigError("--best", f"no checkpoint of {folder} has a score", hint=hint)
    if restored is None:
        raise _no_checkpoint(folder, config)
    update, state, _ = restored
    return Trained(env, state.actor, Keys.of_seed(config["seed"]).evaluate, update)


def title(summary: dict[str, Any], update: int, *, greedy: bool) -> str:
    """The beginning of a last line: what acted, and where."""
    how = ", greedy" if greedy else ""
    return f"{called(summary)}, update {update:,}{how}"
