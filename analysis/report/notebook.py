"""A notebook as plain text (jupytext's py:percent): run in this process, and shown as one HTML page or an .ipynb.

In this process and not in a Jupyter kernel, because a report then starts 5 s sooner, opens no ports and installs 54
packages fewer; the cells are ordinary ones, and the .ipynb of the same name runs in Jupyter as it is. What a cell shows
is the value of its last expression, by the methods that Jupyter asks for too: _repr_png_, _repr_html_, _repr_markdown_.

    python -m analysis.report.notebook SCRIPT.py …             writes SCRIPT.ipynb
    python -m analysis.report.notebook --execute SCRIPT.py …   … with what its cells show
"""

import argparse
import ast
import base64
import contextlib
import html
import io
import json
import os
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from markdown_it import MarkdownIt

Bundle = dict[str, str]
"""What a cell shows, by MIME type, as in an .ipynb."""


@dataclass(frozen=True)
class Cell:
    kind: str  # code or markdown
    source: str
    line: int = 1  # of the script, where it begins
    tags: tuple[str, ...] = ()
    shown: tuple[Bundle, ...] = ()


@dataclass(frozen=True)
class Markdown:
    """Text that a cell shows."""

    text: str

    def _repr_markdown_(self) -> str:
        return self.text


@dataclass(frozen=True)
class Html:
    text: str

    def _repr_html_(self) -> str:
        return self.text


@dataclass(frozen=True)
class Picture:
    """A PNG that a cell shows; `alt` says it in words."""

    png: bytes = field(repr=False)
    alt: str = ""

    def _repr_png_(self) -> bytes:
        return self.png

    @classmethod
    def of(cls, figure: Any, alt: str = "", dpi: int = 130) -> "Picture":
        """Of a matplotlib figure."""
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=dpi, metadata={"Software": None})
        return cls(buffer.getvalue(), alt)


def read(script: Path) -> list[Cell]:
    """The cells of a py:percent script; its YAML header is none."""
    cells: list[tuple[str, int, list[str]]] = []
    for number, line in enumerate(script.read_text(encoding="utf-8").splitlines(), 1):
        if line.startswith("# %%"):
            cells.append((line, number + 1, []))
        elif cells:
            cells[-1][2].append(line)
    return [_cell(*cell) for cell in cells]


def _cell(marker: str, line: int, lines: list[str]) -> Cell:
    tags = re.search(r"tags=(\[[^\]]*\])", marker)
    kind = "markdown" if "[markdown]" in marker else "code"
    if kind == "markdown":
        lines = [re.sub(r"^# ?", "", text) for text in lines]
    skipped = next((i for i, text in enumerate(lines) if text), 0)
    return Cell(kind, "\n".join(lines).strip("\n"), line + skipped, tuple(json.loads(tags[1])) if tags else ())


def run(
    cells: Iterable[Cell],
    namespace: dict[str, Any] | None = None,
    *,
    name: str = "notebook",
    begin: Callable[[Cell], None] = lambda cell: None,
    failed: Callable[[Cell, Exception], str] | None = None,
) -> list[Cell]:
    """The cells with what they show. `namespace` takes the place of what the cell tagged `parameters` sets.

    `begin` is called before each. With `failed`, an exception ends the cell only, which then shows what that returns.
    """
    variables: dict[str, Any] = {"__name__": "__main__"}
    done = []
    for cell in cells:
        begin(cell)
        shown: list[Bundle] = []
        if cell.kind == "code":
            printed = io.StringIO()
            try:
                with contextlib.redirect_stdout(printed):
                    value = _execute(cell, variables, name)
                shown = [{"text/plain": printed.getvalue()}] if printed.getvalue() else []
                shown += [] if value is None else [_bundle(value)]
            except Exception as error:
                if failed is None:
                    raise
                shown = [{"text/markdown": failed(cell, error)}]
            if "parameters" in cell.tags:
                variables |= namespace or {}
        done.append(Cell(cell.kind, cell.source, cell.line, cell.tags, tuple(shown)))
    return done


def _execute(cell: Cell, variables: dict[str, Any], name: str) -> Any:
    """Statements, then the value of the last one if it is an expression without a semicolon."""
    tree = ast.increment_lineno(ast.parse(cell.source), cell.line - 1)
    last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
    exec(compile(tree, name, "exec"), variables)
    if last is None:
        return None
    value = eval(compile(ast.Expression(last.value), name, "eval"), variables)
    return None if cell.source.rstrip().endswith(";") else value


def _bundle(value: Any) -> Bundle:
    if hasattr(value, "_repr_png_"):
        return {"image/png": base64.b64encode(value._repr_png_()).decode(), "text/plain": getattr(value, "alt", "")}
    if hasattr(value, "_repr_html_"):
        return {"text/html": value._repr_html_()}
    if hasattr(value, "_repr_markdown_"):
        return {"text/markdown": value._repr_markdown_()}
    return {"text/plain": repr(value)}


# As .ipynb


def as_ipynb(cells: Iterable[Cell]) -> str:
    """Notebook format 4.5; the same cells give the same text."""
    written = []
    for i, cell in enumerate(cells, 1):
        metadata = {"tags": list(cell.tags)} if cell.tags else {}
        one = {"cell_type": cell.kind, "id": f"cell-{i}", "metadata": metadata, "source": cell.source.splitlines(True)}
        if cell.kind == "code":
            outputs = [{"data": shown, "metadata": {}, "output_type": "display_data"} for shown in cell.shown]
            one |= {"execution_count": None, "outputs": outputs}
        written.append(one)
    metadata = {
        "jupytext": {"formats": "ipynb,py:percent"},
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    }
    notebook = {"cells": written, "metadata": metadata, "nbformat": 4, "nbformat_minor": 5}
    return json.dumps(notebook, indent=1, ensure_ascii=False, sort_keys=True) + "\n"


# As HTML

_STYLE = """
:root { color-scheme: light; } * { box-sizing: border-box; }
body { font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; color: #222; background: #fff;
  max-width: 75rem; margin: 0 auto; padding: 2rem 1.5rem 6rem; }
h1 { font-size: 1.9rem; margin: 0 0 .5rem; } h2 { font-size: 1.35rem; margin: 3rem 0 .6rem; padding-top: .6rem;
  border-top: 1px solid #ddd; } h3 { font-size: 1.05rem; margin: 1.8rem 0 .4rem; }
p, li { max-width: 62rem; } li { margin: .35rem 0; } code { font-size: .9em; background: #f4f4f4; padding: .1em .3em;
  border-radius: 3px; overflow-wrap: anywhere; } nav { font-size: .92rem; color: #666; margin: 1rem 0; }
nav a { margin-right: 1rem; white-space: nowrap; } a { color: #0b63a5; }
img { display: block; width: 100%; max-width: 62rem; height: auto; margin: 1rem 0; } .table { overflow-x: auto;
  margin: .8rem 0; max-width: 100%; }
table { border-collapse: collapse; font-size: .85rem; line-height: 1.4; }
th, td { padding: .3rem .55rem; min-width: 3.5em; max-width: 26em; overflow-wrap: break-word; text-align: left;
  vertical-align: top; border-bottom: 1px solid #eee; }
th { border-bottom: 2px solid #ccc; vertical-align: bottom; } td { font-variant-numeric: tabular-nums; }
td.short { white-space: nowrap; }
blockquote { margin: 1rem 0; padding: .2rem 1rem; border-left: 4px solid #de8f05; background: #fdf6ec; }
details { margin: .8rem 0; } summary { cursor: pointer; color: #555; } pre { overflow-x: auto;
  font-size: .85rem; background: #f4f4f4; padding: .6rem .8rem; border-radius: 3px; } pre code { padding: 0;
  white-space: pre-wrap; }
@media print { body { max-width: none; } h2 { break-after: avoid; } img { break-inside: avoid; } }
"""


def as_html(cells: Iterable[Cell], title: str, *, code: bool = False) -> str:
    """One page that loads nothing: style and pictures are inside. Without `code`, only what the cells show."""
    markdown = MarkdownIt("commonmark", {"html": False}).enable("table")
    parts = []
    for cell in cells:
        if cell.kind == "markdown":
            parts.append(markdown.render(cell.source))
        elif code:
            parts.append(f"<pre><code>{html.escape(cell.source)}</code></pre>")
        parts += [_shown(bundle, markdown) for bundle in cell.shown]
    body, headings = _anchored("\n".join(parts))
    links = "".join(f'<a href="#{anchor}">{name}</a>' for anchor, name in headings)
    body = re.sub(r"(</h1>)", rf"\1\n<nav>{links}</nav>", body, count=1) if links else body
    return (
        f'<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">\n<title>{html.escape(title)}</title>\n'
        f"<style>{_STYLE}</style>\n</head>\n<body>\n{body}\n</body>\n</html>\n"
    )


def _shown(bundle: Bundle, markdown: MarkdownIt) -> str:
    if "image/png" in bundle:
        alt = html.escape(bundle["text/plain"], quote=True)
        return f'<img alt="{alt}" src="data:image/png;base64,{bundle["image/png"]}">'
    if "text/html" in bundle:
        return bundle["text/html"]
    if "text/markdown" in bundle:
        return markdown.render(bundle["text/markdown"])
    return f"<pre>{html.escape(bundle['text/plain'])}</pre>"


def _anchored(body: str) -> tuple[str, list[tuple[str, str]]]:
    """Every h2 with an id, and what they are."""
    headings: list[tuple[str, str]] = []

    def anchor(match: re.Match) -> str:
        headings.append((f"part-{len(headings) + 1}", match[1]))
        return f'<h2 id="{headings[-1][0]}">{match[1]}</h2>'

    return re.sub(r"<h2>(.*?)</h2>", anchor, body), headings


def plain_matplotlib() -> None:
    """Draw with matplotlib as it comes: not as a notebook's MPLBACKEND or a person's matplotlibrc would have it."""
    os.environ["MPLBACKEND"] = "agg"
    import matplotlib

    matplotlib.rcdefaults()


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m analysis.report.notebook", description=__doc__.split("\n")[0])
    parser.add_argument("scripts", nargs="+", type=Path, metavar="SCRIPT.py")
    parser.add_argument("--execute", action="store_true", help="with what the cells show")
    options = parser.parse_args(arguments)
    if options.execute:
        plain_matplotlib()
    for script in options.scripts:
        cells = read(script)
        cells = run(cells, name=str(script)) if options.execute else cells
        script.with_suffix(".ipynb").write_text(as_ipynb(cells), encoding="utf-8")


if __name__ == "__main__":
    main()
