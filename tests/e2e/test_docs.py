"""What the pages tell people to type works as it stands there."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from builder import Work, put_study

from nemo_gitexp.definition import parse_definition

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
FENCE = re.compile(r"^```(?P<language>\w*)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)
TRAIN = """\
import argparse, json, os
parser = argparse.ArgumentParser()
parser.add_argument("--lr", type=float, default=0.1)
parser.add_argument("--epochs", type=int, default=2)
parser.add_argument("--config")
parser.add_argument("--out")
arguments = parser.parse_args()
config = json.load(open(arguments.config)) if arguments.config else vars(arguments)
open(os.environ["GITEXP_OUTPUTS"] + "/weights", "w").write("1")
for epoch in range(config.get("epochs", 3)):
    loss = config["lr"] / (epoch + 1)
"""


def blocks(page: Path, language: str = "") -> list[str]:
    return [match["text"] for match in FENCE.finditer(page.read_text()) if match["language"] == language]


def typed(text: str) -> list[list[str]]:
    """Return the commands of ours in a block, without what stands behind `#`."""
    lines = [line for line in text.splitlines() if line.startswith("nemo-gitexp ")]
    return [shlex.split(line, comments=True)[1:] for line in lines]


@pytest.fixture
def trained(work: Work) -> Work:
    """A repository with a script that logs as the tutorial says."""
    snippet = next(text for text in blocks(ROOT / "docs/tutorial.md", "python") if "GITEXP_METRICS" in text)
    body = TRAIN + "".join(f"    {line}\n" if line else "\n" for line in snippet.splitlines())
    work.write("train.py", body)
    work.write("experiments/mystudy/train.py", body)
    work.commit()
    return work


def test_the_tutorial_can_be_followed_line_by_line(trained: Work) -> None:
    commands = [command for text in blocks(ROOT / "docs/tutorial.md") for command in typed(text)]
    assert len(commands) > 8
    for command in commands:
        if "recreate" in command:
            continue  # needs an index of packages; tests/test_environment.py does it with one of its own
        said = trained.gitexp(*command)
        assert "warning" not in said.err, (command, said.err)
    assert trained.gitexp("show", "latest", "--json").json["reproductions"]["count"] == 3


def test_the_commands_of_the_readme_work_in_their_order(trained: Work, tmp_path: Path) -> None:
    (use,) = [text for text in blocks(ROOT / "README.md") if "init --study" in text]
    places = iter(("got", "tree"))
    for command in typed(use):
        words = [{"A": "latest:mystudy", "B": "latest:train"}.get(word, word) for word in command]
        if "DIR" in words:
            words[words.index("DIR")] = str(tmp_path / next(places))
        trained.gitexp(*words)
        if "--detach" in words:
            trained.gitexp("logs", "latest:mystudy", "-f")
    assert (tmp_path / "got/weights").exists()
    assert (tmp_path / "tree/train.py").exists()


def test_the_page_about_tracking_can_be_followed_line_by_line(work: Work) -> None:
    page = ROOT / "docs/tracking.md"
    work.write("train.py", blocks(page, "python")[0])
    for line in [line for text in blocks(page) for line in text.splitlines()]:
        program, *words = shlex.split(line)
        command = [str(Path(sys.executable).parent / program), *words]
        done = subprocess.run(command, cwd=work.root, env=work.env, capture_output=True, text=True, check=False)
        assert done.returncode == 0, (line, done.stdout, done.stderr)
    statuses = [item["status"] for item in work.gitexp("log", "--json").json["experiments"]]
    assert statuses == ["completed"] * 3


def test_the_page_about_trackers_can_be_followed_line_by_line(work: Work) -> None:
    page = ROOT / "docs/trackers.md"
    work.write("train.py", blocks(page, "python")[0])
    run, show, reproduce = (work.gitexp(*command).out for command in typed("".join(blocks(page))))
    assert "loss" in run
    assert "{run}/outputs/tb" in show
    assert "bitwise" in reproduce


def test_the_page_about_sweeps_can_be_followed_line_by_line(trained: Work) -> None:
    trained.gitexp("init", "--study", "mystudy")
    outs = [trained.gitexp(*command).out for text in blocks(ROOT / "docs/sweeps.md") for command in typed(text)]
    plan, first, extended, zipped, resumed = outs
    assert "6 combinations, 6 to run" in plan
    assert "6 experiments, 6 completed" in first
    assert "9 experiments, 9 completed" in extended
    assert "2 experiments, 2 completed" in zipped
    assert resumed == zipped
    assert len(trained.gitexp("log", "--json", "--all").json["experiments"]) == 11


def test_the_page_about_sharing_can_be_followed_by_two_people(work: Work) -> None:
    hub, storage = work.root.parent / "hub.git", work.root.parent / "storage"
    work.git("init", "-q", "--bare", "-b", "main", str(hub))
    given, taken, watched, probed = blocks(ROOT / "docs/sharing.md")
    work.git("remote", "add", "origin", str(hub))
    env = {name: value for name, value in work.env.items() if not name.endswith("_DATE")}  # DVC reads no Z
    for line in given.splitlines():
        program, *words = [word.replace("/shared/storage", str(storage)) for word in shlex.split(line, comments=True)]
        command = [str(Path(sys.executable).parent / program) if program in ("dvc", "nemo-gitexp") else program, *words]
        done = subprocess.run(command, cwd=work.root, env=env, capture_output=True, text=True, check=False)
        assert done.returncode == 0, (line, done.stdout, done.stderr)
    other = replace(work, root=work.root.parent / "other")
    work.git("clone", "-q", str(hub), str(other.root))
    for command in typed(taken):
        answered = other.gitexp(*[word.replace("EXP", "latest") for word in command])
        assert "warning" not in answered.err, (command, answered.err)
    assert "bitwise" in answered.out
    for command in (*typed(watched), *typed(probed)):
        work.gitexp(*[word.replace("EXP", "latest") for word in command])


def test_the_inputs_on_their_page_are_declared_as_it_says() -> None:
    (block,) = blocks(ROOT / "docs/inputs.md", "yaml")
    definition = parse_definition(f"purpose: p\ncommand: x\n{block}".encode(), "experiment.yaml")
    assert [spec.address.partition("://")[0] for spec in definition.data] == ["", "", "exp", "exp", "hf", "hf"]


def test_the_page_about_recipes_can_be_followed_line_by_line(work: Work) -> None:
    page = ROOT / "docs/recipes.md"
    for name, text in zip(("training.py", "recipes.py", "launch.py"), blocks(page, "python"), strict=True):
        work.write(name, text)
    lines = [line for text in blocks(page) for line in text.splitlines()]
    assert len(lines) == 3
    for line in lines:
        program, *words = shlex.split(line)
        command = [str(Path(sys.executable).parent / program), *words]
        done = subprocess.run(command, cwd=work.root, env=work.env, capture_output=True, text=True, check=False)
        assert done.returncode == 0, (line, done.stdout, done.stderr)
    for shown in ("lr", "model.activation", "model.hidden"):
        assert shown in done.stdout
    live, typed_in = work.gitexp("log", "--json").json["experiments"]
    assert {live["study"], typed_in["study"]} == {"digits_mlp"}
    (config,) = [json.loads(text) for text in blocks(page, "json")]
    assert typed_in["config"] == config


PYTHON = [
    pytest.param(text, id=f"{page.name}-{number}")
    for page in PAGES
    for number, text in enumerate(blocks(page, "python"))
    if "import" in text and "GITEXP_METRICS" not in text and "config.json" not in text and page.name != "recipes.md"
]


@pytest.mark.parametrize("snippet", PYTHON)
def test_the_python_on_the_pages_runs(snippet: str, work: Work) -> None:
    if "create_data_pipeline()" in snippet:
        put_study(work, "digits-pipeline")
    if "from hello import" in snippet:
        work.write("hello.py", (ROOT / "experiments/nemo-hello/hello.py").read_text())
    done = subprocess.run(
        [sys.executable, "-c", snippet], cwd=work.root, env=work.env, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_the_recipe_of_the_hash_on_the_page_is_the_hash(work: Work) -> None:
    (recipe,) = [text for text in blocks(ROOT / "docs/record-format.md", "python") if "config.json" in text]
    work.gitexp("run", "--record-only", "--", "python", "train.py", "--lr", "0.1")
    shown = work.gitexp("show", "latest", "--json").json
    text = work.git("show", f"{shown['experiment']}:experiments/train/record/config.json")
    work.write("config.json", text)
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", recipe], cwd=work.root, capture_output=True, text=True, check=True
    )
    assert shown["config_hash"] in done.stdout
