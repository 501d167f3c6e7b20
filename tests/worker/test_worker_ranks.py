"""Several worker processes of one run verify once a node, wait for each other, and write one result."""

from __future__ import annotations

import os
import subprocess

import pytest
from run_directory import Run, script
from test_worker_control import wait_for

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


def test_a_failure_of_another_rank_is_that_of_the_run(run: Run):
    run.put("train.py", "import os, sys; sys.exit(int(os.environ['RANK']))")
    first, *others = all_ranks(run)
    assert others == [1, 2, 3]
    result = run.json("result.json")
    assert (result["status"], result["exit_code"]) == ("failed", first)
    assert result["error"]["message"] == f"rank {first}: exit code {first}"


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


FAILING = """
import os, sys, time
if os.environ["SLURM_PROCID"] == "1":
    raise ValueError("bad batch")
time.sleep(60)
"""


def scheduled_ranks(run: Run, job: str, restart: str) -> list[subprocess.Popen[bytes]]:
    run.prepare(script("train.py"), topology={"nodes": 1, "tasks_per_node": 2}, scheduled={"kind": "slurm"})
    slurm = {**os.environ, "SLURM_JOB_ID": job, "SLURM_RESTART_COUNT": restart, "SLURM_NTASKS": "2"}
    return [
        subprocess.Popen(run.argv, env={**slurm, "SLURM_PROCID": rank, "SLURM_LOCALID": rank}) for rank in ("0", "1")
    ]


def test_a_rank_that_fails_is_to_blame_when_the_others_are_only_ended_for_it(run: Run):
    run.put("train.py", FAILING)
    first, second = scheduled_ranks(run, "5", "0")
    assert second.wait(60) == 1
    wait_for((run.dir / "child.json").exists)
    first.terminate()  # as srun --kill-on-bad-exit does
    assert first.wait(60) == 1
    result = run.json("result.json")
    assert (result["status"], result["exit_code"], result["signal"]) == ("failed", 1, None)
    assert result["error"] == {"type": "ValueError", "message": "rank 1: bad batch"}


def test_ranks_that_are_interrupted_together_leave_no_result_and_verify_again(run: Run):
    run.put("train.py", "import os, time\ntime.sleep(60 if os.environ['SLURM_JOB_ID'] == '5' else 0)")
    ranks = scheduled_ranks(run, "5", "0")
    wait_for(lambda: all((run.dir / name).exists() for name in ("child.json", "child.rank1.json")))
    for rank in ranks:
        rank.terminate()
    assert [rank.wait(60) for rank in ranks] == [143, 143]
    assert not list(run.dir.glob("*result*")) + list(run.dir.glob("ended*"))

    run.put("train.py", "print('another')")  # a chain's next job starts with restart 0 again, and must look again
    assert [rank.wait(60) for rank in scheduled_ranks(run, "6", "0")] == [1, 1]
    assert run.json("result.json")["error"]["type"] == "WorkspaceMismatchError"
