"""How a variant is drawn: its colour, its marker, its dashes; and the style of every figure."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import seaborn
from matplotlib.colors import to_rgb

PALETTE = seaborn.color_palette("colorblind").as_hex()
PALETTE[5:] = ["#6b4423", "#00b3c4", "#555555", "#8f8a00", "#7a1f5c"]  # its own last five are pale, or nearly twice there
MARKERS = "osD^vPX*<>"
GREY = "#666666"
INK = "#3c3c3c"
STYLE = {
    "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True, "grid.color": "#e6e6e6",
    "grid.linewidth": 0.8, "axes.axisbelow": True, "axes.edgecolor": "#999999", "axes.titlelocation": "left",
    "axes.titlesize": 12, "axes.titleweight": "bold", "axes.labelsize": 10, "axes.labelcolor": "#333333",
    "xtick.labelsize": 9, "ytick.labelsize": 9, "xtick.color": "#555555", "ytick.color": "#555555",
    "legend.fontsize": 9, "legend.frameon": False, "font.family": "DejaVu Sans",
}  # fmt: skip


@dataclass(frozen=True)
class Look:
    """How a variant is drawn; the marker and the dashes say the same as the colour."""

    colour: str
    marker: str
    dashes: str | tuple = "-"


Looks = Mapping[str, Look]


def looks_of(variants: Sequence[str]) -> dict[str, Look]:
    """One look a variant. Groups such as `baseline, before` and `baseline, after` share a hue: the later are darker, and
    dashed."""
    families: dict[str, list[str]] = {}
    for variant in sorted(dict.fromkeys(variants)):
        families.setdefault(variant.split(", ")[0], []).append(variant)
    if len(families) == 1 and len(variants) > 2:  # only one: its groups are told apart by colour
        families = {variant: [variant] for variant in sorted(variants)}
    looks = {}
    for members, i in zip(families.values(), _places(list(families)), strict=True):
        for k, member in enumerate(members):
            dashes = ("-", (0, (4, 1.5)), (0, (1.5, 1.2)), (0, (5, 1, 1, 1)))[k % 4]
            darker = 0.35 * k / max(1, len(members) - 1)
            looks[member] = Look(mixed(PALETTE[i], -darker), MARKERS[(i + 3 * k) % len(MARKERS)], dashes)
    return looks


def _places(names: Sequence[str]) -> list[int]:
    """The place of each name in the palette: that of its hash, so that it has the same colour in every report, unless
    another one has taken it; then the next that is free."""
    taken: list[int] = []
    for name in names:
        wanted = int(hashlib.sha256(name.encode()).hexdigest(), 16) % len(PALETTE)
        around = [(wanted + i) % len(PALETTE) for i in range(len(PALETTE))]
        taken.append(next((i for i in around if i not in taken), wanted))
    return taken


def mixed(colour: str, white: float) -> str:
    """The colour with so much white in it; with black if that is negative."""
    towards = float(white > 0)
    return "#" + "".join(f"{round(255 * (c + (towards - c) * abs(white))):02x}" for c in to_rgb(colour))
