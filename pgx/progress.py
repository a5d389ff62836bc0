"""A progress bar over a run's budget, on a terminal or in a notebook."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tqdm import tqdm

    from pgx.loop import Chunk
    from pgx.runs.record import History

FORM = "{desc} {percentage:3.0f}% |{bar}|{postfix} [{elapsed} < {remaining}]"  # tqdm puts a comma before the postfix
"""Of a bar whose total is 1, the whole budget."""
CELLS = 12
"""That the bar keeps: in a narrow terminal it says less beside it."""


def show(bar: "tqdm", config: dict[str, Any], history: "History", chunk: "Chunk") -> None:
    """After a chunk: the share of the budget, live return, environment steps a second, update."""
    if not history.rows:
        return
    rate = chunk.rows["env_steps"].sum() / chunk.seconds
    live = history.rows[-1]["return_mean"] if history.recent is None else history.recent
    parts = f"return {live:.1f}", f"{_short(rate)} steps/s", f"update {history.updates:,}"
    room = (bar.format_dict["ncols"] or 80) - len(f"{bar.desc} 100% ||,  [00:00 < 00:00]")
    bar.set_postfix_str(beside_the_bar(parts, room), refresh=False)
    bar.n = history.share(config)
    bar.refresh()


def beside_the_bar(parts: Sequence[str], room: int) -> str:
    """As many of the parts, from the first on, as leave the bar its cells."""
    text = ""
    for part in parts:
        longer = f"{text}, {part}" if text else part
        if len(longer) > room - CELLS:
            break
        text = longer
    return text


def _short(x: float) -> str:
    return f"{x / 1e6:.1f}M" if x >= 1e6 else f"{x / 1e3:.0f}k" if x >= 1e4 else f"{x:.0f}"
