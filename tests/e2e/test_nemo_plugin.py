"""`nemo_gitexp.Plugin()` in scripts that use `run.run` and `nemo_run.Experiment` as they are."""

from __future__ import annotations

import json
from dataclasses import dataclass

import pytest
from builder import Work
from nemo_work import PRELUDE, Ran, make_nemo_work, run_program
from residue import expect_nothing_left

PLUGINS = (
    PRELUDE
    + """
import gc
from dataclasses import dataclass
from nemo_gitexp import Plugin
from tasks import train
ECHO = run.Script(inline="echo hello")

@dataclass(kw_only=True)
class Env(run.Plugin):
    name: str = "A"
    def setup(self, task, executor):
        executor.env_vars[self.name] = self.experiment_id.partition("_")[0]

@dataclass(kw_only=True)
class Rate(run.Plugin):
    lr: float = 0.9
    def setup(self, task, executor):
        task.lr = self.lr

@dataclass(kw_only=True)
class Raising(run.Plugin):
    def setup(self, task, executor):
        raise KeyError("as asked")

class Mine(run.Experiment):
    pass

called = run.run(run.Partial(train), executor=EXECUTOR, name="called", log_level="WARNING",
                 plugins=[Env(name="A"), Plugin(seed=3, study="by-plugin"), Rate(), Env(name="B")])
say("called", returned=called, is_clean=_current_experiment.get(None) is None)

with run.Experiment("last", executor=EXECUTOR) as exp:
    exp.add([ECHO, ECHO], name="pair", plugins=[Env(name="C")])
    exp.add(ECHO, name="middle", dependencies=["pair"])
    exp.add(ECHO, name="late", plugins=[Plugin(purpose="Late.")])
    exp.run()
    say("after run", exp)
say("last", exp, is_clean=_current_experiment.get(None) is None)

plugin = Plugin()
with Mine("every", executor=EXECUTOR) as exp:
    exp.add(ECHO, name="one", plugins=[plugin, Env(name="D")])
    exp.add([ECHO], name="two", plugins=[plugin, Env(name="E")])
    exp.run(tail_logs=True)
say("every", exp)
say("found", Mine.from_id(exp._id))
for again in (False, True):
    with run.Experiment("repeated", executor=EXECUTOR) as exp:
        exp.add(run.Script(path="train.py", entrypoint="python"), name="t", plugins=[Plugin(again=again)])
        exp.run()
    say(f"again {again}", exp)

del plugin
gc.collect()
print("== unasked", file=sys.stderr)
run.run(ECHO, plugins=[Plugin()])
run.run(ECHO, executor=EXECUTOR, direct=True, plugins=[Plugin()])
gc.collect()
print("== asked", file=sys.stderr)

def plain(title, plugins, **how):
    with run.Experiment(title, executor=EXECUTOR) as exp:
        exp.add(ECHO, name="t", plugins=plugins)
        exp.run(**how)
refusal("direct", lambda: plain("direct", [Plugin()], direct=True))
refusal("raising", lambda: plain("raising", [Plugin(), Raising()]))
refusal("first of ours", lambda: nemo_gitexp.run(ECHO, plugins=[Raising()]))
refusal("no experiment", lambda: Plugin().setup(ECHO, EXECUTOR))
run.run(ECHO, executor=EXECUTOR, dryrun=True, plugins=[Plugin()], name="dry")
plain("unrecorded", [Env()])
"""
)


@dataclass(frozen=True)
class Made:
    """A repository in which the script has run."""

    work: Work
    ran: Ran

    def shapes(self, what: str) -> dict[str, dict]:
        document = self.ran.said[what]["document"]
        path = f"{document['experiment']}:experiments/{document['study']}/record/experiment.json"
        return {
            stage["name"]: stage["shape"]
            for stage in json.loads(self.work.git("show", path))["entry"].get("stages", [])
        }


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    work = make_nemo_work(tmp_path_factory.mktemp("plugin"), plugins=PLUGINS)
    return Made(work, run_program(work, "plugins.py"))


def test_run_run_is_recorded_with_what_the_plugins_before_and_after_did(made: Made) -> None:
    said = made.ran.said["called"]
    assert (said["returned"], said["is_clean"]) == (None, True)
    document = made.work.gitexp("show", "latest:by-plugin", "--json").json
    assert (document["status"], document["seed"]) == ("completed", 3)
    assert (document["config"]["_target_"], document["config"]["lr"]) == ("tasks:train", 0.9)
    assert document["topology"]["environment"].items() >= {"A": "called", "B": "called", "FOO": "bar"}.items()
    assert document["metrics"] == {"loss": pytest.approx(0.3)}
    assert "training at 0.9" in made.ran.out  # run.run tails logs unless it is told not to


def test_on_the_last_task_alone_it_records_all_of_them(made: Made) -> None:
    said = made.ran.said["last"]
    assert said["states"] == dict.fromkeys(("pair", "pair-0", "pair-1", "middle", "late"), "SUCCEEDED")
    assert said["document"] == made.ran.said["after run"]["document"]
    assert said["document"]["purpose"] == "Late."
    shapes = made.shapes("last")
    assert [shapes[name]["group"] for name in ("pair-0", "pair-1", "middle")] == ["pair", "pair", None]
    assert shapes["pair-1"]["env"].keys() == {"C", "FOO"}
    assert "C" in shapes["pair-0"]["env"]
    assert shapes["late"]["env"] == {"FOO": "bar"}
    assert said["is_clean"]


def test_on_every_task_it_records_once_also_for_a_class_of_the_users(made: Made) -> None:
    said = made.ran.said["every"]
    assert len(made.work.refs("refs/gitexp/every/")) == 1
    shapes = made.shapes("every")
    assert (shapes["one"]["env"], shapes["two-0"]["env"]) == (
        {"D": "every", "FOO": "bar"},
        {"E": "every", "FOO": "bar"},
    )
    assert made.ran.said["found"]["document"] == said["document"]


def test_what_completed_is_run_again_when_the_plugin_says_so(made: Made) -> None:
    first, second = (made.ran.said[f"again {again}"]["document"] for again in (False, True))
    assert first["experiment"] != second["experiment"]
    assert first["identity"] == second["identity"] is not None


def test_where_nemo_run_asks_no_plugin_that_is_said(made: Made) -> None:
    printed = " ".join((made.ran.out + made.ran.err).split())
    assert printed.count("nothing was recorded: NeMo Run asks no plugin") == 2


def test_what_cannot_be_recorded_is_refused_and_leaves_nemo_run_as_it_was(made: Made) -> None:
    said = made.ran.said
    assert {what: said[what]["error"]["type"] for what in ("direct", "raising", "first of ours", "no experiment")} == {
        "direct": "UsageError",
        "raising": "KeyError",
        "first of ours": "PluginError",
        "no experiment": "UsageError",
    }
    assert all(said[what]["is_clean"] for what in ("direct", "raising", "first of ours", "no experiment"))


def test_dry_runs_and_experiments_without_it_are_not_recorded(made: Made) -> None:
    studies = {name.split("/")[2] for name in made.work.refs()}
    assert studies == {"by-plugin", "last", "every", "repeated"}
    assert made.work.git("status", "--short") == ""
    expect_nothing_left(made.work)
