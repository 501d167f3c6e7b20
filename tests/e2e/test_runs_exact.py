"""The job sees exactly what was recorded, whatever the work tree becomes; what is not exact does not run."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from builder import Work, make_work, wait_until
from gated import Gated, make_gated
from residue import expect_nothing_left

SLOW_CHECKOUT = "slow.txt filter=slow\n"
STATE = """\
import os, pathlib, subprocess, time
import helper
gate = pathlib.Path(os.environ["GATE"])
(gate / "ready").write_text("")
while not (gate / "go").exists():
    time.sleep(0.02)
import late
pathlib.Path(os.environ["GITEXP_OUTPUTS"], "seen.txt").write_text(
    helper.VALUE + late.VALUE + open("data.txt").read() + subprocess.check_output(["git", "rev-parse", "HEAD"]).decode()
)
"""


@pytest.fixture
def gated(tmp_path: Path) -> Gated:
    gated = make_gated(tmp_path)
    for name, text in {
        "helper.py": "VALUE = 'a'\n",
        "late.py": "VALUE = 'b'\n",
        "data.txt": "c",
        "gated.py": STATE,
    }.items():
        gated.work.write(name, text)
    gated.work.commit()
    return gated


def disturb(work: Work) -> None:
    """Do to the work tree what people do while a job is on its way."""
    for name, text in {"helper.py": "VALUE = 'X'\n", "late.py": "VALUE = 'X'\n", "data.txt": "X"}.items():
        work.write(name, text)
    work.commit("edited at once")
    work.git("checkout", "-q", "-b", "elsewhere")
    (work.root / "gated.py").unlink()
    (work.root / "late.py").unlink()
    work.commit("and deleted")


def test_edits_commits_and_switches_right_after_submission_change_nothing(gated: Gated, tmp_path: Path) -> None:
    gated.work.write("data.txt", "dirty ")
    recorded = gated.work.gitexp("run", "--json", "--detach", "--", "python", "gated.py").json
    disturb(gated.work)
    gated.wait_at_gate()
    gated.open()
    wait_until(lambda: gated.status()["status"] == "completed")
    gated.work.gitexp("outputs", "latest", "--get", str(tmp_path / "got"))
    assert (tmp_path / "got" / "seen.txt").read_text() == f"abdirty {recorded['experiment']}\n"
    expect_nothing_left(gated.work)


def test_edits_while_the_state_is_still_being_restored_change_nothing(gated: Gated, tmp_path: Path) -> None:
    gated.work.write("slow.txt", "x")
    gated.work.write(".gitattributes", SLOW_CHECKOUT)
    gated.work.commit()
    gated.work.git("config", "filter.slow.smudge", f"touch '{tmp_path / 'restoring'}'; sleep 1; cat")
    process = gated.work.start("run", "--json", "--", "python", "gated.py")
    wait_until((tmp_path / "restoring").exists)
    disturb(gated.work)
    gated.open()
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, (out, err)
    gated.work.gitexp("outputs", "latest", "--get", str(tmp_path / "got"))
    assert (tmp_path / "got" / "seen.txt").read_text().startswith("abc")


TAMPERINGS = {
    "an edited file": ("helper.py", lambda place: place.write_text("VALUE = 'X'\n")),
    "a file that nobody recorded": ("sitecustomize.py", lambda place: place.write_text("")),
    "a file that became a link": ("data.txt", lambda place: (place.unlink(), place.symlink_to("/etc/hostname"))),
}


@pytest.mark.parametrize("case", list(TAMPERINGS))
def test_a_workspace_that_is_not_as_recorded_is_refused_by_name(work: Work, tmp_path: Path, case: str) -> None:
    name, tamper = TAMPERINGS[case]
    work.write("helper.py", "VALUE = 'a'\n")
    work.write("data.txt", "c")
    # A NeMo Run that takes its time: the supervisor waits for it between taking the run and starting the worker.
    slow = tmp_path / "slow"
    slow.mkdir()
    (slow / "sitecustomize.py").write_text(
        "import os, sys, time\n"
        "if 'nemo_gitexp.launchers.nemo' in ' '.join(sys.orig_argv):\n"
        f"    while not os.path.exists({str(tmp_path / 'go')!r}): time.sleep(0.02)\n"
    )
    work.env["PYTHONPATH"] = str(slow)
    process = work.start("run", "--json", "--", "python", "train.py")
    workspaces = work.root / ".git" / "gitexp" / "workspaces"
    runs = work.root / ".git" / "gitexp" / "runs"
    wait_until(lambda: list(runs.glob("[!.]*/plan.json")))
    (workspace,) = workspaces.iterdir()
    tamper(workspace / name)
    (tmp_path / "go").write_text("")
    out, err = process.communicate(timeout=60)
    assert process.returncode == 1, (out, err)
    (listed,) = work.gitexp("log", "--json").json["experiments"]
    assert (listed["status"], listed["error"]["type"]) == ("failed", "WorkspaceMismatchError")
    assert name in listed["error"]["message"]
    assert listed["outputs"] == []
    expect_nothing_left(work)


@pytest.fixture(scope="module")
def venv(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a virtual environment that sees this one's setuptools, for editable installs without a network."""
    place = tmp_path_factory.mktemp("venv") / "v"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(place)], check=True)
    (site,) = place.glob("lib/python*/site-packages")
    import setuptools

    (site / "ours.pth").write_text(f"{Path(setuptools.__file__).parent.parent}\n")
    return place


def install_editable(work: Work, venv: Path) -> None:
    python = str(venv / "bin" / "python")
    call = [
        python,
        "-m",
        "pip",
        "install",
        "-q",
        "--no-deps",
        "--no-build-isolation",
        "--no-index",
        "--prefix",
        str(venv),
    ]
    done = subprocess.run([*call, "-e", str(work.root)], env=work.env, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()


PROJECT = """\
[build-system]
requires = ["setuptools"]
build-backend = "setuptools.build_meta"
[project]
name = "{name}"
version = "0"
"""
LAYOUTS = {
    "src": ("src/{name}/__init__.py", '[tool.setuptools.packages.find]\nwhere = ["src"]\n'),
    "flat": ("{name}/__init__.py", '[tool.setuptools]\npackages = ["{name}"]\n'),
}
SEES = """\
import os, pathlib, sys, importlib
module = importlib.import_module(sys.argv[1])
pathlib.Path(os.environ["GITEXP_OUTPUTS"], "seen.txt").write_text(module.VALUE)
"""


@pytest.mark.parametrize("layout", list(LAYOUTS))
def test_an_editable_install_does_not_smuggle_the_live_edit_in(tmp_path: Path, venv: Path, layout: str) -> None:
    name = f"mine_{layout}"
    path, setup = LAYOUTS[layout]
    files = {
        "pyproject.toml": PROJECT.format(name=name) + setup.format(name=name),
        path.format(name=name): "VALUE = 'recorded'\n",
        ".gitignore": "*.egg-info/\nbuild/\n",
        "jobs/job.py": SEES,
    }
    work = make_work(tmp_path / "work", tmp_path / "home", files=files)
    install_editable(work, venv)
    work.gitexp("run", "--record-only", "--", str(venv / "bin" / "python"), "jobs/job.py", name)
    work.write(path.format(name=name), "VALUE = 'live edit'\n")
    plain = [str(venv / "bin" / "python"), "-c", f"import {name}; print({name}.VALUE)"]
    assert subprocess.check_output(plain, cwd=tmp_path, env=work.env) == b"live edit\n"
    ran = work.gitexp("launch", "--json", "latest").json
    assert ran["status"] == "completed", ran["error"]
    work.gitexp("outputs", "latest", "--get", str(tmp_path / "got"))
    assert (tmp_path / "got" / "seen.txt").read_text() == "recorded"


def test_a_job_that_loads_a_module_from_the_live_tree_all_the_same_fails_and_names_it(work: Work) -> None:
    work.write("live.py", "VALUE = 1\n")
    work.write("smuggler.py", f"import sys\nsys.path.insert(0, {str(work.root)!r})\nimport live_only\n")
    work.write(".gitignore", "live_only.py\n")
    work.write("live_only.py", "VALUE = 2\n")
    error = work.gitexp("run", "--json", "--", "python", "smuggler.py", code=1).json["error"]
    assert error["type"] == "SmuggledModuleError"
    assert "live_only" in error["message"]
