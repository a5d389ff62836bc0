"""Worker processes: each compiles a program once and runs member after member (map), or pack after pack of them
(vmap), through it. What is compiled stays in the process for the next one.

Under map a member's bits are those of the same run alone, because it *is* the same run: the worker calls Hydra's
`run_job` and `pgx.run.run` as a single run does.
"""

import contextlib
import math
import multiprocessing
import multiprocessing.resource_tracker
import os
import signal
import threading
import time
from collections.abc import Callable, Hashable, Iterator, Sequence
from functools import partial
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import NamedTuple

from hydra._internal.callbacks import Callbacks
from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import JobReturn, run_job, setup_globals
from hydra.types import HydraContext
from omegaconf import DictConfig

from pgx import memory
from pgx.config import check
from pgx.declared import on_search_path
from pgx.errors import one_line
from pgx.interrupt import Interrupt
from pgx.run import job, run
from pgx.runs.record import objective
from pgx.streams import no_tracebacks_beside
from pgx.sweep.members import Member, program
from pgx.sweep.pack import Pack


class Progress(NamedTuple):
    number: int
    share: float
    """Of the member's budget."""
    env_steps: int


class Done(NamedTuple):
    number: int
    error: str | None


class Broken(NamedTuple):
    """The report of a worker that cannot work."""

    error: str


class Batch(NamedTuple):
    """The work of one worker: one member (map), or a pack of them that train side by side (vmap)."""

    members: tuple[Member, ...]
    executor: str
    width: int

    @property
    def program(self) -> tuple[Hashable, ...]:
        """The key of the program that it compiles. First: the threads of XLA."""
        config = self.members[0].config
        return config["xla_threads"], program(config), self.executor, self.width


class _Worker:
    def __init__(self, callbacks: Callbacks):
        spawn = multiprocessing.get_context("spawn")  # fork: jax has threads
        self.connection, other = spawn.Pipe()
        self.process = spawn.Process(target=_work, args=(other, callbacks), daemon=True)
        with _unheard(*FORWARDED):
            self.process.start()
        other.close()
        self.at_work: set[int] = set()
        """The numbers of the members that it runs."""
        self.program: tuple[Hashable, ...] | None = None
        """The program of its last batch."""
        self.killed: str | None = None
        """Why the pool has killed it, if it has."""

    @property
    def threads(self) -> Hashable:
        """XLA's are set once a process."""
        return self.program and self.program[0]

    def give(self, batch: Batch, processes: int) -> None:
        """`processes`: as many as are at work together."""
        self.at_work, self.program = {member.number for member in batch.members}, batch.program
        with contextlib.suppress(ConnectionError):  # it has died: its end of the pipe says so
            self.connection.send(([(member.number, member.hydra_config) for member in batch.members], *batch[1:], processes))

    def kill(self, why: str) -> None:
        self.killed = why
        self.process.kill()


FORWARDED = tuple(number for number in Interrupt.STOP if number != signal.SIGTERM)
"""Signals that go to all processes of a terminal, or of Slurm's job. Workers hear of them through us, as a SIGTERM."""


@contextlib.contextmanager
def _unheard(*numbers: signal.Signals) -> Iterator[None]:
    """Within this nobody is interrupted by these signals; processes that are started here not before they say so."""
    multiprocessing.resource_tracker.ensure_running()  # it would unblock them
    before = signal.pthread_sigmask(signal.SIG_BLOCK, numbers)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def cores() -> int:
    """The CPU cores that this process may use. Slurm says how many it has given to a job, even where it does not bind
    processes to them; a container has a quota of their time."""
    ours = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(ours, int(os.environ.get("SLURM_CPUS_ON_NODE") or ours), _quota() or ours)


def _quota(file: Path = Path("/sys/fs/cgroup/cpu.max")) -> int | None:
    """Cores whose time a control group of Linux may use; None: all."""
    try:
        time, period = map(int, file.read_text().split())  # or "max 100000"
    except (OSError, ValueError):
        return None
    return max(1, math.ceil(time / period))


class Pool:
    """Up to `size` workers, which run jobs with Hydra's `callbacks`. They end with this process, however it ends.

    `patience`: seconds that a member has to save and end when it is told to.
    """

    def __init__(self, callbacks: Callbacks, size: int, patience: float = 120.0):
        self._callbacks, self._patience = callbacks, patience
        self._workers = [_Worker(callbacks) for _ in range(size)]
        self._compiled: set[Hashable] = set()
        """Programs that a worker has compiled: the others find them in jax's cache."""
        self._stopped: float | None = None
        """When the workers were told to stop."""

    def grow(self, size: int) -> None:
        """Start workers until there are so many."""
        self._workers += [_Worker(self._callbacks) for _ in range(size - len(self._workers))]

    def run(self, batches: Sequence[Batch]) -> Iterator[Progress | Done]:
        """Run the batches and yield reports in the order of events. A program is kept on few workers, so that it
        compiles less often.

        A worker waits rather than compile what another one compiles just now: two at once take longer than one.
        """
        waiting: dict[Hashable, list[Batch]] = {}
        for batch in batches:
            waiting.setdefault(batch.program, []).append(batch)
        while True:
            for i, worker in enumerate(self._workers):
                if not worker.at_work and self._stopped is None and (open_ := self._open(waiting)):
                    chosen = self._choose(worker, open_)
                    if worker.threads not in (None, chosen[0]) or not worker.process.is_alive():
                        with contextlib.suppress(ConnectionError):
                            worker.connection.send(None)
                        worker = self._workers[i] = _Worker(self._callbacks)
                    worker.give(waiting[chosen].pop(0), min(len(self._workers), len(batches)))
                    waiting = {key: left for key, left in waiting.items() if left}
            busy = [worker for worker in self._workers if worker.at_work]
            if not busy:
                return
            ready = wait([worker.connection for worker in busy], timeout=0.2)
            for worker in (worker for worker in busy if worker.connection in ready):
                yield from self._hear(worker)
            self._watch()

    def _watch(self) -> None:
        """A worker that does not stop is killed: usually it sees to that itself, but what hangs may hold the interpreter."""
        if self._stopped is not None and time.monotonic() > self._stopped + self._patience:
            for worker in (worker for worker in self._workers if worker.at_work and worker.killed is None):
                worker.kill(f"did not stop within {self._patience:g} s, and was killed")

    def _open(self, waiting: dict[Hashable, list[Batch]]) -> dict[Hashable, list[Batch]]:
        being_compiled = {worker.program for worker in self._workers if worker.at_work} - self._compiled
        return {program: batches for program, batches in waiting.items() if program not in being_compiled}

    def _choose(self, worker: _Worker, waiting: dict[Hashable, list[Batch]]) -> Hashable:
        """The program that the worker has compiled, else the one with most batches a worker at it."""
        if worker.program in waiting:
            return worker.program
        at_work = [other.program for other in self._workers if other.at_work]
        return max(waiting, key=lambda shared: len(waiting[shared]) / (1 + at_work.count(shared)))

    def _hear(self, worker: _Worker) -> Sequence[Progress | Done]:
        try:
            report = worker.connection.recv()
        except (EOFError, ConnectionError):  # it has died
            worker.process.join()
            code = worker.process.exitcode
            how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
            ended, worker.at_work = sorted(worker.at_work), set()
            return [Done(number, f"its process {worker.killed or how}") for number in ended]
        if isinstance(report, Broken):
            worker.kill(f"could not start: {report.error}")
            return []
        self._compiled.add(worker.program)
        if isinstance(report, Done):
            worker.at_work.discard(report.number)
        return [report]

    def stop(self, *, at_once: bool = False) -> None:
        """Have the members at work save and end, and start no more. `at_once`: do not save."""
        if self._stopped is None:
            self._stopped = time.monotonic()
        for worker in self._workers:
            if at_once:
                worker.kill("was killed by a second signal")
            elif worker.at_work:
                worker.process.terminate()

    def close(self) -> None:
        for worker in self._workers:
            worker.process.kill()


def _work(connection: Connection, callbacks: Callbacks) -> None:
    """A worker's life: batches come in, reports go out."""
    for number in FORWARDED:
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, FORWARDED)
    no_tracebacks_beside()
    threading.Thread(target=_die_with_parent, daemon=True).start()
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # we may share an accelerator
    setup_globals()
    context = HydraContext(config_loader=None, callbacks=callbacks)  # a job's configuration is composed already
    try:
        from pgx import build  # noqa: F401  while the members are composed
        from pgx.runs import checkpoint  # noqa: F401
    except BaseException as error:
        connection.send(Broken(one_line(error)))
        return

    def watch(number: int, share: float, env_steps: int) -> None:
        connection.send(Progress(number, share, env_steps))

    with contextlib.suppress(EOFError):  # our parent is gone
        while (given := connection.recv()) is not None:
            members, executor, width, memory.processes = given
            try:
                if executor == "vmap":
                    returned = Pack(members, width, watch).run(context)
                else:
                    returned = {number: _alone(number, config, context, watch) for number, config in members}
                done = [_done(number, job_return) for number, job_return in returned.items()]
            except BaseException as error:  # what Hydra's jobs let through: an environment calls sys.exit
                done = [Done(number, one_line(error)) for number, _ in members]
            for report in done:
                connection.send(report)


def _alone(number: int, config: DictConfig, context: HydraContext, watch: Callable[[int, float, int], None]) -> JobReturn:
    def task(config: DictConfig) -> float:
        with job() as (folder, about):
            report = partial(watch, number)
            checked = check(config, on_search_path(HydraConfig.get()))
            return objective(run(checked, folder, executor="map", watch=report, **about))

    where = {"job_dir_key": "hydra.sweep.dir", "job_subdir_key": "hydra.sweep.subdir"}
    return run_job(hydra_context=context, task_function=task, config=config, **where)


def _done(number: int, returned: JobReturn) -> Done:
    try:
        returned.return_value  # noqa: B018  raises what the job raised
    except Exception as error:
        return Done(number, str(error))
    return Done(number, None)


def _die_with_parent() -> None:
    wait([multiprocessing.parent_process().sentinel])
    os.kill(os.getpid(), signal.SIGKILL)
