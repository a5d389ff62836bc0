"""Rules for values: what is allowed, and how it is read. Those of a person's own settings follow from their annotations."""

import ast
import math
import re
from collections.abc import Callable
from typing import Any, NamedTuple

_LARGEST = 3.4e38
"""A run computes in 32 bits, where more is infinite."""


class Rule(NamedTuple):
    """`read` returns the value as the program wants it, or raises ValueError."""

    allowed: str
    read: Callable[[Any], Any]


def whole(low: int, high: int = 2**31 - 1, *, or_null: bool = False) -> Rule:
    def read(x):
        if or_null and x is None:
            return None
        if isinstance(x, str) and (parts := re.fullmatch(r"(\d+(?:\.\d+)?)([kM])", x)):
            x = float(parts[1]) * {"k": 1e3, "M": 1e6}[parts[2]]
        if isinstance(x, float) and x.is_integer():
            x = int(x)  # 1e6 on the command line is a float
        if type(x) is not int or not low <= x <= high:
            raise ValueError
        return x

    span = f"a whole number ≥ {low} and < 2³¹" if high == 2**31 - 1 else f"a whole number from {low} to {high}"
    return Rule(span + (" or null" if or_null else ""), read)


def number(low: float = -math.inf, high: float = math.inf, *, above: bool = False, or_null: bool = False) -> Rule:
    def read(x):
        if or_null and x is None:
            return None
        if type(x) not in (int, float) or not (low < x if above else low <= x) or not x <= high or abs(x) > _LARGEST:
            raise ValueError
        return float(x)

    if high < math.inf:
        span = f"a number in [{low:g}, {high:g}]"
    elif low > -math.inf:
        span = f"a number {'>' if above else '≥'} {low:g}"
    else:
        span = "a number"
    return Rule(span + (" or null" if or_null else ""), read)


def one_of(*choices: str, or_null: bool = False) -> Rule:
    def read(x):
        if x not in choices and not (or_null and x is None):
            raise ValueError
        return x

    return Rule(" | ".join(choices) + (" or null" if or_null else ""), read)


def _yes_or_no(x):
    if type(x) is not bool:
        raise ValueError
    return x


def text(longest: int | None = None, *, or_null: bool = False) -> Rule:
    def read(x):
        if or_null and x is None:
            return None
        if type(x) is not str or not x or (longest is not None and len(x) > longest):
            raise ValueError
        return x

    span = "a name" if longest is None else f"a name of at most {longest} characters"
    return Rule(span + (" or null" if or_null else ""), read)


def list_of(rule: Rule) -> Rule:
    def read(x):
        if type(x) is not list:
            raise ValueError
        return [rule.read(y) for y in x]

    return Rule(f"a list, [a,b], each {rule.allowed}", read)


YES_OR_NO = Rule("true or false", _yes_or_no)
TEXT = text()
ANYTHING = Rule("anything", lambda x: x)

# The rule of an annotation

_KINDS = {"int": Rule("a whole number", whole(-(2**31)).read), "float": number(), "bool": YES_OR_NO, "str": TEXT}
_ARRAYS = ("Array", "Float", "Int", "Bool", "Shaped")
"""What a number becomes in a compiled program; it says nothing of how it is written."""


def of_setting(annotation: ast.expr | None, default: ast.expr | None) -> Rule:
    """From a parameter's annotation, or else from its default; `int`, `float`, `bool`, `str`, None, Literal, lists of them
    and choices between them are known, and all else may be anything."""
    if annotation is not None:
        return _either([_of_annotation(arm) for arm in _arms(annotation)])
    value = default.value if isinstance(default, ast.Constant) else None
    kinds = {bool: YES_OR_NO, int: Rule("a number", _as_it_is), float: number(), str: TEXT}
    return kinds.get(type(value), ANYTHING)


def of_key(annotation: ast.expr | None) -> Rule:
    """Of the values in a dictionary with this annotation."""
    arms = [arm for arm in _arms(annotation) if _word(arm) in ("dict", "Mapping")] if annotation is not None else []
    inside = arms[0].slice if arms and isinstance(arms[0], ast.Subscript) else None
    return of_setting(inside.elts[1], None) if isinstance(inside, ast.Tuple) and len(inside.elts) == 2 else ANYTHING


def _either(rules: list[Rule | None]) -> Rule:
    """What one of these allows; None says nothing."""
    said = [rule for rule in rules if rule is not None]
    if not said or ANYTHING in said:
        return ANYTHING

    def read(x):
        for rule in said:
            try:
                return rule.read(x)
            except ValueError:
                continue
        raise ValueError

    return said[0] if len(said) == 1 else Rule(" or ".join(dict.fromkeys(rule.allowed for rule in said)), read)


def _arms(node: ast.expr) -> list[ast.expr]:
    """The choices of `A | B`, Optional[A] and Union[A, B], also where they are written as text."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        try:
            return _arms(ast.parse(node.value, mode="eval").body)
        except SyntaxError:
            return [node]
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitOr):
        return [*_arms(node.left), *_arms(node.right)]
    if isinstance(node, ast.Subscript) and _word(node) in ("Optional", "Union"):
        inside = node.slice.elts if isinstance(node.slice, ast.Tuple) else [node.slice]
        nothing = [ast.Constant(None)] if _word(node) == "Optional" else []
        return [arm for x in inside for arm in _arms(x)] + nothing
    return [node]


def _of_annotation(node: ast.expr) -> Rule | None:
    word = _word(node)
    if isinstance(node, ast.Constant) and node.value is None:
        return _NULL
    if word in _KINDS:
        return _KINDS[word]
    if word in _ARRAYS:
        return None
    if not isinstance(node, ast.Subscript):
        return ANYTHING
    inside = node.slice.elts if isinstance(node.slice, ast.Tuple) else [node.slice]
    if word == "Literal" and all(isinstance(x, ast.Constant) for x in inside):
        return _literal([x.value for x in inside])
    if word in ("list", "List", "tuple", "Tuple", "Sequence"):
        return list_of(_either([_of_annotation(arm) for x in inside for arm in _arms(x) if _word(x) != "..."]))
    return _of_annotation(inside[0]) if word in ("Final", "Annotated") else ANYTHING


def _word(node: ast.expr) -> str:
    """The last word of a name, without what is in brackets."""
    if isinstance(node, ast.Subscript):
        return _word(node.value)
    if isinstance(node, ast.Constant) and node.value is ...:
        return "..."
    return node.id if isinstance(node, ast.Name) else node.attr if isinstance(node, ast.Attribute) else ""


def _literal(choices: list[Any]) -> Rule:
    def read(x):
        if not any(x == choice and type(x) is type(choice) for choice in choices):
            raise ValueError
        return x

    return Rule(" | ".join("null" if choice is None else str(choice) for choice in choices), read)


def _as_it_is(x):
    number().read(x)
    return x


def _null(x):
    if x is not None:
        raise ValueError


_NULL = Rule("null", _null)
