"""The public door, for a notebook or a program: a policy in one call, the parts of a run, and a run's folder.

    policy, table = pgx.train("baseline", env="cartpole", num_updates=200)
    pgx.evaluate(policy, env="cartpole").mean()

Settings are those of `python -m pgx.run`: as typed ("optimiser.learning_rate=1e-3"), or by name (seed=3, and with a dot
**{"optimiser.learning_rate": 1e-3}); a word alone is a variant. A wrong one raises pgx.ConfigError, whose text is the line
that the command would print. jax is set up as for a run (`backend.prepare`) when it is first needed.
"""

import contextlib
import copy
import itertools
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from pgx import backend, evaluation
from pgx.config import Rule, check, check_plain, whole
from pgx.declared import Declared
from pgx.errors import ConfigError, one_line
from pgx.gate import compose, quoted
from pgx.progress import FORM, show
from pgx.runs.record import History, scored_by
from pgx.runs.restore import Typed, read_run, title, trained
from pgx.runs.table import Table

if TYPE_CHECKING:
    import pandas as pd

    from pgx.build import Parts

Folders = str | Path | Sequence[str | Path]
"""One folder of the configuration, or several."""


class Trained(NamedTuple):
    """A trained policy, and the table of its training."""

    policy: Callable
    """It acts on the environment's own observations. Where they are scaled it is a `pgx.scaling.Scaled`, and the network
    is in its `policy`."""
    table: "pd.DataFrame"
    """metrics.csv: a row an update, NaN where a column does not apply."""


def configuration(*words: str, config_dir: Folders = (), **settings: Any) -> dict[str, Any]:
    """A checked configuration: `configuration("baseline", "optimiser=sgd", seed=3)`.

    `config_dir` is a folder of the configuration, as `--config-dir`; PGX_CONFIG_DIR counts as well. Raises ConfigError.
    """
    typed = [word if _is_setting(word) else f"+variant={quoted(word)}" for word in words]
    named = [f"{'+' if key == 'variant' else ''}{key}={_written(key, x)}" for key, x in settings.items()]
    return compose([*typed, *named], _folders(config_dir))


def _is_setting(word: str) -> bool:
    return "=" in word or word.startswith(("~", "-"))


def assemble(*words: Any, config_dir: Folders = (), **settings: Any) -> "Parts":
    """The parts of a run, from settings, or from what `configuration` gave.

        parts = pgx.assemble("gae", env="acrobot")
        chunk = parts.runner(parts.state)                                       # up to 50 updates
        for chunk in pgx.loop.train(parts.runner, parts.state, num_updates=200): ...

    Raises ConfigError.
    """
    if words and isinstance(words[0], Mapping):
        if settings or len(words) > 1:
            raise ConfigError("assemble", "it takes a configuration or settings, not both")
        declared, given = Declared(tuple(_folders(config_dir))), words[0]
        config = check_plain(copy.deepcopy(given), declared) if isinstance(given, dict) else check(given, declared)
    else:
        config = configuration(*words, config_dir=config_dir, **settings)
    backend.prepare(config["xla_threads"])
    from pgx import build

    return build.assemble(config)


def train(*words: str, progress: bool = True, config_dir: Folders = (), **settings: Any) -> Trained:
    """Train a policy: `policy, table = pgx.train("baseline", env="cartpole")`.

    It trains in this process until its budget ends (num_updates, num_env_steps, stop_when_solved) and writes nothing.
    `progress` shows a bar. A run that diverges says so by a RuntimeWarning, and its policy is the last finite one.
    Raises ConfigError.
    """
    parts = assemble(*words, config_dir=config_dir, **settings)
    from pgx import build, loop

    history = History([], parts.env.spec.reward_threshold, scored_by(parts.config))
    policy, chunk = parts.state.actor, None
    with _bar(parts.config, history) if progress else contextlib.nullcontext(lambda chunk: None) as show:
        parts.runner.compile()
        for chunk in loop.train(parts.runner, parts.state, **build.limits(parts.config, parts.env)):
            history.extend(chunk.rows)
            policy = chunk.state.actor
            show(chunk)
    if chunk is not None and chunk.not_finite:
        what = f"{chunk.not_finite} is not finite at update {history.updates + 1}: the policy is that of the update before"
        warnings.warn(what, RuntimeWarning, stacklevel=2)
    return Trained(policy, _table(history.rows))


@contextlib.contextmanager
def _bar(config: dict[str, Any], history: History) -> Iterator[Callable]:
    from tqdm.auto import tqdm

    with tqdm(total=1.0, bar_format=FORM, desc=config["variant"]) as bar:
        yield partial(show, bar, config, history)


def evaluate(
    policy: "Callable | Run | str | Path",
    *words: str,
    episodes: int = 100,
    greedy: bool = False,
    best: bool = False,
    seed: int | None = None,
    config_dir: Folders = (),
    **settings: Any,
) -> np.ndarray:
    """The undiscounted return of each of `episodes` fresh episodes.

        pgx.evaluate(policy, env="acrobot")                   a policy, in the environment that the settings choose
        pgx.evaluate("outputs/2026-05-04/09-30-00")           what `python -m pgx.evaluate` plays, to the last digit

    `greedy`: always the most probable action. `best`: of a run, its best checkpoint instead of the newest. The same
    `seed` gives the same episodes (of a run if none is given: its own). Raises ConfigError, or CheckpointError if none
    of a run's checkpoints is good.
    """
    episodes = _read("episodes", whole(1), episodes)
    seed = None if seed is None else _read("seed", whole(0, 2**32 - 1), seed)
    if isinstance(policy, str | Path | Run):
        if words or settings:
            raise ConfigError("evaluate", "a run's folder says in which environment; settings go with a policy")
        run = policy if isinstance(policy, Run) else Run(policy, config_dir=config_dir)
        return evaluation.of_run(run.folder, run.config, episodes=episodes, greedy=greedy, best=best, seed=seed)[1]
    if best:
        raise ConfigError("evaluate", "a policy has no best checkpoint; a run's folder has")
    named = "variant" in settings or any(word.startswith("+variant=") or not _is_setting(word) for word in words)
    anyone = () if named else ("vanilla",)  # only its environment is made
    config = configuration(*anyone, *words, config_dir=config_dir, **settings)
    env_config, lanes = evaluation.with_lanes(config["env"], episodes)
    backend.prepare(config["xla_threads"])
    from pgx import build
    from pgx.loop import Keys

    env = build.environment(env_config)
    _check_fits(policy, env.spec, config["env"]["id"])
    key = Keys.of_seed(config["seed"] if seed is None else seed).evaluate
    return evaluation.play(env, policy, key, episodes=episodes, lanes=lanes, greedy=greedy)


def _check_fits(policy: Callable, spec: Any, env: str) -> None:
    import jax
    import jax.numpy as jnp

    try:
        jax.eval_shape(lambda: policy(jnp.zeros((spec.obs_size, 1))).mode())
    except Exception as error:
        problem = f"it cannot act on the {spec.obs_size} observed numbers of {env}: {one_line(error, 200)}"
        raise ConfigError("policy", problem, hint="env=… chooses its environment") from error


class Run:
    """A run's folder, read as strictly as `python -m pgx.evaluate` reads it: it is data, and executes nothing.

        run = pgx.Run("outputs/2026-05-04/09-30-00")
        run.summary["return_final"], run.config["seed"], run.metrics["return_mean"], run.policy(best=True)

    `config_dir` and `modules` declare what is one's own, as --config-dir and --import do. Raises ConfigError.
    """

    def __init__(self, folder: str | Path, *, config_dir: Folders = (), modules: Sequence[str] = ()):
        self.folder = Path(folder)
        declared = Declared(tuple(_folders(config_dir)), tuple(modules))
        self.summary: dict[str, Any] = read_run(self.folder, _InPython(declared))
        """run.json."""
        self.config: dict[str, Any] = self.summary["config"]

    def __repr__(self) -> str:
        return f"<{title(self.summary, self.summary['updates'] or 0, greedy=False)}: {self.folder}>"

    @cached_property
    def metrics(self) -> "pd.DataFrame":
        """metrics.csv: a row an update, NaN where a column does not apply."""
        from pgx.metrics import COLUMNS

        file = Table(self.folder / "metrics.csv", tuple(COLUMNS))
        return _table(file.keep(len(file)))

    @cached_property
    def env(self) -> Any:
        """The environment that it was trained in: a JittedEnv or a HostEnv."""
        return self._trained(best=False).env

    def policy(self, *, best: bool = False) -> Callable:
        """Of the newest good checkpoint, or of the best. Raises CheckpointError if none is good."""
        return self._trained(best=best).policy

    def _trained(self, *, best: bool) -> Any:
        return trained(self.folder, self.config, best=best)


class _InPython(Typed):
    """A refusal shows what to write instead."""

    def and_(self, words: Sequence[str]) -> str:
        options = {"config_dir": _after("--config-dir", words), "modules": _after("--import", words)}
        return "if that is yours: " + ", ".join(f"{name}={x}" for name, x in options.items() if x)


def _after(option: str, words: Sequence[str]) -> list[str]:
    return [x for word, x in itertools.pairwise(words) if word == option]


def _table(rows: list[dict[str, Any]]) -> "pd.DataFrame":
    import pandas as pd

    from pgx.metrics import COLUMNS

    table = pd.DataFrame(rows, columns=list(COLUMNS))
    return table.astype(dict.fromkeys(table.columns[table.dtypes == object], float))  # no number in it: all are None


def _folders(config_dir: Folders) -> list[Path]:
    """Absolute. Raises ConfigError if one is not there."""
    folders = [config_dir] if isinstance(config_dir, str | Path) else config_dir
    for folder in folders:
        if not Path(folder).is_dir():
            raise ConfigError("config_dir", f"there is no folder {folder}")
    return [Path(folder).absolute() for folder in folders]


def _read(name: str, rule: Rule, x: Any) -> Any:
    try:
        return rule.read(x.item() if isinstance(x, np.generic) else x)
    except ValueError:
        raise ConfigError(name, f"{x!r} is not allowed", rule.allowed) from None


def _written(key: str, x: Any) -> str:
    """A value in the grammar of Hydra's overrides. Raises ConfigError for what a YAML file could not say."""
    if isinstance(x, np.generic):
        x = x.item()
    if x is None or isinstance(x, bool):
        return {None: "null", True: "true", False: "false"}[x]
    if isinstance(x, int | float):
        return repr(x)
    if isinstance(x, str | Path):
        return quoted(str(x))
    if isinstance(x, dict):
        return "{" + ",".join(f"{name}:{_written(key, value)}" for name, value in x.items()) + "}"
    if isinstance(x, list | tuple):
        return "[" + ",".join(_written(key, value) for value in x) + "]"
    raise ConfigError(
        key, f"a {type(x).__name__} is not allowed", "numbers, texts, true or false, None, lists and dictionaries of them"
    )
