"""NeMo Run is asked for its executors once: in a process of our own, whose answer is kept."""

from __future__ import annotations

import sys

import pytest

from nemo_gitexp.errors import LaunchError, SettingsError
from nemo_gitexp.nemofields import ask_build, read_kinds, require_known
from nemo_gitexp.profiles import parse_profile

TOPOLOGY = {"nodes": 1, "tasks_per_node": 1, "devices": None, "launcher": None, "image": None}


@pytest.fixture(scope="module")
def state_dir(tmp_path_factory):
    """Return a state directory in which the answer is kept already."""
    place = tmp_path_factory.mktemp("state")
    assert read_kinds(place)["slurm"].fields
    return place


@pytest.fixture
def no_nemo_run(monkeypatch):
    """Make it impossible to ask: what is answered now is what was kept."""
    monkeypatch.setattr(sys, "executable", "/bin/false")


def test_the_answer_is_kept(state_dir, no_nemo_run):
    assert read_kinds(state_dir)["slurm"].fields["account"].required


def test_a_damaged_answer_is_asked_anew(state_dir, tmp_path, no_nemo_run):
    place = tmp_path / "cache" / "executors" / next((state_dir / "cache" / "executors").iterdir()).name
    place.parent.mkdir(parents=True)
    place.write_text('{"slurm": {"class": 1}}')
    with pytest.raises(LaunchError, match="NeMo Run cannot be asked"):
        read_kinds(tmp_path)


def test_profiles_are_checked_without_importing_nemo_run(state_dir, no_nemo_run):
    with pytest.raises(SettingsError) as caught:
        require_known(parse_profile("x", {"type": "slurm", "partion": "p", "mem": 3}), state_dir)
    assert caught.value.facts["faults"] == [
        "partion is no key; did you mean partition? (SlurmExecutor)",
        "mem = 3 is not a text",
    ]
    assert caught.value.hint == "did you mean partition?"
    require_known(parse_profile("x", {"type": "slurm", "partition": "p"}), state_dir)


def test_a_profile_without_fields_of_nemo_run_needs_no_answer(tmp_path, no_nemo_run):
    require_known(parse_profile("local", {"tasks_per_node": 2, "launcher": "torchrun"}), tmp_path)


def test_executors_are_built_where_references_have_values(monkeypatch):
    profile = parse_profile("x", {"type": "slurm", "account": "${env:GX_ACCOUNT}", "mem": "${site:mem}"})
    monkeypatch.setenv("GX_ACCOUNT", "a")
    assert ask_build(profile, {"mem": "4G"}, TOPOLOGY) is None
    fault = ask_build(profile, {}, TOPOLOGY)
    assert fault is not None
    assert "${site:mem}" in fault["message"]
