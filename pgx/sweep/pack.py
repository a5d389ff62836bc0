"""The `vmap` executor: the members of a pack train side by side, in one compiled program, each in its own run folder."""

import os
import resource
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import JobReturn, configure_log, run_job
from hydra.types import HydraContext
from omegaconf import DictConfig

from pgx.config import check
from pgx.declared import on_search_path
from pgx.interrupt import Interrupt
from pgx.run import job
from pgx.runs.record import objective
from pgx.runs.recording import Recording

OnMemberChunk = Callable[[int, float, int], None]
"""Called after every chunk with a member's number, the share of its budget that is used, and its environment steps."""


class Pack:
    """Members of one program, given as (number, Hydra's whole configuration), in a program of `width` lanes."""

    def __init__(self, members: Sequence[tuple[int, DictConfig]], width: int, watch: OnMemberChunk):
        self._members, self._width, self._watch = members, width, watch
        self._recordings: dict[int, Recording] = {}
        self._failures: dict[int, Exception] = {}
        self._returned: dict[int, JobReturn] = {}

    def run(self, context: HydraContext) -> dict[int, JobReturn]:
        """Train them all, and return what Hydra would for each. One that fails does not stop the others."""
        sys.setrecursionlimit(max(sys.getrecursionlimit(), 1000 + 20 * len(self._members)))
        _open_many_files()
        self._home = Path.cwd()
        with Interrupt() as self._interrupt:
            self._enter(context, 0)
        return self._returned

    def _enter(self, context: HydraContext, i: int) -> None:
        """Hydra's job of the i-th member, and inside it those of the others; inside the last, all train.

        So each has the folder, the log and the callbacks that it would have alone.
        """
        if i == len(self._members):
            self._train_open()
            return
        number, config = self._members[i]

        def task(config: DictConfig) -> float:
            os.chdir(self._home)  # hydra.job.chdir means one job's folder, and these are many
            with job() as (folder, about), ExitStack() as stack:
                try:
                    checked = check(config, on_search_path(HydraConfig.get()))
                    recording = Recording(checked, folder, executor="vmap", width=self._width, **about)
                    self._recordings[number] = stack.enter_context(recording)
                except Exception as error:
                    self._failures[number] = error
                self._enter(context, i + 1)
                self._interrupt.beat("the end of the pack")
                settings = HydraConfig.get()
                configure_log(settings.job_logging, settings.verbose)  # the others' jobs had theirs
                if number in self._failures:
                    raise self._failures[number]
            return objective(recording.summary)

        where = {"job_dir_key": "hydra.sweep.dir", "job_subdir_key": "hydra.sweep.subdir"}
        self._returned[number] = run_job(hydra_context=context, task_function=task, config=config, **where)

    def _train_open(self) -> None:
        unfinished = {number: recording for number, recording in self._recordings.items() if recording.needs_more}
        if not unfinished:
            return
        try:
            self._train(unfinished)
        except Exception as error:  # of the program that all share
            self._failures |= {number: error for number, x in unfinished.items() if x.summary["status"] == "running"}

    def _train(self, unfinished: dict[int, Recording]) -> None:
        from pgx import build
        from pgx.loop import Budget

        lanes = [build.lane(x.config, x.env, x.algorithm, x.state()) for x in unfinished.values()]
        budgets = {n: Budget(one.state, **unfinished[n].limits) for n, one in zip(unfinished, lanes, strict=True)}
        first = next(iter(unfinished.values()))
        runner = build.pack_runner(first.config, lanes, width=self._width)
        first.warm_up()  # what one imports serves all
        compiling = time.perf_counter()
        runner.compile()
        for recording in unfinished.values():
            recording.compile_seconds = time.perf_counter() - compiling

        with ThreadPoolExecutor(1, thread_name_prefix="clerk") as clerk:  # writes while the next chunk is computed
            writing, started = None, time.perf_counter()
            while self._interrupt.by is None:
                limits = [None if n in self._failures else budget.limits(runner.max_updates) for n, budget in budgets.items()]
                if not any(limits):
                    break
                self._interrupt.beat("a chunk of the pack", time.perf_counter() - started)
                started = time.perf_counter()
                chunks = {n: chunk for n, chunk in zip(budgets, runner(limits), strict=True) if chunk is not None}
                for number, chunk in chunks.items():
                    budgets[number].count(chunk)
                ended = {number for number in chunks if budgets[number].limits(1) is None}
                if writing is not None:
                    writing.result()
                writing = clerk.submit(self._write, chunks, ended)
        if self._interrupt.by is not None:
            self._stop([x for n, x in unfinished.items() if n not in self._failures and x.summary["status"] == "running"])

    def _write(self, chunks: dict[int, Any], ended: set[int]) -> None:
        for number, chunk in chunks.items():
            if number not in self._failures:
                self._guarded(number, chunk, number in ended)

    def _guarded(self, number: int, chunk: Any, ended: bool) -> None:
        recording = self._recordings[number]
        try:
            recording.take(chunk)
            self._watch(number, recording.share, recording.history.env_steps)
            if ended:
                recording.close()
        except Exception as error:  # say, its folder is gone: the others continue
            self._failures[number] = error

    def _stop(self, unfinished: Sequence[Recording]) -> None:
        for recording in unfinished:
            self._interrupt.beat("saving")  # a large pack takes its time, and does not hang
            recording.interrupted(self._interrupt.by)
            recording.save()  # of all, before the rest is written: patience may be short


def _open_many_files() -> None:
    """As many as we may: every member holds its folder's lock."""
    now, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    # on macOS there is no limit by this word, but a kernel that gives no more than OPEN_MAX
    wanted = max(now, 10240) if most == resource.RLIM_INFINITY else most
    with suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, most))
