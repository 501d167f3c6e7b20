"""Runs of several processes on Slurm: who verifies, who records, and which seeds the ranks get."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
from builder import Work
from slurm_work import make_slurm_work, render_profile, run_directories, start

pytestmark = [pytest.mark.slurm, pytest.mark.slow]

TRAINING = """\
import json, os, random
import torch
import torch.distributed as dist

def number(*names):
    return int(next(os.environ[name] for name in names if name in os.environ))

rank, world = number("RANK", "SLURM_PROCID"), number("WORLD_SIZE", "SLURM_NTASKS")
meeting = "env://" if "MASTER_ADDR" in os.environ else "file://" + os.environ["GITEXP_RUN_DIR"] + "/meeting"
dist.init_process_group("gloo", init_method=meeting, rank=rank, world_size=world)
drawn = torch.tensor([torch.rand(1, dtype=torch.float64).item(), random.random()], dtype=torch.float64)
everybody = [torch.zeros_like(drawn) for _ in range(world)]
dist.all_gather(everybody, drawn)
with open(os.environ["GITEXP_METRICS"], "a") as stream:
    stream.write(json.dumps({"step": 0, "drawn": drawn[0].item()}) + "\\n")
if rank == 0:
    with open(os.path.join(os.environ["GITEXP_OUTPUTS"], "draws.json"), "w") as file:
        json.dump([one.tolist() for one in everybody], file)
print("rank", rank, "of", world, flush=True)
dist.destroy_process_group()
"""
FAILING = """\
import os, sys, time
if os.environ["SLURM_PROCID"] == "1":
    time.sleep(1)
    sys.exit(9)
time.sleep(float(sys.argv[1]))
"""
"""Rank 1 fails: while rank 0 is at work, or when rank 0 has ended already."""

WAYS = {
    "srun": "tasks_per_node = 2",
    "torchrun": 'tasks_per_node = 2\nlauncher = "torchrun"',
    "spread": "nodes = 2\ntasks_per_node = 2",
}


@pytest.fixture(scope="module")
def story(cluster, tmp_path_factory):
    """Run the training in every way at once, and two runs of which a rank fails."""
    room = tmp_path_factory.mktemp("ranks")
    profiles = "".join(render_profile(cluster, name, "local", more) for name, more in WAYS.items())
    work = make_slurm_work(cluster, room, profiles, {"ranks.py": TRAINING, "failing.py": FAILING})
    runs = {name: start(work, *_run(name, "ranks.py")) for name in WAYS}
    failing = {wait: start(work, *_run("srun", "failing.py", wait)) for wait in ("600", "0")}
    answers = {name: one.answer() for name, one in runs.items()}
    answers |= {f"failing {wait}": one.answer(code=None) for wait, one in failing.items()}
    draws = {name: _draws(work, room / name, answers[name]["experiment"]) for name in WAYS}
    return SimpleNamespace(work=work, answers=answers, draws=draws, cluster=cluster)


def _run(executor: str, *words: str) -> tuple[str, ...]:
    return ("--json", "run", "--executor", executor, "--", "python", *words)


def _draws(work: Work, directory: Path, experiment: str) -> list[list[float]]:
    """Return what every rank drew, by rank, from the recorded output of a run."""
    work.gitexp("outputs", experiment, "--get", str(directory))
    return json.loads((directory / "draws.json").read_text())


@pytest.mark.parametrize("name, world", [("srun", 2), ("torchrun", 2), ("spread", 4)])
def test_every_rank_draws_its_own_numbers_and_rank_0_records(story, name, world):
    answer = story.answers[name]
    assert answer["status"] == "completed"
    drawn = story.draws[name]
    assert len({tuple(numbers) for numbers in drawn}) == len(drawn) == world
    assert answer["metrics"] == {"drawn": drawn[0][0]}
    assert len(answer["jobs"]) == 1


@pytest.mark.parametrize("name, nodes", [("srun", 1), ("torchrun", 1), ("spread", 2)])
def test_one_process_a_node_verifies(story, name, nodes):
    (run,) = run_directories(story.work, story.answers[name]["experiment"])
    assert len(list(run.glob("verified.*.json"))) == nodes
    assert list(run.glob("refused.*")) == []


def test_the_same_ranks_draw_the_same_numbers_whatever_starts_them(story):
    assert story.draws["srun"] == story.draws["torchrun"] == story.draws["spread"][:2]


def test_the_shape_is_recorded_and_makes_another_experiment(story):
    shapes = {name: story.answers[name]["topology"] for name in WAYS}
    assert {name: (shape["nodes"], shape["tasks_per_node"], shape["launcher"]) for name, shape in shapes.items()} == {
        "srun": (1, 2, None),
        "torchrun": (1, 2, "torchrun"),
        "spread": (2, 2, None),
    }
    assert len({story.answers[name]["identity"] for name in WAYS}) == 3


@pytest.mark.parametrize("wait", ["600", "0"])
def test_a_rank_that_fails_fails_the_run_with_its_code(story, wait):
    failed = story.answers[f"failing {wait}"]
    assert story.cluster.wait_state(failed["jobs"][0])["JobState"] == "FAILED"
    assert (failed["code"], failed["status"]) == (1, "failed")
    assert failed["error"]["exit_code"] == 9
