"""A launch script for NeMo Run, as its users write them: functions, scripts, groups and what waits for what.

The one line that makes it an experiment of this repository is the import: `Experiment` stands where
`nemo_run.Experiment` would.

    python experiments/nemo-hello/launch.py
"""

from __future__ import annotations

import nemo_run as run
from hello import Point, add, add_points

from nemo_gitexp import Experiment

REPORT = """\
echo "what the tasks before this one left:"
cat "$GITEXP_RESULTS"
echo '{"step": null, "reported": 1}' >> "$GITEXP_METRICS"
"""


def main() -> None:
    """Run two sums side by side, then a sum of points, and a report when all of it is there."""
    executor = run.LocalExecutor(env_vars={"GREETING": "hello"})
    with Experiment("nemo-hello", executor=executor) as experiment:
        small = run.Partial(add, a=1, b=2)
        large = run.Partial(add, a=1000, b=2000)
        points = run.Partial(add_points, first=run.Config(Point, x=1.0), second=run.Config(Point, x=2.0, y=0.5))
        sums = experiment.add([small, large], name="sums")
        moved = experiment.add(points, name="points")
        experiment.add(run.Script(inline=REPORT), name="report", dependencies=[sums, moved])
        experiment.run()
    print(experiment.document["status"], experiment.document["metrics"])


if __name__ == "__main__":
    main()
