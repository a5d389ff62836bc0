"""Who may import whom, and what may not be imported before it is needed: the plan of the house (data flows one way)
and the half second that a mistake on the command line may cost."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest
from program import ROOT, environment

ROOMS = ("pgx", "hydra_plugins", "analysis")
FILES = {str(path.relative_to(ROOT)): path for room in ROOMS for path in ROOT.glob(f"{room}/**/*.py")}


def imports(path: Path, *, lazy: bool = True) -> set[str]:
    """Every module that a file names in an import, relative ones made absolute; not `lazy`: at its top level only."""
    found, tree = set(), ast.parse(path.read_text())
    for node in ast.walk(tree) if lazy else tree.body:
        if isinstance(node, ast.Import):
            found |= {name.name for name in node.names}
        elif isinstance(node, ast.ImportFrom):
            here = path.relative_to(ROOT).parent.parts
            above = here[: len(here) - node.level + 1] if node.level else ()
            base = ".".join((*above, *filter(None, [node.module])))
            found |= {base, *(f"{base}.{name.name}" for name in node.names)}
    return found


def importers(*packages: str) -> set[str]:
    """The files that import one of these."""

    def wanted(name):
        return any(name == package or name.startswith(f"{package}.") for package in packages)

    return {name for name, path in FILES.items() if any(map(wanted, imports(path)))}


def within(files: set[str], *rooms: str) -> bool:
    return all(any(name == room or name.startswith(f"{room}/") for room in rooms) for name in files)


def test_the_files_are_found():
    """A test of no file passes."""
    assert {"pgx/run.py", "pgx/envs/gymnax.py", "analysis/load.py"} <= FILES.keys()
    assert {"hydra", "pgx.config.check", "pgx.loop", "orbax.checkpoint"} <= imports(FILES["pgx/run.py"]) | imports(
        FILES["pgx/runs/checkpoint.py"]
    )


def test_pgx_imports_no_other_room():
    """A run must not depend on how somebody looks at it."""
    assert not importers("experiments", "tests")
    assert within(importers("analysis"), "analysis")


def test_analysis_reads_run_folders_only():
    """It must read the runs of last year, on a laptop without jax."""
    for package in ("pgx", "jax", "equinox", "optax", "orbax", "hydra", "omegaconf"):
        assert not {name for name in importers(package) if name.startswith("analysis")}, package


@pytest.mark.parametrize(
    ("packages", "files"),
    [
        (["orbax"], ["pgx/runs/checkpoint.py"]),
        (["optuna"], ["pgx/sweep/study.py", "pgx/sweep/space.py", "pgx/sweep/tuning.py"]),
        (["wandb"], ["pgx/runs/tracker.py", "pgx/runs/wandb_process.py"]),
        (["matplotlib", "seaborn"], ["pgx/runs/curve.py", "analysis"]),
        (["pandas"], ["pgx/api.py", "pgx/runs/wandb_process.py", "analysis"]),
        (["optax"], ["pgx/optimiser.py", "pgx/types.py", "pgx/updates"]),
        (["gymnasium"], ["pgx/envs", "pgx/play.py"]),
        # a DictConfig has no attribute that a type checker knows, and no rule: it ends at the edge
        (["omegaconf"], ["pgx/config.py", "pgx/gate.py", "pgx/label.py", "pgx/run.py", "pgx/sweep", "hydra_plugins"]),
        (
            ["hydra", "hydra_plugins"],
            ["pgx/gate.py", "pgx/run.py", "pgx/resume.py", "pgx/build.py", "pgx/sweep", "hydra_plugins"],
        ),
    ],
)
def test_a_package_is_known_to_few_files(packages, files):
    """What only one file knows can be replaced."""
    assert importers(*packages) and within(importers(*packages), *files)


MATHS = "batch types spaces policies networks losses estimators advantages algorithm critics metrics optimiser rounding update updates".split()
LOOP = "blocks device lanes evaluating memory rollout loop runners diagnosis".split()
EDGE = "api backend build checkpoint cli config declared diagnose evaluate evaluation gate identity play progress resume run runs sizes sweep".split()


def of(*rooms: str) -> set[str]:
    """The files of these rooms of pgx, a file or a folder each."""
    return {name for name in FILES if within({name}, *(f"pgx/{room}.py" for room in rooms), *(f"pgx/{room}" for room in rooms))}


def test_the_maths_and_the_loop_know_nothing_of_files_and_commands():
    """Data flows one way: conf → build → rollout → Episodes → Ψ, V → loss → update → metrics → folder."""
    assert len(of(*MATHS, *LOOP)) > 15
    assert not of(*MATHS, *LOOP) & importers(*(f"pgx.{edge}" for edge in EDGE))


def test_no_update_knows_the_variant_or_the_environment():
    """If adding a variant touches the update or the loop, the seam is wrong."""
    assert not of(*MATHS) & importers("pgx.envs", "pgx.rollout", "pgx.loop")


def circles() -> list[set[str]]:
    """Modules that lead to themselves, lazy imports included."""
    modules = {name[:-3].removesuffix("/__init__").replace("/", "."): path for name, path in FILES.items()}
    edges = {name: imports(path) & modules.keys() - {name, "pgx", "analysis"} for name, path in modules.items()}
    reached = {name: set(near) for name, near in edges.items()}
    for _ in edges:
        for name in edges:
            reached[name] |= set().union(*(reached[near] for near in reached[name]))
    found = [frozenset(b for b in reached[a] if a in reached[b]) for a in edges if a in reached[a]]
    return list(map(set, dict.fromkeys(found)))


def test_no_import_goes_in_a_circle():
    """A lazy one hides it and does not mend it: neither of the two can be understood, or moved, alone."""
    assert circles() == []


def test_one_file_knows_what_device_programs_are_made_for():
    """A switch that is asked for here and there is one that no test can turn."""
    asking = {name for name, path in FILES.items() if re.search(r"jax\.default_backend\(\)(?!\))", path.read_text())}
    assert asking == {"pgx/device.py"}, asking


CATEGORICAL = re.compile(r"log_softmax|one_hot|argmax|num_actions|\bCategorical\b|\blogits\b")


def test_only_policies_know_what_kind_of_action_there_is():
    """Continuous actions are then a class in one file."""
    known = {name for name, path in FILES.items() if name.startswith("pgx") and CATEGORICAL.search(path.read_text())}
    assert known <= {"pgx/policies.py"}, known


def is_target(x: ast.expr) -> bool:
    """Whether it is what stands behind a `_target_`: `part["_target_"]`, `part.get("_target_")`, or a `target`."""
    named = (isinstance(x, ast.Subscript) and x.slice) or (isinstance(x, ast.Call) and x.args and x.args[0])
    return ast.unparse(named) == "'_target_'" if named else isinstance(x, ast.Name) and "target" in x.id


def texts(*nodes: ast.expr) -> set[str]:
    return {x.value for node in nodes for x in ast.walk(node) if isinstance(x, ast.Constant) and isinstance(x.value, str)}


def compared(code: str) -> set[str]:
    """The names that a `_target_` is compared with."""
    found = set()
    for x in ast.walk(ast.parse(code)):
        if isinstance(x, ast.Compare):
            sides = [x.left, *x.comparators]
            if any(map(is_target, sides)):
                found |= texts(*(side for side in sides if not is_target(side)))
        elif isinstance(x, ast.Call) and isinstance(x.func, ast.Attribute) and is_target(x.func.value):
            found |= texts(*x.args) if x.func.attr in ("startswith", "endswith") else set()
    return found


FAMILIES = {"pgx.critics.Critic", "pgx.optimiser.Optimiser", "pgx.envs.base.HostEnv", "pgx.envs.base.JittedEnv",
            "pgx.envs.gymnax.GymnaxEnv", "pgx.envs.gymnasium.GymnasiumEnv", "pgx.envs.playground.PlaygroundEnv",
            "pgx.envs.brax.BraxEnv"}  # fmt: skip
"""Classes that may be asked for by name: `parts.derives` finds those of somebody's own that derive from them."""


def test_no_part_is_known_by_its_name():
    """What is asked of a part is asked of its class, so that one of a person's own can answer as well."""
    for code in ('x["_target_"] == "a"', '"a" != x.get("_target_")', 'target in ("a",)', 'x["y"]["_target_"].endswith("a")'):
        assert compared(code) == {"a"}, code
    for code in ('"_target_" in x', 'key == "_target_"', 'parts.derives(target, "a")', "target in known"):
        assert not compared(code), code
    found = {name: compared(path.read_text()) for name, path in FILES.items() if name.startswith("pgx")}
    assert {name: x for name, x in found.items() if x} == {"pgx/config.py": {"pgx."}}  # whether it is one of ours
    part = re.compile(r"""["'](pgx\.(?:critics|estimators|policies|updates|optimiser|envs)\.[\w.]+)["']""")
    asked = {x for name, path in FILES.items() if name.startswith("pgx") for x in part.findall(path.read_text())}
    assert asked <= FAMILIES, asked - FAMILIES


# Length

LONGEST_FILE, LONGEST_FUNCTION = 450, 60
EXCEPTIONS: dict[str, int] = {}
"""Files, and functions as `file:name`, that may be longer, with their length and a reason beside it."""


def too_long(path: Path) -> dict[str, int]:
    name, text = str(path.relative_to(ROOT)), path.read_text()
    functions = [x for x in ast.walk(ast.parse(text)) if isinstance(x, ast.FunctionDef | ast.AsyncFunctionDef)]
    lengths = {f"{name}:{x.name}": x.end_lineno - x.lineno + 1 for x in functions}
    found = {key: length for key, length in lengths.items() if length > LONGEST_FUNCTION}
    lines = len(text.splitlines())
    return found | ({name: lines} if lines > LONGEST_FILE else {})


def test_a_file_has_one_idea_and_a_function_fits_on_a_screen():
    """Longer than this, it has two."""
    files = [path for room in (*ROOMS, "experiments", "tests") for path in sorted(ROOT.glob(f"{room}/**/*.py"))]
    assert len(files) > 150
    found = {key: length for path in files for key, length in too_long(path).items()}
    assert {key: length for key, length in found.items() if length > EXCEPTIONS.get(key, 0)} == {}
    assert EXCEPTIONS.keys() <= found.keys(), "an exception that is no longer needed"


# Laziness

HEAVY = set("jax wandb gymnax gymnasium matplotlib pandas seaborn orbax equinox optax scipy".split())


def python(code: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-c", code]
    return subprocess.run(command, cwd=ROOT, env=environment(), capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    "module",
    "api run config runs.record runs.recording resume evaluate diagnose play runs.tracker backend runs.curve cli".split(),
)
def test_importing_a_command_imports_nothing_heavy(module):
    """jax takes a second, wandb another: whoever mistypes a key, or asks for --help, waits for neither."""
    done = python(f"import sys, pgx.{module}; print(*sys.modules)")
    assert done.returncode == 0 and "pgx" in done.stdout.split()
    assert not HEAVY & set(done.stdout.split())


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        ("+variant=baselin", "did you mean 'baseline'"),
        ("+variant=baseline sed=1", "did you mean 'seed'"),
        ("+variant=baseline seed=-1", "seed: -1 is not allowed"),
        ("+variant=baseline +env.params.gravty=1", "did you mean 'gravity'"),
        ("", "variant: none chosen"),
    ],
)
def test_a_mistake_is_answered_without_jax(overrides, says, tmp_path):
    """The whole way through Hydra, until the program ends."""
    words = [*overrides.split(), f"hydra.run.dir={tmp_path / 'r'}"]
    code = f"import sys; from pgx import run\nsys.argv[1:] = {words}\ntry: run.main()\nfinally: print(*sys.modules)"
    done = python(code)
    assert done.returncode == 2 and says in done.stderr and not (tmp_path / "r").exists()
    assert "hydra" in done.stdout.split() and not HEAVY & set(done.stdout.split())
