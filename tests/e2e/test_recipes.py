"""Recipes from outside: `nemo-gitexp run FILE.py:RECIPE`, `recipe:` in a definition, `gitexp.run` of a live call."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from builder import Work, make_work

from nemo_gitexp.asked import Asked, define
from nemo_gitexp.catalog import open_site
from nemo_gitexp.errors import RecipeError, UsageError
from nemo_gitexp.git.repository import open_repository
from nemo_gitexp.git.snapshot import begin_look, take_snapshot
from nemo_gitexp.recipes import Surroundings, resolve_calls
from nemo_gitexp.recording import snapshot_limits

TRAINING = """\
import json, os
from dataclasses import dataclass, field

VERSION = 1

@dataclass
class Model:
    hidden: int = 64

@dataclass
class Callback:
    every: int = 1

@dataclass
class WandbLogger:
    name: str
    project: str = "digits"

@dataclass
class Trainer:
    callbacks: list = field(default_factory=list)
    devices: int = 1

@dataclass
class Log:
    extra: dict = field(default_factory=dict)

def train(model: Model, lr: float = 0.1, steps: int = VERSION, trainer: Trainer = None, log: Log = None):
    with open(os.environ["GITEXP_METRICS"], "a") as stream:
        for step in range(steps):
            stream.write(json.dumps({"step": step, "loss": lr / model.hidden / (step + 1)}) + "\\n")
    seen = {
        "version": VERSION,
        "model": repr(model),
        "callbacks": repr(trainer and trainer.callbacks),
        "logger": repr(log and log.extra),
        "key": os.environ.get("WANDB_API_KEY"),
        "margin": os.environ.get("LAYERNORM_SM_MARGIN"),
    }
    print("seen", json.dumps({**seen, "key": bool(seen["key"])}), flush=True)
    with open(os.path.join(os.environ["GITEXP_OUTPUTS"], "weights.txt"), "w") as file:
        file.write(repr(model))
"""
RECIPES = """\
import nemo_run as run
from training import Model, train

def digits_mlp(hidden: int = 32) -> run.Partial:
    print("a recipe may talk")
    return run.Partial(train, model=run.Config(Model, hidden=hidden))

def hangs():
    import time
    time.sleep(600)
"""
DEFINITION = """\
purpose: does a wider model learn more?
model: mlp
dataset: digits
type: training
recipe: recipes.py:digits_mlp
config: {hidden: 16, lr: 0.3}
seed: 5
outputs: [weights.txt]
metrics: {loss: {goal: min}}
"""
SEEDS = """\
import nemo_run as run
def go(seed: int = 0): ...
def must(seed: int): ...
def default(): return run.Partial(go)
def required(): return run.Partial(must)
def own(seed: int = 1): return run.Partial(go, seed=seed)
def given(): return run.Partial(go, seed=7)
"""
IGNORED = "import nemo_run as run\nfrom scratch import train\ndef r(): return run.Partial(train)\n"


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Work:
    files = {
        "training.py": TRAINING,
        "recipes.py": RECIPES,
        "experiments/wide/experiment.yaml": DEFINITION,
        ".gitignore": "scratch.py\nmine.py\n",
        "ignored.py": IGNORED,
        "seeds.py": SEEDS,
        "experiments/seeded/experiment.yaml": "purpose: p\nrecipe: seeds.py:default\nseed: 5\n",
    }
    place = tmp_path_factory.mktemp("recipes")
    work = make_work(place / "work", place / "home", files=files)
    work.write("scratch.py", "def train(): ...\n")
    work.write("mine.py", IGNORED)
    return work


def recorded(work: Work, document: dict[str, Any]) -> dict[str, Any]:
    return json.loads(work.git("show", f"{document['experiment']}:experiments/{document['study']}/record/config.json"))


def test_a_recipe_is_recorded_with_the_edited_code_run_and_reproduced_bit_for_bit(work: Work) -> None:
    work.write("training.py", TRAINING.replace("VERSION = 1", "VERSION = 2"))
    ran = work.gitexp("run", "recipes.py:digits_mlp", "model.hidden=128", "lr=0.05", "--seed", "3", "--json").json
    assert (ran["status"], ran["study"], ran["seed"]) == ("completed", "digits_mlp", 3)
    assert ran["code"]["dirty"]
    assert recorded(work, ran) == {
        "_partial_": True,
        "_target_": "training:train",
        "log": None,
        "lr": 0.05,
        "model": {"_target_": "training:Model", "hidden": 128},
        "steps": 2,
        "trainer": None,
    }
    assert ran["metric_stats"]["loss"]["n"] == 2
    verdict = work.gitexp("reproduce", ran["experiment"], "--require", "bitwise", "--json").json
    assert (verdict["verdict"], verdict["met"]) == ("bitwise", True)
    work.git("checkout", "-q", "training.py")


def test_a_seed_that_is_asked_for_is_that_of_the_call_where_nobody_gave_one(work: Work) -> None:
    def planned(*words: str) -> dict[str, Any]:
        return work.gitexp("run", "--plan", "--json", *words).json

    for recipe in ("default", "required", "own"):
        plan = planned(f"seeds.py:{recipe}", "--seed", "3")
        assert (plan["seed"], plan["config"]["seed"]) == (3, 3), recipe
    assert planned("seeds.py:default")["config"]["seed"] == 0
    assert planned("seeds.py:default", "seed=3", "--seed", "3")["seed"] == 3
    of_a_study = planned("seeded")
    assert (of_a_study["seed"], of_a_study["config"]["seed"]) == (5, 5)
    for words in (["seeds.py:default", "seed=4"], ["seeds.py:given"]):
        error = work.gitexp("run", "--plan", "--json", *words, "--seed", "3", code=2).json["error"]
        assert error["type"] == "ConflictingConfigError"


def test_a_working_directory_of_which_git_has_nothing_is_refused(work: Work) -> None:
    before = work.refs("refs/")
    work.write("experiments/lost/experiment.yaml", f"{DEFINITION}workdir: nowhere\n")
    work.write("experiments/lostly/experiment.yaml", "purpose: p\ncommand: echo hello\nworkdir: nowhere\n")
    (work.root / "nowhere").mkdir()
    for study in ("lost", "lostly"):
        error = work.gitexp("run", study, "--json", code=2).json["error"]
        assert (error["type"], error["message"]) == ("UsageError", "git has no file in the working directory nowhere")
    assert work.refs("refs/") == before
    work.git("clean", "-qfd", "experiments")
    (work.root / "nowhere").rmdir()


def test_a_study_names_its_recipe_and_what_it_is_given(work: Work) -> None:
    first = work.gitexp("run", "wide", "lr=0.2", "--record-only", "--json").json
    assert (first["status"], first["purpose"]) == ("recorded", "does a wider model learn more?")
    assert (first["config"]["model"]["hidden"], first["config"]["lr"], first["seed"]) == (16, 0.2, 5)
    again = work.gitexp("run", "wide", "--from", first["experiment"], "model.hidden=8", "--record-only", "--json").json
    assert (again["config"]["lr"], again["config"]["model"]["hidden"]) == (0.2, 8)
    assert work.gitexp("launch", again["experiment"], "--json").json["status"] == "completed"
    changed = work.gitexp("diff", first["experiment"], again["experiment"], "--json").json["config"]["changed"]
    assert changed == {"model.hidden": {"a": 16, "b": 8}}


def test_a_recipe_is_found_from_a_directory_of_a_linked_worktree_with_spaces(work: Work, tmp_path: Path) -> None:
    linked = tmp_path / "linked work tree"
    work.git("worktree", "add", "-q", "-b", "linked", str(linked))
    there = linked / "lab of mine"
    there.mkdir()
    (there / "mlp.py").write_text(
        "import nemo_run as run\nfrom beside import go\ndef r(n=1): return run.Partial(go, n=n)\n"
    )
    (there / "beside.py").write_text("def go(n): return {'n': n}\n")
    before = work.refs("refs/")
    planned = work.gitexp("-C", str(there), "run", "mlp.py:r", "n=4", "--plan", "--json").json
    assert (planned["status"], planned["purpose"]) == ("planned", "mlp.py:r n=4")
    assert (planned["config"]["_target_"], planned["config"]["n"]) == ("beside:go", 4)
    assert sorted(planned["code"]["untracked"]) == ["lab of mine/beside.py", "lab of mine/mlp.py"]
    assert work.refs("refs/") == before


@pytest.mark.parametrize(
    "recipe, code, error, said",
    [
        ("nowhere.py:r", 2, "UsageError", "there is no file nowhere.py"),
        ("mine.py:r", 2, "UsageError", "git ignores mine.py"),
        ("../outside.py:r", 2, "UsageError", "outside the repository"),
        ("recipes.py", 2, "UsageError", "neither a study nor a recipe"),
        ("recipes:digits_mlp", 2, "UsageError", "neither a study nor a recipe"),
        ("ignored.py:r", 3, "MissingModuleError", "git ignores scratch.py"),
    ],
)
def test_what_a_job_would_not_have_is_refused_and_nothing_recorded(
    work: Work, recipe: str, code: int, error: str, said: str
) -> None:
    before = work.refs("refs/")
    answer = work.gitexp("run", recipe, "--json", code=code).json["error"]
    assert answer["type"] == error
    assert said in answer["message"]
    assert work.refs("refs/") == before
    assert not list((work.root / ".git/gitexp").glob("workspaces/*"))


def test_a_configuration_file_beside_a_recipe_is_what_would_be_typed(work: Work) -> None:
    work.write("experiments/filed/experiment.yaml", DEFINITION.replace("{hidden: 16, lr: 0.3}", "wide.yaml"))
    work.write("wide.yaml", "hidden: 99\nmodel: {hidden: 3}\nlr: 1e-3\n")
    asked = Asked(cwd=work.root, env=work.env, study="filed", overrides=("steps=1",))
    (wanted,) = define(work.root, asked).unresolved
    assert wanted.overrides == ("hidden=99", "model.hidden=3", "lr=0.001", "steps=1")
    work.git("clean", "-qfd", "experiments", "wide.yaml")


def test_a_recipe_starts_from_no_configuration_but_that_of_a_call(work: Work) -> None:
    asked = Asked(cwd=work.root, env=work.env, study="wide", base_config={"lr": 0.1})
    with pytest.raises(UsageError, match="runs something else"):
        define(work.root, asked)


def test_a_recipe_that_does_not_return_is_given_up(work: Work) -> None:
    site = open_site(open_repository(work.root), work.env)
    defined = define(work.root, Asked(cwd=work.root, env=work.env, study="recipes.py:hangs"))
    snapshot = take_snapshot(site.repository, snapshot_limits(site), begin_look(site.repository))
    around = Surroundings(Path(sys.executable), work.env, patience_s=0.3)
    with pytest.raises(RecipeError, match=r"recipes.py:hangs has not returned after 0.3 s"):
        resolve_calls(site, defined, snapshot, around)
    assert not list((work.root / ".git/gitexp").glob("workspaces/*"))


# ------------------------------------------------------------------------------------------- live calls, with plugins

LAUNCH = """\
import json, os, sys
from dataclasses import dataclass, field
from pathlib import Path

with open(os.environ["MARK"], "a") as file:
    file.write("executed\\n")

import nemo_run as run
import nemo_gitexp as gitexp
sys.path.append(os.environ["ELSEWHERE"])
import far, scratch, training
from nemo_gitexp.errors import GitexpError
from training import Callback, Log, Model, Trainer, WandbLogger, train

@dataclass(kw_only=True)
class PerfEnv(run.Plugin):
    margin: int = 16
    def setup(self, task, executor):
        if task.trainer.devices > 0:
            executor.env_vars["LAYERNORM_SM_MARGIN"] = str(self.margin)

@dataclass(kw_only=True)
class Preemption(run.Plugin):
    preempt_time: int = 60
    callbacks: list = field(default_factory=lambda: [run.Config(Callback, every=7)])
    def setup(self, task, executor):
        if isinstance(executor, run.SlurmExecutor):
            executor.signal = f"TERM@{self.preempt_time}"
        for callback in self.callbacks:
            if callback not in task.trainer.callbacks:
                task.trainer.callbacks.append(callback)

@dataclass(kw_only=True)
class Wandb(run.Plugin):
    name: str
    def setup(self, task, executor):
        if isinstance(task, run.Script):
            raise TypeError("it needs a Partial")
        executor.env_vars["WANDB_API_KEY"] = os.environ["WANDB_API_KEY"]
        task.log.extra["wandb"] = run.Config(WandbLogger, name=self.name)

@dataclass(kw_only=True)
class FaultTolerance(run.Plugin):
    def setup(self, task, executor):
        assert isinstance(task, run.Partial)
        executor.launcher = run.FaultTolerance(max_restarts=3)
        executor.retries = 2

class Raising(run.Plugin):
    def setup(self, task, executor):
        raise KeyError("no cluster")

KEY = os.environ["WANDB_API_KEY"]

def here(lr=0.1): ...

class Odd:
    pass

def partial():
    trainer = run.Config(Trainer, callbacks=[run.Config(Callback)])
    return run.Partial(train, model=run.Config(Model), trainer=trainer, log=run.Config(Log, extra={}))

def refused(task, executor=None, plugins=None):
    try:
        gitexp.run(task, executor=executor, plugins=plugins, name="bad")
    except GitexpError as fault:
        facts = {key: str(value) for key, value in fault.facts.items()}
        return {"type": type(fault).__name__, "message": fault.message, "code": fault.exit_code, **facts}
    return {"type": "nothing"}

def main():
    answers = {
        "lambda": refused(run.Partial(lambda lr: lr, lr=1)),
        "main": refused(run.Partial(here, lr=1)),
        "nan": refused(run.Partial(train, model=run.Config(Model), lr=float("nan"))),
        "plugin": refused(partial(), plugins=[Raising()]),
        "launcher": refused(partial(), plugins=[FaultTolerance()]),
        "executor": refused(partial(), executor=run.LocalExecutor(env_vars={"a": Odd()})),
        "script": refused(run.Script(inline="true"), plugins=[Wandb(name="x")]),
        "ignored": refused(run.Partial(scratch.train)),
        "elsewhere": refused(run.Partial(far.train)),
        "header": refused(run.Partial(train, log=run.Config(Log, extra={"a": "Bearer " + KEY}))),
        "secret": refused(run.Partial(train, log=run.Config(Log, extra={"key": os.environ["WANDB_API_KEY"]}))),
    }
    answers["refs"] = os.popen("git for-each-ref refs/gitexp refs/heads/exp").read()
    if "bad" not in sys.argv:
        Path("training.py").write_text(Path("training.py").read_text().replace("VERSION = 1", "VERSION = 3"))
        executor = run.LocalExecutor()
        plugins = [PerfEnv(margin=8), Preemption(), Wandb(name="first")]
        done = gitexp.run(partial(), executor=executor, plugins=plugins, name="live", seed=11)
        answers |= {"held": training.VERSION, "document": done.document}
    Path(os.environ["ANSWERS"]).write_text(json.dumps(answers))

main()
"""
KEY = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture(scope="module")
def launched(tmp_path_factory: pytest.TempPathFactory) -> tuple[Work, dict[str, Any], Path]:
    """What an unguarded script is answered that holds an older module than its files, and where it leaves a mark."""
    place = tmp_path_factory.mktemp("live")
    files = {"training.py": TRAINING, "launch.py": LAUNCH, ".gitignore": "scratch.py\n"}
    work = make_work(place / "work", place / "home", files=files)
    work.write("scratch.py", "def train(): ...\n")
    (place / "elsewhere").mkdir()
    (place / "elsewhere" / "far.py").write_text("def train(): ...\n")
    answers, mark = place / "answers.json", place / "mark"
    env = {
        **work.env,
        "ANSWERS": str(answers),
        "MARK": str(mark),
        "WANDB_API_KEY": KEY,
        "ELSEWHERE": str(place / "elsewhere"),
        "NEMORUN_HOME": str(place / "nemo"),
    }
    done = subprocess.run(
        [sys.executable, "launch.py"], cwd=work.root, env=env, capture_output=True, timeout=240, check=False
    )
    assert done.returncode == 0, done.stderr.decode()
    return work, json.loads(answers.read_bytes()), mark


@pytest.mark.parametrize(
    "name, error, said, fact",
    [
        ("lambda", "UnportableFunctionError", "lambda", "function"),
        ("main", "UnportableFunctionError", "__main__", "function"),
        ("nan", "CanonicalFormError", "lr is NaN", "key"),
        ("plugin", "PluginError", "the plugin Raising raised KeyError", "plugin"),
        ("launcher", "ExecutorError", "launcher FaultTolerance", "executor"),
        ("executor", "ExecutorError", "LocalExecutor", "executor"),
        ("script", "PluginError", "it needs a Partial", "plugin"),
        ("ignored", "MissingModuleError", "git ignores scratch.py", "module"),
        ("elsewhere", "UnportableFunctionError", "neither part of", "function"),
        ("header", "SnapshotRefusedError", "log.extra.a is the value of WANDB_API_KEY", "key"),
        ("secret", "SnapshotRefusedError", "log.extra.key is the value of WANDB_API_KEY", "key"),
    ],
)
def test_a_live_call_that_no_job_could_make_is_refused(
    launched: tuple[Work, dict[str, Any], Path], name: str, error: str, said: str, fact: str
) -> None:
    answer = launched[1][name]
    assert (answer["type"], answer["code"]) == (error, 3)
    assert said in answer["message"]
    assert answer[fact]


def test_nothing_of_a_refused_call_is_recorded(launched: tuple[Work, dict[str, Any], Path]) -> None:
    work, answers, _ = launched
    assert answers["refs"] == ""
    assert len(work.refs()) == 1


def test_the_record_has_the_defaults_of_the_files_not_of_the_launching_process(
    launched: tuple[Work, dict[str, Any], Path],
) -> None:
    work, answers, _ = launched
    config = recorded(work, answers["document"])
    assert (answers["held"], config["steps"]) == (1, 3)
    assert answers["document"]["metric_stats"]["loss"]["n"] == 3


def test_the_job_does_not_execute_the_launching_script(launched: tuple[Work, dict[str, Any], Path]) -> None:
    assert launched[1]["document"]["status"] == "completed"
    assert launched[2].read_text() == "executed\n"


def test_plugins_change_the_task_before_it_is_recorded_and_their_changes_reach_the_job(
    launched: tuple[Work, dict[str, Any], Path],
) -> None:
    work, answers, _ = launched
    document = answers["document"]
    config = recorded(work, document)
    assert [item["every"] for item in config["trainer"]["callbacks"]] == [1, 7]
    assert config["log"]["extra"]["wandb"] == {
        "_target_": "training:WandbLogger",
        "name": "first",
        "project": "digits",
    }
    assert document["topology"]["environment"]["LAYERNORM_SM_MARGIN"] == "8"
    log = work.gitexp("logs", document["experiment"]).out
    seen = json.loads(next(line for line in log.splitlines() if line.startswith("seen ")).removeprefix("seen "))
    assert (seen["margin"], seen["key"]) == ("8", True)
    assert seen["callbacks"] == "[Callback(every=1), Callback(every=7)]"
    assert "WandbLogger(name='first'" in seen["logger"]


def test_a_key_that_a_plugin_hands_to_the_job_is_in_no_object_of_the_repository(
    launched: tuple[Work, dict[str, Any], Path],
) -> None:
    work = launched[0]
    argv = ["git", "cat-file", "--batch", "--batch-all-objects"]
    everything = subprocess.run(argv, cwd=work.root, env=work.env, capture_output=True, check=True).stdout
    assert b"LAYERNORM_SM_MARGIN" in everything
    assert KEY.encode() not in everything
    assert b"WANDB_API_KEY" not in json.dumps(launched[1]["document"]).encode()
