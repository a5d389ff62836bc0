"""What an environment's actions are. Hashable: a space decides shapes, and so what is compiled."""

from typing import NamedTuple


class Discrete(NamedTuple):
    """One of the whole numbers 0 … n − 1."""

    n: int


Space = Discrete
"""Every kind of action space that there is a policy for."""
