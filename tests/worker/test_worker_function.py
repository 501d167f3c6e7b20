"""Functions as jobs: in a file, carried by value, with objects built, with arguments by name."""

from __future__ import annotations

import hashlib
import json
import pickle
from pathlib import Path

import cloudpickle
import pytest
from run_directory import VERSIONS, Run, new_run, require_python

SCRIPT = """
import dataclasses, enum, sys
from typing import List, Optional, Tuple
import beside

class Colour(enum.Enum):
    RED = "r"

@dataclasses.dataclass
class Model:
    lr: float
    sizes: Tuple[int, ...] = ()
    colour: Optional[Colour] = None
    inner: "List[Model]" = dataclasses.field(default_factory=list)

@dataclasses.dataclass
class Result:
    loss: float
    note: str = "x"

def train(model, seed, n=1):
    assert isinstance(model, Model) and model.sizes == (1, 2) and model.colour is Colour.RED, model
    assert isinstance(model.inner[0], Model) and __name__ == "main", __name__
    return Result(model.lr * seed * n)

def names(config):
    return {"main": int("__main__" == __name__), "argv": len(sys.argv), "path": int(sys.path[0].endswith("sub dir"))}

class Trainer:
    loss = 3
    steps = 7

def whole(model): return Trainer()

if __name__ == "__main__":
    raise SystemExit("a job imports its script")
"""
CONFIG = {
    "model": {"_target_": "main:Model", "lr": 0.5, "sizes": [1, 2], "colour": "Colour.RED",
              "inner": [{"_target_": "main:Model", "lr": 1.0, "sizes": [], "colour": None, "inner": []}]},
    "deep": {"n": 3},
}  # fmt: skip


def put(run: Run, config: object) -> None:
    run.put("sub dir/main.py", SCRIPT)
    run.put("sub dir/beside.py", "")
    (run.dir / "config.json").write_text(json.dumps(config))


@pytest.mark.parametrize("version", VERSIONS)
def test_a_function_of_a_file_gets_built_objects_by_name_in_every_python(run: Run, version):
    run.plan["interpreter"] = require_python(version)
    put(run, CONFIG)
    entry = {"kind": "function", "target": "sub dir/main.py:train", "build": True,
             "call": {"model": "model", "seed": "{seed}", "n": "deep.n"},
             "returns": {"final_loss": ["final_loss", "loss"], "final_accuracy": ["accuracy"]}}  # fmt: skip
    result = run.go(entry)
    assert result["status"] == "completed", run.log
    assert result["function_metrics"] == {"loss": 63.0, "final_loss": 63.0}


def test_a_file_is_imported_as_a_module_with_its_directory_in_front(run: Run):
    put(run, {"a": 1})
    result = run.go({"kind": "function", "target": "sub dir/main.py:names"})
    assert result["function_metrics"] == {"main": 0, "argv": 1, "path": 1}, run.log


def test_metrics_are_taken_from_the_attributes_of_a_returned_object_where_they_are_asked_for(run: Run, tmp_path):
    put(run, {"model": 1})
    entry = {"kind": "function", "target": "sub dir/main.py:whole", "returns": {"final_loss": ["loss"]}}
    assert run.go(entry)["function_metrics"] == {"final_loss": 3}
    other = new_run(tmp_path / "other")
    put(other, {"model": 1})
    assert other.go({"kind": "function", "target": "sub dir/main.py:whole"})["function_metrics"] is None


def carry(run: Run, content: bytes, **more: object) -> dict[str, object]:
    run.put("experiments/s/record/f.pkl", content)
    return {"kind": "function", "target": "experiments/s/record/f.pkl", "sha256": hashlib.sha256(content).hexdigest(),
            "search": "lib", **more}  # fmt: skip


def test_a_carried_function_runs_beside_the_modules_of_its_script(run: Run):
    run.put("lib/near.py", "K = 4\n")
    code = {}
    exec("def f(config):\n    import near\n    return {'loss': near.K * config['lr']}\n", code)
    (run.dir / "config.json").write_text('{"lr": 0.5}')
    assert run.go(carry(run, cloudpickle.dumps(code["f"])))["function_metrics"] == {"loss": 2.0}, run.log


def test_an_interpreter_that_cannot_load_a_carried_function_says_so(run: Run, tmp_path):
    run.plan["interpreter"] = require_python("3.12")
    error = run.go(carry(run, b"", bytecode="3.11"))["error"]
    assert "compiled for Python 3.11, and the job runs Python 3.12" in error["message"]
    bare = new_run(tmp_path / "bare")
    bare.plan["interpreter_flags"] = ["-S"]
    error = bare.go(carry(bare, pickle.dumps(len)))["error"]
    assert error["type"] == "RuntimeError"
    assert "has no cloudpickle" in error["message"]
    assert str(Path(error["message"])) != ""
