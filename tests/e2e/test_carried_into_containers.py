"""Runs in containers: what NeMo Run would submit, and the same carried out where only the mounts exist.

There is no container engine here. Its part is taken by a root directory of our own that holds the system's /usr and
what the submission mounts: for Pyxis by an `srun` that reads the generated script's flags, for Docker by a client that
keeps what NeMo Run asks the engine for.
"""

from __future__ import annotations

import itertools
import json
import os
import re
import shlex
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import own_root
import pytest
from data_work import DataWork, copy_template, make_template
from prepared_runs import Prepared, prepare

from nemo_gitexp.collect import collect_run
from nemo_gitexp.placing import line_in_container, place_in_job_dir
from nemo_gitexp.relocation import find_relocation
from nemo_gitexp.remote import THIS_MACHINE
from nemo_gitexp.runs import inspect_run
from nemo_gitexp.transfer import fetch_runs

IMAGE = "example.org/python:3"
PROGRAM = """\
import json, os, sys
sys.modules["torch"] = None
import docker
import nemo_run as run
from nemo_gitexp.launchers.packing import RunPackager

asked = []

class Engine:
    def __init__(self):
        self.networks = self.containers = self.images = self
    def create(self, **options): pass
    def pull(self, image): pass
    def list(self, **options): return []
    def run(self, image, command, **options): asked.append({"image": image, "command": command, **options})

docker.from_env = lambda *args, **options: Engine()
QUIET = dict(clean_mode=True, enable_goodbye_message=False, skip_status_at_exit=True,
             serialize_metadata_for_scripts=False, log_level="ERROR")
kind, run_dir, line, note = sys.argv[1:]
packager = RunPackager(run_dir=run_dir, python="/usr/bin/python3")
if kind == "slurm":
    executor = run.SlurmExecutor(account="ci", container_image="IMAGE", tunnel=run.LocalTunnel(job_dir=""),
                                 container_mounts=["/usr/share:/extra"], packager=packager)
else:
    executor = run.DockerExecutor(container_image="IMAGE", volumes=["/usr/share:/extra"], packager=packager,
                                  env_vars={"NOTE": note})
with run.Experiment("t", executor=executor, **QUIET) as experiment:
    experiment.add(run.Script(inline=line), name="job")
    experiment.dryrun(log=False, delete_exp_dir=False)
    (job,) = experiment.jobs
    if kind == "docker":
        from nemo_run.run.torchx_backend.schedulers.docker import PersistentDockerScheduler
        PersistentDockerScheduler("t").schedule(job._dryrun_info)
    experiment._save_jobs()
    said = {"job_dir": job.executor.job_dir, "asked": asked, "script": f"{experiment._exp_dir}/job_sbatch.sh"}
    experiment.detach = True
json.dump(said, sys.stdout)
""".replace("IMAGE", IMAGE)


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> DataWork:
    work = copy_template(make_template(tmp_path_factory.mktemp("template")), tmp_path_factory.mktemp("data") / "d")
    (work.root / "link").symlink_to("sum.py")
    work.commit("never pushed")
    return work


@pytest.fixture(scope="module")
def local(data: DataWork) -> dict:
    """Return the answer of the same experiment run on this machine."""
    return data.gitexp("run", "sum", "--json").json


@pytest.fixture
def run(data: DataWork, local: dict, monkeypatch: pytest.MonkeyPatch) -> Iterator[Prepared]:
    prepared = prepare(data, local["experiment"], monkeypatch, Path(sys.executable))
    yield prepared
    prepared.drop()


@pytest.fixture(params=own_root.WAYS)
def way(request: pytest.FixtureRequest) -> str:
    hindrance = own_root.find_hindrance(request.param)
    if hindrance is not None:
        pytest.skip(hindrance)
    return str(request.param)


def submission(run: Prepared, kind: str, tmp_path: Path, note: str = "") -> dict:
    """Return what NeMo Run would submit, its job directory filled."""
    line = line_in_container(run.paths, python="/usr/bin/python3")
    env = {**os.environ, "NEMORUN_HOME": str(tmp_path / "home")}
    argv = [sys.executable, "-c", PROGRAM, kind, str(run.paths.root), line, note]
    done = subprocess.run(argv, env=env, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def result_of(run: Prepared) -> bytes:
    relocation = find_relocation(run.paths)
    assert relocation is not None
    assert fetch_runs(THIS_MACHINE, [(run.paths, relocation)]) == {run.paths.run}
    return run.result()["result.json"]


def committed(data: DataWork, answer: dict, name: str) -> bytes:
    argv = ["git", "show", f"{answer['result']}:experiments/sum/record/{name}"]
    return subprocess.run(argv, cwd=data.root, env=data.env, capture_output=True, check=True).stdout


def test_pyxis_is_asked_for_what_the_worker_needs_and_the_run_is_as_any_other(data, local, run, way, tmp_path):
    said = submission(run, "slurm", tmp_path)
    script = Path(said["script"]).read_text()
    (srun,) = [shlex.split(line) for line in script.splitlines() if "--container-image" in line]
    flags = dict(itertools.pairwise(srun))
    assert flags["--container-image"] == IMAGE
    assert flags["--container-mounts"] == f"/usr/share:/extra,{said['job_dir']}:/nemo_run"
    assert flags["--container-workdir"] == "/nemo_run/code"
    assert srun[-2:] == ["bash", "/nemo_run/scripts/job.sh"]
    line = Path(said["job_dir"], "scripts", "job.sh").read_text().splitlines()[-1]
    inside = f"/nemo_run/{run.paths.run}"
    assert line == f"exec /usr/bin/python3 {inside}/node/start.py {inside}/plan.json"
    plan = json.loads(Path(said["job_dir"], run.paths.run, "plan.json").read_text())
    assert (plan["cwd"], plan["outputs_dir"]) == ("/nemo_run/code", f"{inside}/outputs")
    assert str(data.root.parent) not in json.dumps({**plan, "user_root": None, "trusted_roots": [], "home": None})
    bin_dir = tmp_path / "bin"
    bin_dir.mkdir()
    here = Path(__file__).parent
    (bin_dir / "srun").write_text(f'#!/bin/sh\nPYTHONPATH={here} exec {sys.executable} {here}/fake_srun.py "$@"\n')
    (bin_dir / "scontrol").write_text("#!/bin/sh\necho localhost\n")
    for file in bin_dir.iterdir():
        file.chmod(file.stat().st_mode | stat.S_IXUSR)
    env = {**os.environ, "PATH": f"{bin_dir}:{os.environ['PATH']}", "ROOT_WAY": way}
    done = subprocess.run(["bash", said["script"]], env=env, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    assert result_of(run) == committed(data, local, "result.json")


def test_docker_is_asked_for_what_the_worker_needs_and_the_run_is_as_any_other(data, local, run, way, tmp_path):
    run.change_plan(entry={"kind": "code", "code": SHOWS, "args": ["a 'b' \"c\" $(touch injected)\n"]}, outputs=[])
    said = submission(run, "docker", tmp_path, note="x; touch injected $HOME")
    (asked,) = said["asked"]
    assert (asked["image"], asked["working_dir"]) == (IMAGE, "/nemo_run/code")
    assert asked["volumes"] == ["/usr/share:/extra", f"{said['job_dir']}:/nemo_run"]
    assert "bash /nemo_run/scripts/job.sh" in asked["command"]
    mounts = [tuple(volume.split(":")) for volume in asked["volumes"]]
    env = {**asked["environment"], "PATH": "/usr/bin:/bin", "HOME": "/root"}
    argv = own_root.entered(way, mounts, asked["working_dir"], env, shlex.split(asked["command"]))
    done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    assert json.loads(result_of(run))["status"] == "completed"
    seen = json.loads(run.paths.log.read_text().splitlines()[-1])
    assert seen == [["a 'b' \"c\" $(touch injected)\n"], "x; touch injected $HOME", "/nemo_run/code"]
    assert not list(Path(said["job_dir"]).rglob("injected"))


SHOWS = "import json, os, sys; print(json.dumps([sys.argv[1:], os.environ['NOTE'], os.getcwd()]))"


def test_a_run_of_an_image_is_collected_and_says_what_it_ran_in(data, way, tmp_path, monkeypatch):
    recorded = data.gitexp("run", "sum", "--record-only", "--again", "--seed", "8", "--json").json
    run = prepare(data, recorded["experiment"], monkeypatch, Path(sys.executable))
    relocation = place_in_job_dir(run.paths, tmp_path, python="/usr/bin/python3", seen="/gitexp")
    assert relocation.mounts == (
        f"{tmp_path}/{run.paths.run}:/gitexp/{run.paths.run}",
        f"{tmp_path}/code:/gitexp/code",
    )
    mounts = [tuple(mount.split(":")) for mount in relocation.mounts]
    env = {"PATH": "/usr/bin:/bin", "HOME": "/root"}
    argv = own_root.entered(way, mounts, "/", env, relocation.worker_argv())
    done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    fetch_runs(THIS_MACHINE, [(run.paths, relocation)])
    assert collect_run(run.site.repository, run.experiment, inspect_run(run.paths))
    shown = data.gitexp("show", recorded["experiment"], "--json").json
    document = json.loads(data.git("show", f"{shown['result']}:experiments/sum/record/run.json"))
    version = subprocess.run(["/usr/bin/python3", "--version"], capture_output=True, text=True, check=True).stdout
    assert document["environment"]["interpreter"]["version"] == version.split()[1]
    assert document["environment"]["captured"] == "job"


def test_a_changed_workspace_is_refused_in_the_container(run, way, tmp_path):
    relocation = place_in_job_dir(run.paths, tmp_path, python=None)
    code = Path(relocation.workspace_at)
    assert (code / "link").is_symlink()
    (code / "sum.py").unlink()
    (code / "sum.py").write_text("print(1)\n")
    argv = own_root.entered(way, [(str(tmp_path), "/nemo_run")], "/", {"PATH": "/usr/bin"}, relocation.worker_argv())
    subprocess.run(argv, capture_output=True, check=False, timeout=120)
    error = json.loads(result_of(run))["error"]
    assert error["type"] == "WorkspaceMismatchError"
    assert re.search(r"sum\.py \(changed\)", error["message"])
    assert (run.workspace.path / "sum.py").read_text() != "print(1)\n"
