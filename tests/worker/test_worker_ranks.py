"""Several worker processes of one run verify once a node, wait for each other, and write one result."""

from __future__ import annotations

import os
import subprocess

import pytest
from run_directory import Run, script

from nemo_gitexp.collect import read_back_settings
from nemo_gitexp.rundir import RunPaths
from nemo_gitexp.worker.seeding import rank_seed

RANKS = [{"RANK": str(rank), "LOCAL_RANK": str(rank % 2), "GROUP_RANK": str(rank // 2)} for rank in range(4)]


def all_ranks(run: Run) -> list[int]:
    run.prepare(script("train.py"), topology={"nodes": 2, "tasks_per_node": 2})
    processes = [subprocess.Popen(run.argv, env={**os.environ, "WORLD_SIZE": "4", **env}) for env in RANKS]
    return [process.wait(60) for process in processes]


def test_only_global_rank_zero_writes_the_result(run: Run):
    run.put("train.py", "import os, random; print(os.environ['RANK'])")
    assert all_ranks(run) == [0, 0, 0, 0]
    assert run.json("result.json")["status"] == "completed"
    assert run.log == "0\n"
    assert (run.dir / "log.rank3.txt").read_text() == "3\n"
    seeds = [run.json(name)["seeds"]["python"] for name in ("job.json", "job.rank1.json", "job.rank2.json")]
    assert seeds[0] == 42
    assert len(set(seeds)) == 3


def test_metrics_that_other_ranks_append_are_not_among_those_of_rank_zero(run: Run):
    run.put("train.py", "import os; open(os.environ['GITEXP_METRICS'], 'a').write(os.environ['RANK'] + '\\n')")
    assert all_ranks(run) == [0, 0, 0, 0]
    assert (run.dir / "metrics.jsonl").read_text() == "0\n"
    assert (run.dir / "metrics.rank3.jsonl").read_text() == "3\n"


def test_a_refusal_on_one_node_stops_all_of_them(run: Run):
    run.put("train.py", "print('ran')")
    run.prepare(script("train.py"))
    run.put("extra.py", "")
    assert all_ranks(run) == [1, 1, 1, 1]
    assert run.json("result.json")["error"]["type"] == "WorkspaceMismatchError"
    assert not list(run.dir.glob("child*"))


def test_a_rank_that_verifies_nothing_does_not_vouch_for_its_node(run: Run):
    run.put("train.py", "print('ran')")
    run.prepare(script("train.py"), topology={"nodes": 1, "tasks_per_node": 2})
    run.put("extra.py", "")
    env = {**os.environ, "WORLD_SIZE": "2"}
    second = subprocess.Popen(run.argv, env={**env, "RANK": "1", "LOCAL_RANK": "1"})
    with pytest.raises(subprocess.TimeoutExpired):  # it waits for the one that verifies, which is late
        second.wait(1)
    first = subprocess.run(run.argv, env={**env, "RANK": "0", "LOCAL_RANK": "0"}, check=False)
    assert [first.returncode, second.wait(60)] == [1, 1]
    assert not list(run.dir.glob("child*"))


def test_a_rank_does_not_wait_for_one_that_cannot_verify(run: Run):
    run.prepare(script("train.py"))
    (run.dir / "manifest.json").write_text("{")
    assert all_ranks(run) == [1, 1, 1, 1]
    assert "manifest.json" in run.json("result.json")["error"]["message"]


def test_a_failure_of_another_rank_is_its_own_exit_code(run: Run):
    run.put("train.py", "import os, sys; sys.exit(int(os.environ['RANK']))")
    assert all_ranks(run) == [0, 1, 2, 3]


def test_ranks_that_slurm_started_have_seeds_of_their_own_too(run: Run):
    run.put("train.py", "import random; print(random.random())")
    run.prepare(script("train.py"), topology={"nodes": 1, "tasks_per_node": 2})
    slurm = [{"SLURM_NTASKS": "2", "SLURM_PROCID": rank, "SLURM_LOCALID": rank} for rank in ("0", "1")]
    ranks = [subprocess.Popen(run.argv, env={**os.environ, **env}) for env in slurm]
    assert [rank.wait(60) for rank in ranks] == [0, 0]
    seeds = [run.json(name)["seeds"]["python"] for name in ("job.json", "job.rank1.json")]
    assert seeds == [rank_seed(42, 2, rank) for rank in (0, 1)]
    recorded = read_back_settings(RunPaths(run.dir))
    assert (recorded["seeds"]["python"], recorded["rank_seeds"]["1"]["python"]) == tuple(seeds)
    assert run.log != (run.dir / "log.rank1.txt").read_text()


def test_variables_of_a_surrounding_job_mean_nothing_without_a_topology(run: Run):
    run.put("train.py", "")
    result = run.go(script("train.py"), env={"SLURM_PROCID": "3", "SLURM_NTASKS": "8", "RANK": "2"})
    assert result["status"] == "completed"
