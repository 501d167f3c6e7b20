"""Inputs from the Hugging Face hub: a commit is what counts, whatever becomes of the branch, the network, the cache."""

from __future__ import annotations

import shutil
import socket
from pathlib import Path

import pytest
from builder import Work, make_work
from fake_hub import FakeHub

STUDY = """\
purpose: Use a model of the hub.
command: python use.py {inputs.tiny} {outputs}
data: [{from: "hf://org/tiny", allow: ["*.json", "weights/"]}, "hf://datasets/org/set@v1/train/a.txt"]
outputs: [used.txt]
"""
USE = """\
import json, os, pathlib, sys
model, out = map(pathlib.Path, sys.argv[1:])
assert model.samefile("inputs/tiny")
files = sorted(path.relative_to(model).as_posix() for path in model.rglob("*") if path.is_file())
text = "".join((model / name).read_text() for name in files) + pathlib.Path("inputs/set/train/a.txt").read_text()
with open(os.environ["GITEXP_METRICS"], "a") as stream:
    stream.write(json.dumps({"n_files": len(files)}) + "\\n")
(out / "used.txt").write_text(text)
"""
FIRST = {"config.json": b"{}", "weights/w.bin": b"first", "README.md": b"not wanted"}


@pytest.fixture
def hub():
    server = FakeHub()
    server.repo("models/org/tiny").commit("main", FIRST)
    server.repo("datasets/org/set").commit("v1", {"train/a.txt": b"abc", "train/b.txt": b"d", "a.txt": b"e"})
    yield server
    server.close()


@pytest.fixture
def work(hub: FakeHub, tmp_path: Path) -> Work:
    files = {"use.py": USE, "experiments/use/experiment.yaml": STUDY}
    env = {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "hf"), "HF_HUB_DISABLE_XET": "1"}
    return make_work(tmp_path / "work", tmp_path / "home", files=files, **env)


def text_of(work: Work, experiment: dict) -> str:
    target = work.root.parent / f"got-{experiment['experiment'][:8]}"
    work.gitexp("outputs", experiment["experiment"], "--get", str(target))
    return (target / "used.txt").read_text()


def refused(work: Work, entry: str, *, code: int = 3) -> dict:
    """Return the error of planning a run with one input."""
    text = "purpose: p\ncommand: python use.py\ndata: [%s]\n"
    work.write("experiments/other/experiment.yaml", text % entry)
    return work.gitexp("run", "other", "--plan", "--json", code=code).json["error"]


def test_a_recorded_experiment_gets_the_commit_it_had_when_the_branch_moves_and_without_a_network(work: Work, hub):
    ran = work.gitexp("run", "use", "--json").json
    assert (ran["status"], ran["metrics"]) == ("completed", {"n_files": 2})
    assert text_of(work, ran) == "{}firstabc"
    model, data = ran["inputs"]
    commit = hub.repos["models/org/tiny"].branches["main"]
    assert model["pin"] == f"hf://org/tiny@{commit}?allow=*.json,weights/"
    assert (model["strength"], model["size_bytes"]) == ("named", 7)
    assert model["origin"]["asked"] == "hf://org/tiny"
    assert (model["origin"]["revision"], data["path"], data["size_bytes"]) == (commit, "inputs/set/train/a.txt", 3)
    assert f"{commit[:12]}" in work.gitexp("show", ran["experiment"]).out

    hub.repo("models/org/tiny").commit("main", {**FIRST, "weights/w.bin": b"second"})
    shutil.rmtree(Path(work.env["HF_HOME"]))
    verdict = work.gitexp("reproduce", ran["experiment"], "--require", "bitwise", "--json").json
    assert (verdict["met"], verdict["weakest_input"]) == (True, "named")
    hub.fails, before = 503, len(hub.asked)
    assert work.gitexp("reproduce", ran["experiment"], "--require", "bitwise", "--json").json["met"]
    assert len(hub.asked) == before
    work.env["HF_HUB_OFFLINE"] = "1"
    by_commit = f'{{from: "hf://org/tiny@{commit}", allow: ["*.json", "weights/"]}}'
    work.write("experiments/other/experiment.yaml", f"purpose: p\ncommand: python use.py\ndata: [{by_commit}]\n")
    (offline,) = work.gitexp("run", "other", "--plan", "--json").json["inputs"]
    assert (offline["pin"], offline["size_bytes"]) == (model["pin"], 7)
    assert refused(work, f"hf://org/tiny@{commit}")["type"] == "HubUnreachableError"  # README.md was never fetched
    del work.env["HF_HUB_OFFLINE"]

    hub.fails = None
    moved = work.gitexp("run", "use", "--json").json
    assert moved["duplicate_of"] is None
    assert text_of(work, moved) == "{}secondabc"


def test_a_checkout_gets_copies_that_people_may_edit(work: Work, tmp_path):
    sha = work.gitexp("run", "use", "--record-only", "--json").json["experiment"]
    work.gitexp("checkout", sha, str(tmp_path / "there"))
    place = tmp_path / "there/inputs/tiny/config.json"
    assert (place.is_symlink(), place.read_text()) == (False, "{}")


def test_what_the_hub_does_not_have_is_refused_by_name(work: Work):
    nothing = refused(work, "hf://org/nothing")
    assert (nothing["type"], nothing["address"]) == ("HubNotFoundError", "hf://org/nothing")
    assert "hf://datasets/org/nothing" in nothing["hint"]
    revision = refused(work, "hf://org/tiny@v9")
    assert (revision["type"], revision["hint"]) == (
        "HubNotFoundError",
        "write a branch, tag or commit: hf://org/tiny@main",
    )
    path = refused(work, "hf://org/tiny@main/weight")
    assert (path["type"], path["hint"]) == ("HubNotFoundError", "it has: README.md, config.json, weights/w.bin")
    assert refused(work, '{from: "hf://org/tiny", allow: ["*.pt"]}')["type"] == "HubNotFoundError"


def test_a_gated_repository_opens_to_the_token_of_the_environment_which_is_recorded_nowhere(work: Work, hub):
    hub.repo("models/org/tiny").token = "hf_secretsecret"
    stored = Path(work.env["HF_HOME"]) / "token"
    stored.parent.mkdir()
    stored.write_text("hf_secretsecret")
    assert refused(work, "hf://org/tiny")["type"] == "HubAccessError"
    work.env["HF_TOKEN"] = "hf_wrong"
    assert "HF_TOKEN" in refused(work, "hf://org/tiny")["hint"]
    work.env["HF_TOKEN"] = "hf_secretsecret"
    sha = work.gitexp("run", "use", "--record-only", "--json").json["experiment"]
    assert "hf_secretsecret" not in work.git("show", sha)
    assert not list(work.root.rglob("*hf_secret*"))


def test_without_a_network_the_error_names_the_commit_that_the_cache_knows(work: Work, hub, tmp_path):
    sha = work.gitexp("run", "use", "--record-only", "--json").json["experiment"]
    commit = hub.repos["models/org/tiny"].branches["main"]
    hub.fails = 503
    down = refused(work, "hf://org/tiny")
    assert (down["type"], "503" in down["message"]) == ("HubUnreachableError", True)
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        work.env["HF_ENDPOINT"] = f"http://127.0.0.1:{closed.getsockname()[1]}"
        assert refused(work, "hf://org/tiny")["type"] == "HubUnreachableError"
        cold = work.gitexp("reproduce", sha, "--require", "restored", "--json", code=3).json["error"]
        assert (cold["type"], cold["address"]) == ("HubUnreachableError", f"hf://org/tiny@{commit}")
    work.env["HF_HUB_OFFLINE"] = "1"
    assert refused(work, "hf://org/tiny")["type"] == "HubUnreachableError"
    refs = Path(work.env["HF_HOME"]) / "hub/models--org--tiny/refs"
    refs.mkdir(parents=True, exist_ok=True)
    (refs / "main").write_text(commit)
    assert f"hf://org/tiny@{commit}" in refused(work, "hf://org/tiny")["hint"]


def test_without_the_package_the_error_says_how_to_get_it(work: Work, tmp_path):
    (tmp_path / "shadow").mkdir()
    (tmp_path / "shadow/huggingface_hub.py").write_text("raise ImportError('not here')\n")
    work.env["PYTHONPATH"] = str(tmp_path / "shadow")
    missing = refused(work, "hf://org/tiny")
    assert (missing["type"], missing["hint"]) == ("MissingPackageError", "pip install 'nemo-gitexp[hub]'")
