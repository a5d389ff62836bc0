"""The callback at both ends of a multirun, with any launcher."""

from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf

from pgx.errors import ConfigError
from pgx.gate import one_line_errors
from pgx.sweep import index, ledger, trials


class Sweep(Callback):
    """Called by Hydra before the first member, and after the last one."""

    def on_multirun_start(self, config: DictConfig, **_: Any) -> None:
        with one_line_errors(unforeseen=True):
            direction = OmegaConf.select(config, "hydra.sweeper.direction")  # hydra-optuna-sweeper's
            if getattr(direction, "name", direction) == "minimize":
                what = "minimize would choose the worst: a member's objective is its return"
                raise ConfigError("hydra.sweeper.direction", what, "maximize")

    def on_multirun_end(self, config: DictConfig, **_: Any) -> None:
        """Show the table, before it that of a tuning's runs on fresh seeds; if a member failed, end with exit code 1."""
        sweep = Path(config.hydra.sweep.dir)
        confirmed = (trials.read(sweep) or {}).get("confirmed")
        folders = [*([trials.confirmation(sweep)] if confirmed else []), sweep]
        codes = [ledger.show(index.Index(folder)) for folder in folders if (folder / index.FILE).exists()]
        if any(codes):
            raise SystemExit(1)
