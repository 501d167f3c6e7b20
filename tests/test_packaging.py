"""What is shipped and how it is installed: the wheel, the pinned environment, the doors of the Makefile."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]
WHEEL_SOURCES = ("pyproject.toml", "README.md", "LICENSE", "nemo_gitexp")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel, built from a copy of what belongs in it."""
    source = tmp_path_factory.mktemp("source")
    for name in WHEEL_SOURCES:
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, source / name)
    out = tmp_path_factory.mktemp("wheel")
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    done = subprocess.run([*pip, "-w", out, source], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    (path,) = out.glob("*.whl")
    with zipfile.ZipFile(path) as archive:
        yield archive


@pytest.fixture(scope="module")
def project():
    """The [project] table."""
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


@pytest.fixture(scope="module")
def pins():
    """Name to pinned version, from constraints.txt."""
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    return {canonicalize_name(name): version for name, _, version in (line.partition("==") for line in lines)}


def test_wheel_holds_every_module_and_the_typing_marker(wheel):
    sources = {path.relative_to(ROOT).as_posix() for path in (ROOT / "nemo_gitexp").rglob("*.py")}
    shipped = {name for name in wheel.namelist() if name.startswith("nemo_gitexp/")}
    assert shipped == sources | {"nemo_gitexp/py.typed"}


def test_wheel_holds_the_worker_that_is_copied_to_the_node(wheel):
    assert "nemo_gitexp/worker/start.py" in wheel.namelist()


def test_wheel_installs_the_command_and_the_licence(wheel):
    (entry_points,) = (name for name in wheel.namelist() if name.endswith("entry_points.txt"))
    assert "nemo-gitexp = nemo_gitexp.__main__:main" in wheel.read(entry_points).decode()
    assert any(name.endswith("/LICENSE") for name in wheel.namelist())


def test_every_dependency_is_pinned_to_a_version_it_allows(project, pins):
    wanted = [
        *project["dependencies"],
        *(line for lines in project["optional-dependencies"].values() for line in lines),
    ]
    for requirement in map(Requirement, wanted):
        if requirement.name != project["name"]:
            assert requirement.specifier.contains(pins[canonicalize_name(requirement.name)]), requirement


def test_constraints_name_versions_and_no_places():
    for line in (ROOT / "constraints.txt").read_text().splitlines():
        requirement = Requirement(line)
        assert requirement.url is None, line
        assert [(spec.operator, "+" in spec.version) for spec in requirement.specifier] == [("==", False)], line


@pytest.mark.parametrize("module", ["nemo_gitexp", "nemo_gitexp.cli"])
def test_import_is_light(module):
    code = f"import {module}, sys; print(*{{'torch', 'numpy', 'dvc', 'nemo_run', 'git', 'fiddle'}} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == []


@pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")
@pytest.mark.parametrize("door", ["demo", "test"])
def test_doors_outside_a_repository_say_what_to_type(door, tmp_path):
    shutil.copy(ROOT / "Makefile", tmp_path)
    env = {name: value for name, value in os.environ.items() if not name.startswith(("GIT_", "MAKE"))}
    env["GIT_CEILING_DIRECTORIES"] = str(tmp_path.parent)
    done = subprocess.run(
        ["make", door], cwd=tmp_path, env=env, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode != 0
    assert "git init && git add -A && git commit -m import" in done.stderr
