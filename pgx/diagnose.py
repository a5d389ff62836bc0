"""What are a sweep's policies and gradients like? `python -m pgx.diagnose SWEEP_DIR …` goes through its checkpoints.

At each it plays fresh episodes, which no training has seen, and measures at that one policy: the gradient by every
estimator on the same episodes (tr Σ, unbiased ‖G‖², signal to noise, cosines) against the size of the batch; the
returns of the policy as it is, and after each of many single updates by the run's own algorithm; dead units and
effective rank. V of `baseline` and `gae` is a ridge regression fitted to episodes of its own, at every checkpoint of
every run alike; where the run has a V, `baseline, own V` is measured, too. `own` is what the run itself learned from,
whatever its estimator and its critic are; of a run that learns from groups of episodes, on others in batches of whole
groups. What of the variance comes from states, actions and what happens afterwards is measured by rolling on from visited
states, where the environment is compiled: one on the host cannot be put back into a state. `pathwise` is the gradient through the dynamics, where they are differentiable. Gradients and their variance are
those of the run's own problem, with its scaled observations and its `reward_scale`; returns are the environment's.

Every run gets a table diagnosis.csv, which `python -m analysis.report` shows; nothing else is written. Checkpoints that
are in it already are not measured again, and the same command gives the same bytes.
"""

import csv
import io
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from pgx.config import whole
from pgx.envs.checks import on_host
from pgx.errors import ConfigError
from pgx.runs.files import write_atomically
from pgx.runs.record import run_hash
from pgx.runs.restore import Arguments, Typed, read_as, read_run, runs_below, short_errors
from pgx.sizes import most_episodes

FILE = "diagnosis.csv"
COLUMNS = {
    "update": "of the checkpoint",
    "env_steps": "of the run at that update; empty if metrics.csv does not tell",
    "of": "an estimator (`, whitened`: over the batch; `own`: the run's), a hidden layer, or empty: the policy",
    "quantity": "see QUANTITIES",
    "batch_size": "episodes a batch; empty where it does not matter",
    "value": "empty where there is none, as a cosine of gradients that are 0",
    "n": "independent samples behind the value: batches, episodes or states",
    "settings": "what was asked for; rows of other settings are measured again",
}
QUANTITIES = {
    "variance": "tr Σ of a batch's gradient",
    "signal": "‖G‖², unbiased: may be negative",
    "snr": "signal / variance",
    "cosine": "mean over all pairs of batches",
    "cosine_reference": "mean over batches of that with the reference: `baseline` on as many other episodes as there are",
    "cosine_pathwise": "as cosine_reference, with the gradient through the dynamics (pgx/diagnosis/pathwise.py)",
    "no_gradient": "share of batches whose gradient is exactly 0; they have no part in the cosines",
    "cosine_halves": "between the means of the two halves of a reference: how far it can be trusted",
    "snr_reference": "signal / variance of a reference, the mean over all its episodes: below 1 it is mostly noise",
    "largest_share": "of its noisiest episode in tr Σ of a reference: where it is large, other episodes may say otherwise",
    "agreement": "cosine of the two references with the noise taken off: 1 if they estimate the same; may be above 1",
    "variance_state": "Σ_s of one step's term (pgx/diagnosis/decomposition.py); unbiased, as the next two: may be negative",
    "variance_action": "Σ_a, all that a baseline can change; `exact V`: the mean of the continuations",
    "variance_return": "Σ_τ",
    "explained_variance": "1 − Var(G − V) / Var(G), of V on episodes that it was not fitted to",
    "dead_units": "share of a hidden layer's units whose output is the same in every state",
    "effective_rank": "exp(H(σ/Σσ)) of a hidden layer's outputs",
    "return": "of one episode of the policy; as many rows as episodes",
    "post_update_return": "mean over n episodes after one update from here; as many rows as updates",
}
VERSION = 4
"""Of what is measured: another one, and all is measured again."""

BATCHES = (2, 5, 10, 30, 100)
EVALUATIONS = 8
"""Episodes after each update."""
LAMBDA = 0.95
"""Of `gae`, where the run itself has none."""
_STREAM = 0xD1A6
"""Folded into the run's stream for evaluation, of which `evaluate` takes the first few."""


class Options(NamedTuple):
    episodes: int = 300
    batches: tuple[int, ...] = BATCHES
    updates: int = 32
    checkpoints: int = 4
    states: int = 100
    actions: int = 8
    continuations: int = 8

    @property
    def settings(self) -> str:
        """All that decides the rows of a checkpoint."""
        sizes = "+".join(map(str, self.batches))
        parts = f"updates {self.updates}x{EVALUATIONS} states {self.states}x{self.actions}x{self.continuations}"
        return f"episodes {self.episodes} in {sizes} {parts} v{VERSION}"


class Job(NamedTuple):
    """A run, and what is to be measured in it."""

    folder: Path
    config: dict[str, Any]
    updates: list[int]
    """Checkpoints that are chosen and not measured yet."""
    done: int
    """… and that are."""


# What there is


def run_folders(folders: Sequence[Path]) -> list[Path]:
    """Every folder with run.json below these, once. Raises ConfigError where there is none."""
    found: dict[Path, Path] = {}
    for folder in folders:
        if not folder.is_dir():
            raise ConfigError("SWEEP_DIR", f"{folder} is no folder" if folder.exists() else f"there is no folder {folder}")
        inside = list(runs_below(folder))
        if not inside:
            raise ConfigError("SWEEP_DIR", f"{folder} holds no run (a run is a folder with run.json in it)")
        found |= {run.resolve(): run for run in inside if run.resolve() not in found}
    return list(found.values())


def plan(folder: Path, options: Options, typed: Typed = Typed()) -> Job:
    """What is to be done in a run. Raises ConfigError if nothing can be."""
    config = read_run(folder, typed)["config"]
    steps = sorted(int(path.name) for path in folder.glob("checkpoints/*") if path.name.isdecimal())
    last = len(steps) - 1
    chosen = {steps[round(i)] for i in np.linspace(last, 0, min(options.checkpoints, len(steps)))}
    done = {int(row["update"]) for row in read(folder) if row["settings"] == options.settings}
    return Job(folder, config, sorted(chosen - done), len(chosen & done))


# The table of a run


def read(folder: Path) -> list[dict[str, str]]:
    """The rows of a run's table; none if there is no table, or one that was damaged."""
    try:
        text = (folder / FILE).read_text(encoding="utf-8")
        rows = list(csv.DictReader(io.StringIO(text)))
    except (OSError, ValueError, csv.Error):
        return []
    whole = text.endswith("\n") and all(
        tuple(row) == tuple(COLUMNS) and None not in row.values() and row["update"].isdecimal() for row in rows
    )
    return rows if whole else []


def add(folder: Path, update: int, rows: list[dict[str, str]], settings: str) -> None:
    """Put a checkpoint's rows where they belong; those of other settings go."""
    kept = [row for row in read(folder) if row["settings"] == settings and int(row["update"]) != update]
    text = io.StringIO()
    table = csv.DictWriter(text, tuple(COLUMNS), lineterminator="\n")
    table.writeheader()
    table.writerows(sorted([*kept, *rows], key=lambda row: int(row["update"])))  # stable within a checkpoint
    write_atomically(folder / FILE, text.getvalue())


def _env_steps(folder: Path) -> dict[str, str]:
    """update → env_steps, as metrics.csv has them."""
    try:
        with open(folder / "metrics.csv", newline="", encoding="utf-8") as file:
            return {row["update"]: row["env_steps"] for row in csv.DictReader(file)}
    except (OSError, ValueError, KeyError, csv.Error):
        return {}


def _number(x: float) -> str:
    return f"{x:.7g}" if np.isfinite(x) else ""


# Measuring


@cache
def _programs():
    """Compiled once for all checkpoints that differ in numbers only; `rollout` for each number of episodes."""
    import jax

    from pgx.diagnosis import quality
    from pgx.rollout import rollout
    from pgx.runners import compiler_options
    from pgx.types import Episodes

    statics = {
        rollout: ("num_episodes", "group_size"),
        Episodes.seen: (),
        quality.measure: ("batch_sizes",),
        quality.decompositions: ("num_episodes", "num_states", "num_draws", "num_continuations"),
        quality.updated: (),
    }
    return [jax.jit(f, static_argnames=names, compiler_options=compiler_options()) for f, names in statics.items()]


def _player(config: dict[str, Any], env: Any) -> Callable:
    """(policy, key, num_episodes, count, group_size) → Episodes."""
    if not on_host(config["env"]):
        return partial(_programs()[0], env, group_size=None)  # always said, or it would be another program
    from pgx.build import build
    from pgx.rollout import HostRollout

    @cache
    def host(num_episodes: int, lanes: int, group_size: int | None) -> HostRollout:
        env, _ = build(config | {"env": config["env"] | {"num_lanes": lanes}})
        return HostRollout(env, num_episodes, group_size=group_size)

    def play(policy, key, num_episodes, count=None, group_size=None):
        if count is None:
            return host(num_episodes, num_episodes // (group_size or 1), group_size)(policy, key)
        return host(num_episodes, config["env"]["num_lanes"], group_size)(policy, key, int(count))

    return play


def _in_groups(play: Callable, state: Any, size: int | None, key: Any, num_episodes: int) -> list[Any]:
    """About so many episodes in groups of this size; none without one."""
    if size is None:
        return []
    return [play(state.actor, key, num_episodes=max(1, num_episodes // size) * size, group_size=size)]


def measure(job: Job, options: Options) -> Iterator[tuple[int, list[dict[str, str]] | Exception]]:
    """(update, rows, or why there are none) of every checkpoint that is to be measured."""
    import jax
    import jax.numpy as jnp

    from pgx.build import build, skeleton
    from pgx.diagnosis import quality
    from pgx.diagnosis.seen import SeenEnv
    from pgx.envs.base import JittedEnv
    from pgx.loop import Keys
    from pgx.runs.checkpoint import CheckpointError, Checkpoints

    config = job.config
    env, algorithm = build(config)
    empty = skeleton(config, env, algorithm)
    stream = jax.random.fold_in(Keys.of_seed(config["seed"]).evaluate, _STREAM)
    lam = config["estimator"].get("lam", LAMBDA)
    estimand = quality.Estimand(
        algorithm.gamma, jnp.array(lam, jnp.float32), algorithm.bootstrap_truncated, algorithm.discount_power
    )
    steps = _env_steps(job.folder)
    play, (_, look, of_gradients, of_parts, learn) = _player(config, env), _programs()
    with Checkpoints(job.folder / "checkpoints", run=run_hash(config)) as checkpoints:
        for update in job.updates:
            try:
                state = checkpoints.at(update, empty)
            except CheckpointError as error:
                yield update, error
                continue
            key, after, of_fit, of_states, of_paths = jax.random.split(jax.random.fold_in(stream, update), 5)
            sets = [play(state.actor, key, num_episodes=options.episodes) for key in jax.random.split(key, 3)]
            in_groups = _in_groups(play, state, algorithm.group_size, jax.random.fold_in(key, len(sets)), options.episodes)
            seen = [look(episodes, state.scaling, algorithm.reward_scale) for episodes in [*sets, *in_groups]]
            seen_env = SeenEnv(env, state.scaling, algorithm.reward_scale) if isinstance(env, JittedEnv) else None
            rows, value = of_gradients(
                state.policy, *seen[:3], state.critic, algorithm, estimand, of_fit, seen_env and (seen_env, of_paths),
                batch_sizes=options.batches, grouped=seen[3] if in_groups else None,
            )  # fmt: skip
            returns = sets[-1].reward.sum(0)
            if seen_env is not None:
                rows |= of_parts(
                    seen_env, state.policy, value, state.critic, algorithm, estimand, of_states, num_episodes=options.episodes,
                    num_states=options.states, num_draws=options.actions, num_continuations=options.continuations,
                )  # fmt: skip
            later = quality.post_update_returns(
                play, learn, state, algorithm, after,
                num_episodes=most_episodes(config).episodes, num_updates=options.updates, num_evaluations=EVALUATIONS,
            )  # fmt: skip
            rows, returns, later = jax.device_get((rows, returns, later))
            found = [*rows.items(), *(((("", "return", 0, 1)), x) for x in returns)]
            found += [(("", "post_update_return", 0, EVALUATIONS), x) for x in later]
            same = {"update": str(update), "env_steps": steps.get(str(update), ""), "settings": options.settings}
            yield (
                update,
                [
                    same
                    | {"of": of, "quantity": quantity, "batch_size": str(size or ""), "value": _number(float(x)), "n": str(n)}
                    for (of, quantity, size, n), x in found
                ],
            )


def diagnose(folders: Sequence[Path], options: Options, typed: Typed = Typed()) -> tuple[int, int, list[str]]:
    """(checkpoints measured, those that were there already, what could not be measured: a line each)."""
    from tqdm import tqdm

    jobs, failed = [], []
    for folder in run_folders(folders):
        try:
            jobs.append(plan(folder, options, typed))
        except (ConfigError, KeyError, TypeError, AttributeError) as error:
            failed.append(f"{folder}: {_one_line(error)}")
    for line in failed:
        print(f"pgx: {line}", file=sys.stderr)
    if not jobs:
        sys.exit(2)
    total = sum(len(job.updates) for job in jobs)
    if total:
        from pgx import backend

        backend.prepare(1)  # sums come out the same on every machine
    measured = 0
    with tqdm(total=total, desc="diagnose", unit="checkpoint", disable=None, leave=False, dynamic_ncols=True) as bar:

        def fail(line: str, checkpoints: int) -> None:
            failed.append(line)
            bar.write(f"pgx: {line}", file=sys.stderr)
            bar.update(checkpoints)

        for job in jobs:
            left = len(job.updates)
            try:
                for update, rows in measure(job, options) if left else ():
                    left -= 1
                    if isinstance(rows, Exception):
                        fail(_one_line(rows), 1)
                        continue
                    add(job.folder, update, rows, options.settings)
                    measured += 1
                    bar.update()
            except Exception as error:  # a run of another version, a full disk: the others can be measured
                fail(f"{job.folder}: {type(error).__name__}: {_one_line(error)}", left)
    return measured, sum(job.done for job in jobs), failed


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())


# The command line


def _sizes(text: str) -> tuple[int, ...]:
    return tuple(sorted({read_as(whole(2))(size) for size in text.split(",")}))


def read_options(arguments: Sequence[str] | None) -> tuple[list[Path], Options, Typed]:
    default = Options()
    parser = Arguments("diagnose", __doc__, many=True)
    add = parser.add_argument
    add("--episodes", metavar="N", type=read_as(whole(6)), default=default.episodes,
        help=f"at each checkpoint; three times as many are played (default: {default.episodes})")  # fmt: skip
    add("--batches", metavar="B,B …", type=_sizes,
        help=f"episodes a batch (default: {','.join(map(str, default.batches))}, up to a third of the episodes)")  # fmt: skip
    add("--updates", metavar="N", type=read_as(whole(2)), default=default.updates,
        help=f"single updates from each checkpoint, {EVALUATIONS} episodes after each (default: {default.updates})")  # fmt: skip
    add("--checkpoints", metavar="N", type=read_as(whole(1)), default=default.checkpoints,
        help=f"the most of a run, from the first to the newest that are kept (default: {default.checkpoints})")  # fmt: skip
    add("--states", metavar="N", type=read_as(whole(2)), default=default.states,
        help=f"from which to roll on, to divide the variance (default: {default.states})")  # fmt: skip
    add("--actions", metavar="N", type=read_as(whole(3)), default=default.actions,
        help=f"in each of these states, where there are too many to take every one (default: {default.actions})")  # fmt: skip
    add("--continuations", metavar="N", type=read_as(whole(2)), default=default.continuations,
        help=f"of every action in each of these states (default: {default.continuations})")  # fmt: skip
    chosen, typed = parser.read(arguments)
    most = chosen.episodes // 3
    batches = chosen.batches or tuple(size for size in default.batches if size <= most)
    if batches[-1] > most:
        problem = f"{chosen.episodes} episodes are fewer than three batches of {batches[-1]}"
        raise ConfigError("--batches", problem, f"whole numbers from 2 to {most}, or more --episodes")
    chosen.batches = batches
    return chosen.folders, Options(**{name: getattr(chosen, name) for name in Options._fields}), typed


def main(arguments: Sequence[str] | None = None) -> None:
    with short_errors():
        folders, options, typed = read_options(arguments)
        measured, before, failed = diagnose(folders, options, typed)
        there = f"; {before} were there already" if before else ""
        where = " ".join(map(str, folders))
        if measured or before:
            print(f"{measured} checkpoints measured{there}; `python -m analysis.report {where}` shows them")
        if failed:
            sys.exit(1)


if __name__ == "__main__":
    main()
