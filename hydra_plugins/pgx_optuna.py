"""`hydra/sweeper=optuna`: tuning with today's Optuna, a trial on several seeds. Hydra looks for sweepers in this package;
the work is in pgx.sweep.tuning."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf


@dataclass
class OptunaConf:
    _target_: str = "hydra_plugins.pgx_optuna.OptunaSweeper"
    n_trials: int = 20
    batch: int = 5
    """Trials that are chosen together and run at the same time; what they are depends on it, so no machine decides it."""
    seeds: Any = 5
    """Of every trial: so many from `seed` on, or a list of them. Its value is the interquartile mean over them."""
    rungs: list[float] = field(default_factory=list)
    """Shares of the budget after which a trial that is below the median of the completed ones at the same place is
    pruned, with all of its seeds; none: every trial has the whole budget."""
    confirm: Any = 0
    """Fresh seeds, a number or a list, on which the best trial is run again, in SWEEP_DIR-confirmed."""
    confirm_default: bool = False
    """Beside it the configuration that nothing was chosen in, on the same seeds."""
    sampler: str = "tpe"
    """tpe | random."""
    sampler_seed: int = 0
    direction: str = "maximize"
    params: dict[str, Any] = field(default_factory=dict)
    """The search space in a file: key → what one would type behind the `=`."""
    confirming: bool = False
    """Set in the runs on fresh seeds, so that a report tells them from those that were tuned on."""


ConfigStore.instance().store(group="hydra/sweeper", name="optuna", node=OptunaConf, provider="pgx")


class OptunaSweeper(Sweeper):
    def __init__(self, **settings: Any):
        self._settings = {key: OmegaConf.to_container(x) if OmegaConf.is_config(x) else x for key, x in settings.items()}

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        from hydra.core.plugins import Plugins

        self._config = config
        self._launcher = Plugins.instance().instantiate_launcher(hydra_context, task_function, config)
        self._loader = hydra_context.config_loader

    def sweep(self, arguments: Sequence[str]) -> None:
        from hydra.core.override_parser.overrides_parser import OverridesParser

        from hydra_plugins.pgx_launcher import PgxLauncher
        from pgx.errors import ConfigError

        try:
            from pgx.sweep.tuning import tune
        except ImportError as error:
            if (error.name or "").partition(".")[0] != "optuna":
                raise
            raise ConfigError("hydra/sweeper", "Optuna 5 is not installed", hint="pip install -e '.[optuna]'") from None
        if not isinstance(self._launcher, PgxLauncher):
            problem = f"optuna cannot resume trials that {type(self._launcher).__name__} runs"
            raise ConfigError("hydra/launcher", problem, "pgx, slurm")
        words = [*(f"{key}={x}" for key, x in self._settings["params"].items()), *arguments]
        overrides = OverridesParser.create(self._loader).parse_overrides(words)
        tune(self._config, self._settings, overrides, self._launcher)
