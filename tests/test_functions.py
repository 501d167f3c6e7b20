"""Live functions as entry points: by name, by file, by value; and what they do as one hash."""

from __future__ import annotations

import functools
import hashlib
import json
import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import pytest

from nemo_gitexp.entry import FunctionEntry, parse_entry
from nemo_gitexp.errors import InvalidNameError, UnportableFunctionError, UsageError
from nemo_gitexp.functions import function_entry
from nemo_gitexp.worker.function import load_function

OUTSIDE = {
    "pkg/__init__.py": "",
    "pkg/train.py": "def train(config): return config\nclass T:\n    @staticmethod\n    def fit(config): ...\n",
}
ASK = """
import json, pathlib, sys
from nemo_gitexp.functions import function_entry
def ask(function, name="f"):
    root = pathlib.Path(sys.argv[1])
    entry, carried = function_entry(function, root=root, study="s", name=name)
    print(json.dumps([entry.to_json(), {key: value.hex() for key, value in carried.items()}]))
"""


def asked(root: Path, path: str, code: str, *flags: str, env: dict[str, str] | None = None) -> list[tuple[dict, dict]]:
    """Run a script of a repository that asks for entry points, and return the answers."""
    script = root / path
    script.parent.mkdir(parents=True, exist_ok=True)
    script.write_text(textwrap.dedent(code))
    (root / "ask.py").write_text(ASK)
    words = [sys.executable, *(flags or (path,)), str(root)]
    environment = {"PATH": "/usr/bin:/bin", "PYTHONPATH": str(root), **(env or {})}
    done = subprocess.run(words, cwd=root, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    return [tuple(json.loads(line)) for line in done.stdout.splitlines()]


def test_functions_of_modules_of_the_running_script_and_of_packages_go_by_name(tmp_path):
    for path, text in OUTSIDE.items():
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).write_text(text)
    code = """
        import json, textwrap
        from ask import ask
        from pkg.train import T, train
        from lib import beside
        def mine(config): ...
        class Mine:
            def fit(config): ...
        if __name__ == "__main__":
            for function in (train, T.fit, mine, Mine.fit, textwrap.dedent, len, beside): ask(function)
    """
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub/lib.py").write_text("def beside(config): ...\n")
    answers = asked(tmp_path, "sub/run.py", code)
    assert [entry["target"] for entry, _ in answers] == [
        "pkg.train:train",
        "pkg.train:T.fit",
        "sub/run.py:mine",
        "sub/run.py:Mine.fit",
        "textwrap:dedent",
        "builtins:len",
        "lib:beside",
    ]
    assert all(not carried for _, carried in answers)
    assert [entry.get("search") for entry, _ in answers] == [None] * 6 + ["sub"]
    (as_module, _), *_ = asked(
        tmp_path, "sub2/run.py", code.replace("from lib import beside", "beside = len"), "-m", "sub2.run"
    )[2:]
    assert as_module["target"] == "sub2.run:mine"
    known = {"kind", "interpreter", "interpreter_flags", "target", "search"}
    assert all(set(entry) <= known for entry, _ in answers)


VALUES = """
    import functools
    import shared
    from ask import ask
    SCALE = 2
    def helper(x): return x * SCALE
    class Trainer:
        rate: float = 0.5
        def __init__(self): self.lr = 0.1
        def fit(self, config): return {"loss": helper(config["lr"]) * self.rate + self.lr}
    def make(base):
        def train(config): return {"loss": base + helper(config["lr"]), "file": len(__file__)}
        return train
    if __name__ == "__main__":
        ask(lambda config: {"loss": helper(config["lr"])}); ask(make(1)); ask(make(2))
        ask(Trainer().fit); ask(functools.partial(helper, x=3)); ask(shared.outside)
        ask(lambda c: c + 1), ask(lambda c: c + 2)
"""


def test_all_others_go_by_value_with_a_digest_that_only_what_they_do_decides(tmp_path):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "deeper.py").write_text("def deep(c): return c\n")
    text = "from deeper import deep\nK = 1\ndef inner(c): return deep(K)\ndef outside(c): return inner(c)\n"
    (elsewhere / "shared.py").write_text(text)
    root = tmp_path / "root"
    root.mkdir()
    paths = {"PYTHONPATH": f"{root}"}
    enter = f"import sys; sys.path.append({str(elsewhere)!r})\n"
    first = asked(root, "run.py", enter + textwrap.dedent(VALUES), env={**paths, "PYTHONHASHSEED": "1"})
    moved = "# a comment\n\n\n" + enter + textwrap.dedent(VALUES)
    second = asked(root, "deep/other.py", moved, env={**paths, "PYTHONHASHSEED": "2"})
    digests = [entry["digest"] for entry, _ in first]
    assert digests == [entry["digest"] for entry, _ in second]
    assert len(set(digests)) == len(digests)
    assert first[0][0]["target"] == "experiments/s/record/f.pkl"
    assert {name for _, carried in first for name in carried} == {"f.pkl", "f.py"}
    assert "helper(config" in bytes.fromhex(first[0][1]["f.py"]).decode()
    assert second[0][0]["search"] == "deep"
    changed = asked(root, "run.py", enter + textwrap.dedent(VALUES).replace("SCALE = 2", "SCALE = 3"), env=paths)
    assert [a != b for a, (b, _) in zip(digests, ((e["digest"], c) for e, c in changed), strict=True)] == [
        True, True, True, True, True, False, False, False,
    ]  # fmt: skip
    for entry, carried in first:
        content = bytes.fromhex(carried["f.pkl"])
        assert str(tmp_path).encode() not in content, "this machine's paths have no place in a record"
        assert entry["sha256"] == hashlib.sha256(content).hexdigest()
        (root / "experiments/s/record").mkdir(parents=True, exist_ok=True)
        (root / "experiments/s/record/f.pkl").write_bytes(content)
        load = load_function(entry, str(root))
        if entry is first[0][0]:
            assert load({"lr": 0.25}) == {"loss": 0.5}
        if entry is first[5][0]:
            assert load({}) == 1, "its whole module is carried, and the one that this needs"
        if entry is first[2][0]:
            assert load({"lr": 1}) == {"loss": 4, "file": len("run.py")}


def test_what_cannot_be_pickled_is_named(tmp_path, monkeypatch):
    lock = threading.Lock()
    with pytest.raises(UnportableFunctionError, match=r"refers to lock, a lock") as caught:
        function_entry(lambda c: lock, root=tmp_path, study="s", name="f")
    assert "lambda" in str(caught.value.facts["function"])
    with pytest.raises(UnportableFunctionError, match="partial of"):
        function_entry(functools.partial(print, file=sys.stderr), root=tmp_path, study="s", name="f")
    away = tmp_path / "away"
    away.mkdir()
    (away / "distant.py").write_text("def f(c): ...\n")
    monkeypatch.syspath_prepend(away)
    import distant

    with pytest.raises(UnportableFunctionError, match="module distant is neither in the repository nor"):
        function_entry(lambda c: [distant.f(c)], root=tmp_path / "root", study="s", name="f")
    with pytest.raises(UsageError, match="no function"):
        function_entry("train", root=tmp_path, study="s", name="f")  # type: ignore[arg-type]
    with pytest.raises(InvalidNameError):
        function_entry(lambda: 1, root=tmp_path, study="s", name="../f")


def test_a_carried_function_that_this_python_cannot_load_says_so(tmp_path):
    place = tmp_path / "experiments/s/record"
    place.mkdir(parents=True)
    entry, carried = function_entry(lambda c: c, root=tmp_path, study="s", name="f")
    (place / "f.pkl").write_bytes(carried["f.pkl"])
    document = entry.to_json()
    assert load_function(document, str(tmp_path))(1) == 1  # type: ignore[arg-type]
    with pytest.raises(RuntimeError, match=r"compiled for Python 2\.7"):
        load_function({**document, "bytecode": "2.7"}, str(tmp_path))  # type: ignore[arg-type]
    with pytest.raises(RuntimeError, match="not the function"):
        load_function({**document, "sha256": "0" * 64}, str(tmp_path))  # type: ignore[arg-type]


def test_naming_a_function_imports_nothing_that_is_slow():
    code = "import sys, nemo_gitexp; nemo_gitexp.create_organized_experiment; print(*sys.modules, sep='\\n')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = {name.partition(".")[0] for name in done.stdout.split()}
    assert "nemo_gitexp" in loaded
    assert not loaded & {"cloudpickle", "dvc", "git", "nemo_run", "numpy", "torch"}


def test_the_optional_keys_of_a_function_survive_json_and_are_left_out_when_unset():
    entry = FunctionEntry(
        "a.py:f", build=True, digest="sha256:0", sha256="0", bytecode="3.11", search="x",
        call=(("a", "b.c"), ("seed", "{seed}")), returns=(("final_loss", ("loss", "final")),),
    )  # fmt: skip
    assert parse_entry(json.loads(json.dumps(entry.to_json()))) == entry
    assert set(FunctionEntry("a:b").to_json()) == {"kind", "interpreter", "interpreter_flags", "target"}
    assert [FunctionEntry(x).study_stem for x in ("x/run.py:f", "experiments/s/record/f.pkl", "p.m:f")] == [
        "run",
        "f",
        "m",
    ]
