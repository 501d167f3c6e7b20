"""Every factory launched for real, through NeMo Run, from a script; the results read with the installed command."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from dataclasses import dataclass

import pytest
from builder import Work, make_work, wait_until

TRAIN = """
import json, os
def train(model_config, training_config, dataset_name):
    with open(os.environ["GITEXP_METRICS"], "a") as stream:
        for step in range(3):
            stream.write(json.dumps({"step": step, "loss": training_config["lr"] / (step + 1)}) + "\\n")
    return {"accuracy": model_config["width"] / 10}
"""
MODELS = """
import dataclasses, enum, pathlib
class Kind(enum.Enum):
    WIDE = 1
@dataclasses.dataclass(frozen=True)
class Layer:
    size: int
    kind: Kind = Kind.WIDE
@dataclasses.dataclass(frozen=True)
class Net:
    model_type: str = "net"
    layers: tuple[Layer, ...] = (Layer(2), Layer(3))
    where: pathlib.Path = pathlib.Path("data")
    def size(self):
        return sum(layer.size for layer in self.layers) * (self.layers[0].kind is Kind.WIDE)
"""
SCRIPT = """
import json, logging, os, random, sys
import nemo_gitexp as gitexp
from lib.models import Layer, Net
from lib.train import train

def train_model(model_config, training_config, seed):
    print("training", flush=True)
    assert isinstance(model_config, Net) and __name__ == "study", (model_config, __name__)
    return {"loss": model_config.size() * training_config["lr"], "random": random.random(), "seed": seed}

class Tracker:
    study = "tracked"

def say(what, experiment, **more):
    document = experiment.document
    states = {name: row["status"].name for name, row in experiment.status(return_dict=True).items()}
    print(json.dumps({"what": what, "document": document, "states": states, "experiment": experiment.experiment,
                      "result": experiment.result, "ref": experiment.ref, **more}), flush=True)

if __name__ == "__main__":
    import nemo_run as run
    logging.basicConfig(format="LOG %(message)s")
    width = 4

    with gitexp.create_reproducible_experiment(Net(), {"lr": 0.5}, 11) as experiment:
        experiment.run()
        running = experiment.document["status"]
    say("reproducible", experiment, running=running)
    again = gitexp.create_reproducible_experiment(run.Config(Net), {"lr": 0.5}, 11)
    again.run()
    say("duplicate", again)
    linear = {"model_type": "lin", "width": 8}
    experiment = gitexp.create_organized_experiment(linear, {"lr": 0.3}, "toy", train_fn=train)
    experiment.run(tail_logs=True)
    say("organized", experiment)

    experiment = gitexp.create_versioned_experiment(
        run.Config(Net, layers=[Layer(7)] and (Layer(7),)), {"lr": 1.0}, "toy",
        train_fn=lambda model_config, training_config: {"size": model_config.size(), "width": width},
    )
    experiment.run()
    say("versioned", experiment)

    def closure(model_config, training_config, **rest):
        print("closing", flush=True)
        if model_config["bad"]:
            raise ValueError("bad as asked")
        return type("Result", (), {"loss": 0.25, "acc": 0.5, "epochs": width})()

    for bad in (False, True):
        experiment = gitexp.create_tracked_experiment({"bad": bad}, {"dataset": "toy"}, Tracker(), train_fn=closure)
        experiment.run()
        say("failed" if bad else "tracked", experiment)

    def square(model_config, training_config):
        return {"loss": 1 / model_config["x"] ** 2}
    experiment = gitexp.create_comparison_experiment([{"x": x} for x in (1, 0, 2)], {}, train_fn=square)
    comparison = experiment.run()
    print(json.dumps({"what": "comparison", "comparison": comparison,
                      "documents": experiment.documents}), flush=True)
    with gitexp.create_comparison_experiment([{"x": x} for x in (1, 3)], {}, train_fn=square) as second:
        second.run(sequential=True)
    print(json.dumps({"what": "second", "comparison": second.comparison}), flush=True)
"""


@dataclass(frozen=True)
class Made:
    """A repository in which a script has launched every factory, what it said, and its stderr."""

    work: Work
    said: dict[str, dict]
    err: str


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    place = tmp_path_factory.mktemp("factories")
    files = {
        ".gitignore": "__pycache__/\n",
        "lib/__init__.py": "",
        "lib/models.py": MODELS,
        "lib/train.py": TRAIN,
        "study.py": SCRIPT,
    }
    work = make_work(place / "work", place / "home", files=files)
    done = subprocess.run(
        [sys.executable, "study.py"], cwd=work.root, env=work.env, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    said = [json.loads(line) for line in done.stdout.splitlines()]
    return Made(work, {item["what"]: item for item in said}, done.stderr)


def metrics(made: Made, what: str) -> dict:
    return made.said[what]["document"]["metrics"]


def test_each_experiment_is_recorded_as_the_command_shows_it(made):
    for what in ("reproducible", "organized", "versioned", "tracked", "failed"):
        said = made.said[what]
        shown = made.work.gitexp("show", "--json", said["experiment"]).json
        assert shown == said["document"], what
        assert (shown["ref"], shown["result"]) == (said["ref"], said["result"])
        assert shown["status"] == ("failed" if what == "failed" else "completed")
        assert said["states"] == {next(iter(said["states"])): "FAILED" if what == "failed" else "SUCCEEDED"}
        assert shown["branch"] == f"exp/{shown['study']}/{shown['name']}"


def test_functions_and_objects_arrive_in_the_job(made):
    first = metrics(made, "reproducible")
    assert (first["loss"], first["seed"]) == (2.5, 11)
    assert metrics(made, "organized") == {"loss": 0.3 / 3, "accuracy": 0.8}
    assert metrics(made, "versioned") == {"size": 7, "width": 4}
    assert {key: metrics(made, "tracked")[key] for key in ("final_loss", "final_accuracy", "epochs_completed")} == {
        "final_loss": 0.25, "final_accuracy": 0.5, "epochs_completed": 4,
    }  # fmt: skip


def test_it_is_quiet_and_leaves_nothing_of_nemo_run_behind(made):
    repeated = (made.said["reproducible"]["document"], made.said["comparison"]["documents"][0])
    said = "completed before and is not run again; again=True runs it"
    assert made.err.splitlines() == [f"LOG {document['name']} {said}" for document in repeated]
    assert not (made.work.root.parent / "home/.nemo_run").exists()
    state = made.work.root / ".git/gitexp"
    assert [list((state / name).iterdir()) for name in ("nemo", "workspaces")] == [[], []]
    assert made.work.git("status", "--porcelain") == "?? experiments/"


def test_seeds_and_configuration_stand_in_the_record(made):
    document = made.said["reproducible"]["document"]
    assert (document["seed"], document["study"]) == (11, "net-reproducible")
    assert document["config"]["deterministic"] is True
    assert document["config"]["model_config"]["layers"][0] == {
        "_target_": "lib.models:Layer", "kind": "Kind.WIDE", "size": 2,
    }  # fmt: skip
    name = made.said["versioned"]["document"]["name"]
    saved = json.loads((made.work.root / f"experiments/{name}_config.json").read_text())
    assert saved == made.said["versioned"]["document"]["config"]


def test_an_equal_experiment_is_not_run_again(made):
    assert made.said["duplicate"]["experiment"] == made.said["reproducible"]["experiment"]
    assert made.said["duplicate"]["document"]["duplicate_of"] == made.said["reproducible"]["experiment"]
    assert made.said["reproducible"]["running"] == "recorded"


def test_a_carried_function_lies_in_the_record_with_its_source(made):
    said = made.said["versioned"]
    directory = f"{said['experiment']}:experiments/{said['document']['study']}/record"
    assert {"train_fn.pkl", "train_fn.py"} <= set(made.work.git("ls-tree", "--name-only", directory).splitlines())
    assert "lambda model_config" in made.work.git("show", f"{directory}/train_fn.py")
    entry = json.loads(made.work.git("show", f"{directory}/experiment.json"))["entry"]
    assert {"digest", "sha256", "bytecode", "build"} <= set(entry)
    assert str(made.work.root) not in made.work.git("show", f"{directory}/train_fn.pkl")
    by_file = made.said["reproducible"]
    record = f"{by_file['experiment']}:experiments/{by_file['document']['study']}/record/experiment.json"
    assert json.loads(made.work.git("show", record))["entry"]["target"] == "study.py:train_model"


def test_a_failing_function_is_recorded_with_its_error_and_log(made):
    document = made.said["failed"]["document"]
    assert document["study"] == "tracked"
    assert (document["error"]["type"], document["error"]["message"]) == ("ValueError", "bad as asked")
    assert "closing" in document["error"]["log_tail"]
    assert any('File "study.py"' in line for line in document["error"]["log_tail"])
    tail = made.said["failed"]["document"]["error"]["log_tail"]
    assert not any(str(made.work.root) in line for line in tail)


def test_a_comparison_has_an_experiment_for_each_configuration(made):
    said = made.said["comparison"]
    documents = said["documents"]
    assert [document["status"] for document in documents] == ["completed", "failed", "completed"]
    (sweep,) = {document["sweep"] for document in documents}
    assert sweep
    assert {document["branch"] for document in documents} == {None}
    assert len({document["code"]["commit"] for document in documents}) == 1
    assert {document["study"] for document in documents} == {"unknown-comparison"}
    comparison = said["comparison"]
    assert set(comparison) == {"results", "config_comparison", "metrics_comparison"}
    assert [result["status"] for result in comparison["results"]] == ["completed", "failed", "completed"]
    assert comparison["results"][1]["error"]["type"] == "ZeroDivisionError"
    assert sorted(comparison["config_comparison"]["config_differences"]["model_config.x"].values()) == [0, 1, 2]
    assert comparison["metrics_comparison"]["loss"]["values"] == [1.0, 0.25]
    second = made.said["second"]["comparison"]
    assert second["results"][0]["experiment"] == documents[0]["experiment"], "what completed is not run again"
    assert second["metrics_comparison"]["loss"]["n"] == 2


@pytest.mark.parametrize("what", ["reproducible", "organized", "versioned"])
def test_a_factorys_experiment_reproduces_bit_by_bit_elsewhere(made, what, tmp_path):
    clone = Work(tmp_path / "clone", made.work.env)
    made.work.git("clone", "-q", str(made.work.root), str(clone.root))
    clone.git("fetch", "-q", "origin", "refs/gitexp/*:refs/gitexp/*")
    (clone.root / "lib/train.py").write_text("raise SystemExit('changed since')\n")
    verdict = clone.gitexp("reproduce", "--json", "--require", "bitwise", made.said[what]["experiment"]).json
    assert verdict["met"]
    assert verdict["environment"] == "same"


SLOW = """
import sys, time
import nemo_gitexp as gitexp
def train_model(model_config, training_config):
    print("started", flush=True)
    time.sleep(60)
if __name__ == "__main__":
    if sys.argv[1] == "one":
        experiment = gitexp.create_organized_experiment({}, {}, "toy")
    else:
        experiment = gitexp.create_comparison_experiment([{"x": x} for x in range(3)], {})
        experiment._width = 2
    experiment.run(tail_logs=True)
"""


@pytest.mark.parametrize("count", ["one", "three"])
def test_ctrl_c_cancels_and_records(work, count):
    work.write("slow.py", SLOW)
    process = subprocess.Popen(
        [sys.executable, "slow.py", count], cwd=work.root, env=work.env, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        start_new_session=True,
    )  # fmt: skip
    wanted = 1 if count == "one" else 2
    wait_until(lambda: len(list((work.root / ".git/gitexp/runs").glob("*/child.json"))) == wanted)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=30)
    assert process.returncode != 0
    assert "KeyboardInterrupt" in err.decode()
    listed = work.gitexp("log", "--json", "--all").json["experiments"]
    assert [item["status"] for item in listed] == ["cancelled"] * (1 if count == "one" else 3)


def test_an_unguarded_script_fails_as_a_job_and_starts_nothing_more(work):
    body = "import nemo_gitexp as gitexp\ndef train_model(model_config, training_config): ...\n"
    work.write(
        "wild.py", body + "made = gitexp.create_organized_experiment({}, {}, 'd')\nmade.run()\nprint(made.ref)\n"
    )
    done = subprocess.run(
        [sys.executable, "wild.py"], cwd=work.root, env=work.env, capture_output=True, text=True, check=False
    )
    shown = work.gitexp("show", "--json", done.stdout.strip()).json
    assert shown["status"] == "failed"
    assert shown["error"]["type"] == "InsideJobError"
    assert len(work.refs()) == 1


ELSEWHERE = """
import json
import nemo_gitexp as gitexp

def train_model(model_config, training_config):
    return {"loss": 0.5}

if __name__ == "__main__":
    experiment = gitexp.create_versioned_experiment({"type": "net"}, {}, "toy")
    experiment.run()
    tracker = gitexp.ExperimentTracker("study")
    tracker.start_experiment("a", {}).complete({"loss": 1.0})
    names = [experiment.document["name"], "a"]
    compared = gitexp.ExperimentComparator.compare_metrics(names, ["loss"])
    place = gitexp.ReproducibilityManager.save_reproducibility_info("a", 1, {}, OUT)
    print(json.dumps({"values": compared["loss"]["values"], "code": json.loads(place.read_text())["code"]}))
"""


def test_a_script_is_recorded_in_its_own_repository_wherever_it_is_started(work, tmp_path):
    script = work.write("study.py", ELSEWHERE.replace("OUT", repr(str(tmp_path / "out"))))
    done = subprocess.run([sys.executable, script], cwd="/", env=work.env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert list(said["values"]) == [0.5, 1.0]
    assert said["code"]["commit"] == work.git("rev-parse", "HEAD")
    assert len(work.gitexp("log", "--json", "--all").json["experiments"]) == 2
    assert len(list((work.root / "experiments").glob("*_config.json"))) == 1
