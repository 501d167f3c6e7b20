"""The job imports the recorded code, not the user's live tree, however that is installed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import setuptools
from run_directory import Run, new_run, require_python, script

from nemo_gitexp.worker.redirect import RedirectRule


@pytest.fixture
def user(tmp_path: Path) -> Path:
    """The user's work tree, where everything says `live`."""
    root = tmp_path / "user tree"
    put(root / "src/pkg/__init__.py", "where = 'live'\n")
    put(root / "pyproject.toml", "[project]\nname='pkg'\nversion='1'\n")
    return root


def put(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def venv(root: Path, version: str | None = None) -> Path:
    """A bare virtual environment; returns its site-packages."""
    python = require_python(version) if version else sys.executable
    subprocess.run([python, "-m", "venv", "--without-pip", str(root)], check=True)
    return next(root.glob("lib/python*/site-packages"))


USE = "import pkg, subprocess, sys\nif __name__ == '__main__':\n    print(pkg.where, pkg.__file__)\n"
CHILD = (
    "import multiprocessing as mp\ndef f(_):\n    import pkg\n    return pkg.where\n"
    "if __name__ == '__main__':\n    print(mp.get_context('spawn').Pool(1).map(f, [0]))\n"
    "    print(subprocess.run([sys.executable, '-c', 'import pkg; print(pkg.where)'], stdout=-1, text=True).stdout)\n"
)


def recorded(run: Run, user: Path, site: Path, version: str | None = None) -> Run:
    run.put("src/pkg/__init__.py", "where = 'recorded'\n")
    run.put("train.py", USE + CHILD)
    run.plan["interpreter"] = str(site.parents[2] / "bin/python")
    run.plan["user_root"] = str(user)
    return run


@pytest.mark.parametrize("version", ["3.8", "3.11", "3.13"])
@pytest.mark.parametrize("style", ["pth", "finder", "egg-link", "PYTHONPATH"])
def test_an_editable_install_is_redirected_in_the_job_and_its_children(run: Run, user, tmp_path, style, version):
    site = venv(tmp_path / "venv", version)
    recorded(run, user, site)
    if style in ("pth", "egg-link"):
        put(site / "pkg.pth", f"{user}/src\n")
    elif style == "PYTHONPATH":
        run.plan["env"]["PYTHONPATH"] = f"/nowhere{os.pathsep}{user}/src"
    else:
        put(site / "__editable__.pkg-1.pth", "import __editable___pkg_1_finder; __editable___pkg_1_finder.install()\n")
        put(site / "__editable___pkg_1_finder.py", FINDER.format(mapping={"pkg": f"{user}/src/pkg"}))
    result = run.go(script("train.py"))
    assert result["status"] == "completed", (run.log, result["error"])
    assert run.log.split("\n")[:3] == [f"recorded {run.workspace}/src/pkg/__init__.py", "['recorded']", "recorded"]
    assert run.json("job.json")["smuggled"] == []


FINDER = """
import sys
from importlib.machinery import PathFinder
from importlib.util import spec_from_file_location
MAPPING = {mapping!r}
class _EditableFinder:
    @classmethod
    def find_spec(cls, fullname, path=None, target=None):
        if fullname in MAPPING:
            return spec_from_file_location(fullname, MAPPING[fullname] + "/__init__.py")
def install():
    sys.meta_path.append(_EditableFinder)
"""


def test_a_real_editable_install_is_redirected(run: Run, user, tmp_path):
    site = venv(tmp_path / "venv")
    recorded(run, user, site)
    options = ["--no-deps", "--no-build-isolation", "--no-index", "-q"]
    python = str(tmp_path / "venv/bin/python")
    env = {**os.environ, "PYTHONPATH": str(Path(setuptools.__file__).parents[1])}
    done = subprocess.run(
        [sys.executable, "-m", "pip", "--python", python, "install", *options, "-e", str(user)],
        capture_output=True, text=True, env=env, check=False,
    )  # fmt: skip
    if done.returncode:
        pytest.skip(f"pip could not install without a network: {done.stderr[-200:]}")
    assert run.go(script("train.py"))["status"] == "completed", run.log
    assert run.log.startswith("recorded ")
    program = str(run.dir / "node/_gitexp_worker/environment.py")
    done = subprocess.run([python, program], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout)["packages"]["pkg"] == "1 (editable)"


def test_a_module_that_only_the_live_tree_has_fails_the_run_and_is_named(run: Run, user, tmp_path):
    site = venv(tmp_path / "venv")
    recorded(run, user, site)
    put(site / "pkg.pth", f"{user}/lib\n")
    put(user / "lib/only_here.py", "x = 1\n")
    run.put("train.py", "import only_here")
    result = run.go(script("train.py"))
    assert (result["status"], result["exit_code"]) == ("failed", 0)
    assert result["error"]["type"] == "SmuggledModuleError"
    assert result["error"]["paths"] == [f"{user}/lib/only_here.py"]
    assert result["smuggled"] == [{"module": "only_here", "file": f"{user}/lib/only_here.py"}]


def test_a_module_smuggled_by_a_thread_after_the_script_is_found_too(run: Run, user, tmp_path):
    site = venv(tmp_path / "venv")
    recorded(run, user, site)
    put(user / "late.py", "x = 1\n")
    run.put("train.py", f"""
import threading, time, sys
def late():
    time.sleep(0.3); sys.path.append({str(user)!r}); import late
threading.Thread(target=late).start()
""")  # fmt: skip
    assert run.go(script("train.py"))["error"]["type"] == "SmuggledModuleError"


def test_a_virtual_environment_and_a_workspace_below_the_work_tree_are_no_smuggling(user):
    run = new_run(user / ".git/gitexp/run")
    site = venv(user / ".venv")
    recorded(run, user, site)
    put(site / "dep.py", "x = 1")
    put(site / "pkg.pth", f"{user}/src\n")
    run.put("train.py", "import dep, pkg, helper; print(pkg.where)")
    run.put("helper.py", "")
    result = run.go(script("train.py"))
    assert result["status"] == "completed", result["error"]
    assert run.log == "recorded\n"


def test_a_wrapped_command_is_redirected_and_its_environment_captured(run: Run, user, tmp_path):
    site = venv(tmp_path / "venv")
    recorded(run, user, site)
    put(site / "pkg.pth", f"{user}/src\n")
    put(site / "dep-1.2.dist-info/METADATA", "")
    python = run.plan["interpreter"]
    run.put("x.sh", f"exec {python} train.py\n")
    result = run.go({"kind": "command", "argv": ["bash", "x.sh"]}, probe_interpreter=python, interpreter=None)
    assert result["status"] == "completed", run.log
    assert run.log.startswith("recorded ")
    environment = result["job_environment"]
    assert set(environment) == {"schema", "captured", "interpreter", "packages"}
    assert environment["captured"] == "job"
    assert environment["packages"] == {"dep": "1.2"}


def test_a_probe_that_fails_is_no_obstacle(run: Run):
    result = run.go({"kind": "command", "argv": ["true"]}, probe_interpreter="/nowhere/python", interpreter=None)
    assert (result["status"], result["job_environment"]) == ("completed", None)


def test_the_rule_knows_what_is_live(tmp_path):
    user, workspace = tmp_path / "user", tmp_path / "user/.git/ws"
    put(user / "src/a.py", "")
    put(workspace / "src/a.py", "")
    (tmp_path / "alias").symlink_to(user)
    rule = RedirectRule(str(tmp_path / "alias"), str(workspace), [str(user / ".git"), "/", sys.prefix])
    assert rule.is_live(str(user))
    assert rule.is_live(str(tmp_path / "alias/src"))
    assert rule.counterpart(str(user / "src")) == str(workspace / "src")
    assert rule.counterpart(str(user / "other")) is None
    assert not rule.is_live(str(workspace / "src"))
    assert not rule.is_live(str(tmp_path / "users"))
    assert not rule.is_live(str(user / "venv/lib/python3.11/site-packages/numpy"))
    assert not RedirectRule(None, str(workspace), []).is_live(str(user))
