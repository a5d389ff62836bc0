"""The display of figures, tables and text in the report."""

import html
import re
from pathlib import Path

import matplotlib
import pandas as pd
from matplotlib.figure import Figure

from analysis.report import plots
from analysis.report.notebook import Html, Markdown, Picture


class Gallery:
    """Shows a figure, and keeps it in a folder as PNG and SVG if there is one."""

    def __init__(self, folder: Path | None = None):
        self.folder = folder

    def __call__(self, figure: Figure, name: str) -> Picture:
        captions = [f"{ax.get_title(loc='left')}. {plots.caption_of(ax)}" for ax in figure.axes]
        picture = Picture.of(figure, " ".join([figure.get_suptitle(), *captions, figure.get_supxlabel()]).strip())
        if self.folder is not None:
            self.folder.mkdir(parents=True, exist_ok=True)
            (self.folder / f"{name}.png").write_bytes(picture.png)
            figure.set_layout_engine("none")  # it is laid out: a quarter of the time is saved
            with matplotlib.rc_context({"svg.hashsalt": name}):  # or no two files are the same
                figure.savefig(self.folder / f"{name}.svg", metadata={"Date": None}, dpi=130)
        return picture


def shown(frame: pd.DataFrame, otherwise: str = "Nothing was measured.", long: int = 16) -> Html | Markdown:
    """A table of text, closed if it is long."""
    if frame.empty:
        return Markdown(otherwise)
    head = "".join(f"<th>{html.escape(str(name))}</th>" for name in frame.columns)
    rows = "\n".join(f"<tr>{''.join(_cell(str(x)) for x in row)}</tr>" for row in frame.itertuples(index=False, name=None))
    table = f'<div class="table"><table>\n<thead><tr>{head}</tr></thead>\n<tbody>\n{rows}\n</tbody></table></div>'
    return Html(f"<details><summary>{len(frame)} rows</summary>{table}</details>" if len(frame) > long else table)


def _cell(words: str) -> str:
    """A cell; short ones are not broken: neither `CartPole-v1` nor an interval."""
    return f"<td{' class=short' if len(words) <= 16 else ''}>{html.escape(words)}</td>"


def escaped(words: str) -> str:
    """Text that Markdown shows as it is: `estimator._target_` is no emphasis."""
    return re.sub(r"([\\`*_<>\[\]])", r"\\\1", words)
