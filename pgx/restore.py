"""What evaluate, play and resume share: a run's folder on the command line, and the policy that was trained in it.

jax is imported by `trained` alone, so that a wrong command line is answered at once.
"""

import argparse
import contextlib
import logging
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import pgx
from pgx.config import Rule
from pgx.errors import ConfigError
from pgx.gate import one_line_errors, refuse
from pgx.record import called, read_summary, run_hash
from pgx.streams import tolerant_streams


class Parser(argparse.ArgumentParser):
    """argparse whose complaints are ConfigErrors: one line, as everywhere else."""

    def error(self, message: str) -> NoReturn:
        refuse(message)


class Arguments(Parser):
    """The command line of what works on a run's folder."""

    def __init__(self, command: str, description: str, *, many: bool = False):
        form = argparse.RawDescriptionHelpFormatter
        super().__init__(prog=f"python -m pgx.{command}", description=description, formatter_class=form)
        if many:
            self.add_argument("folders", metavar="SWEEP_DIR", type=Path, nargs="+", help="a folder with runs anywhere below it")
        else:
            self.add_argument("folder", metavar="RUN_DIR", type=Path, help="a run's folder, e.g. outputs/2026-05-04/09-30-00")

    def choose_policy(self) -> None:
        """Add what decides how, and from which checkpoint, a trained policy acts."""
        self.add_argument("--greedy", action="store_true", help="always the most probable action, instead of sampling")
        self.add_argument("--best", action="store_true", help="the best checkpoint that was kept, instead of the newest")


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
    with tolerant_streams(), one_line_errors():
        try:
            yield
        except ConfigError:
            raise
        except KeyboardInterrupt:
            sys.exit(130)
        except Exception as error:
            from pgx.checkpoint import CheckpointError  # imports jax

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


def _nearest_run(folder: Path) -> Path | None:
    """The newest run in this folder (a sweep, a day), else around it, else under outputs/."""
    places = ((folder, ("*", "*/*")), (folder.parent, (".", "*")), (Path("outputs"), ("*/*",)))
    for place, depths in places:
        found = [path for depth in depths for path in place.glob(f"{depth}/run.json")]
        if found:
            return max(found, key=lambda path: path.stat().st_mtime).parent
    return None


def read_run(folder: Path) -> dict[str, Any]:
    """run.json of a run that has something to show. Raises ConfigError."""
    from pgx.envs import check

    require_run(folder)
    try:
        summary = read_summary(folder)
        config = summary["config"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(str(folder / "run.json"), f"cannot be read: {error}") from error
    if not any(path.name.isdecimal() for path in folder.glob("checkpoints/*")):
        raise _no_checkpoint(folder, config)
    check(config["env"])  # it may need a package that this machine lacks
    return summary


def _no_checkpoint(folder: Path, config: dict[str, Any]) -> ConfigError:
    hint = f"one is written every {config['checkpoint_every']} updates and at the end"
    return ConfigError("RUN_DIR", f"{folder} has no checkpoint yet", hint=hint)


class Trained(NamedTuple):
    """A policy and where it was trained."""

    env: Any
    """JittedEnv | HostEnv"""
    policy: Callable
    key: Any
    """The run's stream of random numbers for evaluation: training never draws from it."""
    update: int
    """Of the checkpoint."""


def trained(folder: Path, config: dict[str, Any], *, best: bool) -> Trained:
    """The policy of the newest good checkpoint, or of the best. Writes nothing.

    A defective checkpoint, or another run's, is named in a warning, and the one before it used. Raises CheckpointError if none is
    good, ConfigError if there is none.
    """
    from pgx import backend

    backend.prepare(config["xla_threads"])
    from pgx.build import build, skeleton
    from pgx.checkpoint import Checkpoints
    from pgx.train import Keys

    env, algorithm = build(config)
    state = skeleton(config, env, algorithm)
    with Checkpoints(folder / "checkpoints", run=run_hash(config)) as checkpoints:
        found = checkpoints.best(state) if best else checkpoints.restore(state)
    if found is None and best:
        raise ConfigError("--best", f"no checkpoint of {folder} has a score", hint="it takes 100 episodes to get one")
    if found is None:
        raise _no_checkpoint(folder, config)
    update, state, _ = found
    return Trained(env, state.policy, Keys.of_seed(config["seed"]).evaluate, update)


def title(summary: dict[str, Any], update: int, *, greedy: bool) -> str:
    """What acted, and where: the beginning of a last line."""
    how = ", greedy" if greedy else ""
    return f"{called(summary)}, update {update:,}{how}"
