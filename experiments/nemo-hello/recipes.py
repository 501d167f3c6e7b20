"""A recipe: a function that returns what is to be called, configured.

nemo-gitexp run experiments/nemo-hello/recipes.py:moved first.x=5
"""

from __future__ import annotations

import nemo_run as run
from hello import Point, add_points


def moved(by: float = 0.5) -> run.Partial:
    """Return the sum of two points; `by` is how far the second one lies above the axis."""
    return run.Partial(add_points, first=run.Config(Point, x=1.0), second=run.Config(Point, x=2.0, y=by))
