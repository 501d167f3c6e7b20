"""Stores of MLflow, W&B and DVC, written by those tools, and what is read of them."""

from __future__ import annotations

import builtins
import json
import shutil
import sqlite3
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar
from urllib.parse import parse_qs, urlparse

import pytest
from builder import Work, make_work
from old_runs import copy_work

from nemo_gitexp.data.declared import parse_declared
from nemo_gitexp.errors import GitexpError, ImportSourceError, UnknownRunError
from nemo_gitexp.git.objects import list_files, list_many_files, read_commit, read_commits
from nemo_gitexp.git.repository import Repository, open_repository
from nemo_gitexp.imported import ForeignRun, Skipped
from nemo_gitexp.sources.dvc import read_dvc_runs
from nemo_gitexp.sources.mlflow import MlflowAsked, read_mlflow_runs
from nemo_gitexp.sources.wandb import read_wandb_runs


@pytest.fixture
def repository(old: Work, monkeypatch: pytest.MonkeyPatch) -> Repository:
    for name, value in old.env.items():
        monkeypatch.setenv(name, value)
    return open_repository(old.root)


def mlflow(old: Work, place: str = "mlruns", **asked: tuple[str, ...]) -> tuple[dict[str, ForeignRun], list[Skipped]]:
    runs, skipped = read_mlflow_runs(place, old.root, old.root, MlflowAsked(**asked))
    return {run.name: run for run in runs}, skipped


def wandb(place: Path, root: Path, runs: tuple[str, ...] = ()) -> dict[str, ForeignRun]:
    found, _ = read_wandb_runs([str(place)], root, root, runs)
    return {run.name: run for run in found}


# ------------------------------------------------------------------------------------------------------------- MLflow


def test_a_file_store_gives_its_runs_with_typed_parameters(old: Work) -> None:
    runs, skipped = mlflow(old)
    assert (sorted(runs), skipped) == (
        ["broke", "elsewhere", "goes-on", "seed-0", "seed-1", "seed-2", "stopped"],
        [],
    )
    run = runs["seed-1"]
    assert (run.group, run.status, run.outcome, run.source) == ("digits", "FINISHED", "completed", "mlruns")
    assert run.config == {
        "lr": 0.1, "model": {"hidden": 64}, "seed": 1, "sizes": [1, 2], "limit": None, "optimizer": "adam",
        "amp": True, "api_key": "hunter2", "max_tokens": 512,
    }  # fmt: skip
    assert run.rows[2] == {"step": 2, "loss": 0.25, "odd": "NaN", "val/acc": 0.6}
    assert run.started is not None
    assert run.ended is not None
    assert run.started < run.ended
    assert run.commit == old.git("rev-parse", "HEAD")
    assert [runs[name].outcome for name in ("broke", "stopped", "goes-on")] == ["failed", "cancelled", None]


@pytest.mark.parametrize("place", [".", "mlruns", "mlruns/{experiment}", "mlruns/{experiment}/{run}", "file:mlruns"])
def test_a_store_is_found_by_any_of_its_directories(old: Work, place: str) -> None:
    run = mlflow(old)[0]["seed-0"]
    (directory,) = old.root.glob(f"mlruns/*/{run.run}")
    runs, _ = mlflow(old, place.format(experiment=directory.parent.name, run=run.run))
    assert runs["seed-0"].config == run.config
    assert len(runs) == {".": 7, "mlruns": 7, "file:mlruns": 7}.get(place, 1 if "{run}" in place else 6)


def test_runs_are_chosen_by_experiment_and_by_id_or_name(old: Work) -> None:
    assert sorted(mlflow(old, experiments=("other",))[0]) == ["elsewhere"]
    run = mlflow(old)[0]["seed-2"].run
    assert sorted(mlflow(old, runs=(run, "broke"))[0]) == ["broke", "seed-2"]
    with pytest.raises(UnknownRunError, match="mlruns has no experiment digit") as fault:
        mlflow(old, experiments=("digit",))
    assert fault.value.hint == "did you mean digits?"
    with pytest.raises(UnknownRunError, match="has no run nothing like it"):
        mlflow(old, runs=("nothing like it",))


def test_the_histories_of_chosen_runs_alone_are_read_from_files(old: Work, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []
    open_file = builtins.open

    def noting(file: object, *args: object, **options: object) -> object:
        opened.append(str(file))
        return open_file(file, *args, **options)  # type: ignore[call-overload]

    monkeypatch.setattr(builtins, "open", noting)
    run = mlflow(old, runs=("seed-2",))[0]["seed-2"]
    histories = [path for path in opened if "/metrics/" in path]
    assert sorted(Path(path).name for path in histories) == ["acc", "loss", "odd"]
    assert all(f"/{run.run}/" in path for path in histories)
    assert run.rows[2]["odd"] == "NaN"


def test_a_run_without_its_meta_is_said_and_the_others_are_read(old: Work, tmp_path: Path) -> None:
    copy = copy_work(old, tmp_path / "copy")
    run = mlflow(copy)[0]["seed-0"].run
    (meta,) = copy.root.glob(f"mlruns/*/{run}/meta.yaml")
    meta.unlink()
    runs, skipped = mlflow(copy)
    assert (len(runs), skipped) == (6, [Skipped(run, "its meta.yaml is missing or damaged")])
    meta.write_text(f"run_id: {run}\nstatus: 17\n")
    assert mlflow(copy)[1] == [Skipped(run, "it has no status that is known: 17")]


def test_parameters_that_are_no_text_and_lines_that_are_no_numbers_are_said(old: Work, tmp_path: Path) -> None:
    copy = copy_work(old, tmp_path / "copy")
    (directory,) = copy.root.glob(f"mlruns/*/{mlflow(copy)[0]['seed-0'].run}")
    (directory / "params/optimizer").write_bytes(b"ad\xffam")
    with (directory / "metrics/loss").open("a") as file:
        file.write("no number here\n")
    run = mlflow(copy)[0]["seed-0"]
    assert run.remarks == ("has parameters that are no text, recorded as far as they are: optimizer",)
    assert (run.bad_lines, run.rows[0]["loss"]) == (1, 1.0)


@pytest.mark.parametrize("place,said", [("nowhere", "there is no "), ("data", "data holds no run of MLflow")])
def test_what_is_no_store_is_refused(old: Work, place: str, said: str) -> None:
    with pytest.raises(ImportSourceError, match=said) as fault:
        mlflow(old, place)
    assert "nemo-gitexp import mlflow" in fault.value.hint


def test_a_database_server_is_refused_without_its_password(old: Work) -> None:
    with pytest.raises(ImportSourceError, match="a store at postgresql://host/db is read through a tracking") as fault:
        mlflow(old, "postgresql://ada:pw@host/db")
    assert "pw" not in str(fault.value.facts)


def test_deleted_runs_are_gone(old: Work, tmp_path: Path) -> None:
    copy = copy_work(old, tmp_path / "copy")
    (meta,) = copy.root.glob(f"mlruns/*/{mlflow(copy)[0]['seed-0'].run}/meta.yaml")
    meta.write_text(meta.read_text().replace("lifecycle_stage: active", "lifecycle_stage: deleted"))
    assert len(mlflow(copy)[0]) == 6


SCHEMA = """\
CREATE TABLE experiments (experiment_id INTEGER NOT NULL, name VARCHAR(256) NOT NULL, lifecycle_stage VARCHAR(32));
CREATE TABLE runs (run_uuid VARCHAR(32) NOT NULL, name VARCHAR(250), status VARCHAR(9), start_time BIGINT,
  end_time BIGINT, lifecycle_stage VARCHAR(20), artifact_uri VARCHAR(200), experiment_id INTEGER);
CREATE TABLE params ("key" VARCHAR(250) NOT NULL, value VARCHAR(8000) NOT NULL, run_uuid VARCHAR(32) NOT NULL);
CREATE TABLE tags ("key" VARCHAR(250) NOT NULL, value VARCHAR(8000), run_uuid VARCHAR(32) NOT NULL);
CREATE TABLE metrics ("key" VARCHAR(250) NOT NULL, value FLOAT NOT NULL, timestamp BIGINT NOT NULL,
  run_uuid VARCHAR(32) NOT NULL, step BIGINT DEFAULT '0' NOT NULL, is_nan BOOLEAN DEFAULT '0' NOT NULL);
INSERT INTO experiments VALUES (1, 'digits', 'active'), (2, 'gone', 'deleted');
INSERT INTO runs VALUES ('r1', 'first', 'FINISHED', 1767323045000, 1767323046500, 'active', '', 1),
  ('r2', 'second', 'FAILED', 1767323045000, NULL, 'active', '', 1), ('r3', 'x', 'FINISHED', 1, 2, 'active', '', 2),
  ('r4', 'y', 'FINISHED', 1, 2, 'deleted', '', 1);
INSERT INTO params VALUES ('lr', '0.1', 'r1'), ('lr', '0.2', 'r2');
INSERT INTO tags VALUES ('mlflow.source.git.commit', 'abc', 'r1');
INSERT INTO metrics VALUES ('loss', 0.5, 1, 'r1', 0, 0), ('loss', 0.25, 2, 'r1', 1, 0), ('bad', 0.0, 2, 'r1', 1, 1),
  ('big', 1.7976931348623157e308, 2, 'r1', 1, 0);
"""
"""The columns that are read, as MLflow 3.17 makes them; NaN and infinity as it stores them."""


def test_a_sqlite_store_is_read_and_left_as_it_is(old: Work, tmp_path: Path) -> None:
    path = tmp_path / "mlflow.db"
    with sqlite3.connect(path) as database:
        database.executescript(SCHEMA)
    database.close()
    before = (path.read_bytes(), sorted(tmp_path.iterdir()))
    for place in (str(path), f"sqlite:///{path}"):
        runs, skipped = mlflow(old, place)
        assert (sorted(runs), skipped) == (["first", "second"], [])
        first = runs["first"]
        assert first.rows[1] == {"step": 1, "loss": 0.25, "bad": "NaN", "big": "Infinity"}
        assert (first.config, first.commit, first.group, first.source) == ({"lr": 0.1}, "abc", "digits", "mlflow.db")
        assert (runs["second"].outcome, runs["second"].ended) == ("failed", None)
    assert (path.read_bytes(), sorted(tmp_path.iterdir())) == before
    other = tmp_path / "other.db"
    with sqlite3.connect(other) as database:
        database.execute("CREATE TABLE x (y)")
    database.close()
    (tmp_path / "text.db").write_text("no database")
    for name, said in (("other.db", "no such table"), ("text.db", "neither a directory nor a SQLite file")):
        with pytest.raises(ImportSourceError, match=said):
            mlflow(old, str(tmp_path / name))


def test_the_histories_of_chosen_runs_alone_are_read_from_a_database(old: Work, tmp_path: Path) -> None:
    path = tmp_path / "mlflow.db"
    with sqlite3.connect(path) as database:
        database.executescript(SCHEMA)
        database.execute("UPDATE metrics SET run_uuid = 'r2', value = 'none that could be read' WHERE key = 'big'")
    database.close()
    runs, _ = mlflow(old, str(path), runs=("first",))
    assert (list(runs), runs["first"].rows[0]) == (["first"], {"step": 0, "loss": 0.5})


class FakeServer(BaseHTTPRequestHandler):
    """The three questions of MLflow's REST API that its own client asks."""

    histories: ClassVar[list[str]] = []
    """The runs of which a history was asked for."""

    def answer(self, document: object) -> None:
        body = json.dumps(document).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.path.endswith("experiments/search"):
            self.answer({"experiments": [{"experiment_id": "7", "name": "digits", "lifecycle_stage": "active"}]})
            return
        assert asked["experiment_ids"] == ["7"]
        number = 1 if asked.get("page_token") else 0  # two pages of one run
        info = {
            "run_id": f"r{number}", "run_name": f"n{number}", "experiment_id": "7", "status": "FINISHED",
            "start_time": 1767323045000, "end_time": 1767323046000, "lifecycle_stage": "active", "artifact_uri": "",
        }  # fmt: skip
        data = {
            "metrics": [{"key": "loss", "value": 1, "timestamp": 1, "step": 0}],
            "params": [{"key": "lr", "value": "1"}],
        }
        self.answer({"runs": [{"info": info, "data": data}], **({} if number else {"next_page_token": "more"})})

    def do_GET(self) -> None:
        asked = parse_qs(urlparse(self.path).query)
        self.histories.append(asked["run_id"][0])
        points = [
            {"key": asked["metric_key"][0], "value": 1 / (step + 1), "timestamp": step, "step": step} for step in (0, 1)
        ]
        self.answer({"metrics": points})

    def log_message(self, *args: object) -> None:
        """Keep quiet."""


@pytest.fixture
def server() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), FakeServer) as made:
        thread = threading.Thread(target=made.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{made.server_address[1]}"
        made.shutdown()
        thread.join()


@pytest.mark.filterwarnings("ignore")  # of MLflow and its packages
def test_a_tracking_server_is_read_through_mlflow(old: Work, server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    runs, _ = mlflow(old, server)
    assert sorted(runs) == ["n0", "n1"]
    assert runs["n0"].rows == ({"step": 0, "loss": 1.0}, {"step": 1, "loss": 0.5})
    assert runs["n0"].url == f"{server}/#/experiments/7/runs/r0"
    FakeServer.histories.clear()
    assert sorted(mlflow(old, server + "/", runs=("n1",))[0]) == ["n1"]
    assert set(FakeServer.histories) == {"r1"}
    assert mlflow(old, server + "/")[0]["n0"].url == runs["n0"].url
    with pytest.raises(UnknownRunError):
        mlflow(old, server, experiments=("nothing",))
    with pytest.raises(ImportSourceError, match="does not answer"):
        mlflow(old, "http://127.0.0.1:1")


@pytest.mark.filterwarnings("ignore")  # of MLflow and its packages
@pytest.mark.parametrize(
    "url,shown",
    [
        ("http://bob:s3cretpw@127.0.0.1:1/", "http://127.0.0.1:1"),
        ("http://bob:s3cretpw@127.0.0.1:99999", "http://127.0.0.1:99999"),
        ("http://bob:s3c@retpw@127.0.0.1:1?token=s3c", "http://127.0.0.1:1"),
        ("http://[::1:s3cretpw@x", "http://x"),
    ],
)
def test_a_server_that_does_not_answer_is_named_without_the_password(
    old: Work, url: str, shown: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(ImportSourceError, match=f"the tracking server {shown} does not answer: .") as fault:
        mlflow(old, url)
    said = f"{fault.value} {fault.value.hint} {fault.value.facts}"
    assert "s3c" not in said
    assert "bob" not in said
    assert f"{shown}api" not in said  # a slash at its end is not the one before what follows
    assert fault.value.hint == f"curl {shown}/health"


# --------------------------------------------------------------------------------------------------------------- W&B


def test_logs_of_wandb_give_their_runs(old: Work) -> None:
    runs = wandb(old.root / "wandb", old.root)
    assert sorted(runs) == ["bad", "good", "twice"]
    good, bad = runs["good"], runs["bad"]
    assert (good.group, good.outcome, good.status, good.source) == ("digits", "completed", "exit code 0", "wandb")
    assert {**good.config, "hub": None} == {"lr": 0.2, "model": {"hidden": 64}, "seed": 5, "hub": None}
    assert good.rows[2] == {"step": 2, "loss": 1 / 3, "val.acc": 2 / 3}
    assert good.rows[3] == {"step": None, "best": 0.5, "test.acc": 0.75, "test.step": 9}
    assert good.bad_lines == 0
    assert good.commit == old.git("rev-parse", "HEAD")
    assert good.started is not None
    assert good.ended is not None
    assert good.started < good.ended
    assert (bad.outcome, bad.error) == ("failed", ("ExitCodeError", "exit code 3"))


def test_a_resumed_run_is_one(old: Work) -> None:
    run = wandb(old.root, old.root)["twice"]
    assert (run.run, run.rows) == ("resumed1", ({"step": 0, "loss": 1.0}, {"step": 1, "loss": 0.9}))
    assert run.remarks == ("was resumed: 2 logs are joined",)


def test_copies_of_a_log_are_one_run(old: Work, tmp_path: Path) -> None:
    good = wandb(old.root / "wandb", old.root)["good"]
    (log,) = old.root.glob(f"wandb/*/run-{good.run}.wandb")
    for place in ("a", "b"):
        (tmp_path / place).mkdir()
        shutil.copy(log, tmp_path / place)
    run = wandb(tmp_path, old.root)["good"]
    assert (run.rows, run.remarks) == (good.rows, ())


def test_runs_of_wandb_are_chosen_by_id_or_name(old: Work) -> None:
    assert sorted(wandb(old.root, old.root, ("good", "resumed1"))) == ["good", "twice"]
    with pytest.raises(UnknownRunError, match="has no run goood") as fault:
        wandb(old.root, old.root, ("goood",))
    assert fault.value.hint == "did you mean good?"


def test_a_log_whose_end_is_missing_has_not_ended(old: Work, tmp_path: Path) -> None:
    good = wandb(old.root, old.root)["good"]
    (log,) = old.root.glob(f"wandb/*/run-{good.run}.wandb")
    cut = tmp_path / log.name
    cut.write_bytes(log.read_bytes()[:-40])
    run = wandb(tmp_path, old.root)["good"]
    assert (run.outcome, run.status, run.source) == (None, "no exit recorded", tmp_path.name)
    assert run.bad_lines >= 1
    assert run.rows[0]["loss"] == 1.0


def test_a_damaged_log_is_said(old: Work, tmp_path: Path) -> None:
    (tmp_path / "run-abc.wandb").write_bytes(b"garbage" * 100)
    assert read_wandb_runs([str(tmp_path)], old.root, old.root, ()) == (
        [],
        [Skipped("abc", "its log is damaged from its beginning")],
    )


def test_what_has_no_log_and_servers_are_refused(old: Work) -> None:
    for place, said in (
        ("data", "holds no log of W&B"),
        ("nowhere", "there is no"),
        ("https://wandb.ai/a/b", "server"),
    ):
        with pytest.raises(ImportSourceError, match=said):
            read_wandb_runs([place], old.root, old.root, ())


# --------------------------------------------------------------------------------------------------------------- DVC


def test_experiments_of_dvc_are_read_from_their_commits(repository: Repository) -> None:
    runs, skipped = read_dvc_runs(repository, [])
    assert ([run.name for run in runs], skipped) == (["one", "two"], [])
    one, two = runs
    assert one.config == {"seed": 7, "model": {"lr": 0.1, "hidden": 64}}
    assert two.config == {"seed": 7, "model": {"lr": 0.3, "hidden": 64}}
    assert one.rows == ({"step": None, "loss": 0.2, "val.acc": 0.5},)
    assert two.rows == ({"step": None, "loss": 0.6, "val.acc": 0.7},)
    assert [(item.path, item.strength, item.size_bytes) for item in one.inputs] == [("data/x.txt", "content", 6)]
    assert one.commit == one.run
    assert one.config_files == ("dvc.lock", "metrics.json", "params.yaml")
    assert one.source.startswith("refs/exps/")


def test_commits_are_named_by_experiment_branch_or_sha(repository: Repository) -> None:
    sha = repository.head()
    runs, _ = read_dvc_runs(repository, ["two", "main", str(sha)])
    assert [run.name for run in runs] == ["two", "main"]
    with pytest.raises(UnknownRunError, match="called tow") as fault:
        read_dvc_runs(repository, ["tow"])
    assert fault.value.hint == "did you mean two?"
    for text in ("main..", "-x", "no such", ""):
        with pytest.raises(UnknownRunError):
            read_dvc_runs(repository, [text])


def test_a_repository_without_experiments_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    work = make_work(tmp_path / "work", tmp_path / "home")
    repository = open_repository(work.root)
    with pytest.raises(ImportSourceError, match="holds no experiment of DVC"):
        read_dvc_runs(repository, [])
    runs, skipped = read_dvc_runs(repository, ["main"])
    assert (runs, skipped) == ([], [Skipped("main", "its commit has neither a dvc.yaml nor a .dvc directory")])


def commit_of(tmp_path: Path, files: dict[str, str]) -> tuple[list[ForeignRun], list[Skipped]]:
    work = make_work(tmp_path / "work", tmp_path / "home", files={".dvc/config": "", **files})
    return read_dvc_runs(open_repository(work.root), ["main"])


def test_several_files_histories_and_formats_are_read(tmp_path: Path) -> None:
    (run,), _ = commit_of(
        tmp_path,
        {
            "dvc.yaml": "metrics: [eval.json]\nparams: [more.toml]\nstages:\n  a:\n    wdir: sub\n    cmd: x\n"
            "    params: [lr, {other.json: [x]}, {gone.yaml: [y]}, {code.py: [z]}]\n"
            "    metrics: ['${where}/m.json', m.yaml]\n",
            "params.yaml": "lr: 0.1\n",
            "more.toml": "depth = 3\n",
            "sub/params.yaml": "batch: 4\n",
            "sub/other.json": '{"x": 1}',
            "sub/code.py": "z = 1\n",
            "eval.json": '{"acc": 0.5, "only": 1}',
            "sub/m.yaml": "acc: 0.25\n",
            "dvclive/metrics.json": '{"train": {"loss": 0.25}, "step": 1}',
            "dvclive/plots/metrics/train/loss.tsv": "timestamp\tstep\tloss\n100\t0\t0.5\n101\t1\t0.25\n",
        },
    )
    assert run.config == {
        "lr": 0.1, "more.toml": {"depth": 3}, "sub/params.yaml": {"batch": 4}, "sub/other.json": {"x": 1}
    }  # fmt: skip
    assert run.rows == (
        {"step": 0, "train.loss": 0.5},
        {"step": 1, "train.loss": 0.25},
        {"step": None, "eval.json:acc": 0.5, "only": 1},
        {"step": None, "sub/m.yaml:acc": 0.25},
    )
    assert "has parameters in sub/code.py, which only DVC can read: they are left out" in run.remarks


@pytest.mark.parametrize(
    "files,said",
    [
        ({"dvc.yaml": "a: [", "params.yaml": "x: 1"}, "dvc.yaml"),
        ({"params.yaml": "x: {"}, "params.yaml"),
        ({"dvc.yaml": "stages: {}"}, "its commit has neither parameters nor metrics in git"),
    ],
)
def test_a_commit_that_cannot_be_read_is_said(tmp_path: Path, files: dict[str, str], said: str) -> None:
    runs, (skipped,) = commit_of(tmp_path, files)
    assert runs == []
    assert said in skipped.reason


def test_a_metrics_file_that_cannot_be_read_is_a_remark(tmp_path: Path) -> None:
    files = {"dvc.yaml": "metrics: [m.json]", "params.yaml": "x: 1", "m.json": "{", "d.dvc": "outs:\n- path: d\n"}
    (run,), _ = commit_of(tmp_path, files)
    assert run.rows == ()
    assert sum("cannot be read" in remark for remark in run.remarks) == 1


def test_data_that_lies_outside_the_repository_is_left_out_and_said(tmp_path: Path) -> None:
    pin = f"  md5: {'0' * 32}\n  hash: md5\n"
    files = {
        "params.yaml": "x: 1",
        "far.dvc": f"outs:\n- path: /mnt/shared/x.csv\n{pin}",
        "up.dvc": f"wdir: ../other\nouts:\n- path: y.csv\n{pin}",
        "near.dvc": f"outs:\n- path: near.csv\n{pin}",
    }
    (run,), _ = commit_of(tmp_path, files)
    assert [item.path for item in run.inputs] == ["near.csv"]
    said = "has data outside of the repository, left out of its inputs: /mnt/shared/x.csv, ../other/y.csv"
    assert said in run.remarks


def test_what_a_dvc_yaml_declares_stays_inside_the_repository() -> None:
    found = parse_declared(b"params: [../p.yaml, /etc/p.yaml]\nmetrics: [a/../m.json]\n", "sub/dvc.yaml")
    assert found.params == ("sub/params.yaml", "p.yaml")
    assert found.metrics == ("sub/dvclive/metrics.json", "sub/m.json")
    assert parse_declared(b"params: [../../p.yaml]\n", "sub/dvc.yaml").params == ("sub/params.yaml",)
    assert parse_declared(b"- a list", "dvc.yaml").params == ()


# --------------------------------------------------------------------------------------------------- git's objects


def test_many_trees_are_listed_as_git_lists_them(repository: Repository) -> None:
    shas = repository.text("rev-list", "--all").split()
    commits = read_commits(repository, shas)
    assert commits == [read_commit(repository, sha) for sha in shas]
    listed = dict(list_many_files(repository, [commit.tree for commit in commits]))
    assert len(listed) > 3
    for tree, listing in listed.items():
        assert listing == list_files(repository, tree)


def test_a_tree_that_is_not_there_is_an_error(repository: Repository) -> None:
    with pytest.raises(GitexpError, match="is not in this repository"):
        list(list_many_files(repository, ["1" * 40]))
    with pytest.raises(GitexpError, match="is no commit"):
        read_commits(repository, ["1" * 40])


def test_nothing_of_the_sources_is_changed(old: Work, repository: Repository, tmp_path: Path) -> None:
    copy = copy_work(old, tmp_path / "copy")
    before = snapshot(copy.root)
    mlflow(copy)
    wandb(copy.root, copy.root)
    read_dvc_runs(open_repository(copy.root), [])
    assert snapshot(copy.root) == before
    shutil.rmtree(copy.root)


def snapshot(root: Path) -> dict[str, tuple[int, bytes]]:
    files = (path for path in root.rglob("*") if path.is_file() and not path.is_symlink())
    return {str(path): (path.stat().st_mtime_ns, path.read_bytes()) for path in files}
