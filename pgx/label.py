"""What a run is called: its variant, and those of the variant's parts that something else was chosen for.

`+variant=baseline estimator=vanilla` is no baseline, and must not be called one on screen and in reports.
"""

from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf


def label(hydra: DictConfig) -> str | None:
    """`baseline (estimator=vanilla)`, from Hydra's part of a composed configuration; None if no variant was chosen."""
    choices = hydra.runtime.choices
    variant = choices.get("variant")
    if variant is None:
        return None
    sources = [source.path for source in hydra.runtime.config_sources if source.schema == "file"]
    parts = _parts([Path(path) / "variant" for path in sources], variant)
    other = [f"{group}={choices.get(group)}" for group, own in parts.items() if choices.get(group) != own]
    return f"{variant} ({' '.join(other)})" if other else variant


def _parts(folders: list[Path], variant: str) -> dict[str, str]:
    """Group → the option that the variant's file chooses, or one of the variants that it builds on."""
    file = next((path for folder in folders if (path := folder / f"{variant}.yaml").exists()), None)
    content: dict[str, Any] = OmegaConf.to_container(OmegaConf.load(file), resolve=False) if file else {}
    parts: dict[str, str] = {}
    for entry in content.get("defaults", []):
        if isinstance(entry, str) and entry != "_self_":
            parts |= _parts(folders, entry)
        elif isinstance(entry, dict):
            parts |= {key.removeprefix("override ").lstrip("/"): option for key, option in entry.items()}
    return parts
