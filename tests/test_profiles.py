"""Of a profile, the shape belongs to the experiment and all else to the site; every fault is named at once."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nemo_gitexp.errors import LaunchError, SettingsError
from nemo_gitexp.profiles import (
    ExecutorProfile,
    Place,
    ProfileShape,
    TunnelProfile,
    bind_profile,
    find_references,
    missing_references,
    parse_profile,
    profile_topology,
    render_profile,
)
from nemo_gitexp.profileshape import needed_elsewhere, require_runnable, submission_fault
from nemo_gitexp.topology import NUMERIC_VARIABLES, topology

A100 = {
    "type": "slurm",
    "nodes": 2,
    "ntasks_per_node": 4,
    "gpus_per_node": 8,
    "launcher": "torchrun",
    "container_image": "nvcr.io/nvidia/nemo@sha256:" + "a" * 64,
    "account": "${env:SLURM_ACCOUNT}",
    "partition": "batch",
    "container_mounts": ["${site:SCRATCH}:/scratch"],
    "env": {"NCCL_ALGO": "Ring", "HF_TOKEN": "${env:HF_TOKEN}", "DEPTH": 3},
    "tunnel": {"type": "ssh", "host": "login", "user": "${env:USER}", "port": 2222, "identity": "~/.ssh/id"},
    "python": "/opt/py/bin/python",
    "root": "${site:SCRATCH}/runs",
}


def faults(name: str, table: dict[str, object]) -> list[str]:
    with pytest.raises(SettingsError) as caught:
        parse_profile(name, table)
    return caught.value.facts["faults"]


def test_shape_and_site_are_told_apart():
    profile = parse_profile("a100", A100)
    assert profile.kind == "slurm"
    assert profile.shape == ProfileShape(2, 4, 8, "torchrun", A100["container_image"], {"NCCL_ALGO": "Ring"})
    assert set(profile.options) == {"account", "partition", "container_mounts"}
    assert profile.env == {"HF_TOKEN": "${env:HF_TOKEN}", "DEPTH": "3"}
    assert profile.tunnel == TunnelProfile("ssh", "login", "${env:USER}", 2222, "~/.ssh/id")
    assert profile.place == Place("/opt/py/bin/python", "${site:SCRATCH}/runs", shared=False)


def test_every_fault_is_named_at_once():
    table = {
        "type": "slurm",
        "nodes": "two",
        "tasks_per_node": 0,
        "packager": "git",
        "array": "0-3",
        "shared": "yes",
        "data": "pul",
        "env": {"A B": "1", "X": True, "OMP_NUM_THREADS": "${env:N}"},
        "tunnel": {"type": "shh", "prot": 1},
        "image": "${site:registry}/nemo",
    }
    found = " | ".join(faults("x", table))
    for words in (
        "nodes = 'two'",
        "tasks_per_node = 0",
        "packager cannot be set: the recorded state",
        "array cannot be set",
        "shared = 'yes'",
        "data = 'pul'",
        "env.A B is no name",
        "env.X = True",
        "env.OMP_NUM_THREADS changes numbers",
        "tunnel.type = 'shh'",
        "tunnel.prot is no key; did you mean port?",
        "image is recorded",
    ):
        assert words in found


@pytest.mark.parametrize(
    "table, words",
    [
        ({}, "type is needed"),
        ({"type": "slrum"}, "type = 'slrum' is none of local, slurm"),
        ({"type": "slurm", "nodes": 1, "num_nodes": 1}, "num_nodes is nodes once more"),
        ({"type": "slurm", "env": {}, "env_vars": {}}, "env_vars is env once more"),
        ({"type": "docker", "tunnel": {}}, "tunnel is for slurm, not for docker"),
        ({"type": "local", "nodes": 2}, "local runs on one node"),
        ({"type": "local", "tasks_per_node": 2}, 'launcher = "torchrun" is needed'),
        ({"type": "lepton", "nodes": 2}, 'launcher = "torchrun" is needed'),
        ({"type": "dgxcloud", "launcher": "torchrun", "devices": 8}, "tasks_per_node = 8 is needed"),
        ({"type": "slurm", "data": "cache"}, "needs cache"),
        (
            {"type": "slurm", "tunnel": {"host": "h", "pre_command": "export T=${env:TOKEN}"}},
            "tunnel.pre_command cannot refer to the environment",
        ),
        (
            {"type": "slurm", "setup_lines": "export T=${env:TOKEN}", "tunnel": {"host": "h", "job_dir": "/shared"}},
            "setup_lines refers to the environment, and others may read tunnel.job_dir",
        ),
        (
            {"type": "slurm", "additional_parameters": {"wckey": "${env:K}"}, "tunnel": {"host": "h", "job_dir": "/s"}},
            "additional_parameters refers to the environment",
        ),
        ({"type": "slurm", "launcher": "torchrn"}, "launcher = 'torchrn' is none of torchrun"),
    ],
)
def test_what_cannot_be_meant_is_refused(table, words):
    assert words in " | ".join(faults("x", table))


def test_nearest_word_is_the_hint():
    with pytest.raises(SettingsError) as caught:
        parse_profile("x", {"type": "slrum"})
    assert (caught.value.hint, caught.value.facts["nearest"]) == ("did you mean slurm?", "slurm")
    assert caught.value.facts["setting"] == "executors.x.type"


def test_local_needs_no_type():
    assert parse_profile("local", {}) == ExecutorProfile("local", "local")


@pytest.mark.parametrize(
    "table, shared",
    [
        ({"type": "slurm"}, True),
        ({"type": "slurm", "root": "/r"}, True),
        ({"type": "slurm", "tunnel": {"type": "ssh"}}, True),
        ({"type": "slurm", "tunnel": {"host": "h"}, "root": "/r"}, False),
        ({"type": "slurm", "tunnel": {"host": "h"}, "root": "/r", "shared": True}, True),
        ({"type": "docker"}, True),
        ({"type": "lepton"}, False),
    ],
)
def test_file_system_is_shared_unless_runs_have_a_root_elsewhere(table, shared):
    assert parse_profile("x", table).place.shared is shared


def test_binding_replaces_every_reference_and_nothing_else():
    site, env = {"scratch": "/s"}, {"SLURM_ACCOUNT": "acc", "HF_TOKEN": "t", "USER": "me"}
    bound = bind_profile(parse_profile("a100", A100), site, env)
    assert bound.options == {"account": "acc", "partition": "batch", "container_mounts": ["/s:/scratch"]}
    assert bound.tunnel is not None
    assert bound.tunnel.user == "me"
    assert bound.place.root == "/s/runs"
    assert bound.env["HF_TOKEN"] == "t"
    assert not find_references(bound)
    assert bound.shape == parse_profile("a100", A100).shape


def test_missing_values_are_all_named():
    profile = parse_profile("a100", A100)
    with pytest.raises(SettingsError) as caught:
        bind_profile(profile, {"SCRATCH": "/s"}, {"USER": "me", "HF_TOKEN": ""})
    assert caught.value.facts["references"] == ["${env:SLURM_ACCOUNT}", "${env:HF_TOKEN}"]
    assert caught.value.hint == "export SLURM_ACCOUNT=…"
    assert [item.key for item in missing_references(profile, {}, {"SLURM_ACCOUNT": "a", "HF_TOKEN": "b"})] == [
        "container_mounts",
        "tunnel.user",
        "root",
    ]


def test_topology_has_the_shape_and_no_word_of_the_site():
    profile = parse_profile("a100", A100)
    found = profile_topology(profile, topology("bitwise", profile.shape.environment, 4, 42))
    assert (found["nodes"], found["tasks_per_node"], found["devices"], found["launcher"]) == (2, 4, 8, "torchrun")
    assert found["image"] == A100["container_image"]
    assert found["environment"]["NCCL_ALGO"] == "Ring"
    assert "batch" not in str(found)
    assert "${" not in str(found)


def test_topology_of_local_is_that_of_a_plain_run():
    base = topology("seeded", {}, 2, 1)
    assert profile_topology(parse_profile("local", {"type": "local"}), base) == base


@pytest.mark.parametrize(
    "kind, topology, words",
    [
        ("local", {"nodes": 2, "tasks_per_node": 1, "launcher": "torchrun"}, "local runs on one node"),
        ("local", {"nodes": 1, "tasks_per_node": 4, "launcher": None}, "starts one process a node"),
        ("docker", {"nodes": 1, "tasks_per_node": 4}, "starts one process a node"),
        ("lepton", {"nodes": 1, "tasks_per_node": 4, "launcher": "torchrun", "devices": 8}, "for each device"),
    ],
)
def test_what_an_executor_would_run_otherwise_is_refused(kind, topology, words):
    with pytest.raises(LaunchError, match=words):
        require_runnable(ExecutorProfile("x", kind), topology)
    assert require_runnable(ExecutorProfile("x", "slurm"), topology) is None


def test_local_runs_of_what_was_recorded_in_a_container_are_warned_of():
    note = require_runnable(ExecutorProfile("local", "local"), {"nodes": 1, "tasks_per_node": 1, "image": "nemo:1"})
    assert note == "warning: recorded in the container nemo:1, and executor local runs in none"


@pytest.mark.parametrize(
    "key, value", [("root", "/w"), ("cache", "/c"), ("shared", True), ("data", "pull"), ("image_at", "x.sqsh")]
)
def test_what_says_where_a_local_run_lies_elsewhere_is_a_fault(key, value):
    with pytest.raises(SettingsError) as caught:
        parse_profile("local", {"python": "/opt/py/bin/python", key: value})
    assert caught.value.setting == f"executors.local.{key}"
    assert "is for other machines than this one: leave it out" in caught.value.message
    kept = parse_profile("local", {"python": "/opt/py/bin/python"})
    assert parse_profile("local", render_profile(kept)) == kept


def test_what_a_record_needs_of_another_executor_is_said():
    assert needed_elsewhere({"nodes": 1, "tasks_per_node": 1, "image": None}) == ""
    assert needed_elsewhere({"nodes": 2, "tasks_per_node": 4}) == "2 nodes, 4 processes on each"
    assert needed_elsewhere({"nodes": 1, "tasks_per_node": 2, "launcher": "torchrun"}) == ""
    assert needed_elsewhere({"image": "nemo:1"}) == "the image nemo:1"


texts = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=8)
names = st.from_regex(r"[A-Za-z_][A-Za-z0-9_]{0,8}", fullmatch=True)
values = st.recursive(
    st.one_of(st.booleans(), st.integers(), texts, texts.map(lambda text: f"{text}${{env:A_{len(text)}}}")),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(names, inner, max_size=2),
    max_leaves=4,
)
tunnels = st.builds(
    TunnelProfile,
    st.sampled_from(["local", "ssh"]),
    *[st.none() | texts] * 2,
    st.none() | st.integers(1, 65535),
    *[st.none() | texts] * 4,
)
shapes = st.builds(
    ProfileShape,
    st.integers(1, 9),
    st.integers(1, 9),
    st.none() | st.integers(0, 8),
    st.sampled_from([None, "torchrun"]),
    st.none() | texts,
    st.dictionaries(st.sampled_from(NUMERIC_VARIABLES), texts, max_size=2),
)
profiles = st.builds(
    ExecutorProfile,
    texts,
    st.just("slurm"),
    shapes,
    st.dictionaries(names.map("opt_".__add__), values, max_size=3),
    st.none() | tunnels,
    st.dictionaries(names.map("V_".__add__), texts, max_size=2),
    st.builds(Place, st.none() | texts, st.none() | texts, st.booleans(), texts, st.sampled_from(["copy", "cache"])),
)


@given(profiles)
def test_reading_what_was_written_gives_the_same(profile):
    assert parse_profile(profile.name, render_profile(profile)) == profile


@given(profiles)
def test_bound_profiles_have_no_references_and_the_shape_they_had(profile):
    env = {item.name: "value" for item in find_references(profile)}
    bound = bind_profile(profile, {}, env)
    assert bound.shape == profile.shape
    assert not find_references(bound)


@given(st.dictionaries(st.sampled_from([*A100, "packager", "shared", "data", "cache"]), values, max_size=5))
def test_no_table_makes_anything_but_a_settings_error(table):
    with contextlib.suppress(SettingsError):
        profile = parse_profile("x", table)
        assert parse_profile("x", render_profile(profile)) == profile


@pytest.mark.parametrize(
    "table, fault",
    [
        ({"type": "kuberay"}, "runs no experiments"),
        ({"type": "lepton"}, "nothing brings results back from lepton"),
        ({"type": "dgxcloud", "shared": False}, "nothing brings results back from dgxcloud"),
        ({"type": "kubeflow"}, "nothing brings results back from kubeflow"),
        ({"type": "skypilot", "root": "/w"}, "nothing brings results back from skypilot"),
        ({"type": "lepton", "shared": True}, None),
        ({"type": "docker"}, None),
        ({"type": "slurm"}, None),
    ],
)
def test_a_kind_that_brings_no_results_back_takes_no_runs(table: dict, fault: str | None) -> None:
    found = submission_fault(parse_profile("x", table))
    assert (found is None) == (fault is None)
    assert fault is None or fault in found[0]
