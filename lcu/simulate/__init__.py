"""A synthetic landscape with known truth, written as real SAFE products with an old map and points.

Everything it writes says that it is synthetic. `run` is the stage; `parameters` holds every number;
`python -m lcu.simulate.measure` prints how hard the world is.
"""

from lcu.simulate.stage import MARKER, plan, run

__all__ = ["MARKER", "plan", "run"]
