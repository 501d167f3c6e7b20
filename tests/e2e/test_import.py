"""Old runs of MLflow, W&B and DVC become experiments that every listing knows and nothing runs again."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from builder import Work, make_work
from old_runs import copy_work
from test_docs import ROOT, blocks, typed
from tracked import listed, record_of, result_of, run_python, stream_of

from nemo_gitexp.documents import ExperimentDoc

STUDY = """\
purpose: See what the learning rate does.
command: python train.py --lr {config.lr}
config: {lr: 0.3}
metrics: {loss: {goal: min}}
"""


@pytest.fixture
def work(old: Work, tmp_path: Path) -> Work:
    return copy_work(old, tmp_path / "copy")


@pytest.fixture(scope="module")
def imported(old: Work, tmp_path_factory: pytest.TempPathFactory) -> Work:
    """All runs imported; nothing that uses it changes anything."""
    work = copy_work(old, tmp_path_factory.mktemp("imported") / "copy")
    work.write("experiments/digits/experiment.yaml", STUDY)
    for words in (("mlflow", "mlruns"), ("wandb", "wandb"), ("dvc",)):
        work.gitexp("import", *words)
    return work


def run_directory(work: Work, seed: int) -> Path:
    """Return the directory of one of MLflow's runs of the digits."""
    found = [path for path in work.root.glob("mlruns/*/*/params/seed") if path.read_text() == str(seed)]
    return next(path.parent.parent for path in found if (path.parent / "sizes").exists())


def called(work: Work, part: str) -> dict:
    (found,) = [document for document in listed(work) if f"_{part}_" in document["name"]]
    return found


# ------------------------------------------------------------------------------------------------- what is recorded


def test_runs_of_mlflow_are_experiments_with_their_results(imported: Work) -> None:
    document = called(imported, "seed-1")
    assert set(document) == ExperimentDoc.__annotations__.keys() - {"parents", "children", "progress"}
    assert (document["study"], document["status"], document["seed"]) == ("digits", "completed", 1)
    assert document["metrics"] == {"loss": 0.25, "odd": "NaN", "val/acc": 0.6}
    assert document["metric_stats"]["loss"] == {"last": 0.25, "min": 0.25, "max": 0.5, "n": 3}
    assert document["config"]["model"] == {"hidden": 64}
    assert "api_key" not in document["config"]
    assert document["code"]["commit"] == imported.git("rev-parse", "HEAD")
    assert (document["identity"], document["environment_key"], document["branch"]) == (None, None, None)
    assert document["started"] < document["ended"]
    record = record_of(imported, document)
    assert record["imported"] == {
        "tool": "mlflow", "group": "digits", "name": "seed-1", "source": "mlruns", "status": "FINISHED", "url": None,
        "run": record["imported"]["run"], "knows_code": True,
    }  # fmt: skip
    assert result_of(imported, document, "run.json")["run"] == record["imported"]["run"]
    assert [row["step"] for row in stream_of(imported, document)] == [0, 1, 2]
    (link,) = document["links"]
    assert (link["tracker"], link["project"], link["name"], link["path"]) == ("mlflow", "digits", "seed-1", "mlruns")


def test_statuses_are_mapped_and_errors_kept(imported: Work) -> None:
    found = {name: called(imported, name)["status"] for name in ("broke", "stopped", "good", "bad", "one")}
    assert found == {
        "broke": "failed",
        "stopped": "cancelled",
        "good": "completed",
        "bad": "failed",
        "one": "completed",
    }
    assert called(imported, "bad")["error"]["message"] == "exit code 3"


def test_runs_of_wandb_and_dvc_say_where_they_are_from(imported: Work) -> None:
    good, one = called(imported, "good"), called(imported, "one")
    assert (good["study"], good["seed"], one["study"], one["seed"]) == ("digits", 5, "dvc", 7)
    assert "hf_" + "a" * 34 not in json.dumps(good)
    assert record_of(imported, one)["imported"]["run"] == one["code"]["commit"]
    assert one["code"]["commit"] == imported.refs("refs/exps/")[record_of(imported, one)["imported"]["source"]]
    assert [item["path"] for item in one["inputs"]] == ["data/x.txt"]
    two = called(imported, "two")
    assert one["code"]["key"] == two["code"]["key"], "parameters and results are no code"


def test_nothing_of_the_user_is_touched(work: Work) -> None:
    before = (
        work.git("status", "--porcelain"),
        work.git("rev-parse", "HEAD"),
        work.refs("refs/exps/"),
        work.refs("refs/heads/"),
    )
    for words in (("mlflow", "mlruns"), ("wandb", "wandb"), ("dvc",)):
        work.gitexp("import", *words)
    after = (
        work.git("status", "--porcelain"),
        work.git("rev-parse", "HEAD"),
        work.refs("refs/exps/"),
        work.refs("refs/heads/"),
    )
    assert after == before
    assert work.refs("refs/gitexp-tmp/") == {}
    assert work.git("fsck", "--no-dangling") == ""


def test_code_that_is_not_here_is_unknown_and_said(work: Work, tmp_path: Path) -> None:
    other = make_work(tmp_path / "other", tmp_path / "home2", files={"more.py": "x = 1\n"})
    other.gitexp("import", "mlflow", str(work.root / "mlruns"), "--run", "seed-0")
    (document,) = listed(other)
    assert document["code"]["commit"] == other.git("rev-parse", "HEAD")
    assert record_of(other, document)["imported"]["knows_code"] is False
    assert record_of(other, document)["imported"]["source"] == "mlruns"
    assert "ran code that is not known" in other.gitexp("show", "latest").out
    refused = other.gitexp("checkout", "latest", str(tmp_path / "there"), code=3, cwd=other.root)
    assert "nobody knows the code" in refused.err


# ---------------------------------------------------------------------------------------------------- answers


def test_the_answer_says_what_is_new_there_already_and_left_out(work: Work) -> None:
    plan = work.gitexp("import", "mlflow", "mlruns", "--plan", "--json").json
    assert list(plan) == ["schema", "experiments", "already", "skipped"]
    assert [document["status"] for document in plan["experiments"]] == ["planned"] * 6
    assert work.refs() == {}
    first = work.gitexp("import", "mlflow", "mlruns", "--json").json
    assert [document["name"] for document in first["experiments"]] == [
        document["name"] for document in plan["experiments"]
    ]
    (left,) = first["skipped"]
    assert left["reason"] == "it has not ended there (RUNNING); --unfinished imports it as lost"
    refs = work.refs()
    again = work.gitexp("import", "mlflow", ".", "--json").json
    assert again["experiments"] == []
    assert again["already"] == first["experiments"]
    assert work.refs() == refs
    text = work.gitexp("import", "mlflow", "mlruns").out
    assert text.splitlines()[-1] == "imported 0 runs, 6 already there, 1 left out"


def test_study_experiment_and_run_choose(work: Work) -> None:
    answer = work.gitexp("import", "mlflow", "mlruns", "--experiment", "other", "--study", "mine", "--json").json
    assert [document["study"] for document in answer["experiments"]] == ["mine"]
    answer = work.gitexp("import", "wandb", "wandb", "--run", "good", "--run", "bad", "--json").json
    assert len(answer["experiments"]) == 2
    answer = work.gitexp("import", "dvc", "two", "--json").json
    assert [document["config"]["model"]["lr"] for document in answer["experiments"]] == [0.3]


def test_a_damaged_run_is_left_out_and_the_exit_code_says_so(work: Work) -> None:
    meta = min(work.root.glob("mlruns/*/*/meta.yaml"))
    meta.write_bytes(b"\x00garbage")
    answer = work.gitexp("import", "mlflow", "mlruns", "--json", code=1).json
    assert {"run": meta.parent.name, "reason": "its meta.yaml is missing or damaged"} in answer["skipped"]
    assert len(answer["experiments"]) in (5, 6)


def test_a_run_that_goes_on_is_lost_until_its_end_is_imported(work: Work) -> None:
    answer = work.gitexp("import", "mlflow", "mlruns", "--unfinished", "--run", "goes-on", "--json").json
    (document,) = answer["experiments"]
    assert (document["status"], document["error"]["type"]) == ("lost", "LostRunError")
    assert document["metrics"] == {"loss": 2.0}
    assert "launch" not in work.gitexp("show", document["experiment"]).out
    run = record_of(work, document)["imported"]["run"]
    (meta,) = work.root.glob(f"mlruns/*/{run}/meta.yaml")
    ended = meta.read_text().replace("status: 1", "status: 3").replace("end_time: null", "end_time: 1999999999000")
    meta.write_text(ended)
    (meta.parent / "metrics/loss").write_text("1 2.0 0\n2 1.5 1\n")
    answer = work.gitexp("import", "mlflow", "mlruns", "--run", "goes-on", "--json").json
    (now,) = answer["experiments"]
    assert (now["experiment"], now["status"], now["metrics"]) == (document["experiment"], "completed", {"loss": 1.5})
    assert work.git("rev-parse", f"{now['result']}^") == document["experiment"]
    answer = work.gitexp("import", "mlflow", "mlruns", "--run", "goes-on", "--json").json
    assert [item["status"] for item in answer["already"]] == ["completed"]


def test_parameters_that_changed_since_leave_a_lost_run_as_it_is(work: Work) -> None:
    work.gitexp("import", "mlflow", "mlruns", "--unfinished", "--run", "goes-on")
    run = record_of(work, called(work, "goes-on"))["imported"]["run"]
    (meta,) = work.root.glob(f"mlruns/*/{run}/meta.yaml")
    meta.write_text(meta.read_text().replace("status: 1", "status: 3"))
    (meta.parent / "params/more").write_text("1")
    answer = work.gitexp("import", "mlflow", "mlruns", "--run", "goes-on", "--json").json
    assert answer["experiments"] == answer["already"] == []
    assert "parameters have changed" in answer["skipped"][0]["reason"]
    assert called(work, "goes-on")["status"] == "lost"


def test_names_that_collide_are_kept_apart(work: Work) -> None:
    first = min(work.root.glob("mlruns/*/*/params/sizes")).parent.parent
    twin = first.with_name("f" * 32)
    shutil.copytree(first, twin)
    meta = twin / "meta.yaml"
    meta.write_text(meta.read_text().replace(first.name, twin.name))
    answer = work.gitexp("import", "mlflow", "mlruns", "--run", first.name, "--run", twin.name, "--json").json
    names = [document["name"] for document in answer["experiments"]]
    assert names == [names[0], f"{names[0]}-2"]


@pytest.mark.parametrize(
    "words,kind,said",
    [
        (("mlflow", "nowhere"), "ImportSourceError", "there is no"),
        (("mlflow", "data"), "ImportSourceError", "holds no run of MLflow"),
        (("mlflow", "mlruns", "--run", "seed-9"), "UnknownRunError", "has no run seed-9"),
        (("mlflow", "mlruns", "--study", "a/b"), "InvalidNameError", "no name for a study"),
        (("wandb", "mlruns"), "ImportSourceError", "holds no log of W&B"),
        (("wandb", "https://wandb.ai/x/y"), "ImportSourceError", "not from its server"),
        (("dvc", "nothing"), "UnknownRunError", "is called nothing"),
    ],
)
def test_bad_input_is_one_typed_error_with_a_hint(imported: Work, words: tuple[str, ...], kind: str, said: str) -> None:
    before = imported.refs()
    code = 2 if kind == "InvalidNameError" else 3
    error = imported.gitexp("import", *words, "--json", code=code).json["error"]
    assert error["type"] == kind
    assert said in error["message"]
    assert error["hint"]
    assert imported.refs() == before


def test_without_a_repository_or_a_commit_nothing_is_imported(old: Work, tmp_path: Path) -> None:
    place = str(old.root / "mlruns")
    (tmp_path / "plain").mkdir()
    plain = Work(tmp_path / "plain", dict(old.env))
    assert plain.gitexp("import", "mlflow", place, "--json", code=3).json["error"]["type"] == "NotARepositoryError"
    plain.git("init", "-q")
    assert "no commit yet" in plain.gitexp("import", "mlflow", place, code=3).err


def test_without_the_mlflow_package_a_server_is_refused(old: Work, tmp_path: Path) -> None:
    (tmp_path / "mlflow.py").write_text("raise ImportError('no module named mlflow')\n")
    work = Work(old.root, {**old.env, "PYTHONPATH": str(tmp_path)})
    error = work.gitexp("import", "mlflow", "https://ada:pw@tracking.example.org/", "--json", code=3).json["error"]
    assert (error["type"], error["package"]) == ("ImportSourceError", "mlflow")
    assert "pw" not in json.dumps(error)
    assert "pip install mlflow-skinny" in error["hint"]


# ------------------------------------------------------------------------------------------- recognised everywhere


def test_another_clone_knows_them_after_a_fetch(imported: Work, tmp_path: Path) -> None:
    imported.git("init", "-q", "--bare", "-b", "main", str(tmp_path / "hub.git"))
    imported.git("push", "-q", str(tmp_path / "hub.git"), "main", "refs/gitexp/*:refs/gitexp/*")
    imported.git("clone", "-q", str(tmp_path / "hub.git"), str(tmp_path / "clone"))
    clone = Work(tmp_path / "clone", dict(imported.env))
    clone.gitexp("init")
    clone.git("fetch", "-q")
    assert [item["name"] for item in listed(clone)] == [item["name"] for item in listed(imported)]
    answer = clone.gitexp("import", "mlflow", str(imported.root / "mlruns"), "--json").json
    assert (len(answer["experiments"]), len(answer["already"])) == (0, 6)
    assert clone.refs() == {}
    assert clone.gitexp("show", called(clone, "one")["experiment"]).out.count("imported from DVC") >= 2


def test_two_imports_at_once_make_one(work: Work) -> None:
    running = [work.start("import", "mlflow", "mlruns", "--json") for _ in range(3)]
    answers = [json.loads(process.communicate()[0]) for process in running]
    assert sum(len(answer["experiments"]) for answer in answers) == 6
    assert sum(len(answer["already"]) for answer in answers) == 12
    assert len(work.refs()) == 6
    assert len({item["experiment"] for answer in answers for item in answer["experiments"] + answer["already"]}) == 6


def test_many_runs_are_imported_by_a_handful_of_git_processes(work: Work, tmp_path: Path) -> None:
    first = run_directory(work, 0)
    for number in range(120):
        copy = first.with_name(f"{number:032x}")
        shutil.copytree(first, copy)
        (copy / "meta.yaml").write_text((first / "meta.yaml").read_text().replace(first.name, copy.name))
    counted = tmp_path / "bin"
    counted.mkdir()
    real = shutil.which("git", path=work.env["PATH"])
    (counted / "git").write_text(f'#!/bin/sh\necho x >> "{tmp_path}/calls"\nexec "{real}" "$@"\n')
    (counted / "git").chmod(0o755)
    many = Work(work.root, {**work.env, "PATH": f"{counted}:{work.env['PATH']}"})
    answer = many.gitexp("import", "mlflow", "mlruns", "--experiment", "digits", "--json").json
    assert len(answer["experiments"]) == 125
    assert len((tmp_path / "calls").read_text().splitlines()) < 60
    assert len(work.gitexp("log", "--all", "--json").json["experiments"]) == 125


def test_signed_commits_stay_signed(work: Work, tmp_path: Path) -> None:
    key = tmp_path / "key"
    if shutil.which("ssh-keygen") is None:
        pytest.skip("ssh-keygen is not installed")
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key)], check=True)
    for name, value in (("gpg.format", "ssh"), ("user.signingkey", str(key)), ("commit.gpgsign", "true")):
        work.git("config", name, value)
    work.gitexp("import", "mlflow", "mlruns", "--run", "seed-0", "--run", "seed-1")
    for document in listed(work):
        assert "gpgsig" in work.git("cat-file", "commit", document["experiment"])
        assert "gpgsig" not in work.git("cat-file", "commit", document["result"])
        work.gitexp("show", document["experiment"])


def test_a_long_stream_goes_to_the_store(work: Work) -> None:
    metrics = run_directory(work, 2) / "metrics/loss"
    metrics.write_text("".join(f"1 {1 / (step + 1)} {step}\n" for step in range(20_000)))
    work.gitexp("import", "mlflow", "mlruns", "--run", "seed-2")
    document = called(work, "seed-2")
    assert document["metric_stats"]["loss"]["n"] == 20_000
    assert result_of(work, document)["stream"]["pin"]
    assert "▁" in work.gitexp("show", document["experiment"]).out


# --------------------------------------------------------------------------- listed, compared, never run again


def test_show_and_diff_say_what_is_not_known(imported: Work) -> None:
    text = imported.gitexp("show", called(imported, "broke")["experiment"]).out
    assert "imported     MLflow run" in text
    assert "had a seed that nobody recorded: 42 stands for it" in text
    assert "reproduce " not in text
    assert "known only in the job" not in text
    a, b = (called(imported, name)["experiment"] for name in ("seed-0", "seed-1"))
    answer = imported.gitexp("diff", a, b, "--json")
    assert answer.json["config"]["changed"] == {"seed": {"a": 0, "b": 1}}
    assert answer.json["metrics"]["loss"]["better"] == "b"
    assert (answer.json["topology"], answer.json["environment"]["packages"]) == ({}, {})
    assert "its environment, topology are not known and not compared" in answer.err
    dvc_pair = [called(imported, name)["experiment"] for name in ("one", "two")]
    changed = imported.gitexp("diff", *dvc_pair, "--json").json
    assert changed["config"]["changed"] == {"model.lr": {"a": 0.1, "b": 0.3}}


def test_an_imported_run_is_compared_with_a_recorded_one(work: Work) -> None:
    work.write("experiments/digits/experiment.yaml", STUDY)
    work.commit("study")
    work.gitexp("import", "mlflow", "mlruns", "--run", "seed-0")
    old = called(work, "seed-0")
    work.gitexp("run", "digits", "--from", old["experiment"], "--seed", "3")
    new = listed(work)[-1]
    assert new["config"] == old["config"]
    assert new["status"] == "completed"
    diff = work.gitexp("diff", old["experiment"], new["experiment"], "--json").json
    assert diff["seed"] == {"a": 0, "b": 3}
    assert diff["environment"]["packages"] == {}
    assert diff["metrics"]["loss"]["a"] == old["metrics"]["loss"]
    script = (
        "import json\nfrom nemo_gitexp import ExperimentComparator as C\n"
        f"names = ['{old['name']}', '{new['name']}']\n"
        "print(json.dumps([C.compare_configurations(names), C.compare_metrics(names, ['loss'])]))\n"
    )
    configs, metrics = json.loads(run_python(work, script, name="compare.py").out)
    assert "lr" in configs["common_configs"]
    assert metrics["loss"]["n"] == 2


def test_seeds_of_imported_runs_make_an_interval(imported: Work) -> None:
    names = [called(imported, f"seed-{seed}")["name"] for seed in range(3)]
    script = (
        "import json, sys\nfrom nemo_gitexp import ExperimentComparator as C\n"
        "print(json.dumps(C.compare_metrics(sys.argv[1:], ['val/acc'])))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, *names], cwd=imported.root, env=imported.env, capture_output=True, check=True
    )
    found = json.loads(done.stdout)["val/acc"]
    assert found["n"] == 3
    assert found["interval"][0] < found["mean"] < found["interval"][1]


@pytest.mark.parametrize(
    "name,tool,words",
    [
        ("seed-0", "MLflow", ("launch",)),
        ("seed-0", "MLflow", ("reproduce", "--plan")),
        ("good", "W&B", ("reproduce",)),
        ("one", "DVC", ("reproduce", "--require", "restored")),
    ],
)
def test_nothing_runs_an_imported_run_again(imported: Work, name: str, tool: str, words: tuple[str, ...]) -> None:
    sha = called(imported, name)["experiment"]
    error = imported.gitexp(words[0], sha, *words[1:], "--json", code=3).json["error"]
    assert (error["type"], error["why"]) == ("NotRepeatableError", f"imported from {tool}")
    assert f"it was imported from {tool}" in error["message"]
    assert "--from" in error["hint"]
    runs = imported.root / ".git/gitexp/runs"
    assert not runs.exists() or not any(runs.iterdir())


def test_facts_stand_beside_imported_ones(work: Work, monkeypatch: pytest.MonkeyPatch) -> None:
    from nemo_gitexp.facts import write_fact
    from nemo_gitexp.git.repository import open_repository

    work.gitexp("import", "dvc", "one")
    document = called(work, "one")
    for name, value in work.env.items():
        monkeypatch.setenv(name, value)
    repository = open_repository(work.root)
    write_fact(repository, document["experiment"], "withdrawn", {"why": "wrong data"}, repository.committer())
    assert work.gitexp("log", "--json").json["experiments"] == []
    (listed_one,) = listed(work)
    assert listed_one["withdrawn"] is True
    assert work.gitexp("import", "dvc", "one", "--json").json["already"][0]["withdrawn"] is True


def test_the_code_of_an_experiment_of_dvc_can_be_checked_out(work: Work, tmp_path: Path) -> None:
    work.gitexp("import", "dvc", "two")
    work.gitexp("checkout", called(work, "two")["experiment"], str(tmp_path / "there"))
    assert "lr: 0.3" in (tmp_path / "there/params.yaml").read_text()
    assert (tmp_path / "there/data/x.txt").read_text() == "hello\n"


@pytest.mark.parametrize("words", [("log", "--csv"), ("log", "--where", "config.lr > 0.05"), ("status",), ("collect",)])
def test_other_listings_take_them_as_they_are(imported: Work, words: tuple[str, ...]) -> None:
    said = imported.gitexp(*words)
    assert said.err == ""


def test_the_page_about_importing_can_be_followed_line_by_line(work: Work) -> None:
    work.write("experiments/digits/experiment.yaml", STUDY)
    work.commit("study")
    (use,) = [text for text in blocks(ROOT / "docs/import.md") if "import dvc" in text]
    commands = typed(use)
    assert len(commands) > 5
    for command in commands:
        names = {"A": called(work, "seed-0")["name"], "B": called(work, "good")["name"]} if "A" in command else {}
        words = [{**names, "STUDY": "digits"}.get(word, word) for word in command]
        work.gitexp(*words)
    assert listed(work)[-1]["config"]["optimizer"] == "adam"


def test_help_has_an_example_for_each_tool(imported: Work) -> None:
    show: Callable[..., str] = lambda *words: imported.gitexp("import", *words, "--help").out  # noqa: E731
    assert all(f"Example: nemo-gitexp import {tool}" in show(tool) for tool in ("mlflow", "wandb", "dvc"))
    assert all(tool in show() for tool in ("mlflow", "wandb", "dvc"))
