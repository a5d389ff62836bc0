"""What the source of a part says of it: its settings, what it derives from, what it declares.

A part is a class or a function that stands behind a `_target_`, pgx's own or a person's. Nothing is imported: its module
imports jax as a rule, and a mistyped key is answered before that.
"""

import ast
import sys
from collections.abc import Callable, Iterator
from functools import cache, wraps
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

from pgx.errors import ConfigError

Definition = ast.ClassDef | ast.FunctionDef


class Setting(NamedTuple):
    """A parameter of a constructor or of a function."""

    annotation: ast.expr | None
    default: ast.expr | None
    required: bool
    positional: bool = False
    """It may be given by its position."""


class Signature(NamedTuple):
    settings: dict[str, Setting]
    is_open: bool
    """It takes any other keyword, too."""


class Source(NamedTuple):
    """A definition, and where it stands."""

    name: str
    """Module and name."""
    module: str
    node: Definition


_kept: list[Any] = []


def _remembered(function: Callable) -> Callable:
    """As modules that were imported are: a sweep asks the same of every member. Where modules are found may change."""
    kept = cache(lambda _, *arguments: function(*arguments))
    _kept.append(kept)
    return wraps(function)(lambda *arguments: kept(tuple(sys.path), *arguments))


def find(target: str, where: str = "_target_") -> Source | None:
    """The definition of this name, through imports; None if there is no source that could be read.

    Raises ConfigError if there is no such module, or if it has no such name.
    """
    module, rest = _split(target)
    if module is None:
        _forget()  # the person may mend it, and ask again
        top = target.partition(".")[0]
        raise ConfigError(where, f"there is no module {top!r}", hint="PYTHONPATH=FOLDER finds what is not installed")
    found = _find(target)
    names = _names(module)
    if found is None and names is not None and len(rest) == 1 and not {rest[0], "*", "__getattr__"} & names.keys():
        _forget()
        defined = [name for name, x in names.items() if isinstance(x, Definition) and not name.startswith("_")]
        raise ConfigError(where, f"{module} has no {rest[0]!r}", known=defined, value=rest[0])
    return found


def _forget() -> None:
    for kept in _kept:
        kept.cache_clear()


def signature(target: str, where: str = "_target_") -> Signature | None:
    """What it can be called with; None if its source does not say. Raises ConfigError if there is no such thing."""
    source = find(target, where)
    if source is None:
        return None
    if isinstance(source.node, ast.FunctionDef):
        return _of_arguments(source.node.args, 0)
    lineage = list(_lineage(source))
    for _, base in lineage:
        if base is not None and (init := _method(base.node, "__init__")):
            return _of_arguments(init.args, 1)
    if any(base is None and name not in _WITHOUT_SETTINGS for name, base in lineage):
        return None
    if not any(name in _DATACLASSES or (base is not None and _is_dataclass(base.node)) for name, base in lineage):
        return Signature({}, False)
    fields: dict[str, Setting] = {}
    for _, base in reversed(lineage):
        fields |= _fields(base.node) if base is not None else {}
    return Signature(fields, False)


def derives(target: str, base: str) -> bool:
    """Whether it is this class or one that derives from it; of a function, whether it says that it returns one."""
    source = find(target)
    if source is not None and isinstance(source.node, ast.FunctionDef):
        returned = _dotted(source.node.returns)
        source = returned and _find(_absolute(source.module, returned))
    return source is not None and any(name == base for name, _ in _lineage(source))


def defines(target: str, method: str, beside: str) -> bool:
    """Whether it, or what it derives from, defines this method; `beside` is the base whose own does not count."""
    source = find(target)
    return source is not None and any(
        base is not None and name != beside and _method(base.node, method) is not None for name, base in _lineage(source)
    )


def declared(target: str, name: str, default: Any = None) -> Any:
    """The constant that a class declares by `name = …`, or its nearest base; of a function, `function.name = …` below it."""
    source = find(target)
    for _, base in _lineage(source) if source is not None else ():
        if base is None:
            continue
        values = _assigned(base.node.body) if isinstance(base.node, ast.ClassDef) else {}
        values |= {
            attribute: x
            for dotted, x in _assigned(_tree(base.module).body).items()
            for owner, _, attribute in [dotted.rpartition(".")]
            if owner == base.node.name
        }
        if name in values:
            return ast.literal_eval(values[name])
    return default


# Classes and functions

_DATACLASSES = {"equinox.Module", "typing.NamedTuple"}
"""What derives from these is called with its fields."""
_WITHOUT_SETTINGS = _DATACLASSES | {"object", "abc.ABC", "typing.Generic", "typing.Protocol"}
_NO_FIELDS = ("ClassVar", "AbstractVar", "AbstractClassVar")


def _of_arguments(arguments: ast.arguments, skipped: int) -> Signature:
    positional = [*arguments.posonlyargs, *arguments.args]
    defaults = [*[None] * (len(positional) - len(arguments.defaults)), *arguments.defaults]
    settings = {
        x.arg: Setting(x.annotation, default, default is None, positional=True)
        for x, default in list(zip(positional, defaults, strict=True))[skipped:]
    }
    for x, default in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True):
        settings[x.arg] = Setting(x.annotation, default, default is None)
    return Signature(settings, arguments.kwarg is not None)


def _fields(node: ast.ClassDef) -> dict[str, Setting]:
    fields = {}
    for x in node.body:
        if not isinstance(x, ast.AnnAssign) or not isinstance(x.target, ast.Name):
            continue
        kind = x.annotation.value if isinstance(x.annotation, ast.Subscript) else x.annotation
        if (_dotted(kind) or "").partition("[")[0].rpartition(".")[2] in _NO_FIELDS:
            continue
        default, required = x.value, x.value is None
        if isinstance(x.value, ast.Call) and (_dotted(x.value.func) or "").rpartition(".")[2] == "field":
            options = {keyword.arg: keyword.value for keyword in x.value.keywords}
            if isinstance(options.get("init"), ast.Constant) and options["init"].value is False:
                continue
            default, required = options.get("default"), not {"default", "default_factory"} & options.keys()
        fields[x.target.id] = Setting(x.annotation, default, required, positional=True)
    return fields


def _lineage(source: Source) -> Iterator[tuple[str, Source | None]]:
    """(name, source) of a definition and of all that it derives from, the nearest first; None where there is no source."""
    yield source.name, source
    for expression in source.node.bases if isinstance(source.node, ast.ClassDef) else ():
        dotted = _dotted(expression.value if isinstance(expression, ast.Subscript) else expression)
        name = _absolute(source.module, dotted) if dotted else "?"
        base = None if name in _WITHOUT_SETTINGS else _find(name)
        if base is not None and base.name != source.name:
            yield from _lineage(base)
        else:
            yield name, None


def _method(node: Definition, name: str) -> ast.FunctionDef | None:
    body = node.body if isinstance(node, ast.ClassDef) else ()
    return next((x for x in body if isinstance(x, ast.FunctionDef) and x.name == name), None)


def _is_dataclass(node: Definition) -> bool:
    decorators = (x.func if isinstance(x, ast.Call) else x for x in node.decorator_list)
    return any((_dotted(x) or "").rpartition(".")[2] == "dataclass" for x in decorators)


def _assigned(body: list[ast.stmt]) -> dict[str, ast.expr]:
    """Dotted name → value of the assignments in a class or a module."""
    values = {}
    for x in body:
        targets = x.targets if isinstance(x, ast.Assign) else [x.target] if isinstance(x, ast.AnnAssign) and x.value else []
        values |= {_dotted(target): x.value for target in targets if _dotted(target)}
    return values


def _dotted(node: ast.expr | None) -> str | None:
    """`a.b.c`, also where it is written as text."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.Attribute) and (before := _dotted(node.value)):
        return f"{before}.{node.attr}"
    return None


# Modules


@_remembered
def _find(target: str, steps: int = 20) -> Source | None:
    """Through so many imports at most: they may go in a circle."""
    module, rest = _split(target)
    names = _names(module) if module else None
    if names is None or not rest or not steps:
        return None
    first = rest[0]
    x = names.get(first)
    if isinstance(x, Definition) and len(rest) == 1:
        return Source(f"{module}.{first}", module, x)
    if isinstance(x, str):
        return _find(".".join([x, *rest[1:]]), steps - 1)
    for star in names.get("*", ()) if x is None else ():
        if (found := _find(".".join([star, *rest]), steps - 1)) is not None:
            return found
    return None


@_remembered
def _absolute(module: str, dotted: str) -> str:
    """What a name that stands in a module is outside of it."""
    first, _, rest = dotted.partition(".")
    x = (_names(module) or {}).get(first)
    base = x if isinstance(x, str) else f"{module}.{first}" if isinstance(x, Definition) else first
    name = f"{base}.{rest}" if rest else base
    source = None if name in _WITHOUT_SETTINGS else _find(name)
    return name if source is None else source.name


@_remembered
def _split(target: str) -> tuple[str | None, list[str]]:
    """(the longest beginning that is a module, the names after it)."""
    words, last = target.split("."), None
    for n in range(1, len(words) + 1):
        if _place(".".join(words[:n])) is None:
            break
        last = n
    return (".".join(words[:last]), words[last:]) if last else (None, words)


class _Place(NamedTuple):
    """Where a module is."""

    file: Path | None
    """Its source, if there is one."""
    folders: tuple[Path, ...]
    """Of a package: where the modules in it are."""


@_remembered
def _place(module: str) -> _Place | None:
    """As `importlib.util.find_spec` finds it, which would import the packages that it is in."""
    top, *rest = module.split(".")
    try:
        spec = find_spec(top)
    except (ImportError, ValueError):
        return None
    if spec is None:
        return None
    origin = Path(spec.origin) if (spec.origin or "").endswith(".py") else None
    place = _Place(origin, tuple(map(Path, spec.submodule_search_locations or ())))
    for name in rest:
        inside = (_in_folder(folder, name) for folder in place.folders)
        place = next((found for found in inside if found is not None), None)
        if place is None:
            return None
    return place


def _in_folder(folder: Path, name: str) -> _Place | None:
    package, module = folder / name, folder / f"{name}.py"
    if (package / "__init__.py").is_file():
        return _Place(package / "__init__.py", (package,))
    if module.is_file():
        return _Place(module, ())
    if package.is_dir():
        return _Place(None, (package,))
    return _Place(None, ()) if any(folder.glob(f"{name}.*.so")) else None


@_remembered
def _tree(module: str) -> ast.Module | None:
    place = _place(module)
    if place is None or place.file is None:
        return None
    try:
        return ast.parse(place.file.read_text(encoding="utf-8"))
    except (OSError, ValueError, SyntaxError):  # importing it will say so
        return None


@_remembered
def _names(module: str) -> dict[str, Any] | None:
    """Name → its definition, or the dotted name of what is imported; `*`: the modules that all is imported from."""
    tree = _tree(module)
    if tree is None:
        return None
    package = module if _place(module).folders else module.rpartition(".")[0]
    names: dict[str, Any] = {}
    for x in _statements(tree.body):
        if isinstance(x, Definition):
            names[x.name] = x
        elif isinstance(x, ast.Import):
            names |= {y.asname or y.name.partition(".")[0]: y.name if y.asname else y.name.partition(".")[0] for y in x.names}
        elif isinstance(x, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - x.level + 1] if x.level else []
            base = ".".join([*above, *filter(None, [x.module])])
            for y in x.names:
                if y.name == "*":
                    names.setdefault("*", []).append(base)
                else:
                    names[y.asname or y.name] = f"{base}.{y.name}"
        else:
            for name, value in _assigned([x]).items():
                names[name] = _absolute_of(names, _dotted(value)) if isinstance(value, ast.Name | ast.Attribute) else value
    return names


def _absolute_of(names: dict[str, Any], dotted: str | None) -> Any:
    """Of `name = other.name`."""
    first, _, rest = (dotted or "").partition(".")
    x = names.get(first)
    return ".".join(filter(None, [x, rest])) if isinstance(x, str) else x if not rest else None


def _statements(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    """Those at the top level, and in its `if` and `try`."""
    for x in body:
        if isinstance(x, ast.If | ast.Try):
            for inner in (x.body, x.orelse, getattr(x, "finalbody", []), *(h.body for h in getattr(x, "handlers", []))):
                yield from _statements(inner)
        else:
            yield x
