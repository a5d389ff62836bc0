"""Cells: read, run, shown; and the notebooks that there are."""

import json
from pathlib import Path

import pytest

from analysis.report import notebook
from analysis.report.notebook import Cell, Html, Markdown, Picture, as_html, as_ipynb, read, run

ROOT = Path(__file__).parents[2]
SCRIPT = """# ---
# jupyter: a header
# ---

# %% tags=["parameters"]
X = 1

# %% [markdown]
# ## A title
#
# text <b>not HTML</b>

# %%
from analysis.report.notebook import Markdown

print("said")
Markdown(f"*{X}*")

# %%
X;

# %%
1 / 0
"""


@pytest.fixture
def cells(tmp_path: Path) -> list[Cell]:
    (tmp_path / "n.py").write_text(SCRIPT)
    return read(tmp_path / "n.py")


def test_read(cells: list[Cell]):
    assert [cell.kind for cell in cells] == ["code", "markdown", "code", "code", "code"]
    assert cells[0] == Cell("code", "X = 1", 6, ("parameters",))
    assert cells[1].source == "## A title\n\ntext <b>not HTML</b>"
    assert [SCRIPT.splitlines()[cell.line - 1] for cell in cells][2] == "from analysis.report.notebook import Markdown"


def test_run(cells: list[Cell]):
    begun: list[Cell] = []
    done = run(cells, {"X": 5}, begin=begun.append, failed=lambda cell, error: f"line {cell.line}: {error}")
    assert begun == cells
    assert done[2].shown == ({"text/plain": "said\n"}, {"text/markdown": "*5*"})  # given in place of 1
    assert done[3].shown == () and done[4].shown == ({"text/markdown": "line 23: division by zero"},)
    with pytest.raises(ZeroDivisionError) as error:
        run(cells, name="n.py")
    last = error.traceback[-1]
    assert (str(last.path).endswith("n.py"), last.lineno + 1) == (True, 23)


def test_what_is_shown():
    picture = Picture(b"\x89PNG", "a < b")
    shown = tuple(notebook._bundle(x) for x in (picture, Html("<i>h</i>"), Markdown("**m**\n\n| a |\n|---|\n| 1 |"), [1]))
    page = as_html([Cell("markdown", "# T\n\n## One"), Cell("code", "hidden()", shown=shown)], "T & co")
    assert "<title>T &amp; co</title>" in page and "hidden()" not in page
    assert '<img alt="a &lt; b" src="data:image/png;base64,iVBORw==">' in page
    assert "<i>h</i>" in page and "<strong>m</strong>" in page and "<td>1</td>" in page and "<pre>[1]</pre>" in page
    assert '<nav><a href="#part-1">One</a></nav>' in page and '<h2 id="part-1">One</h2>' in page
    assert "hidden()" in as_html([Cell("code", "hidden()")], "T", code=True)
    assert "&lt;b&gt;" in as_html([Cell("markdown", "<b>")], "T")


def test_ipynb(cells: list[Cell], tmp_path: Path):
    written = json.loads(as_ipynb(run(cells[:3])))
    assert (written["nbformat"], written["nbformat_minor"]) == (4, 5)
    assert "".join(written["cells"][1]["source"]) == cells[1].source
    assert written["cells"][0]["metadata"] == {"tags": ["parameters"]}
    assert written["cells"][2]["outputs"][1]["data"] == {"text/markdown": "*1*"}
    (tmp_path / "n.py").write_text(SCRIPT.replace("1 / 0", ""))
    notebook.main([str(tmp_path / "n.py")])
    assert json.loads((tmp_path / "n.ipynb").read_text())["cells"][2]["outputs"] == []


@pytest.mark.parametrize(
    "name", ["analysis/report/stability", "experiments/teaching/teaching", "experiments/quickstart/quickstart"]
)
def test_pairs_are_in_step(name: str):
    """`python -m analysis.report.notebook NAME.py` (those in experiments/: --execute) after changing the script."""
    paired = json.loads((ROOT / f"{name}.ipynb").read_text(encoding="utf-8"))["cells"]
    cells = read(ROOT / f"{name}.py")
    assert [(c["cell_type"], "".join(c["source"])) for c in paired] == [(c.kind, c.source) for c in cells]


@pytest.mark.slow
def test_teaching_notebook():
    """It runs, and what it says of the variances is so."""
    script = ROOT / "experiments/teaching/teaching.py"
    cells = run(read(script), {"EPISODES": 256}, name=str(script))
    assert sum("image/png" in bundle for cell in cells for bundle in cell.shown) == 2
    table = next(bundle["text/html"] for cell in cells for bundle in cell.shown if "text/html" in bundle)
    rows = [row.split("<td>")[1:] for row in table.split("<tr>")[1:]]
    variance = {row[0].split("<")[0]: float(row[1].split("<")[0].replace(",", "")) for row in rows}
    assert variance["vanilla"] > variance["reward_to_go"] > variance["baseline"] > 0


def test_quickstart_notebook():
    """What the README promises in ten lines: a policy, its picture, its returns, and a run's folder."""
    script = ROOT / "experiments/quickstart/quickstart.py"
    cells = run(read(script), {"UPDATES": 20}, name=str(script))
    shown = [bundle for cell in cells for bundle in cell.shown]
    assert sum("image/png" in bundle for bundle in shown) == 1 and any(
        "explained_variance" in x.get("text/html", "") for x in shown
    )
    printed = "".join(bundle.get("text/plain", "") for bundle in shown)
    assert "greedy=True: " in printed and "2 updates, return of the last 100 episodes: " in printed
