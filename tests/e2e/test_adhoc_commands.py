"""Commands without a definition: their arguments are the configuration, whatever stands in front of Python."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from builder import SCRIPT, Work

ECHO = """\
import json, os, sys
import __main__
name_of = os.path.basename
words = dict(argv=sys.argv[1:], name=__name__, file=name_of(__file__), first=name_of(sys.path[0] or "."))
with open(os.environ["GITEXP_OUTPUTS"] + "/seen.json", "w") as file:
    json.dump(words, file)
with open(os.environ["GITEXP_METRICS"], "a") as stream:
    stream.write(json.dumps({"count": len(sys.argv)}) + "\\n")
"""


def config_of(work: Work, *command: str) -> object:
    return work.gitexp("run", "--plan", "--json", "--", *command).json["config"]


def seen_by(work: Work, ran: dict, place: Path) -> dict:
    work.gitexp("outputs", ran["experiment"], "--get", str(place))
    return json.loads((place / "seen.json").read_text())


def test_arguments_become_the_configuration(work: Work) -> None:
    work.write("any.py", ECHO)
    spelled = ["--lr", "0.1", "--warm-up=1e-3", "--fast", "-v", "--offset", "-5", "--layer", "a", "--layer", "b"]
    assert config_of(work, "python", "any.py", *spelled, "first", "2", "--mode=on", "--none=null") == {
        "lr": 0.1,
        "warm-up": 0.001,
        "fast": True,
        "v": True,
        "offset": -5,
        "layer": ["a", "b"],
        "mode": "on",
        "none": None,
        "args": ["first", 2],
    }


def test_two_spellings_compare_by_key(work: Work) -> None:
    a = work.gitexp("run", "--json", "--", "python", "train.py", "--lr", "0.1").json
    b = work.gitexp("run", "--json", "--", "python", "train.py", "--lr=0.5").json
    assert (a["study"], a["purpose"]) == ("train", "python train.py --lr 0.1")
    compared = work.gitexp("diff", a["experiment"], b["experiment"], "--json").json
    assert compared["config"]["changed"] == {"lr": {"a": 0.1, "b": 0.5}}
    assert compared["code"]["files"] == []
    # By default a completed one is compared with the one before it.
    assert work.gitexp("diff", b["experiment"], "--json").json["b"] == a["experiment"]


@pytest.mark.parametrize(
    "command, study, file",
    [
        (["python", "tools/echo.py", "--x", "1"], "echo", "echo.py"),
        (["python3", "-u", "-X", "dev", "tools/echo.py", "--x", "1"], "echo", "echo.py"),
        (["python", "-m", "tools.echo", "--x", "1"], "echo", "echo.py"),
        (["bash", "go.sh", "--x", "1"], "go", "echo.py"),
        (["./go.sh", "--x", "1"], "go", "echo.py"),
        (["env", "A=1", "python", "tools/echo.py", "--x", "1"], "echo", "echo.py"),
    ],
)
def test_each_way_to_start_python_works(work: Work, tmp_path: Path, command: list[str], study: str, file: str) -> None:
    work.write("tools/echo.py", ECHO)
    work.write("go.sh", '#!/bin/sh\nexec python tools/echo.py "$@"\n').chmod(0o755)
    ran = work.gitexp("run", "--json", "--", *command).json
    assert ran["status"] == "completed", ran["error"]
    assert ran["study"] == study
    assert ran["config"]["x"] == 1
    seen = seen_by(work, ran, tmp_path / "got")
    assert (seen["argv"], seen["name"], seen["file"]) == (["--x", "1"], "__main__", file)
    # Whether the environment could be known before the job decides whether it can be a duplicate.
    assert (ran["identity"] is None) == (ran["environment_key"] is None) == (command[0][:6] != "python")


def _on_path(work: Work, directory: Path, name: str, script: str) -> Work:
    directory.mkdir(exist_ok=True)
    program = directory / name
    program.write_text(script)
    program.chmod(0o755)
    return Work(work.root, {**work.env, "PATH": f"{directory}:{work.env['PATH']}"})


def test_uv_run_brings_its_own_interpreter(work: Work, tmp_path: Path) -> None:
    uv = '#!/bin/sh\n[ "$1" = run ] || exit 9\nshift\necho uv is here\nexec "$@"\n'
    inside = _on_path(work, tmp_path / "bin", "uv", uv)
    ran = inside.gitexp("run", "--json", "--", "uv", "run", "python", "train.py", "--lr", "0.2").json
    assert (ran["status"], ran["study"], ran["identity"]) == ("completed", "train", None)
    assert ran["config"] == {"lr": 0.2}
    assert ran["metrics"] == {"loss": 0.2 / 3}
    assert "uv is here" in inside.gitexp("logs", "latest").out
    # What could not be known before is never taken for a duplicate.
    again = inside.gitexp("run", "--json", "--", "uv", "run", "python", "train.py", "--lr", "0.2").json
    assert again["duplicate_of"] is None
    assert again["experiment"] != ran["experiment"]


def test_torchrun_runs_as_a_command(work: Work, tmp_path: Path) -> None:
    body = "import runpy, sys\nsys.argv = sys.argv[2:]\nrunpy.run_path(sys.argv[0], run_name='__main__')\n"
    torchrun = f"#!{sys.executable}\n{body}"
    inside = _on_path(work, tmp_path / "bin", "torchrun", torchrun)
    command = ["torchrun", "--nproc-per-node=1", "train.py", "--lr", "0.3"]
    answered = inside.gitexp("run", "--json", "--", *command)
    ran = answered.json
    assert (ran["status"], ran["study"], ran["identity"]) == ("completed", "train", None)
    note = "starts Python itself, if at all: of determinism seeded it has the variables, not the seeds"
    assert f"note: the job {note}" in answered.err
    assert note in inside.gitexp("show", ran["experiment"]).out
    off = inside.gitexp("run", "--again", "--determinism", "off", "-m", "its own seeds", "--", *command)
    assert "note:" not in off.err
    assert ran["config"]["lr"] == 0.3
    environment = json.loads(work.git("show", f"{ran['result']}:experiments/train/record/run.json"))
    assert environment["environment"]["interpreter"]["version"].startswith("3.")


def test_code_on_the_command_line(work: Work) -> None:
    ran = work.gitexp("run", "--json", "--", "python", "-c", "import os; print(os.getcwd())", "--x=1").json
    assert ran["status"] == "completed"
    assert ran["config"] == {"x": 1}
    assert "gitexp/workspaces" in work.gitexp("logs", "latest").out


def test_placeholders_stand_for_what_only_the_run_knows(work: Work, tmp_path: Path) -> None:
    work.write("echo.py", ECHO)
    words = ["--config", "{config}", "--out={outputs}", "--seed", "{seed}"]
    words += ["--text", "{{literal}}", '{"json": 1}', "{}"]
    ran = work.gitexp("run", "--json", "--seed", "7", "--", "python", "echo.py", *words).json
    assert ran["status"] == "completed", ran["error"]
    argv = seen_by(work, ran, tmp_path / "got")["argv"]
    assert argv[1].endswith("config.json")
    assert argv[2].endswith("outputs")
    assert argv[4:] == ["7", "--text", "{literal}", '{"json": 1}', "{}"]
    # What is recorded names no place of this machine.
    assert str(work.root) not in json.dumps(ran["config"])
    assert ran["config"]["config"] == "{config}"


def test_an_absolute_path_runs_the_recorded_script_not_the_live_one(work: Work, tmp_path: Path) -> None:
    work.write("echo.py", ECHO)
    live = str(work.root / "echo.py")
    ran = work.gitexp("run", "--json", "--", "python", live).json
    assert ran["status"] == "completed", ran["error"]
    assert seen_by(work, ran, tmp_path / "got")["first"] != "work"
    entry = json.loads(work.git("show", f"{ran['experiment']}:experiments/echo/record/experiment.json"))["entry"]
    assert entry["path"] == "echo.py"
    # The same in other words is the same experiment.
    assert work.gitexp("run", "--json", "--", "python", "echo.py").json["duplicate_of"] == ran["experiment"]
    warned = work.gitexp("run", "--record-only", "--", "python", "echo.py", "--file", live)
    assert f"warning: the job reads the live {live}" in warned.err


def test_scripts_in_submodules_links_and_packages_are_found(work: Work, tmp_path: Path) -> None:
    work.env["GIT_ALLOW_PROTOCOL"] = "file"
    library = Work(tmp_path / "library", work.env)
    library.root.mkdir()
    library.git("init", "-q")
    library.write("train.py", SCRIPT)
    library.commit()
    work.git("submodule", "--quiet", "add", str(library.root), "lib")
    work.write("pack/__main__.py", SCRIPT)
    work.write("src/inner.py", SCRIPT)
    (work.root / "link").symlink_to("src")
    for script in ("lib/train.py", "pack", "link/inner.py", "./train.py", "src/../train.py"):
        ran = work.gitexp("run", "--record-only", "--json", "--", "python", script).json
        assert ran["status"] == "recorded", script


@pytest.mark.parametrize(
    "words,said",
    [
        (["--token", "hf_" + "a1" * 17], "token is what looks like a secret"),
        (["--db", "postgres://u:pw@h/db"], "db is a URL with a password"),
        (["--header", "Bearer word-of-a-secret"], "header is the value of MY_API_TOKEN"),
        (["--db-password", "hunter22"], "db-password is a secret by its name"),
    ],
)
def test_a_secret_among_the_words_is_refused_and_nothing_recorded(work: Work, words: list[str], said: str) -> None:
    work.env["MY_API_TOKEN"] = "word-of-a-secret"
    refused = work.gitexp("run", "--", "python", "train.py", *words, code=3)
    assert said in refused.err
    assert "in an environment variable" in refused.err
    assert words[1].removeprefix("Bearer ") not in refused.err
    assert work.refs() == {}


def test_ordinary_words_are_no_secrets_and_a_key_can_be_allowed(work: Work) -> None:
    work.env["MAX_TOKENS"] = "50000000"
    ordinary = ["max_tokens=50000000", "tokenizer=bert", "--pad-token", "<pad>", "--token-count", "50000000"]
    assert config_of(work, "python", "train.py", *ordinary)
    work.write("pyproject.toml", '[tool.nemo-gitexp]\nsecrets_allowed = ["db-password", "entry.*"]\n')
    assert config_of(work, "python", "train.py", "--db-password", "hunter22")
