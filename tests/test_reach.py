"""Which code a stage can reach: what changes its value, and what must not."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from nemo_gitexp.entry import CommandEntry, Entry, FunctionEntry, ModuleEntry, ScriptEntry
from nemo_gitexp.fingerprint import fingerprint
from nemo_gitexp.reach import reached_code
from nemo_gitexp.signatures import find_signature

FLOW = '''\
"""Stages."""
import json
import helpers
from package import tools as t
from package.deep import clean
import registry_of_effects

FACTOR = 2
LIMITS = {"low": 1}

def scale(x):
    return x * FACTOR

def load(results):
    return helpers.read()

def pre(results):
    return scale(clean(results["load"]))

def train(results):
    def inner():
        return t.fit(LIMITS)
    return inner()

if __name__ == "__main__":
    print("never on import")
'''
TREE = {
    "flow.py": FLOW,
    "helpers.py": "from more import other\ndef read(): return other\n",
    "more.py": "other = 1\n",
    "package/__init__.py": "",
    "package/tools.py": "from . import sub\ndef fit(x): return sub.y\n",
    "package/sub.py": "y = 1\n",
    "package/deep.py": "def clean(x): return x\n",
    "registry_of_effects.py": "print('an effect')\nx = 1\n",
    "unrelated.py": "z = 1\n",
    "params.txt": "1",
    "README.md": "words",
    "data/x.npz.dvc": "outs: []",
    ".gitignore": "data",
    "__pycache__/helpers.cpython-311.pyc": "compiled",
}


def reach(entry: Entry, files: dict[str, str], workdir: str = ".", mentioned: str = "") -> object:
    tree = {
        path: f"{120000 if text.startswith('-> ') else 100644} {hashlib.sha1(text.encode()).hexdigest()}"
        for path, text in files.items()
    }

    def read(paths: Sequence[str]) -> dict[str, bytes]:
        return {path: files[path].removeprefix("-> ").encode() for path in paths}

    return reached_code(entry, workdir, tree, read, within=tree.keys(), mentioned=mentioned)


def stages_changed_by(path: str, old: str, new: str) -> set[str]:
    """Return the stages that count a change of one file."""
    changed = {**TREE, path: TREE[path].replace(old, new)}
    assert changed != TREE
    stages = [FunctionEntry(f"flow:{name}") for name in ("load", "pre", "train")]
    return {stage.target[5:] for stage in stages if reach(stage, TREE) != reach(stage, changed)}


@pytest.mark.parametrize(
    "path, old, new, stages",
    [
        ("flow.py", "helpers.read()", "helpers.read() + 1", {"load"}),
        ("flow.py", "FACTOR = 2", "FACTOR = 3", {"pre"}),
        ("flow.py", "x * FACTOR", "x + FACTOR", {"pre"}),
        ("flow.py", '{"low": 1}', '{"low": 2}', {"train"}),
        ("flow.py", "t.fit(LIMITS)", "t.fit({})", {"train"}),
        ("flow.py", "never on import", "never", set()),
        ("flow.py", '"""Stages."""', '"""What the stages do."""', set()),
        ("flow.py", "def load", "# a comment\n\ndef load", set()),
        ("flow.py", "import json", "import json\nprint('an effect')", {"load", "pre", "train"}),
        ("helpers.py", "return other", "return other + 1", {"load"}),
        ("more.py", "1", "2", {"load"}),
        ("package/tools.py", "sub.y", "sub.y + 1", {"train"}),
        ("package/sub.py", "1", "2", {"train"}),
        ("package/deep.py", "return x", "return -x", {"pre"}),
        ("registry_of_effects.py", "1", "2", {"load", "pre", "train"}),
        ("unrelated.py", "1", "2", set()),
        ("params.txt", "1", "2", {"load", "pre", "train"}),
        ("README.md", "words", "others", set()),
        ("data/x.npz.dvc", "[]", "[x]", set()),
        (".gitignore", "data", "more", set()),
        ("__pycache__/helpers.cpython-311.pyc", "compiled", "anew", set()),
    ],
)
def test_a_change_counts_for_the_stages_that_can_reach_it(path: str, old: str, new: str, stages: set[str]) -> None:
    assert stages_changed_by(path, old, new) == stages


def test_an_init_of_a_package_counts_where_a_module_below_it_is_imported() -> None:
    changed = {**TREE, "package/__init__.py": "import os"}
    assert reach(FunctionEntry("flow:pre"), TREE) != reach(FunctionEntry("flow:pre"), changed)
    assert reach(FunctionEntry("flow:load"), TREE) == reach(FunctionEntry("flow:load"), changed)


@pytest.mark.parametrize(
    "body",
    [
        "exec(open('x').read())",
        "__import__('unrelated')",
        "import importlib; importlib.import_module('unrelated')",
        "import subprocess; subprocess.run(['x'])",
        "import os; os.system('x')",
        "from os import popen; popen('x')",
        "globals()['x']()",
        "import importlib as il; il.import_module('unrelated')",
        "import subprocess as sp; sp.run(['x'])",
        "import builtins; builtins.exec('x')",
        "import os as system; system.popen('x')",
        "import sys; getattr(sys.modules[__name__], 'x')()",
        "import asyncio; asyncio.create_subprocess_exec('x')",
        "import pydoc; pydoc.locate('unrelated.z')",
        "from hydra.utils import instantiate; instantiate({'_target_': 'unrelated.z'})",
        "import torch; torch.nn.Module.__subclasses__()",
        "open('unrelated.py').read()",
        "import glob; glob.glob('**/*.py')",
    ],
)
def test_code_that_runs_what_it_does_not_name_can_reach_everything(body: str) -> None:
    files = {**TREE, "flow.py": f"def load(results):\n    {body}\n"}
    changed = {**files, "unrelated.py": "z = 2\n"}
    assert reach(FunctionEntry("flow:load"), files) != reach(FunctionEntry("flow:load"), changed)


@pytest.mark.parametrize(
    "body",
    [
        "import re; re.compile('x')",
        "import torch; torch.compile(x); model.modules(); model.eval()",
        "import platform; platform.system()",
        "x.execute('select 1')",
    ],
)
def test_words_that_only_sound_like_it_reach_nothing_more(body: str) -> None:
    files = {**TREE, "flow.py": f"def load(results):\n    {body}\n"}
    changed = {**files, "unrelated.py": "z = 2\n"}
    assert reach(FunctionEntry("flow:load"), files) == reach(FunctionEntry("flow:load"), changed)


REGISTRY = """\
from base import Model
import torch

class Local:
    registry = {}

class MLP(Model):
    def fit(self): return 1

class Own(Local):
    def fit(self): return 2

class Net(torch.nn.Module):
    def forward(self): return 3

def noted(x=Local()): return 4

class Made:
    field = Local.registry.setdefault("x", 5)

def train(config):
    return Model.registry[config["m"]]().fit()
"""


@pytest.mark.parametrize("number, counts", [(1, True), (2, True), (3, False), (4, True), (5, True)])
def test_a_class_that_its_base_can_notice_counts_wherever_it_stands(number: int, counts: bool) -> None:
    files = {"flow.py": REGISTRY, "base.py": "class Model:\n    registry = {}\n"}
    text = REGISTRY.replace(f" {number}\n", f" {number}0\n").replace(f" {number})", f" {number}0)")
    assert text != REGISTRY
    changed = {**files, "flow.py": text}
    assert (reach(FunctionEntry("flow:train"), files) != reach(FunctionEntry("flow:train"), changed)) == counts


def test_what_python_runs_at_its_start_counts() -> None:
    entry = FunctionEntry("flow:load")
    assert reach(entry, {**TREE, "sitecustomize.py": "x = 1"}) != reach(entry, {**TREE, "sitecustomize.py": "x = 2"})


def test_a_carried_function_that_is_dynamic_reaches_everything() -> None:
    entry = FunctionEntry("experiments/x/record/a.pkl", digest="sha256:0", refers=("*",))
    assert reach(entry, TREE) != reach(entry, {**TREE, "unrelated.py": "z = 2\n"})


@pytest.mark.parametrize(
    "function, is_dynamic",
    [
        (lambda results: __import__("importlib").import_module("oth").f(), True),
        (lambda results: Path("README.md").read_text() + results, True),
        (lambda results: eval("1") + results, True),
        (lambda results: json.dumps([results]), False),
        (lambda results: [results, hashlib.sha256(b"x").hexdigest()], False),
    ],
)
def test_what_a_carried_function_may_run_is_seen_in_its_byte_code(function: object, is_dynamic: bool) -> None:
    _, modules = fingerprint(function, {__name__, "__main__"})  # type: ignore[arg-type]  # they are functions
    assert ("*" in modules) == is_dynamic


def test_a_dynamic_helper_makes_everything_count_too() -> None:
    files = {**TREE, "helpers.py": "import importlib\ndef read(): return importlib.import_module('unrelated').z\n"}
    changed = {**files, "unrelated.py": "z = 2\n"}
    assert reach(FunctionEntry("flow:load"), files) != reach(FunctionEntry("flow:load"), changed)
    assert reach(FunctionEntry("flow:pre"), files) == reach(FunctionEntry("flow:pre"), changed)


def reached_before_and_after(guard: str) -> tuple[object, object]:
    """Return the reach of a stage, and its reach when a function has changed that only a guarded block uses."""
    source = "def load(results): return [x for x in results]\ndef other(): return 1\n"
    source += f"{guard}\n    print([x for x in range(3)], other)\n"
    before, after = ({"flow.py": text} for text in (source, source.replace("return 1", "return 2")))
    return reach(FunctionEntry("flow:load"), before), reach(FunctionEntry("flow:load"), after)


def test_what_only_a_script_runs_gives_no_names_to_its_stages() -> None:
    before, after = reached_before_and_after('if __name__ == "__main__":')
    assert before == after


@pytest.mark.parametrize("guard", ['if __name__ == "flow":', 'if __name__ != "__main__":', "if True:"])
def test_a_block_that_an_import_may_run_counts(guard: str) -> None:
    before, after = reached_before_and_after(guard)
    assert before != after


def test_prose_counts_when_the_code_names_it() -> None:
    files = {**TREE, "flow.py": "def load(results):\n    return open('README.md').read()\n"}
    changed = {**files, "README.md": "others"}
    assert reach(FunctionEntry("flow:load"), files) != reach(FunctionEntry("flow:load"), changed)


@pytest.mark.parametrize(
    "text",
    [
        "from flow2 import *\ndef load(results): return 1\n",
        "def load(results: return 1\n",
        "class Loader:\n    def load(self): return 1\n",
    ],
)
def test_what_is_hard_to_read_counts_as_a_whole(text: str) -> None:
    files = {"flow.py": text + "unused = 1\n"}
    changed = {"flow.py": text + "unused = 2\n"}
    assert reach(FunctionEntry("flow:load"), files) != reach(FunctionEntry("flow:load"), changed)


@pytest.mark.parametrize("decorator, counts", [("@register", True), ("@lru_cache", False), ("@app.task()", True)])
def test_a_decorator_that_may_register_something_counts_wherever_its_function_is_used(
    decorator: str, counts: bool
) -> None:
    text = f"def load(results): return 1\n\n{decorator}\ndef other(): return 1\n"
    changed = text.replace("other(): return 1", "other(): return 2")
    same = reach(FunctionEntry("flow:load"), {"flow.py": text}) == reach(
        FunctionEntry("flow:load"), {"flow.py": changed}
    )
    assert same != counts


def test_an_assignment_that_calls_or_changes_something_counts_always() -> None:
    for line in ("x = build(1)", "config.debug = 1", "table[1] = 1", "x += 1"):
        text = f"def load(results): return 1\n{line}\n"
        changed = text.replace("1\n", "2\n").replace("return 2", "return 1").replace("(1)", "(2)")
        assert changed != text
        entry = FunctionEntry("flow.py:load")
        assert reach(entry, {"flow.py": text}) != reach(entry, {"flow.py": changed}), line


@pytest.mark.parametrize(
    "files, path",
    [
        (
            {
                "flow.py": "import plugins\ndef load(r): return 1\ndef o(r): return plugins.x\n",
                "plugins.py": "import core\ncore.R['x'] = 1\n",
                "core.py": "R = {}\n",
            },
            "plugins.py",
        ),
        (
            {
                "exp.v1/flow.py": "from . import b\nfrom .c import g\ndef load(r): return g(b.x)\n",
                "exp.v1/b.py": "x = 1\n",
                "exp.v1/c.py": "g = 1\n",
            },
            "exp.v1/b.py",
        ),
        (
            {
                "exp.v1/flow.py": "from . import b\nfrom .c import g\ndef load(r): return g(b.x)\n",
                "exp.v1/b.py": "x = 1\n",
                "exp.v1/c.py": "g = 1\n",
            },
            "exp.v1/c.py",
        ),
        (
            {
                "flow.py": "import helper\ndef load(r): return helper.x\n",
                "helper.py": "-> real.py",
                "real.py": "x = 1\n",
            },
            "real.py",
        ),
        (
            {
                "flow.py": "from lib import x\ndef load(r): return x.y\n",
                "lib": "-> src/impl",
                "src/impl/x.py": "y = 1\n",
            },
            "src/impl/x.py",
        ),
        (
            {"flow.py": "def load(r, prompt): return open(prompt).read()\n", "prompts/system.md": "hello 1"},
            "prompts/system.md",
        ),
        ({"flow.py": "import glob\ndef load(r): return glob.glob('*.md')\n", "README.md": "hello 1"}, "README.md"),
        ({"flow.py": "def load(r): return 1\n", "docs/table.json": "1"}, "docs/table.json"),
        ({"flow.py": "X = (Y := 1)\ndef load(r): return Y\n"}, "flow.py"),
        (
            {
                "flow.py": "from mine import cache\ndef load(r): return 1\n@cache\ndef o(r): return 1\n",
                "mine.py": "def cache(f): return f\n",
            },
            "flow.py",
        ),
        ({"flow.py": "def load(r): return x\ndef __getattr__(n): return 1\n"}, "flow.py"),
        (
            {"flow.py": "import inspect, sys\ndef load(r): return inspect.getmembers(sys)\n", "other.py": "y = 1\n"},
            "other.py",
        ),
        ({"flow.py": "import pickle\ndef load(r): return pickle.loads(r)\n", "other.py": "y = 1\n"}, "other.py"),
    ],
)
def test_a_change_that_may_matter_always_counts(files: dict[str, str], path: str) -> None:
    home = next(name for name in files if name.endswith("flow.py"))
    changed = {**files, path: files[path].replace("1", "2")}
    assert changed != files
    assert reach(FunctionEntry(f"{home}:load"), files) != reach(FunctionEntry(f"{home}:load"), changed)


def test_prose_that_the_configuration_names_counts() -> None:
    entry, changed = FunctionEntry("flow:load"), {**TREE, "README.md": "others"}
    assert reach(entry, TREE, mentioned='{"prompt":"README.md"}') != reach(
        entry, changed, mentioned='{"prompt":"README.md"}'
    )


def test_a_stage_that_reads_its_own_record_has_no_key() -> None:
    files = {"flow.py": "def load(r): return open('experiments/x/experiment.yaml').read()\n"}
    assert reach(FunctionEntry("flow:load"), files) is None
    dynamic = {"flow.py": "def load(r): return eval(open('experiments/x/experiment.yaml').read())\n"}
    assert reach(FunctionEntry("flow:load"), dynamic) is None


def test_a_stage_that_reads_the_file_of_the_configuration_by_itself_has_no_key() -> None:
    tree = {"flow.py": "100644 0"}
    found = reached_code(
        FunctionEntry("flow:load"),
        ".",
        tree,
        lambda paths: dict.fromkeys(paths, b"def load(r): return open('configs/conf.json').read()\n"),
        within=tree.keys(),
        mentioned="",
        left_out=["configs/conf.json"],
    )
    assert found is None


def test_what_a_quoted_annotation_names_counts() -> None:
    text = "class Options:\n    width = 1\n\ndef load(results: 'list[Options]'): return results\n"
    entry = FunctionEntry("flow:load")
    assert reach(entry, {"flow.py": text}) != reach(entry, {"flow.py": text.replace("width = 1", "width = 2")})


def test_scripts_and_modules_count_whole_with_what_they_import() -> None:
    changed = {**TREE, "more.py": "other = 2\n"}
    entries: list[Entry] = [ScriptEntry("flow.py"), ModuleEntry("flow")]
    for entry in entries:
        assert reach(entry, TREE) != reach(entry, changed)
        assert reach(entry, TREE) == reach(entry, {**TREE, "unrelated.py": "z = 2\n"})
    assert reach(ScriptEntry("../flow.py"), TREE, "sub") == reach(ScriptEntry("flow.py"), TREE)


def test_a_command_or_a_script_that_is_not_there_can_reach_everything() -> None:
    changed = {**TREE, "unrelated.py": "z = 2\n"}
    for entry in (CommandEntry(("bash", "x.sh")), ScriptEntry("/elsewhere/x.py")):
        assert reach(entry, TREE) != reach(entry, changed)


def test_a_carried_function_counts_the_modules_that_it_refers_to() -> None:
    entry = FunctionEntry("experiments/x/record/a.pkl", digest="sha256:0", refers=("helpers",))
    assert reach(entry, TREE) != reach(entry, {**TREE, "more.py": "other = 2\n"})
    assert reach(entry, TREE) == reach(entry, {**TREE, "flow.py": "pass\n"})


def test_a_module_is_found_wherever_the_import_path_begins() -> None:
    files = {"src/flow.py": "import near\ndef load(results): return near.x\n", "src/near.py": "x = 1\n"}
    assert reach(FunctionEntry("flow:load"), files) != reach(
        FunctionEntry("flow:load"), {**files, "src/near.py": "x = 2\n"}
    )


def test_the_parameters_of_a_function_are_read_from_its_source() -> None:
    source = b"def f(a, b=1, *, c, d=2, **more): pass\ng = lambda results: 1\n@x\ndef h(a): pass\nclass C: pass\n"
    found = find_signature(source, "f")
    assert found is not None
    assert (found.names, found.required, found.takes_all) == (("a", "b", "c", "d"), ("a", "c"), True)
    lambda_ = find_signature(source, "g")
    assert lambda_ is not None
    assert lambda_.names == ("results",)
    assert [find_signature(source, name) for name in ("h", "C", "missing")] == [None, None, None]
    assert find_signature(b"def f(:", "f") is None
