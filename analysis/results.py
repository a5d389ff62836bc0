"""The results row: a number never travels without its interval, its method, its n and its doubts."""

import dataclasses
import json
from collections.abc import Iterable
from typing import Any

import numpy as np
import pandas as pd

COLUMNS = {
    "scope": "what the number speaks of: run, variant, point (of a curve), comparison",
    "variant": "the variant; `a − b` or `a > b` in a comparison",
    "env": "the environment; `all` where environments were pooled, stratified",
    "metric": "what was measured, such as `iqm of return_mean`",
    "estimate": "the number; NaN where there is none, with the reason in `warning`",
    "lo": "lower end of the interval; NaN without one",
    "hi": "upper end of the interval",
    "level": "nominal coverage of the interval; NaN without one",
    "method": "how the interval was made",
    "n_runs": "independent runs behind the number; the smaller group's in a comparison",
    "n_boot": "resamples; 0 without any",
    "rng_seed": "seed of the resampling; missing without any",
    "params_json": "every setting of the computation",
    "warning": "what a reader has to know; empty if nothing",
}
"""Name and meaning, in order. A table may have more columns after these, such as env_steps, tau or p."""


def row(
    scope: str,
    variant: str,
    env: str,
    metric: str,
    estimate: float,
    lo: float = np.nan,
    hi: float = np.nan,
    *,
    level: float = np.nan,
    method: str = "",
    n_runs: int,
    n_boot: int = 0,
    rng_seed: int | None = None,
    params: Any = None,
    warning: Iterable[str] | str = (),
    **more: Any,
) -> dict[str, Any]:
    """One row; `params` is a spec, a dict, or several of them in a list; `more` are columns after the standard ones."""
    return {
        "scope": scope,
        "variant": variant,
        "env": env,
        "metric": metric,
        "estimate": float(estimate),
        "lo": float(lo),
        "hi": float(hi),
        "level": float(level),
        "method": method,
        "n_runs": int(n_runs),
        "n_boot": int(n_boot),
        "rng_seed": rng_seed,
        "params_json": params_json(params),
        "warning": warning if isinstance(warning, str) else "; ".join(dict.fromkeys(filter(None, warning))),
    } | more


def table(rows: Iterable[dict[str, Any]], *more: str) -> pd.DataFrame:
    """Rows → a table with the standard columns first, with the right types even when there are no rows.

    `more` names the further columns that it has in any case.
    """
    rows = list(rows)
    extra = list(dict.fromkeys([*more, *(name for row in rows for name in row if name not in COLUMNS)]))
    frame = pd.DataFrame(rows, columns=[*COLUMNS, *extra])
    text = {name: "str" for name in ("scope", "variant", "env", "metric", "method", "params_json", "warning")}
    numbers = {name: "float64" for name in ("estimate", "lo", "hi", "level")}
    return frame.astype(text | numbers | {"n_runs": "int64", "n_boot": "int64", "rng_seed": "Int64"})


def params_json(params: Any) -> str:
    """A spec, a dict or a list of them as one JSON object with sorted keys.

    >>> params_json([{"window": 3}, {"alpha": 0.05}])
    '{"alpha": 0.05, "window": 3}'
    """
    parts = params if isinstance(params, list | tuple) else [params]
    merged: dict[str, Any] = {}
    for part in parts:
        merged |= dataclasses.asdict(part) if dataclasses.is_dataclass(part) else part or {}
    merged = {name: None if isinstance(x, float) and np.isnan(x) else x for name, x in merged.items()}  # JSON has no NaN
    return json.dumps(merged, sort_keys=True, ensure_ascii=False, default=_plain)


def _plain(x: Any) -> Any:
    return x.tolist() if isinstance(x, np.ndarray | np.generic) else str(x)
