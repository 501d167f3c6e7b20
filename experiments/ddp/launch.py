"""The same training from NeMo Run's side: a configured call, and an executor that starts it by torchrun.

python experiments/ddp/launch.py
"""

from __future__ import annotations

import nemo_run as run
from train import Config, train_digits

import nemo_gitexp as gitexp


def main() -> None:
    """Train on two processes of this machine, as an experiment of the study "ddp"."""
    task = run.Partial(train_digits, config=run.Config(Config, lr=0.05))
    executor = run.LocalExecutor(ntasks_per_node=2, launcher="torchrun")
    experiment = gitexp.run(task, executor=executor, name="ddp")
    print(experiment.document["status"], experiment.document["metrics"])


if __name__ == "__main__":
    main()
