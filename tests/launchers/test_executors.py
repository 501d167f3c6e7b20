"""Profiles become NeMo Run's own executors: every kind, with its fields checked by name and type."""

from __future__ import annotations

import importlib
import re
from dataclasses import replace
from pathlib import Path

import pytest

nemo_run = pytest.importorskip("nemo_run")

from nemo_gitexp.errors import LaunchError, SettingsError  # noqa: E402
from nemo_gitexp.extras import missing_extra  # noqa: E402
from nemo_gitexp.launchers.executors import (  # noqa: E402
    build_executor,
    build_tunnel,
    local_arguments,
    read_fields,
)
from nemo_gitexp.profilefields import SHAPE_FIELDS, find_faults, find_missing, parse_fields, render_fields  # noqa: E402
from nemo_gitexp.profileparts import KINDS, REFUSED_KEYS  # noqa: E402
from nemo_gitexp.profiles import bind_profile, parse_profile, profile_topology  # noqa: E402
from nemo_gitexp.settings import read_settings, require_profile  # noqa: E402

PAGE = Path(__file__).resolve().parents[2] / "docs" / "executors.md"
DIGEST = "nvcr.io/nvidia/nemo@sha256:" + "a" * 64


@pytest.fixture(scope="module")
def kinds():
    return read_fields()


def built(table, *, site=None, env=None):
    bound = bind_profile(parse_profile("x", table), site or {}, env or {})
    return build_executor(bound, profile_topology(bound, {"environment": {}}))


def test_slurm_has_shape_site_and_none_of_the_traps():
    executor = built(
        {
            "type": "slurm",
            "nodes": 2,
            "tasks_per_node": 4,
            "devices": 8,
            "launcher": "torchrun",
            "image": DIGEST,
            "account": "${env:ACCOUNT}",
            "partition": "batch",
            "time": "01:00:00",
            "cpus_per_task": "${site:cpus}",
            "container_mounts": ["${site:scratch}:/scratch"],
            "env": {"lower": "a b; touch x"},
        },
        site={"cpus": "6", "scratch": "/s"},
        env={"ACCOUNT": "mine"},
    )
    assert type(executor) is nemo_run.SlurmExecutor
    assert (executor.nodes, executor.ntasks_per_node, executor.gpus_per_node) == (2, 4, 8)
    assert (executor.account, executor.partition, executor.time) == ("mine", "batch", "01:00:00")
    assert (executor.cpus_per_task, executor.container_mounts) == (6, ["/s:/scratch"])
    assert (executor.launcher, executor.container_image) == ("torchrun", DIGEST)
    assert executor.poll_estimated_start_time is False
    assert executor.env_vars == {}
    assert type(executor.packager) is nemo_run.Packager
    assert type(executor.tunnel) is nemo_run.LocalTunnel
    assert executor.tunnel.job_dir == ""


def test_the_image_is_called_what_the_site_calls_it():
    table = {"type": "slurm", "account": "a", "image": DIGEST, "image_at": "${site:images}/nemo.sqsh"}
    assert built(table, site={"images": "/lustre"}).container_image == "/lustre/nemo.sqsh"


def test_the_recorded_topology_counts_and_not_the_profile_of_this_site():
    bound = parse_profile("x", {"type": "slurm", "account": "a", "nodes": 1, "devices": 1, "image": "here"})
    recorded = {"nodes": 4, "tasks_per_node": 2, "devices": 8, "launcher": None, "image": DIGEST}
    executor = build_executor(bound, recorded)
    assert (executor.nodes, executor.ntasks_per_node, executor.gpus_per_node) == (4, 2, 8)
    assert executor.container_image == DIGEST


def test_ssh_tunnel_is_not_connected_and_knows_where(monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    table = {"host": "login", "user": "me", "port": 2222, "identity": "~/.ssh/id"}
    profile = parse_profile("x", {"type": "slurm", "account": "a", "tunnel": table, "root": "/scratch/me/"})
    tunnel = build_executor(profile, {"nodes": 1, "tasks_per_node": 1}).tunnel
    assert type(tunnel) is nemo_run.SSHTunnel
    assert (tunnel.host, tunnel.user, tunnel.port, tunnel.identity) == ("login", "me", 2222, "/home/me/.ssh/id")
    assert tunnel.job_dir == "/scratch/me/nemo"
    named = parse_profile("x", {"type": "slurm", "tunnel": {"host": "h", "user": "u", "job_dir": "/j"}})
    assert build_tunnel(named).job_dir == "/j"
    with pytest.raises(SettingsError, match=r"tunnel\.job_dir is missing"):
        build_tunnel(parse_profile("x", {"type": "slurm", "tunnel": {"host": "h"}}))


@pytest.mark.parametrize(
    "table, fields",
    [
        ({"type": "local"}, {"launcher": None}),
        ({"type": "local", "tasks_per_node": 2, "launcher": "torchrun"}, {"ntasks_per_node": 2}),
        ({"type": "docker", "image": DIGEST, "num_gpus": 2}, {"container_image": DIGEST, "num_gpus": 2}),
        (
            {"type": "lepton", "image": DIGEST, "root": "/w", "nprocs_per_node": 2, "launcher": "torchrun"},
            {"nemo_run_dir": "/w", "nprocs_per_node": 2, "launcher": "torchrun"},
        ),
        (
            {
                "type": "dgxcloud",
                "image": DIGEST,
                "root": "/w",
                "base_url": "u",
                "kube_apiserver_url": "k",
                "client_id": "c",
                "client_secret": "s",
                "project_name": "p",
                "gpus_per_node": 8,
            },
            {"pvc_nemo_run_dir": "/w", "gpus_per_node": 8, "client_secret": "s"},
        ),
    ],
)
def test_other_kinds_are_built(table, fields):
    executor = built(table)
    assert {name: getattr(executor, name) for name in fields} == fields
    assert executor.env_vars == {}


@pytest.mark.parametrize("kind", ["skypilot", "kubeflow", "kuberay"])
def test_kinds_whose_extra_is_missing_say_what_to_install(kind):
    extra = missing_extra(kind)
    if extra is None:
        pytest.skip(f"nemo_run's extra for {kind} is installed")
    with pytest.raises(LaunchError) as caught:
        built({"type": kind})
    assert caught.value.hint.endswith(f"-m pip install 'nemo_run[{extra.name}]'")


def test_kinds_are_known_by_their_real_dataclasses(kinds):
    assert set(kinds) == set(KINDS)
    assert kinds["slurm"].fields["account"].required
    assert kinds["slurm"].fields["container_mounts"].type == ["list", "text"]
    assert kinds["slurm"].fields["exclusive"].type == ["either", "flag", "text", "none"]
    assert kinds["kuberay"].fields is None or "worker_groups" in kinds["kuberay"].fields
    assert parse_fields(render_fields(kinds)) == kinds


def test_every_key_of_the_shape_becomes_a_field_that_exists(kinds):
    for kind, names in SHAPE_FIELDS.items():
        if kinds[kind].fields is not None:
            assert set(names.values()) <= set(kinds[kind].fields), kind


def test_what_is_refused_is_a_field_somewhere():
    known = {name for kind in read_fields().values() for name in kind.fields or {}}
    not_given = {"job_name", "resource_group", "run_as_group"}  # fields that NeMo Run itself fills
    assert set(REFUSED_KEYS) - known <= not_given


@pytest.mark.parametrize(
    "table, fault",
    [
        ({"accont": "a"}, "accont is no key; did you mean account? (SlurmExecutor)"),
        ({"noeds": 2}, "noeds is no key; did you mean nodes? (SlurmExecutor)"),
        ({"pyton": "/p"}, "pyton is no key; did you mean python? (SlurmExecutor)"),
        ({"cpus_per_task": "two"}, "cpus_per_task = 'two' is not a whole number"),
        ({"partition": 3}, "partition = 3 is not a text"),
        ({"exclusive": 3}, "exclusive = 3 is not true or false or a text"),
        ({"container_mounts": ["/a", 1]}, "container_mounts[1] = 1 is not a text"),
        ({"container_mounts": "/a"}, "container_mounts = '/a' is not a list of texts"),
        ({"additional_parameters": 3}, "additional_parameters = 3 is not a table of anything"),
        ({"memory_measure": 1}, "memory_measure = 1 is not true or false"),
    ],
)
def test_faults_name_the_key_and_what_is_wrong(kinds, table, fault):
    profile = parse_profile("x", {"type": "slurm", "account": "a", **table})
    found = [f"{key} {what}" for key, what, _ in find_faults(profile, kinds["slurm"])]
    assert found == [fault]
    with pytest.raises(SettingsError) as caught:
        build_executor(profile, {})
    assert len(caught.value.facts["faults"]) == 1


def test_references_may_stand_where_a_number_is_wanted(kinds):
    profile = parse_profile("x", {"type": "slurm", "account": "a", "cpus_per_task": "${site:cpus}"})
    assert find_faults(profile, kinds["slurm"]) == []
    with pytest.raises(SettingsError, match="cpus_per_task = … is not a whole number"):
        build_executor(bind_profile(profile, {"cpus": "many"}, {}), {})


@pytest.mark.parametrize(
    "table, missing",
    [
        ({"type": "slurm", "tunnel": {"type": "ssh"}}, ["account", "tunnel.host"]),
        ({"type": "slurm", "shared": False}, ["account", "root"]),
        ({"type": "docker", "image": "i"}, []),
    ],
)
def test_what_must_be_given_is_named(kinds, table, missing):
    profile = parse_profile("x", table)
    assert [key for key, _, _ in find_missing(profile, kinds[profile.kind])] == missing


def test_a_local_job_runs_in_no_container(kinds):
    faults = find_faults(parse_profile("x", {"type": "local", "image": "i"}), kinds["local"])
    assert [what for _, what, _ in faults] == ["cannot be set: local jobs run in no container"]


def test_local_processes_are_started_by_their_launcher_alone():
    assert local_arguments({"launcher": None, "tasks_per_node": 4}) == {}
    assert local_arguments({"launcher": "torchrun", "tasks_per_node": 4}) == {
        "launcher": "torchrun",
        "ntasks_per_node": 4,
    }


def test_what_nemo_run_itself_refuses_is_one_error(monkeypatch):
    module = importlib.import_module("nemo_run.core.execution.docker")

    def refuses(self, **given):
        raise AssertionError("no such runtime\nsecond line")

    monkeypatch.setattr(module.DockerExecutor, "__init__", refuses)
    with pytest.raises(LaunchError, match=r"executor x: NeMo Run's DockerExecutor refuses it: no such runtime$"):
        built({"type": "docker", "image": "i"})


@pytest.mark.skipif(missing_extra("kubeflow") is not None, reason="nemo_run's extra kubeflow is not installed")
def test_kubernetes_has_nodes_processes_and_devices(tmp_path, monkeypatch):
    (tmp_path / "config").write_text(
        'apiVersion: v1\nkind: Config\nclusters: [{name: c, cluster: {server: "https://127.0.0.1:1"}}]\n'
        "users: [{name: u, user: {token: t}}]\ncontexts: [{name: x, context: {cluster: c, user: u}}]\n"
        "current-context: x\n"
    )
    # Where kubernetes looks by default is fixed when it is imported.
    place = "kubernetes.config.kube_config.KUBE_CONFIG_DEFAULT_LOCATION"
    monkeypatch.setattr(place, str(tmp_path / "config"))
    shape = {"nodes": 2, "tasks_per_node": 4, "devices": 4, "launcher": "torchrun", "image": DIGEST}
    executor = built({"type": "kubeflow", **shape, "namespace": "n"})
    assert (executor.num_nodes, executor.nprocs_per_node, executor.gpus_per_node) == (2, 4, 4)
    assert (executor.image, executor.namespace) == (DIGEST, "n")
    (group,) = built({"type": "kuberay", **shape}).worker_groups
    assert (group.replicas, group.gpus_per_worker) == (2, 4)


def test_the_page_names_fields_that_exist_and_all_that_must_be_given(kinds):
    cells = [
        line.strip("|").split("|") for line in PAGE.read_text().splitlines() if re.match(r"\| `\w+` \| `\w+Exec", line)
    ]
    rows = [(kind.strip(" `"), name.strip(" `"), needed, some) for kind, name, needed, some in cells]
    assert {kind for kind, *_ in rows} == set(KINDS)
    for kind, name, needed, some in rows:
        fields = kinds[kind].fields
        assert kinds[kind].name == name
        if fields is None:
            continue
        assert set(re.findall(r"`(\w+)`", some)) <= set(fields), kind
        ours = {"container_image": "image", "nemo_run_dir": "root", "pvc_nemo_run_dir": "root"}
        required = {ours.get(field, field) for field, rule in fields.items() if rule.required}
        assert set(re.findall(r"`(\w+)`", needed)) == required, kind


def test_the_profile_on_the_page_is_built(tmp_path):
    project, site = re.findall(r"```toml\n(.*?)```", PAGE.read_text(), re.DOTALL)
    (tmp_path / "pyproject.toml").write_text(project.replace("sha256:…", "sha256:" + "a" * 64))
    (tmp_path / "nemo-gitexp.site.toml").write_text(site)
    settings = read_settings(tmp_path, {}, {})
    profile = require_profile(settings, "a100")
    bound = bind_profile(profile, settings.site, {"HF_TOKEN": "t", "SLURM_ACCOUNT": "mine"})
    bound = replace(bound, tunnel=replace(bound.tunnel, job_dir="/j"))
    executor = build_executor(bound, profile_topology(bound, {"environment": {}}))
    assert (executor.account, executor.nodes, executor.container_mounts) == ("mine", 2, ["/lustre/me:/scratch"])
    assert executor.tunnel.host == "login.cluster.example"
