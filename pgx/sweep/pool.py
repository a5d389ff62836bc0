"""Worker processes, one a core: each compiles a program once and runs member after member through it.

A member's bits are those of the same run alone, because it *is* the same run: the worker calls Hydra's `run_job`
and `pgx.run.run` as a single run does. What is compiled stays in the process for the next one.
"""

import contextlib
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Hashable, Iterator, Sequence
from multiprocessing.connection import Connection, wait
from typing import NamedTuple

from hydra.core.utils import run_job, setup_globals
from hydra.types import HydraContext
from omegaconf import DictConfig

from pgx.sweep.members import Member, program


class Progress(NamedTuple):
    number: int
    share: float
    """Of the member's budget."""
    env_steps: int


class Done(NamedTuple):
    number: int
    value: float | None
    """The objective; None if there is none."""
    error: str | None


class _Worker:
    def __init__(self, context: HydraContext):
        spawn = multiprocessing.get_context("spawn")  # fork: jax has threads
        self.connection, other = spawn.Pipe()
        self.process = spawn.Process(target=_work, args=(other, context), daemon=True)
        self.process.start()
        other.close()
        self.member: Member | None = None
        self.program: Hashable = None
        """Of the last member."""

    @property
    def threads(self) -> int | None:
        """XLA's threads are set once a process."""
        return self.program and self.program[1]

    def give(self, member: Member, shared: Hashable) -> None:
        self.member, self.program = member, shared
        self.connection.send((member.number, member.hydra_config))


class Pool:
    """`processes` workers, or one a core. They end with this process, however it ends."""

    def __init__(self, context: HydraContext, processes: int | None):
        self._context = context
        self.size = processes or len(os.sched_getaffinity(0))
        self._workers = [_Worker(context) for _ in range(self.size)]
        self._stopping = 0

    def run(self, members: Sequence[Member]) -> Iterator[Progress | Done]:
        """Run the members, best each group on as few workers as will do; reports in the order of events."""
        waiting: dict[Hashable, list[Member]] = {}
        for member in members:
            waiting.setdefault((program(member.config), member.config["xla_threads"]), []).append(member)
        while True:
            for i, worker in enumerate(self._workers):
                if worker.member is None and waiting and not self._stopping:
                    shared = self._choose(worker, waiting)
                    if worker.threads not in (None, shared[1]):
                        worker.connection.send(None)
                        worker = self._workers[i] = _Worker(self._context)
                    worker.give(waiting[shared].pop(0), shared)
                    waiting = {key: left for key, left in waiting.items() if left}
            busy = [worker for worker in self._workers if worker.member is not None]
            if not busy:
                return
            ready = wait([worker.connection for worker in busy], timeout=0.2)
            for worker in (worker for worker in busy if worker.connection in ready):
                yield self._hear(worker)

    def _choose(self, worker: _Worker, waiting: dict[Hashable, list[Member]]) -> Hashable:
        """The program that the worker has compiled, else the one with most members a worker at it."""
        if worker.program in waiting:
            return worker.program
        at_work = [other.program for other in self._workers if other.member is not None]
        return max(waiting, key=lambda shared: len(waiting[shared]) / (1 + at_work.count(shared)))

    def _hear(self, worker: _Worker) -> Progress | Done:
        try:
            report = worker.connection.recv()
        except EOFError:  # it has died
            worker.process.join()
            code, number = worker.process.exitcode, worker.member.number
            self._workers[self._workers.index(worker)] = _Worker(self._context)
            how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
            return Done(number, None, f"its process {how}")
        if isinstance(report, Done):
            worker.member = None
        return report

    def stop(self) -> None:
        """Save and end the members at work, start no more; at once if called again."""
        self._stopping += 1
        for worker in self._workers:
            if self._stopping > 1:
                worker.process.kill()
            elif worker.member is not None:
                worker.process.terminate()

    def close(self) -> None:
        for worker in self._workers:
            worker.process.kill()


def _work(connection: Connection, context: HydraContext) -> None:
    """A worker's life: members come in, reports go out."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches us through our parent
    threading.Thread(target=_die_with_parent, daemon=True).start()
    setup_globals()
    import pgx.build, pgx.checkpoint, pgx.train  # noqa: E401, F401  while the members are composed
    from pgx.run import job

    with contextlib.suppress(EOFError):  # our parent is gone
        while (given := connection.recv()) is not None:
            number, config = given

            def task(config: DictConfig, number: int = number) -> float | None:
                def watch(share: float, env_steps: int) -> None:
                    connection.send(Progress(number, share, env_steps))

                return job(config, executor="map", watch=watch)[0]["return_final_iqm"]

            connection.send(_one(number, config, context, task))


def _one(number: int, config: DictConfig, context: HydraContext, task: Callable[[DictConfig], float | None]) -> Done:
    done = run_job(
        hydra_context=context,
        task_function=task,
        config=config,
        job_dir_key="hydra.sweep.dir",
        job_subdir_key="hydra.sweep.subdir",
    )
    try:
        return Done(number, done.return_value, None)
    except Exception as error:
        return Done(number, None, str(error))


def _die_with_parent() -> None:
    wait([multiprocessing.parent_process().sentinel])
    os.kill(os.getpid(), signal.SIGKILL)
