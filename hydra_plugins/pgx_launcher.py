"""`hydra/launcher=pgx`, the default for multiruns: Hydra looks for launchers in this package; the work is in pgx.sweep."""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.config_store import ConfigStore
from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf, open_dict

if TYPE_CHECKING:
    from pgx.sweep.members import Member


@dataclass
class PgxLauncherConf:
    _target_: str = "hydra_plugins.pgx_launcher.PgxLauncher"
    executor: str = "auto"
    """map: members one after another in each process, with the bits of the same run alone. vmap: in packs, side by side
    in one program. auto: a member that was begun is resumed in the way it was begun; else vmap on an accelerator, map
    on a CPU. Environments on the host are always mapped."""
    width: int | None = None
    """Lanes of a pack's program, whether there are members for all of them or not; it decides the members' last
    bits. None: 32 on a CPU, 1024 on an accelerator."""
    processes: int | None = None
    """Members (map) or packs (vmap) at work at the same time. None: one a core; on an accelerator one pack."""
    patience: float = 120.0
    """Seconds that members have to save and end after Ctrl-C, SIGTERM or SIGUSR2; then they are killed."""
    dry_run: bool = False
    """Print what is done and what would run, and run nothing."""
    inner: Any = None
    """hydra-submitit-launcher's configuration, which hydra/launcher=slurm sets: it submits tasks, each of them up to
    `members_per_task` members of one program, which run on the task's node as they would here."""
    members_per_task: int = 32
    """With `inner`. For `vmap`: as many as `width`, or some lanes stay empty."""
    detach: bool = False
    """With hydra/launcher=slurm: submit the tasks and return."""


ConfigStore.instance().store(group="hydra/launcher", name="pgx", node=PgxLauncherConf, provider="pgx")


class PgxLauncher(Launcher):
    def __init__(
        self,
        executor: str,
        width: int | None,
        processes: int | None,
        patience: float,
        dry_run: bool,
        inner: Launcher | None,
        members_per_task: int,
        detach: bool,
    ):
        self._executor, self._width, self._processes, self._dry_run = executor, width, processes, dry_run
        self._inner, self._members_per_task, self._detach = inner, members_per_task, detach
        self._patience, self._pool = patience, None
        self._asked: dict[str, dict[str, Any]] = {}

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        from pgx.sweep.compose import fast_loader

        self._context, self._config, self._plain_loader = copy.copy(hydra_context), config, hydra_context.config_loader
        # the sweeper's, too: it composes every member once more, to see whether it can be
        self._loader = hydra_context.config_loader = fast_loader(hydra_context.config_loader)

    def begin(self, sweep: Path, *overrides: str) -> None:
        """Begin another stage: members that were asked for may be asked for with a larger budget. In this folder, and with
        these overrides of Hydra's own."""
        from pgx.gate import quoted
        from pgx.sweep.compose import fast_loader

        self._asked = {}
        if str(sweep) != self._config.hydra.sweep.dir:
            self._config, self._loader = copy.deepcopy(self._config), fast_loader(self._plain_loader)
            with open_dict(self._config):
                self._config.hydra.sweep.dir = str(sweep)
                self._config.hydra.overrides.hydra += [f"hydra.sweep.dir={quoted(str(sweep))}", *overrides]

    def checked(self, job_overrides: Sequence[Sequence[str]]) -> list["Member"]:
        """The members for these overrides. Raises ConfigError for what is wrong with them, or with this launcher."""
        from pgx.sweep.members import composed

        self._check()
        return composed(self._loader, self._config, enumerate(job_overrides))

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        from pgx.backend import accelerator
        from pgx.gate import Gate
        from pgx.sweep import cluster, index
        from pgx.sweep.launch import at_once, batches, dry_run, launch, missing
        from pgx.sweep.members import composed, distinct, placed
        from pgx.sweep.pool import cores

        self._check()
        if not self._asked:
            self._look_ahead()
        sweep = Path(self._config.hydra.sweep.dir)
        if self._inner is None and not accelerator() and not (sweep / index.FILE).exists():  # all is missing
            self._start(min(len(job_overrides), self._processes or cores()))  # its imports overlap with composing the members
        members = composed(self._loader, self._config, enumerate(job_overrides, initial_job_idx))
        distinct(members, self._asked)
        if self._dry_run:
            return dry_run(placed(members, write=False), self._processes)
        if self._inner is not None:
            cluster.require(self._inner)
        members = placed(members)
        Gate.sweep_begins()
        if self._inner is not None:
            task = cluster.Task(self._context, self._config, self._executor, self._width, self._processes, self._patience)
            return cluster.launch_on(self._inner, task, members, size=self._members_per_task, detach=self._detach)
        given = batches(missing(members), self._executor, self._width)
        self._start(at_once(given, self._processes))
        return launch(members, self._pool, given)

    def _check(self) -> None:
        from pgx.errors import ConfigError
        from pgx.sweep.launch import EXECUTORS

        if self._executor not in EXECUTORS:
            raise ConfigError("hydra.launcher.executor", f"{self._executor!r} is not allowed", " | ".join(EXECUTORS))
        for key in ("width", "processes", "members_per_task"):
            if (number := getattr(self, f"_{key}")) is not None and number < 1:
                raise ConfigError(f"hydra.launcher.{key}", f"{number} is not allowed", "a whole number ≥ 1")
        if not self._patience >= 0:
            raise ConfigError("hydra.launcher.patience", f"{self._patience} is not allowed", "a number ≥ 0")
        if self._detach and self._inner is None:
            raise ConfigError("hydra.launcher.detach", "the members would run here", "false", "hydra/launcher=slurm can")

    def _look_ahead(self) -> None:
        """Look at all members before the first batch of them runs, where Hydra's own sweeper makes batches."""
        from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
        from hydra.core.override_parser.overrides_parser import OverridesParser

        from pgx.sweep.members import composed, distinct

        sweeper = self._config.hydra.sweeper
        if not sweeper._target_.endswith(f".{BasicSweeper.__name__}") or sweeper.max_batch_size is None:
            return
        words = [f"{key}={x}" for key, x in (sweeper.params or {}).items()]
        words += OmegaConf.to_container(self._config.hydra.overrides.task, resolve=False)
        [every] = BasicSweeper.split_arguments(OverridesParser.create(self._loader).parse_overrides(words), None)
        distinct(composed(self._loader, self._config, enumerate(every)), {})

    def _start(self, size: int) -> None:
        """Have so many workers. A sweeper may call again: what is compiled serves all its batches."""
        from pgx.sweep.pool import Pool

        if self._dry_run:
            return
        if self._pool is None:
            self._pool = Pool(self._context.callbacks, size, self._patience)
        self._pool.grow(size)
