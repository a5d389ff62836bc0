"""Numbers as people read them, the same in pictures, sentences and tables."""

import math


def steps(x: float) -> str:
    """Env steps in three digits: 151k, 1.19M.

    >>> steps(151_234), steps(1_186_000), steps(420), steps(float("nan"))
    ('151k', '1.19M', '420', '–')
    """
    if not math.isfinite(x):
        return "∞" if x > 0 else "–"
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(x) >= 0.9995 * size:
            return _minus(f"{_three_digits(x / size)}{unit}")
    return _minus(f"{x:.0f}")


def _three_digits(x: float) -> str:
    return f"{x:.{max(0, 3 - len(str(int(abs(x) + 0.5))))}f}".rstrip("0").rstrip(".") if abs(x) < 99.95 else f"{x:.0f}"


def number(x: float) -> str:
    """Three significant digits, a dash for NaN.

    >>> number(473.25), number(0.05), number(-1234.5), number(float("nan"))
    ('473', '0.05', '−1,234', '–')
    """
    if not math.isfinite(x):
        return "–" if math.isnan(x) else "∞" if x > 0 else "−∞"
    return _minus(f"{x:,.0f}" if abs(x) >= 100 else f"{x:.3g}")


def _minus(number: str) -> str:
    return number.replace("-", "−")


def share(x: float) -> str:
    """A probability in two digits, without the zero: .84; never 0 or 1 for what is only nearly so.

    >>> share(0.837), share(1), share(0.9999), share(0)
    ('.84', '1', '>.99', '0')
    """
    if not math.isfinite(x):
        return "–"
    if 0 < x < 0.005 or 0.995 <= x < 1:
        return "<.01" if x < 0.5 else ">.99"
    return f"{x:.2f}".removeprefix("0") if 0 < x < 1 else f"{x:.0f}"


def p_value(x: float) -> str:
    """
    >>> p_value(0.00012), p_value(0.034), p_value(float("nan"))
    ('p < .001', 'p = .034', 'no p')
    """
    if math.isnan(x):
        return "no p"
    return "p < .001" if x < 0.001 else f"p = {x:.2g}".replace("= 0.", "= .")


def between(lo: float, hi: float, of=number) -> str:
    """An interval in brackets, or that there is none: that all runs are level is no proof that others would be.

    >>> between(0.74, 0.92, share), between(float("nan"), float("nan")), between(500, 500)
    ('[.74, .92]', '[no interval]', '[no spread]')
    """
    if math.isnan(lo) and math.isnan(hi):
        return "[no interval]"
    if lo == hi:
        return "[no spread]"
    return f"[{of(lo)}, {of(hi)}]"


def listed(names: list[str]) -> str:
    """
    >>> listed(["a"]), listed(["a", "b", "c"])
    ('a', 'a, b and c')
    """
    return " and ".join(filter(None, [", ".join(names[:-1]), *names[-1:]]))


def family(method: str) -> str:
    """
    >>> family("holm over 3"), family("by over 2"), family("holm over 1")
    ('Holm over 3', 'Benjamini–Yekutieli over 2', 'one test')
    """
    name, _, n = method.partition(" over ")
    return "one test" if n == "1" else f"{ {'holm': 'Holm', 'by': 'Benjamini–Yekutieli'}[name] } over {n}"
