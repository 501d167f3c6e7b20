"""A run's files as a node with other paths sees them, and the words that stand for those paths here."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nemo_gitexp.collect import node_places
from nemo_gitexp.errors import SettingsError
from nemo_gitexp.relocation import (
    Relocation,
    find_relocation,
    relocated_plan,
    relocated_text,
    relocated_value,
    require_plain_paths,
    write_relocated_run,
    write_relocation,
)
from nemo_gitexp.remote import RemoteHost
from nemo_gitexp.result import without_places
from nemo_gitexp.rundir import RunPaths, reserve_run
from nemo_gitexp.worker.redirect import RedirectRule

RUN = "/home/ada/repo/.git/gitexp/runs/" + "a" * 40 + ".1234abcd"
WORKSPACE = "/scratch/ada/workspaces/" + "a" * 40 + ".1234abcd"
THERE = Relocation(
    run_dir="/data/site/runs/r",
    workspace="/data/site/workspaces/r",
    run_at="/data/site/runs/r",
    workspace_at="/data/site/workspaces/r",
    host=RemoteHost("cluster", "ada", 2222, Path("/users/ada/.ssh/key"), "module load slurm"),
    incoming_at="/data/site/incoming/r",
    python="/opt/venv/bin/python",
    home="/users/ada",
)
MOVED = {RUN: THERE.run_dir, WORKSPACE: THERE.workspace}
WORDS = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | WORDS | st.sampled_from([RUN, f"{RUN}/x", f"--out={WORKSPACE}/a b"]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(WORDS, inner, max_size=4),
    max_leaves=12,
)


@given(VALUES)
def test_what_is_moved_there_and_back_is_as_it_was(value):
    there = relocated_value(value, MOVED)
    assert RUN not in json.dumps(there)
    assert WORKSPACE not in json.dumps(there)
    assert relocated_value(there, {new: old for old, new in MOVED.items()}) == value


@pytest.mark.parametrize(
    "text,moved",
    [
        (f"--out={RUN}/outputs", "--out=/data/site/runs/r/outputs"),
        (f"-o{RUN}/outputs:{WORKSPACE}", "-o/data/site/runs/r/outputs:/data/site/workspaces/r"),
        (f"'{RUN}'", "'/data/site/runs/r'"),
        (f"{RUN}0/x", f"{RUN}0/x"),
        (f"{RUN}.bak", f"{RUN}.bak"),
        (f"see {RUN}.", "see /data/site/runs/r."),
        ("a\n$(touch x) `y` \\ 'z'", "a\n$(touch x) `y` \\ 'z'"),
    ],
)
def test_only_the_directories_themselves_are_replaced(text: str, moved: str):
    assert relocated_text(text, MOVED) == moved


def plan(**more: object) -> dict:
    return {
        "run_dir": RUN,
        "workspace": WORKSPACE,
        "cwd": f"{WORKSPACE}/sub",
        "user_root": "/home/ada/repo",
        "trusted_roots": ["/home/ada/repo/.git", RUN],
        "interpreter": "/home/ada/venv/bin/python",
        "probe_interpreter": None,
        "home": "/home/ada",
        "inputs": [],
        "env": {"GITEXP_OUTPUTS": f"{RUN}/outputs", "NOTE": "x; touch y"},
        **more,
    }


def test_the_plan_names_the_sites_interpreter_and_home_and_asks_for_its_packages():
    there = relocated_plan(plan(), THERE, [])
    assert there["interpreter"] == there["probe_interpreter"] == "/opt/venv/bin/python"
    assert there["home"] == "/users/ada"
    assert there["cwd"] == "/data/site/workspaces/r/sub"
    assert there["env"] == {"GITEXP_OUTPUTS": "/data/site/runs/r/outputs", "NOTE": "x; touch y"}
    bare = relocated_plan(plan(interpreter=None), replace(THERE, python=None, home=None), [])
    assert (bare["interpreter"], bare["probe_interpreter"], bare["home"]) == (None, "python3", "/home/ada")


def test_where_the_node_sees_the_users_work_tree_nothing_is_imported_from_it(tmp_path: Path):
    live, there = tmp_path / "repo", tmp_path / "repo" / ".scratch" / "r"
    (live / "pkg").mkdir(parents=True)
    (there / "pkg").mkdir(parents=True)
    moved = relocated_plan(plan(user_root=str(live)), replace(THERE, workspace=str(there)), [])
    rule = RedirectRule(moved["user_root"], moved["workspace"], moved["trusted_roots"])
    assert rule.counterpart(str(live / "pkg")) == str(there / "pkg")
    assert not rule.is_live(str(there / "pkg"))
    elsewhere = RedirectRule("/nowhere/at/all", str(there), ["/nowhere/at/all/.git"])
    assert not elsewhere.is_live(str(live / "pkg"))


@pytest.fixture
def run(tmp_path: Path) -> RunPaths:
    paths = reserve_run(tmp_path / "runs", tmp_path / "workspaces", "a" * 40)
    workspace = json.loads(paths.launching.read_text())["workspace"]
    own = {"run_dir": str(paths.root), "workspace": workspace}
    paths.plan.write_text(json.dumps(plan(**own)))
    stage = paths.stage("load")
    stage.root.mkdir(parents=True)
    stage.plan.write_text(json.dumps(plan(**own, stage={"run": str(paths.root)}) | {"run_dir": str(stage.root)}))
    stage.results.write_text(json.dumps({"first": f"{paths.root}/outputs/first"}))
    (paths.root / "outputs" / "first").mkdir(parents=True)
    (paths.root / "outputs" / "first" / "big.bin").write_text("x")
    (paths.root / "submitted.json").write_text("{}")
    return paths


def test_a_node_is_given_its_own_names_in_all_files_and_none_of_this_side(run: RunPaths, tmp_path: Path):
    write_relocated_run(run, THERE, tmp_path / "copy", [])
    copy = RunPaths(tmp_path / "copy")
    texts = {file: file.read_text() for file in copy.root.rglob("*") if file.is_file()}
    assert {str(file.relative_to(copy.root)) for file in texts} == {
        "plan.json",
        "stages/load/plan.json",
        "stages/load/results.json",
        "outputs/first/big.bin",
    }
    assert not [file for file, text in texts.items() if str(run.root) in text]
    assert json.loads(copy.stage("load").results.read_text()) == {"first": "/data/site/runs/r/outputs/first"}
    assert json.loads(copy.stage("load").plan.read_text())["run_dir"] == "/data/site/runs/r/stages/load"
    assert json.loads(run.plan.read_text())["run_dir"] == str(run.root)


def test_words_of_a_node_come_back_as_those_of_this_machine(run: RunPaths):
    assert find_relocation(run) is None
    assert node_places(run) == {}
    write_relocation(run, THERE)
    assert run.relocated.stat().st_mode & 0o777 == 0o600
    assert find_relocation(run) == THERE
    said = "/data/site/workspaces/r/x to /data/site/runs/r/outputs by /opt/venv/bin/python for /users/ada/y"
    assert without_places(said, node_places(run)) == "{workspace}/x to {run}/outputs by {python}/bin/python for ~/y"


def test_workers_are_started_by_the_sites_interpreter_or_the_first_on_its_path():
    assert THERE.worker_argv() == [
        "/opt/venv/bin/python",
        "/data/site/runs/r/node/start.py",
        "/data/site/runs/r/plan.json",
    ]
    bare = replace(THERE, python=None, run_dir="/a b/r")
    assert bare.worker_line("load") == "exec python3 '/a b/r/node/start.py' '/a b/r/stages/load/plan.json'\n"


def test_paths_that_nemo_run_corrupts_are_refused_by_name():
    require_plain_paths({"run_root": "/scratch/nemo/runs"})
    with pytest.raises(SettingsError, match=r"run_root holds /nemo_run, .*: /scratch/nemo_runs/x") as raised:
        require_plain_paths({"workspace_root": "/w", "run_root": "/scratch/nemo_runs/x"})
    assert raised.value.setting == "run_root"
    assert "run_root" in raised.value.hint
