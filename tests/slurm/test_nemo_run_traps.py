"""What NeMo Run does on a Slurm that our launcher is designed around: an upgrade that changes it shall be noticed.

Nothing of ours runs here. One process imports NeMo Run and submits everything; each test looks at what came of it.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from builder import isolated_environment, wait_until

pytestmark = pytest.mark.slurm

PROGRAM = r"""
import json, os, sys
from pathlib import Path

import nemo_run as run

OUT = Path(sys.argv[1])
QUIET = dict(clean_mode=True, enable_goodbye_message=False, skip_status_at_exit=True, log_level="ERROR")

def executor(**more):
    more.setdefault("tunnel", run.LocalTunnel(job_dir=""))
    return run.SlurmExecutor(account="ci", packager=run.Packager(), poll_estimated_start_time=False, **more)

def submit(title, *tasks):
    with run.Experiment(title, executor=executor(), **QUIET) as experiment:
        for name, script, options, after in tasks:
            experiment.add(script, executor(**options), name=name, dependencies=after)
        experiment.run(detach=True)
    answer = {job.id: {"job": job.handle.rsplit("/", 1)[1], "dir": job.executor.job_dir} for job in experiment.jobs}
    said[title] = {"id": experiment._id, "dir": experiment._exp_dir, "tasks": answer}
    return experiment

def status(experiment_id):
    with run.Experiment.from_id(experiment_id) as experiment:
        experiment.detach = True
        return {name: row["status"].name for name, row in experiment.status(return_dict=True).items()}

def wait_for(*files):
    import time
    end = time.monotonic() + 60
    while not all(file.exists() for file in files) and time.monotonic() < end:
        time.sleep(0.05)

said = {}
if sys.argv[2] == "home":
    submit("corrupt", ("t", run.Script(inline=f"touch {OUT}/ran"), {}, []))
else:
    submit("ranks", ("t", run.Script(path=str(OUT / "rank.py"), entrypoint="python"),
                     {"ntasks_per_node": 2, "launcher": "torchrun"}, []))
    submit("variables", ("t", run.Script(inline=f"env > {OUT}/env"),
        {"env_vars": {"lower": "1", "NOTE": f"a b; touch {OUT}/injected", "KEY": "traced-value"}}, []))
    show = run.Script(path=str(OUT / "show.py"), args=["a b", "$HOME"], entrypoint="python")
    submit("arguments", ("t", show, {}, []))
    submit("text", ("t", run.Script(inline=f"echo '/nemo_run/code is here' > {OUT}/text"), {}, []))
    submit("chain",
        ("first", run.Script(inline="exit 7"), {}, []),
        ("second", run.Script(inline=f"touch {OUT}/second"), {}, ["first"]),
        ("third", run.Script(inline=f"touch {OUT}/third"), {"dependency_type": "afterany"}, ["first"]))
    try:
        tunnel = run.LocalTunnel(job_dir=str(OUT / "elsewhere"))
        submit("elsewhere", ("t", run.Script(inline="true"), {"tunnel": tunnel}, []))
    except Exception as fault:
        said["elsewhere"] = {"error": str(fault)}
    wait_for(OUT / "third")
    said["with"] = status(said["chain"]["id"])
    os.environ["PATH"] = os.environ["BARE_PATH"]
    said["without"] = status(said["chain"]["id"])
json.dump(said, sys.stdout)
"""

SHOW = "import json, sys\njson.dump(sys.argv[1:], open(__file__ + '.said', 'w'))\n"
RANK = """\
import json, os
names = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "SLURM_NTASKS", "SLURM_STEP_NUM_TASKS")
open(f"{__file__}.{os.environ['RANK']}", "w").write(json.dumps({name: os.environ.get(name) for name in names}))
"""


@pytest.fixture(scope="module")
def said(cluster, tmp_path_factory):
    """Run the program twice at once, one of them with a home that has `/nemo_run` in its path; give what both said."""
    room = tmp_path_factory.mktemp("traps")
    program = room / "program.py"
    program.write_text(PROGRAM)
    started = {}
    for mode, home in (("all", room / "home"), ("home", room / "nemo_run" / "home")):
        out = room / mode
        out.mkdir()
        (out / "show.py").write_text(SHOW)
        (out / "rank.py").write_text(RANK)
        base = isolated_environment(room)
        env = {**cluster.environment(base), "NEMORUN_HOME": str(home)}
        env["BARE_PATH"] = cluster.environment(base, sacct=False)["PATH"]
        argv = [sys.executable, str(program), str(out), mode]
        started[mode] = subprocess.Popen(argv, env=env, cwd=out, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    answers = {}
    for mode, process in started.items():
        stdout, stderr = process.communicate(timeout=200)
        assert process.returncode == 0, stderr.decode()
        last = stdout.decode().splitlines()[-1]
        answers |= {**json.loads(last), f"{mode} out": room / mode}
    return answers


def ended(cluster, said, title: str, task: str = "t") -> str:
    """Wait until the job of a task has ended and return its state."""
    return cluster.wait_state(said[title]["tasks"][task]["job"], timeout_s=120)["JobState"]


def batch_output(said, title: str) -> str:
    """Return what the submission script of an experiment with one task wrote."""
    (file,) = Path(said[title]["tasks"]["t"]["dir"]).glob("sbatch_*.out")
    return file.read_text()


def test_names_of_variables_become_upper_case_and_values_are_shell_code(cluster, said):
    assert ended(cluster, said, "variables") == "COMPLETED"
    seen = (said["all out"] / "env").read_text().splitlines()
    assert "LOWER=1" in seen
    assert "lower=1" not in seen
    assert "NOTE=a b" not in seen
    assert (said["all out"] / "injected").exists()


def test_the_submission_script_traces_values_into_a_file(cluster, said):
    assert ended(cluster, said, "variables") == "COMPLETED"
    assert "export KEY=traced-value" in batch_output(said, "variables")


def test_arguments_are_joined_by_spaces_and_read_by_a_shell(cluster, said):
    ended(cluster, said, "arguments")
    arrived = json.loads((said["all out"] / "show.py.said").read_text())
    assert arrived == ["a", "b", str(cluster.ssh.home)]


def test_nemo_run_in_the_text_of_a_script_becomes_the_job_directory(cluster, said):
    assert ended(cluster, said, "text") == "COMPLETED"
    assert (said["all out"] / "text").read_text() == f"{said['text']['tasks']['t']['dir']}/code is here\n"


def test_nemo_run_in_the_path_of_its_home_breaks_the_job(cluster, said):
    assert ended(cluster, said, "corrupt") == "FAILED"
    assert not (said["home out"] / "ran").exists()


def test_a_local_tunnel_with_a_job_directory_of_its_own_cannot_submit(said):
    assert "Unable to open file" in said["elsewhere"]["error"]


def test_status_needs_sacct(said):
    assert said["with"] == {"first": "FAILED", "second": "PENDING", "third": "SUCCEEDED"}
    assert said["without"] == dict.fromkeys(("first", "second", "third"), "UNKNOWN")


def test_what_depends_on_a_failed_job_waits_for_ever_unless_afterany(cluster, said):
    assert ended(cluster, said, "chain", "first") == "FAILED"
    assert ended(cluster, said, "chain", "third") == "COMPLETED"
    second = said["chain"]["tasks"]["second"]["job"]
    wait_until(lambda: cluster.job(second)["Reason"] == "DependencyNeverSatisfied")
    assert cluster.job(second)["JobState"] == "PENDING"
    cluster.cancel(second)


def test_the_torchrun_launcher_starts_one_process_for_each_task_itself(cluster, said):
    assert ended(cluster, said, "ranks") == "COMPLETED"
    ranks = [json.loads((said["all out"] / f"rank.py.{rank}").read_text()) for rank in range(2)]
    assert [(rank["RANK"], rank["LOCAL_RANK"], rank["WORLD_SIZE"]) for rank in ranks] == [
        ("0", "0", "2"),
        ("1", "1", "2"),
    ]
    assert {rank["SLURM_STEP_NUM_TASKS"] for rank in ranks} == {"1"}
