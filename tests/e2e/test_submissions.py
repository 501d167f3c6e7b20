"""`nemo-gitexp run -- LAUNCHER`: a command that only submits NeMo Run jobs does not pass for a completed experiment."""

from __future__ import annotations

from pathlib import Path

import pytest
from builder import Work, make_work

TASKS = """\
import nemo_run as run

@run.cli.entrypoint(namespace="demo")
def greet(name: str = "you"):
    print("hello", name)

@run.cli.factory(target=run.LocalExecutor, name="here")
def here() -> run.Config[run.LocalExecutor]:
    return run.Config(run.LocalExecutor)
"""
LAUNCH = """\
import sys
import nemo_run as run
if "directly" in sys.argv:
    run.run(run.Script(inline="echo done here"))
else:
    with run.Experiment("greetings", executor=run.LocalExecutor(), skip_status_at_exit=True) as exp:
        exp.add(run.Script(inline="echo hello"), name="one")
        exp.run()
"""


@pytest.fixture
def work(tmp_path: Path) -> Work:
    package = tmp_path / "installed" / "demo-1.dist-info"
    package.mkdir(parents=True)
    (package / "METADATA").write_text("Metadata-Version: 2.1\nName: demo\nVersion: 1\n")
    (package / "entry_points.txt").write_text("[nemo_run.cli]\ndemo = demo_tasks\n")
    files = {"launch.py": LAUNCH, "demo_tasks.py": TASKS}
    places = f"{package.parent}:{tmp_path / 'work'}"
    return make_work(tmp_path / "work", tmp_path / "home", files=files, PYTHONPATH=places)


def test_the_exit_of_a_launcher_is_not_the_end_of_what_it_launched(work: Work) -> None:
    nemorun = ("nemorun", "demo", "greet", "--yes", "run.executor=here")
    for command in (("python", "launch.py"), nemorun):
        ran = work.gitexp("run", "--json", "--", *command, code=1).json
        assert (ran["status"], ran["error"]["type"]) == ("failed", "SubmittedElsewhereError")
        assert ran["error"]["exit_code"] == 0
        assert "from nemo_gitexp import Experiment" in ran["error"]["message"]
    assert "greetings_" in work.gitexp("log", "--json").json["experiments"][1]["error"]["message"]


def test_a_launcher_that_records_is_refused_inside_of_a_job(work: Work) -> None:
    changed = LAUNCH.replace("run.Experiment(", "Experiment(").replace(
        "import sys", "from nemo_gitexp import Experiment\nimport sys"
    )
    work.write("records.py", changed)
    ran = work.gitexp("run", "--json", "--", "python", "records.py", code=1).json
    assert (ran["status"], ran["error"]["type"]) == ("failed", "InsideJobError")
    assert "a job launches no experiments" in ran["error"]["message"]
    assert len(work.refs()) == 1


def test_a_script_that_nemo_run_runs_in_the_job_itself_is_the_job(work: Work) -> None:
    assert work.gitexp("run", "--json", "--", "python", "launch.py", "directly").json["status"] == "completed"
