"""The run folder and its run.json. It is the truth about a run; everything else mirrors it."""

import contextlib
import errno
import fcntl
import hashlib
import json
import logging
import math
import os
import signal
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from functools import cache
from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pgx.errors import ConfigError, one_line, short
from pgx.identity import BUDGET, identity
from pgx.runs.files import write_atomically
from pgx.runs.table import number_of
from pgx.runs.tracker import id_of

if TYPE_CHECKING:
    import numpy as np  # else by those who have numbers already: a mistake on the command line does not wait for it

log = logging.getLogger("pgx")

TIMING = ("update", "env_steps", "seconds", "env_steps_per_second", "compile_seconds")
STATUSES = ("running", "completed", "interrupted", "failed", "diverged")


class History:
    """The rows of a run so far, and what they say about it."""

    def __init__(self, rows: list[dict[str, Any]], reward_threshold: float | None, scored_by: str = "return_recent"):
        """`scored_by`: the column that says what is best, and what is solved."""
        self.rows, self._threshold, self._scored_by = rows, reward_threshold, scored_by

    @property
    def updates(self) -> int:
        return len(self.rows)

    @property
    def env_steps(self) -> int:
        return self.rows[-1]["env_steps"] if self.rows else 0

    @property
    def recent(self) -> float | None:
        """Mean return of the last 100 episodes; None before there are 100."""
        return self.rows[-1]["return_recent"] if self.rows else None

    @property
    def score(self) -> float | None:
        """Of the policy after the last update; None if it has none."""
        return self.rows[-1].get(self._scored_by) if self.rows else None

    @property
    def evaluation(self) -> float | None:
        """What the last evaluation returned; None before the first."""
        found = (row.get("evaluation_return") for row in reversed(self.rows))
        return next((x for x in found if x is not None), None)

    def extend(self, columns: "dict[str, np.ndarray]") -> list[dict[str, Any]]:
        """Add a chunk's rows, numbered and with running totals; returns them."""
        first = len(self.rows)
        for i in range(len(columns["env_steps"])):
            before = self.rows[-1] if self.rows else {"env_steps": 0, "episodes": 0}
            # as the file has it: what a resumed run reads back is what this one continues with
            row = {name: number_of("" if x[i] != x[i] else str(x[i])) for name, x in columns.items()}
            totals = {name: before[name] + row[name] for name in ("env_steps", "episodes")}
            self.rows.append(row | totals | {"update": len(self.rows) + 1})
        return self.rows[first:]

    def timing(self, rows: list[dict[str, Any]], seconds: float, compile_seconds: float | None) -> dict[str, Any]:
        """timing.csv's line for the chunk that ended just now, of these rows."""
        first = self.updates - len(rows)
        env_steps = self.env_steps - (self.rows[first - 1]["env_steps"] if first else 0)
        return {
            "update": self.updates,
            "env_steps": self.env_steps,
            "seconds": seconds,
            "env_steps_per_second": env_steps / seconds,
            "compile_seconds": compile_seconds,
        }

    def share(self, config: dict[str, Any]) -> float:
        """The share of the budget that is used: of the one that is nearer to its end."""
        budgets = (self.env_steps, config["num_env_steps"]), (self.updates, config["num_updates"])
        return min(1.0, max(used / budget for used, budget in budgets if budget is not None))

    def summary(self) -> dict[str, Any]:
        scored = [(row["env_steps"], x) for row in self.rows if (x := row.get(self._scored_by)) is not None]
        reached = (env_steps for env_steps, x in scored if self._threshold is not None and x >= self._threshold)
        return {
            "updates": self.updates,
            "env_steps": self.env_steps,
            "episodes": self.rows[-1]["episodes"] if self.rows else 0,
            "return_best": max((x for _, x in scored), default=None),
            "solved_at_env_steps": next(reached, None),
            "evaluation_final": self.evaluation,
            "warning": self.warning,
        }

    @property
    def warning(self) -> str | None:
        """A sentence if no policy was evaluated that should have been, if the policy stood still for the last half of the
        run, or if it looks dead: in the last 100 episodes there was one action only, or hardly any noise, or nothing but
        the ends of the actions, for less than half of the best return."""
        if self._scored_by == "evaluation_return" and self.evaluation is None:
            return f"no policy was evaluated: there were only {self.updates} updates"
        still = len(list(takewhile(lambda row: row.get("kl") == 0, reversed(self.rows))))
        if still >= max(20, self.updates / 2):
            steps = "a schedule's decay_steps counts gradient steps, of which an update may take many"
            return f"the policy did not move in the last {still} of {self.updates} updates (KL 0); {steps}"
        rows = [row for row in self.rows if row["episodes"] > self.rows[-1]["episodes"] - 100]
        best = max((row["return_recent"] for row in self.rows if row["return_recent"] is not None), default=math.inf)
        if not rows or best == math.inf or self.recent >= best - abs(best) / 2:
            return None
        mean = {name: _mean([row.get(name) for row in rows]) for name in ("action_share", "std_mean", "saturated_share")}
        signs = {
            "one action": mean["action_share"] >= 0.99,
            f"a standard deviation of {mean['std_mean']:.2g}": mean["std_mean"] <= 0.02,
            f"{mean['saturated_share']:.0%} of the actions at their ends": mean["saturated_share"] >= 0.99,
        }
        sign = next((sign for sign, shown in signs.items() if shown), None)
        returns = f"return {self.recent:.1f} after {best:.1f}"
        return sign and f"the policy looks dead: {sign} in the last 100 episodes, {returns}"


def _mean(values: list[float | None]) -> float:
    """The mean; NaN, for which no comparison holds, if a value is missing."""
    return math.nan if None in values else sum(values) / len(values)


def scored_by(config: dict[str, Any]) -> str:
    """The column of metrics.csv that says which policy is the best, and whether the environment is solved: that of the
    evaluations, if there are any."""
    return "return_recent" if config["evaluate_every"] is None else "evaluation_return"


def last_returns(recent_returns: "np.ndarray") -> tuple[float, float] | tuple[None, None]:
    """Mean and interquartile mean of the last 100 training episodes (of all, while there are fewer)."""
    import numpy as np

    returns = np.sort(recent_returns[~np.isnan(recent_returns)].astype(np.float64))
    cut = len(returns) // 4
    middle = returns[cut : len(returns) - cut]
    return (float(returns.mean()), float(middle.mean())) if len(returns) else (None, None)


def new_summary(
    config: dict[str, Any],
    before: dict[str, Any] | None,
    *,
    group: str | None = None,
    executor: str = "single",
    width: int = 1,
    label: str | None = None,
) -> dict[str, Any]:
    """run.json of a run that starts, or that resumes `before`."""
    return {
        "status": "running",
        "variant": config["variant"],
        "label": label or config["variant"],
        "env": config["env"]["id"],
        "seed": config["seed"],
        "group": before.get("group") if before else group,
        "tracker_id": id_of(before or {}),
        "executor": executor,
        "width": width,
        "config_hash": config_hash(config),
        "started": before["started"] if before else now(),
        "finished": None,
        "wall_seconds": before["wall_seconds"] if before else 0.0,
        "error": None,
        "return_final": None,
        "config": config,
    }


def read_summary(folder: Path) -> dict[str, Any] | None:
    """run.json, or None where there is no run."""
    path = folder / "run.json"
    return json.loads(path.read_text()) if path.exists() else None


def _refuse_links(folder: Path) -> None:
    """Raise ConfigError if a file that is written by its name leads elsewhere: all others are replaced whole."""
    for path in (folder / ".lock", folder / ".hydra", *folder.glob(".hydra/*"), *folder.glob("*.log")):
        if path.is_symlink():
            raise ConfigError(str(path), "is a link: the run would write to where it leads", hint="remove it")


def earlier_run(folder: Path, config: dict[str, Any]) -> dict[str, Any] | None:
    """run.json of the run to resume, or None. Raises ConfigError if it is of another configuration, or if the
    folder has links where a run would write."""
    _refuse_links(folder)
    try:
        summary = read_summary(folder)
        if summary is None:
            return None
        check_form(summary)
        old, new = identity(summary["config"]), identity(config)
        other = [key for key in old.keys() | new.keys() if not _same(key, old, new) and not _extends(key, old, new)]
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        problem = f"cannot be read: {one_line(error)}"
        raise ConfigError(str(folder / "run.json"), problem, hint="choose another folder") from error
    if other:
        key = min(other, key=lambda key: (key.count("."), key))  # gamma before estimator.gamma
        change = f"{old.get(key)} → {new.get(key)}"
        raise ConfigError(key, f"{change}: {folder} holds a run of another configuration", hint="choose another folder")
    return summary


def check_form(summary: Any) -> None:
    """Raise unless it has what resuming needs."""
    for key, kind in (("status", str), ("started", str), ("wall_seconds", int | float), ("config", dict)):
        if not isinstance(summary[key], kind):
            raise ValueError(f"{key} is {summary[key]!r}")
    if summary["status"] not in STATUSES:
        raise ValueError(f"status is {summary['status']!r}")
    if not all(type(stretch["from_update"]) is int for stretch in summary.get("made_with", [])):
        raise ValueError("made_with does not say from which update on")


def _same(key: str, old: dict[str, Any], new: dict[str, Any]) -> bool:
    """Whether both have the same value, as JSON: there NaN is NaN."""
    a, b = (json.dumps(x.get(key), sort_keys=True) for x in (old, new))
    return a == b


def _extends(key: str, old: dict[str, Any], new: dict[str, Any]) -> bool:
    """Whether the key is a budget that has grown."""
    if key not in BUDGET:
        return False
    if key == "stop_when_solved":
        return not new[key]
    return new[key] is None or (old[key] is not None and new[key] > old[key])


def must_have_saved(before: dict[str, Any] | None, rows: int, *, saving: bool) -> bool:
    """Whether a run with so many rows has saved, so that it must not begin again where its checkpoints are gone: only
    one that was killed, or failed, before the first may. `saving`: it was killed in a save, and that in the first,
    unless it came to ask for a third: the second waits for the first."""
    if before is None:
        return rows > 0
    ended = any(before.get(key) for key in ("updates", "resumed_from"))
    return ended or rows > before["config"]["checkpoint_every"] * (2 if saving else 1)


def needs_more(before: dict[str, Any], config: dict[str, Any]) -> bool:
    """Whether there is anything left to do: a finished run is resumed only with a larger budget."""
    if before["status"] == "completed":
        return any(before["config"].get(key) != config[key] for key in BUDGET)
    return before["status"] != "diverged"  # it would diverge again, bit for bit


def objective(summary: dict[str, Any] | None) -> float:
    """The objective of a sweeper, to be maximised: the mean return of the last evaluation, or the interquartile mean of the
    last 100 returns where nothing is evaluated. −∞ where it means nothing: a run that diverged, failed or never finished an
    episode is not the best one for what it had before."""
    if summary is None or summary["status"] != "completed":
        return -math.inf
    evaluated = summary["config"].get("evaluate_every") is not None
    value = summary.get("evaluation_final" if evaluated else "return_final_iqm")
    return -math.inf if value is None else value


def called(summary: dict[str, Any]) -> str:
    """The name of a run: `baseline on CartPole-v1, seed 0`."""
    return f"{summary.get('label', summary['variant'])} on {summary['env']}, seed {summary['seed']}"


def last_line(summary: dict[str, Any], folder: Path) -> str:
    """The last line of a run: what happened, and where the files are."""
    what = called(summary)
    if summary["status"] != "completed":
        what += f": {summary['status']} ({summary['error']})"
    if summary["return_final"] is not None:
        what += f": return {summary['return_final']:.1f} over the last {min(100, summary['episodes'])} episodes"
        if (evaluation := summary.get("evaluation_final")) is not None:
            what += f", {evaluation:.1f} in the last evaluation"
        solved = summary["solved_at_env_steps"]
        if solved is not None:
            what += f", solved at {solved:,} of {summary['env_steps']:,} env steps"
        elif summary["reward_threshold"] is not None:
            what += f", not solved in {summary['env_steps']:,} env steps"
    when = "already finished" if summary.get("already") else f"{summary['wall_seconds']:.1f} s"
    with contextlib.suppress(ValueError):
        if folder != Path.cwd():  # where hydra.job.chdir has gone: "files in ." would help nobody
            folder = folder.relative_to(Path.cwd())
    warning = f"\nwarning: {summary['warning']}" if summary.get("warning") else ""
    return f"{what}; {when}; files in {folder}{warning}"


def exit_code(summary: dict[str, Any]) -> int:
    """The exit code of a run's program: 128 + n after signal n, as in shells."""
    if summary["status"] == "interrupted":
        return 128 + signal.Signals[summary["error"]]
    return 0 if summary["status"] == "completed" else 1


def write_summary(folder: Path, summary: dict[str, Any]) -> None:
    text = json.dumps(summary, indent=2) + "\n"
    try:
        write_atomically(folder / "run.json", text)
    except OSError as error:
        if error.errno not in NO_SPACE:
            raise
        (folder / ROOM).unlink(missing_ok=True)
        write_atomically(folder / "run.json", text)


NO_SPACE = (errno.ENOSPC, errno.EDQUOT)
ROOM = ".room"
"""A file that holds room for the last run.json while a run is at work: that the disk is full should be said there."""


@contextlib.contextmanager
def room(folder: Path) -> Iterator[None]:
    file = folder / ROOM
    file.unlink(missing_ok=True)
    try:
        file.write_bytes(b"\0" * 16384)  # bytes, not a hole: that would be no room
        yield
    finally:
        file.unlink(missing_ok=True)


def make(folder: Path, where: str = "hydra.run.dir") -> None:
    """Make a folder that somebody named, unless it is there. Raises ConfigError if it cannot be written."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not os.access(folder, os.W_OK):
            raise PermissionError(13, "permission denied")
    except OSError as error:
        raise ConfigError(
            where, f"cannot write {short(str(folder))}: {error.strerror}", "a folder that can be written"
        ) from error


@contextlib.contextmanager
def sole_use(folder: Path) -> Iterator[None]:
    """Refuse to share a run folder with another process."""
    with open(folder / ".lock", "a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConfigError("hydra.run.dir", f"another process is at work in {folder}") from None
        except OSError as error:
            _warn_of_no_locks(folder.parent, error.strerror)
        yield


@cache  # once for the members of a sweep
def _warn_of_no_locks(place: Path, reason: str) -> None:
    log.warning(f"{place} is on a file system without locks ({reason}): nothing keeps a second process out of a run's folder")


def at_work(folder: Path) -> bool:
    """Whether a process has this run folder to itself now. Asked without writing: one may have no right to."""
    try:
        with open(folder / ".lock") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:  # there is no lock, or none to be had
        return False
    return False


def last_env_steps(folder: Path) -> int:
    """How far a run has come, from the end of metrics.csv: it may be at work."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        with open(folder / "metrics.csv", "rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - 4096))
            return int(file.read().rpartition(b"\n")[0].splitlines()[-1].split(b",")[1])  # update, env_steps, …
    return 0


def run_hash(config: dict[str, Any]) -> str:
    """Identifies a run, whatever budget it is given."""
    return config_hash(config, without=BUDGET)


def config_hash(config: dict[str, Any], *, without: Sequence[str] = ()) -> str:
    """Identifies what decides a run's results, whatever the folder or the tracker."""
    known = {key: x for key, x in identity(config).items() if key not in without}
    return hashlib.sha256(json.dumps(known, sort_keys=True).encode()).hexdigest()[:16]


def now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
