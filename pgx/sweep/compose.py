"""The configurations of a sweep's members, composed as Hydra composes them but in a tenth of the time."""

import copy
from collections.abc import Sequence
from functools import cache

from hydra._internal.config_loader_impl import get_overrides_dirname
from hydra.core.config_loader import ConfigLoader
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, OverrideType
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException


class Composer:
    """A ConfigLoader's `load_sweep_config`, for one sweep.

    Hydra reads every file again for every member, twice: for the sweeper, and for the launcher. But most members
    differ in values only, and those are set in copies of one configuration of Hydra's.
    """

    def __init__(self, loader: ConfigLoader):
        self._loader = loader
        self._parse = cache(OverridesParser.create(loader).parse_override)
        self._is_group = cache(lambda key: bool(loader.get_group_options(key)))
        self._without_values: dict[tuple[str, ...], DictConfig] = {}

    def __call__(self, master_config: DictConfig, sweep_overrides: Sequence[str]) -> DictConfig:
        overrides = [self._parse(override) for override in sweep_overrides]
        rest = tuple(override.input_line for override in overrides if not self._is_value(override))
        if rest not in self._without_values:
            self._without_values[rest] = self._loader.load_sweep_config(master_config, list(rest))
        composed = copy.deepcopy(self._without_values[rest])
        try:
            for override in filter(self._is_value, overrides):
                OmegaConf.update(composed, override.key_or_group, override.value())
        except OmegaConfBaseException:
            return self._loader.load_sweep_config(master_config, list(sweep_overrides))  # which says what is wrong
        task = [override for override in overrides if not override.is_hydra_override()]
        composed.hydra.overrides.task = [override.input_line for override in task]
        job = composed.hydra.job
        job.override_dirname = get_overrides_dirname(overrides=task, **job.config.override_dirname)
        return composed

    def _is_value(self, override: Override) -> bool:
        """Whether an override only sets a key that is there."""
        of_hydra = override.package is not None or override.is_hydra_override()
        return override.type == OverrideType.CHANGE and not of_hydra and not self._is_group(override.key_or_group)


def fast_loader(loader: ConfigLoader) -> ConfigLoader:
    """The same loader, with a Composer."""
    fast = copy.copy(loader)
    fast.load_sweep_config = Composer(loader)
    return fast
