"""`hydra/launcher=pgx`, the default for multiruns: Hydra looks for launchers in this package; the work is in pgx.sweep."""

from collections.abc import Sequence
from dataclasses import dataclass

from hydra.core.config_store import ConfigStore
from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig


@dataclass
class PgxLauncherConf:
    _target_: str = "hydra_plugins.pgx_launcher.PgxLauncher"
    processes: int | None = None
    """Members at work at the same time; None: as many as there are cores."""
    dry_run: bool = False
    """Print what is done and what would run, and run nothing."""


ConfigStore.instance().store(group="hydra/launcher", name="pgx", node=PgxLauncherConf, provider="pgx")


class PgxLauncher(Launcher):
    def __init__(self, processes: int | None, dry_run: bool):
        self._processes, self._dry_run, self._pool = processes, dry_run, None

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self._context, self._config = hydra_context, config

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        from pgx.sweep.launch import dry_run, launch
        from pgx.sweep.members import members
        from pgx.sweep.pool import Pool

        if self._pool is None and not self._dry_run:  # a sweeper may call again: what is compiled serves all its batches
            self._pool = Pool(self._context, self._processes)  # its imports overlap with composing the members
        found = members(self._context, self._config, job_overrides, initial_job_idx)
        return dry_run(found, self._processes) if self._dry_run else launch(found, self._pool)
