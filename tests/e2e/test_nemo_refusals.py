"""What an `Experiment` cannot record is refused in words before anything is submitted, and leaves nothing behind."""

from __future__ import annotations

import json
from dataclasses import dataclass

import pytest
from builder import Work
from nemo_work import PRELUDE, Ran, make_nemo_work, run_program
from residue import expect_nothing_left

REFUSALS = (
    PRELUDE
    + """
from dataclasses import dataclass
from nemo_gitexp import Experiment
from nemo_run.core.packaging.hybrid import HybridPackager
from nemo_run.core.packaging.pattern import PatternPackager
from nemo_run.run.job import Job
import ignored_tasks
ECHO = run.Script(inline="echo hello")
QUIET = {"clean_mode": True}
SECRETS = {"secret key": ["--token", "hf_" + "a1" * 17], "secret URL": ["--db", "postgres://u:pw@h/db"],
           "secret value": ["--header", "Bearer word-of-a-secret"], "secret name": ["--db-password=hunter22"]}

@dataclass(kw_only=True)
class Raising(run.Plugin):
    def setup(self, task, executor):
        raise KeyError("as asked")

def here():
    pass

def made(*tasks, title="refused", **options):
    exp = Experiment(title, clean_mode=True)
    exp.add(ECHO, name="first")
    for number, task in enumerate(tasks):
        exp.add(task, name=f"t{number}", **options)
    return exp

def refused(what, *tasks, **options):
    def act():
        with made(*tasks, **options) as exp:
            exp.run()
    refusal(what, act)

def packed(what, packager):
    refused("packager " + what, ECHO, executor=run.LocalExecutor(packager=packager))

def cycle():
    exp = made(ECHO)
    exp.jobs[0].dependencies.append("t0")
    exp.jobs[1].dependencies.append("first")
    exp.run()

def said_beside(**values):
    exp = made()
    for name, value in values.items():
        setattr(exp, name, value)
    exp.run()

def inside():
    os.environ["GITEXP_RUN_DIR"] = "/nowhere"
    try:
        made().run()
    finally:
        del os.environ["GITEXP_RUN_DIR"]

if sys.argv[1:] != ["clean"]:
    refusal("two names", lambda: made().add(ECHO, name="first"))
    exp = made()
    exp.add([ECHO, ECHO], name="g")
    exp.add(ECHO, name="g-1")
    refusal("group and task", exp.run)
    refusal("unknown dependency", lambda: made(ECHO, dependencies=["none"]))
    refusal("cycle", cycle)
    refusal("no tasks", Experiment("refused", clean_mode=True).run)
    refusal("no task", lambda: made().add(lambda: 1))
    refusal("group without a name", lambda: made().add([ECHO]))
    refused("plugin", ECHO, plugins=[Raising()])
    refused("unserialisable", ECHO, executor=run.LocalExecutor(env_vars={"X": object()}))
    refused("slurm", ECHO, executor=run.SlurmExecutor(account="ci", tunnel=run.LocalTunnel(job_dir="")))
    refused("container", ECHO, executor=run.SlurmExecutor(account="ci", container_image="img"))
    refused("docker", ECHO, executor=run.DockerExecutor(container_image="img"))
    refused("launcher", ECHO, executor=run.LocalExecutor(launcher="ft"))
    refused("lambda", run.Partial(lambda: 1))
    refused("main", run.Partial(here))
    refused("value", run.Partial(ignored_tasks.take, what=object()))
    refused("ignored module", run.Partial(ignored_tasks.take, what=1))
    refused("missing script", run.Script(path="nothing.py", entrypoint="python"))
    refused("other interpreter", run.Script(path="train.py", entrypoint="python3.99"),
            run.Script(path="train.py", entrypoint="python"))
    os.environ["MY_API_TOKEN"] = "word-of-a-secret"
    for what, words in SECRETS.items():
        refused(what, run.Script(path="train.py", args=words, entrypoint="python"))
    refused("secret inline", run.Script(inline="curl postgres://u:pw@h/db"))
    refused("secret call", run.Partial(ignored_tasks.take, what={"Bearer word-of-a-secret": 1}))
    os.makedirs("empty")
    os.chdir("empty")
    refused("empty directory", run.Partial(json.dumps, 1))
    refused("empty directory of a script", ECHO)
    os.chdir("..")
    refusal("direct", lambda: made().run(direct=True))
    refusal("inside a job", inside)
    refusal("seed", lambda: said_beside(seed="x"))
    refusal("study", lambda: said_beside(study="a/b"))
    refusal("plugin's seed", lambda: nemo_gitexp.Plugin(seed=-1))

    packed("ref", run.GitArchivePackager(ref="HEAD~1"))
    packed("unknown ref", run.GitArchivePackager(ref="--nothing"))
    packed("dirty", run.GitArchivePackager(check_uncommitted_changes=True))
    packed("untracked", run.GitArchivePackager(check_untracked_files=True))
    packed("fixed", run.GitArchivePackager(ref="main"))
    packed("subpath", run.GitArchivePackager(subpath="sub"))
    packed("basepath", run.GitArchivePackager(basepath="/"))
    packed("submodules", run.GitArchivePackager(include_submodules=False))
    packed("ignored file", run.GitArchivePackager(include_pattern="ignored*"))
    packed("outside", PatternPackager(include_pattern="/etc/hostname", relative_path=os.getcwd()))
    packed("moved", PatternPackager(include_pattern="sub/*", relative_path=os.path.abspath("sub")))
    packed("parts", HybridPackager(sub_packagers={"code": run.GitArchivePackager()}))
    packed("part", HybridPackager(sub_packagers={"c": run.GitArchivePackager(ref="HEAD~1")}, extract_at_root=True))
    packed("symlink", run.Packager(symlink_from_remote_dir="/remote"))
    class Own(run.Packager):
        pass
    packed("own", Own())

    exp = made(ECHO, executor=run.LocalExecutor(nodes=2))
    refusal("nodes", exp.run)
    exp.jobs[1].executor.nodes = 1
    exp.run()
    say("mended", exp)
else:
    git = run.GitArchivePackager
    patterns = PatternPackager(include_pattern=["sub/*", "train.py"], relative_path=[os.getcwd()] * 2)
    allowed = [git(), git(ref="main", check_uncommitted_changes=True, check_untracked_files=True), patterns,
               git(include_pattern="sub", basepath=os.path.abspath("sub")), run.Packager(debug=True),
               HybridPackager(sub_packagers={"a": git(), "b": patterns}, extract_at_root=True)]
    exp = Experiment("packed", clean_mode=True)
    for number, packager in enumerate(allowed):
        exp.add(ECHO, executor=run.LocalExecutor(packager=packager), name=f"p{number}")
    exp.run()
    say("packed", exp)
"""
)
TYPES = {
    "two names": "DuplicateTaskError",
    "group and task": "DuplicateTaskError",
    "unknown dependency": "UsageError",
    "cycle": "PipelineError",
    "no tasks": "UsageError",
    "no task": "RecipeError",
    "group without a name": "UsageError",
    "plugin": "PluginError",
    "unserialisable": "ExecutorError",
    "slurm": "ExecutorError",
    "container": "ExecutorError",
    "docker": "ExecutorError",
    "launcher": "ExecutorError",
    "nodes": "ExecutorError",
    "lambda": "UnportableFunctionError",
    "main": "UnportableFunctionError",
    "value": "CanonicalFormError",
    "ignored module": "MissingModuleError",
    "missing script": "UsageError",
    "other interpreter": "UsageError",
    "secret key": "SnapshotRefusedError",
    "secret URL": "SnapshotRefusedError",
    "secret value": "SnapshotRefusedError",
    "secret name": "SnapshotRefusedError",
    "secret inline": "SnapshotRefusedError",
    "secret call": "SnapshotRefusedError",
    "empty directory": "UsageError",
    "empty directory of a script": "UsageError",
    "direct": "UsageError",
    "inside a job": "InsideJobError",
    "seed": "UsageError",
    "study": "InvalidNameError",
    "plugin's seed": "UsageError",
}
OPTIONS = {
    "ref": "ref",
    "unknown ref": "ref",
    "dirty": "check_uncommitted_changes",
    "untracked": "check_untracked_files",
    "fixed": "ref",
    "subpath": "subpath",
    "basepath": "basepath",
    "submodules": "include_submodules",
    "ignored file": "include_pattern",
    "outside": "include_pattern",
    "moved": "include_pattern",
    "parts": "extract_at_root",
    "part": "ref",
    "symlink": "symlink_from_remote_dir",
    "own": "None",
}


@dataclass(frozen=True)
class Made:
    """A repository with changes, in which a script has asked for what is refused."""

    work: Work
    ran: Ran


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    work = make_nemo_work(tmp_path_factory.mktemp("refusals"), refusals=REFUSALS)
    work.write("sub/file.txt", "part of it\n")
    work.write(".gitmodules", "")
    work.commit()
    work.write("ignored_tasks.py", "def take(what):\n    pass\n")
    work.write("sub/file.txt", "changed\n")
    work.write("untracked.txt", "new\n")
    return Made(work, run_program(work, "refusals.py"))


@pytest.mark.parametrize("what", TYPES)
def test_it_is_refused_by_a_typed_error_with_a_hint(made: Made, what: str) -> None:
    said = made.ran.said[what]
    error = said["error"]
    assert error is not None, f"{what} was not refused"
    assert (error["type"], error["is_ours"]) == (TYPES[what], True), error
    assert error["hint"]
    assert not error["message"].endswith(".")
    assert not any(word in str(error) for word in ("hf_a1", "u:pw", "word-of", "hunter22"))
    assert said["is_clean"], "NeMo Run's context was left behind"


@pytest.mark.parametrize("what", OPTIONS)
def test_a_packager_that_would_ship_something_else_is_refused(made: Made, what: str) -> None:
    error = made.ran.said[f"packager {what}"]["error"]
    assert error is not None, f"{what} was not refused"
    kind = "SnapshotRefusedError" if what in ("dirty", "untracked", "fixed") else "ExecutorError"
    assert error["type"] == kind, error
    assert error["facts"]["option"] == OPTIONS[what]
    assert "leave" in error["hint"]


def test_nothing_of_it_was_recorded_and_what_was_mended_runs(made: Made) -> None:
    work, mended = made.work, made.ran.said["mended"]
    assert mended["states"] == {"first": "SUCCEEDED", "t0": "SUCCEEDED"}
    assert list(work.refs("refs/gitexp/").values()) == [mended["document"]["result"]]
    assert work.git("for-each-ref", "--format=%(refname)", "refs/heads/").splitlines() == [
        f"refs/heads/{mended['document']['branch']}",
        "refs/heads/main",
    ]
    kept = [place.name for place in (work.root.parent / "home" / ".nemo_run" / "experiments").glob("*/*")]
    assert kept == [mended["id"]]
    assert work.git("status", "--short") == "M sub/file.txt\n?? untracked.txt"
    expect_nothing_left(work)


def test_packager_options_that_hold_are_no_obstacle(made: Made) -> None:
    work = made.work
    work.git("rm", "-q", ".gitmodules")
    work.commit("clean")
    said = run_program(work, "refusals.py", "clean").said["packed"]
    assert set(said["states"].values()) == {"SUCCEEDED"}


STDIN = (
    PRELUDE
    + """
from nemo_gitexp import Experiment
here = os.getcwd()
def typed():
    pass
os.chdir(os.environ["OUTSIDE"])
refusal("outside", lambda: Experiment("typed"))
os.chdir(here)
exp = Experiment("typed", clean_mode=True)
exp.add(run.Script(path="../train.py", entrypoint="python"), name="script")
exp.add(run.Script(inline="pwd"), name="where")
exp.run()
say("typed", exp)
exp = Experiment("typed", clean_mode=True)
exp.add(run.Partial(typed))
refusal("of stdin", exp.run)
"""
)


def test_from_stdin_and_a_subdirectory_it_works_and_outside_of_a_repository_it_is_refused(made: Made) -> None:
    work, outside = made.work, made.work.root.parent / "outside"
    outside.mkdir()
    ran = run_program(work, "-", cwd=work.root / "sub", stdin=STDIN, OUTSIDE=str(outside))
    assert ran.said["outside"]["error"]["type"] == "NotARepositoryError"
    assert ran.said["of stdin"]["error"]["type"] == "UnportableFunctionError"
    document = ran.said["typed"]["document"]
    assert document["status"] == "completed"
    record = json.loads(work.git("show", f"{document['experiment']}:experiments/typed/record/experiment.json"))
    assert record["workdir"] == "sub"
    assert "/sub" in work.gitexp("logs", document["experiment"]).out
