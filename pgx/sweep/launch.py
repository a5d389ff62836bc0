"""A multirun: the members that are missing are run, finished ones are not touched, and the ledger lists them all."""

import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra.core.utils import JobReturn, JobStatus
from omegaconf import OmegaConf

from pgx.backend import accelerator
from pgx.envs.checks import on_host
from pgx.errors import RunFailed
from pgx.interrupt import Interrupt
from pgx.label import label
from pgx.runs import record
from pgx.sweep import ledger
from pgx.sweep.index import Index, look
from pgx.sweep.members import Member, program
from pgx.sweep.pool import Batch, Done, Pool, cores

EXECUTORS = ("auto", "map", "vmap")


def launch(members: Sequence[Member], pool: Pool, batches: Sequence[Batch]) -> list[JobReturn]:
    """Run what is missing, the `batches`. A member that fails harms no other.

    Raises SystemExit (128 + n) after signal n, when the members at work have saved.
    """
    with progress_bar(len(members), len(members) - len(missing(members))) as show:
        errors, signals = work(pool, batches, show)
    if signals:
        ledger.show(Index(members[0].sweep), errors)
        raise SystemExit(128 + signals[0])
    return returns(members, errors)


def work(
    pool: Pool, batches: Sequence[Batch], show: Callable[[int, float, int | None], None]
) -> tuple[dict[str, str], list[signal.Signals]]:
    """Run the batches; what went wrong (a member's name → the reason), and the signals that came: after one, members
    save and stop.

    `show` is told a member's number, the share of its budget that is used and its env steps (None: it has ended).
    """
    members = {member.number: member for batch in batches for member in batch.members}
    errors: dict[str, str] = {}
    with _signals(pool) as signals:
        for report in pool.run(batches):
            if not isinstance(report, Done):
                show(report.number, report.share, report.env_steps)
                continue
            show(report.number, 1.0, None)
            if report.error is not None:
                errors[members[report.number].name] = report.error
                _note(members[report.number].folder, report.error)
    return errors, signals


def missing(members: Sequence[Member]) -> list[Member]:
    """The members that are to be run; the same member twice is run once."""
    left = (member for member in members if not member.finished and member.broken is None)
    return list({member.folder: member for member in left}.values())


def by_program(members: Sequence[Member]) -> list[list[Member]]:
    """Groups of members that share a compiled program."""
    groups: dict[Hashable, list[Member]] = {}
    for member in members:
        groups.setdefault(program(member.config), []).append(member)
    return list(groups.values())


def batches(members: Sequence[Member], executor: str, width: int | None) -> list[Batch]:
    """The batches for the workers: single members, and packs of those that share a program and a width.

    The width of a pack is not that of the sweep: more seeds, or fewer, must not change a member's bits.
    """
    alone, packs = [], {}
    for member in members:
        how, lanes = _executor(member, executor, width)
        if how == "map":
            alone.append(Batch((member,), how, 1))
        else:
            packs.setdefault((lanes, member.config["xla_threads"], program(member.config)), []).append(member)
    sliced = [(key[0], pack[i : i + key[0]]) for key, pack in packs.items() for i in range(0, len(pack), key[0])]
    return [Batch(tuple(pack), "vmap", lanes) for lanes, pack in sliced] + alone


def at_once(batches: Sequence[Batch], processes: int | None) -> int:
    """The number of workers: one a core, but no more than there are batches, and packs take turns on an accelerator."""
    packs_only = accelerator() and all(batch.executor == "vmap" for batch in batches)
    return min(len(batches), processes or (1 if packs_only else cores()))


def _executor(member: Member, executor: str, width: int | None) -> tuple[str, int]:
    """map or vmap, and the lanes of its program. `auto`: as it was begun; on an accelerator vmap, else map."""
    if on_host(member.config["env"]):
        return "map", 1
    if executor == "auto":
        begun = member.before
        executor = ("vmap" if accelerator() else "map") if begun is None else begun["executor"]
        width = begun.get("width") if begun is not None else width
    return ("vmap", width or (1024 if accelerator() else 32)) if executor == "vmap" else ("map", 1)


def dry_run(members: Sequence[Member], processes: int | None) -> list[JobReturn]:
    """Print the groups, what is done and what would run; touch nothing."""
    groups = by_program(members)
    print(f"{len(members)} members in {len(groups)} compiled programs; sweep folder {members[0].sweep}")
    seconds = 0.0
    for number, group in enumerate(groups, 1):
        timed = [member.before["wall_seconds"] for member in group if member.finished]
        left = missing(group)
        each = sum(timed) / len(timed) if timed else None
        seconds = seconds + each * len(left) if each is not None or not left else float("nan")
        first = group[0].config
        called = label(group[0].hydra_config.hydra) or first["variant"]
        print(f"group {number}: {called} on {first['env']['id']}, {len(left)} of {len(group)} to run")
        for member in group:
            state = "broken" if member.broken else member.before["status"] if member.before else "to run"
            print(f"  {member.name:>6}  {state:<12} {' '.join(member.task_overrides)}")
    if seconds == seconds:
        print(f"about {seconds / (processes or cores()):.0f} s to go, as long as the finished members took")
    raise SystemExit(0)


def returns(members: Sequence[Member], errors: Mapping[str, str]) -> list[JobReturn]:
    """The results for Hydra: each member's objective, or, if it has not ended, that there is none."""
    there = [(member, look(member.folder).summary) for member in members]
    ended = [_has_ended(member, summary) for member, summary in there]
    if not all(ended):
        ledger.show(Index(members[0].sweep), errors)
    error = RunFailed(f"{ended.count(False)} of {len(members)} members did not end, see the table above")
    values = [record.objective(summary) if has_ended else error for (_, summary), has_ended in zip(there, ended, strict=True)]
    return [_returned(member, value) for member, value in zip(members, values, strict=True)]


def _has_ended(member: Member, summary: dict[str, Any] | None) -> bool:
    """Whether there is nothing more to expect: it may have the budget of an earlier command only."""
    if member.broken is not None or summary is None:
        return member.broken is not None
    return summary["status"] == "failed" or not record.needs_more(summary, member.config)


def _returned(member: Member, value: float | Exception) -> JobReturn:
    returned = JobReturn(
        overrides=OmegaConf.to_container(member.hydra_config.hydra.overrides.task),
        cfg=OmegaConf.masked_copy(member.hydra_config, [key for key in member.hydra_config if key != "hydra"]),
        hydra_cfg=OmegaConf.masked_copy(member.hydra_config, ["hydra"]),
        working_dir=str(Path.cwd()),
        task_name=member.hydra_config.hydra.job.name,
        status=JobStatus.FAILED if isinstance(value, Exception) else JobStatus.COMPLETED,
    )
    returned.return_value = value
    return returned


def _note(folder: Path, error: str) -> None:
    """Note in run.json why the run's process died, if it did: the run itself could not."""
    summary = look(folder).summary
    if summary is not None and summary["status"] == "running" and not record.at_work(folder):
        record.write_summary(folder, summary | {"status": "failed", "error": error})


@contextlib.contextmanager
def _signals(pool: Pool) -> Iterator[list[signal.Signals]]:
    """The first signal stops the pool, a second Ctrl-C or `kill` at once; the list says which came."""
    came: list[signal.Signals] = []
    now: list[float] = []

    def note(number: int, _: object) -> None:
        came.append(signal.Signals(number))
        now.append(time.monotonic())
        if len(came) == 1:
            line = "\r\033[K" if os.isatty(2) else ""  # over the progress bar
            with contextlib.suppress(OSError):  # not by print: what we interrupt may be printing
                what = f"pgx: {came[0].name}: the members at work save and end; once more ends them at once\n"
                os.write(2, (line + what).encode())
            pool.stop()
        # `timeout` sends SIGTERM twice in a row; Slurm sends it after its warning
        elif number == signal.SIGINT or (number == signal.SIGTERM and came[0] != signal.SIGUSR2 and now[-1] > now[0] + 0.5):
            pool.stop(at_once=True)

    if threading.current_thread() is not threading.main_thread():
        yield came
        return
    heard = (number for number in Interrupt.STOP if signal.getsignal(number) is not signal.SIG_IGN)  # by nohup, say
    before = {number: signal.signal(number, note) for number in heard}
    try:
        yield came
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def progress_bar(total: int, finished: int) -> Iterator[Callable[[int, float, int | None], None]]:
    """One bar over the whole sweep: members done, env steps/s of all together, time left."""
    if not sys.stderr.isatty():
        yield lambda number, share, env_steps: None
        return
    from tqdm import tqdm

    form = "sweep {percentage:3.0f}% |{bar}| {postfix} [{elapsed} < {remaining}]"
    shares: dict[int, float] = {}
    steps: dict[int, int] = {}
    started = time.perf_counter()
    with tqdm(total=total, initial=finished, bar_format=form, dynamic_ncols=True, leave=False) as bar:

        def show(number: int, share: float, env_steps: int | None) -> None:
            first = number not in steps
            shares[number] = share
            if env_steps is not None:
                steps[number] = env_steps
                if first:
                    base[number] = env_steps
            rate = (sum(steps.values()) - sum(base.values())) / (time.perf_counter() - started)
            done = finished + sum(x >= 1 for x in shares.values())
            bar.set_postfix_str(f"{done} of {total} members, {rate:,.0f} steps/s", refresh=False)
            bar.n = finished + sum(shares.values())
            bar.refresh()

        base: dict[int, int] = {}
        yield show
