"""What becomes of a recipe, its parameters and the changes typed for it, in a process that resolves orders."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).parent
TRAINING = """\
from __future__ import annotations
import enum
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Optional
import numpy as np
import torch

class Act(enum.Enum):
    RELU = "relu"
    GELU = "gelu"

@dataclass
class Model:
    hidden: int = 64
    act: Act = Act.RELU
    dtype: torch.dtype = torch.float32
    numpy: np.dtype = np.dtype("float32")
    dims: tuple[int, ...] = (1, 2)
    layers: list = field(default_factory=lambda: [1, 2])

@dataclass
class Optim:
    lr: float = 1.0
    out: Optional[Path] = None
    kind: Literal["adam", "sgd"] = "adam"

def train(model: Model, optim: Optim, lr: float = 0.1, steps: int = 3, fn=torch.relu, tags=None, **rest):
    raise AssertionError("it is described, not called")
"""
RECIPES = """\
import nemo_run as run
import numpy as np
from training import Act, Model, Optim, train

def plain(hidden: int = 64, depth: int = 1) -> run.Partial:
    return run.Partial(train, model=run.Config(Model, hidden=hidden * depth), optim=run.Config(Optim))

@run.autoconvert(partial=True)
def converted(hidden: int = 32) -> train:
    return train(model=Model(hidden=hidden), optim=Optim(lr=0.5))

@run.cli.factory
@run.autoconvert
def adam(lr: float = 3.0) -> Optim:
    return Optim(lr=lr)

@run.cli.factory(target=train)
def made() -> run.Partial[train]:
    return run.Partial(train, model=run.Config(Model), optim=adam())

def config() -> run.Config:
    return run.Config(train, model=run.Config(Model), optim=run.Config(Optim))

ready = run.Partial(train, model=run.Config(Model), optim=run.Config(Optim), lr=0.7)

def shared():
    one = run.Config(Model)
    return run.Partial(train, model=one, optim=run.Config(Optim), tags=[one, one])

def typed():
    return run.Partial(train, model=run.Config(Model), optim=run.Config(Optim), tags=[Act.RELU, {1, 2}, np.arange(2)])

def wants(width):
    return run.Partial(train, model=run.Config(Model, hidden=width), optim=run.Config(Optim))

def open_() -> run.Partial:
    return run.Partial(train, optim=run.Config(Optim))

def raises():
    raise ValueError("no such model")

def leaves():
    raise SystemExit(3)

def vanishes():
    import os
    os._exit(4)

def gives_none():
    pass

def gives_dict():
    return {"lr": 0.1}

def gives_number() -> int:
    raise AssertionError("what it returns is known already")

def gives_script():
    return run.Script(inline="echo")

def of_a_lambda():
    return run.Partial(lambda lr: lr, lr=1)

def of_a_local():
    def inner(lr): ...
    return run.Partial(inner, lr=1)

def with_nan():
    return run.Partial(train, model=run.Config(Model), optim=run.Config(Optim), tags=[{"x": float("nan")}])

def imports_late():
    import nowhere_to_be_found
    return run.Partial(nowhere_to_be_found.train)

def talks():
    import os, sys
    print("on stdout")
    print("on stderr", file=sys.stderr)
    os.write(1, b"raw")
    return plain()

def launches():
    run.run(plain(), executor=run.LocalExecutor())

def launches_directly():
    run.run(plain(), direct=True)

def records():
    import nemo_gitexp
    nemo_gitexp.run(plain())

number = 3
"""
UNGUARDED = "from recipes import *\nrun.run(plain(), executor=run.LocalExecutor())\n"
FILES = {
    "training.py": TRAINING,
    "recipes.py": RECIPES,
    "unguarded.py": UNGUARDED,
    "broken.py": "def (:\n",
    "exits.py": "import sys\nsys.exit(2)\n",
    "lacks.py": "import nowhere_to_be_found\n",
    "lab/__init__.py": "",
    "lab/inner/__init__.py": "",
    "lab/inner/work.py": "def train(lr=0.1): ...\n",
    "lab/inner/recipes.py": "import nemo_run as run\nfrom .work import train\ndef near(): return run.Partial(train)\n",
    "lone dir/recipes.py": "import nemo_run as run\nfrom beside import train\ndef r(): return run.Partial(train)\n",
    "lone dir/beside.py": "def train(lr=0.1): ...\n",
}


class Resolver:
    """Answers orders about recipes of one workspace."""

    def __init__(self, workspace: Path, orders: Path) -> None:
        self.workspace, self.orders, self.numbers = workspace, orders, count()
        env = {**os.environ, "PYTHONPATH": str(HERE.parent), "GITEXP_RUN_DIR": str(orders)}
        argv = [sys.executable, str(HERE / "resolver_server.py")]
        self.process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env)

    def order(self, call: dict[str, Any], search: list[str]) -> dict[str, Any] | None:
        place = self.orders / str(next(self.numbers))
        place.mkdir(parents=True)
        order = place / "order.json"
        answer = place / "answer.json"
        shape = {"workspace": str(self.workspace), "user_root": "/nowhere", "trusted_roots": [], "search": search}
        order.write_text(json.dumps({**shape, "answer": str(answer), "calls": [call]}))
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(f"{order}\n")
        self.process.stdin.flush()
        assert self.process.stdout.readline() == "done\n"
        return json.loads(answer.read_bytes()) if answer.exists() else None

    def config(self, recipe: str, *overrides: str, search: str = ".") -> dict[str, Any]:
        answer = self.order({"recipe": recipe, "config": None, "overrides": overrides}, [search])
        assert answer is not None
        assert "error" not in answer, answer
        return answer["calls"][0]

    def error(self, recipe: str, *overrides: str) -> dict[str, Any]:
        answer = self.order({"recipe": recipe, "config": None, "overrides": overrides}, ["."])
        assert answer is not None
        assert "error" in answer, answer
        return {**answer["error"].pop("facts"), **answer["error"]}


@pytest.fixture(scope="module")
def resolver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Resolver]:
    workspace = tmp_path_factory.mktemp("work space")
    for path, content in FILES.items():
        (workspace / path).parent.mkdir(parents=True, exist_ok=True)
        (workspace / path).write_text(content)
    made = Resolver(workspace, tmp_path_factory.mktemp("orders"))
    yield made
    made.process.communicate()


# ----------------------------------------------------------------------------------------------------------- recipes


@pytest.mark.parametrize("name", ["plain", "converted", "made", "config", "ready"])
def test_every_way_to_write_a_recipe_gives_the_call_with_its_defaults(resolver: Resolver, name: str) -> None:
    config = resolver.config(f"recipes.py:{name}")
    assert (config["_target_"], config["_partial_"]) == ("training:train", True)
    assert config["model"]["_target_"] == "training:Model"
    assert config["model"]["layers"] == [1, 2]
    assert (config["steps"], config["fn"]) == (3, "torch:_VariableFunctionsClass.relu")


def test_what_a_recipe_takes_itself_is_no_key_of_the_configuration(resolver: Resolver) -> None:
    config = resolver.config("recipes.py:plain", "hidden=8", "depth=4", "lr=0.5")
    assert (config["model"]["hidden"], config["lr"]) == (32, 0.5)
    assert "hidden" not in config
    assert "depth" not in config
    assert resolver.config("recipes.py:wants", "width=5")["model"]["hidden"] == 5


def test_the_key_of_the_configuration_has_the_last_word(resolver: Resolver) -> None:
    assert resolver.config("recipes.py:plain", "hidden=8", "model.hidden=9")["model"]["hidden"] == 9


def test_a_recipe_of_a_package_may_import_what_lies_beside_it(resolver: Resolver) -> None:
    config = resolver.config("lab/inner/recipes.py:near")
    assert config["_target_"] == "lab.inner.work:train"


def test_a_recipe_of_a_directory_imports_what_lies_beside_it(resolver: Resolver) -> None:
    assert resolver.config("lone dir/recipes.py:r", search="lone dir")["_target_"] == "beside:train"


def test_what_a_recipe_prints_is_no_part_of_the_answer(resolver: Resolver) -> None:
    assert resolver.config("recipes.py:talks") == resolver.config("recipes.py:plain")


@pytest.mark.parametrize(
    "recipe, error, said",
    [
        ("recipes.py:raises", "RecipeError", "recipes.py:raises raised: ValueError: no such model (recipes.py, line"),
        ("recipes.py:leaves", "RecipeError", "SystemExit: 3"),
        ("recipes.py:gives_none", "RecipeError", "returns a NoneType, which is no run.Partial"),
        ("recipes.py:gives_dict", "RecipeError", "returns a dict, which is no run.Partial"),
        ("recipes.py:gives_number", "RecipeError", "returns int, which is no run.Partial"),
        ("recipes.py:gives_script", "RecipeError", "returns a Script"),
        ("recipes.py:number", "RecipeError", "is no function but a int"),
        ("recipes.py:wants", "RecipeError", "wants width"),
        ("recipes.py:open_", "RecipeError", "train is called without model"),
        ("recipes.py:plane", "RecipeError", "recipes.py has no plane"),
        ("recipes.py:of_a_lambda", "CanonicalFormError", "a lambda"),
        ("recipes.py:of_a_local", "CanonicalFormError", "defined inside a function"),
        ("recipes.py:with_nan", "CanonicalFormError", "tags.0.x is NaN"),
        ("recipes.py:imports_late", "MissingModuleError", "imports nowhere_to_be_found"),
        ("lacks.py:r", "MissingModuleError", "lacks.py imports nowhere_to_be_found"),
        ("broken.py:r", "RecipeError", "SyntaxError: invalid syntax (broken.py, line 1)"),
        ("exits.py:r", "RecipeError", "exits.py cannot be imported: SystemExit: 2"),
        ("unguarded.py:plain", "RecipeError", "unguarded.py cannot be imported: it launches a run"),
        ("recipes.py:launches", "RecipeError", "it launches a run"),
        ("recipes.py:launches_directly", "RecipeError", "it launches a run"),
        ("recipes.py:records", "RecipeError", "it launches a run"),
    ],
)
def test_a_recipe_that_gives_no_call_is_refused(resolver: Resolver, recipe: str, error: str, said: str) -> None:
    answer = resolver.error(recipe)
    assert answer["class"] == error
    assert said in answer["message"]
    assert answer["hint"]


def test_the_facts_say_which_recipe_and_what_is_missing(resolver: Resolver) -> None:
    assert resolver.error("recipes.py:wants") == {
        "class": "RecipeError",
        "message": "recipes.py:wants wants width",
        "hint": "width=VALUE",
        "recipe": "recipes.py:wants",
        "missing": ["width"],
    }
    assert resolver.error("recipes.py:plane")["nearest"] == "plain"
    assert resolver.error("recipes.py:open_")["missing"] == ["model"]
    assert resolver.error("lacks.py:r")["module"] == "nowhere_to_be_found"


def test_a_recipe_that_ends_its_process_gives_no_answer(resolver: Resolver) -> None:
    assert resolver.order({"recipe": "recipes.py:vanishes", "config": None, "overrides": []}, ["."]) is None


# --------------------------------------------------------------------------------------------------------- overrides


@pytest.mark.parametrize(
    "override, key, value",
    [
        ("lr=1e-3", "lr", 0.001),
        ("lr=1", "lr", 1.0),
        ("lr=.inf", "lr", "Infinity"),
        ("steps=7", "steps", 7),
        ("model.act=GELU", "model.act", "Act.GELU"),
        ("model.act=gelu", "model.act", "Act.GELU"),
        ("model.act=Act.GELU", "model.act", "Act.GELU"),
        ("model.dtype=bfloat16", "model.dtype", "torch.bfloat16"),
        ("model.dtype=torch.float16", "model.dtype", "torch.float16"),
        ("model.numpy=int8", "model.numpy", "int8"),
        ("model.dims=[4, 5, 6]", "model.dims", [4, 5, 6]),
        ("model.dims.0=9", "model.dims", [9, 2]),
        ("+model.layers.2=9", "model.layers", [1, 2, 9]),
        ("optim.out=/a b/c", "optim.out", "/a b/c"),
        ("optim.out=null", "optim.out", None),
        ("optim.kind=sgd", "optim.kind", "sgd"),
        ("fn=torch.nn.functional:gelu", "fn", "torch._C._nn:gelu"),
        ("fn=torch:tanh", "fn", "torch:_VariableFunctionsClass.tanh"),
        ("+momentum=0.9", "momentum", 0.9),
        ("model={hidden: 3}", "model.hidden", 3),
        ("optim=adam", "optim.lr", 3.0),
        ("optim=adam(lr=4.0)", "optim.lr", 4.0),
    ],
)
def test_a_typed_value_has_the_type_of_its_parameter(resolver: Resolver, override: str, key: str, value: Any) -> None:
    config: Any = resolver.config("recipes.py:plain", override)
    for part in key.split("."):
        config = config[part]
    assert (config, type(config)) == (value, type(value))


def test_what_is_removed_is_the_default_again(resolver: Resolver) -> None:
    assert resolver.config("recipes.py:ready", "~lr")["lr"] == 0.1
    assert resolver.error("recipes.py:ready", "~model")["missing"] == ["model"]


def test_types_beside_the_values_stay_with_them(resolver: Resolver) -> None:
    before = resolver.config("recipes.py:typed")
    after = resolver.config("recipes.py:typed", "tags.0=GELU", "tags.1=[5, 4, 5]", "tags.2=[7]")
    assert after["tags"] == ["Act.GELU", [4, 5], [7]]
    assert after["_types_"] == before["_types_"]
    assert "tags.0" not in resolver.config("recipes.py:typed", "tags=[1]")["_types_"]


def test_an_object_in_several_places_is_changed_in_all_of_them(resolver: Resolver) -> None:
    config = resolver.config("recipes.py:shared", "tags.1.hidden=5")
    assert [config["model"]["hidden"], *(item["hidden"] for item in config["tags"])] == [5, 5, 5]
    assert config["_shared_"] == {"tags.0": "model", "tags.1": "model"}


def test_a_place_that_is_replaced_leaves_the_others_alone(resolver: Resolver) -> None:
    config = resolver.config("recipes.py:shared", "tags.0=null")
    assert (config["tags"][0], config["_shared_"]) == (None, {"tags.1": "model"})
    config = resolver.config("recipes.py:shared", "model={hidden: 3}", "tags.0.hidden=4")
    assert [config["model"]["hidden"], *(item["hidden"] for item in config["tags"])] == [3, 4, 4]
    assert config["_shared_"] == {"tags.1": "tags.0"}


@pytest.mark.parametrize(
    "override, error, key, said",
    [
        ("model.hiden=3", "UnknownKeyError", "model.hiden", "did you mean model.hidden?"),
        ("model.act.x=3", "OverrideError", "model.act.x", "it has no keys"),
        ("nope=3", "UnknownKeyError", "nope", "has no key nope"),
        ("+lr=3", "OverrideError", "lr", "is there already"),
        ("lr=on", "OverrideError", "lr", "lr is float, and 'on' is not"),
        ("lr=.nan", "OverrideError", "lr", "NaN"),
        ("steps=2.5", "OverrideError", "steps", "steps is int"),
        ("steps=true", "OverrideError", "steps", "steps is int"),
        ("model.act=GELA", "OverrideError", "model.act", "model.act is Act"),
        ("model.dtype=float23", "OverrideError", "model.dtype", "'float23'"),
        ("model.numpy=float23", "OverrideError", "model.numpy", "'float23'"),
        ("optim.kind=rmsprop", "OverrideError", "optim.kind", "'adam' or 'sgd'"),
        ("optim=nadam", "OverrideError", "optim", "neither one nor a factory"),
        ("optim=3", "OverrideError", "optim", "neither one nor a factory"),
        ("fn=nowhere:f", "OverrideError", "fn", "cannot be imported"),
        ("model={hiden: 3}", "OverrideError", "model", "hiden"),
        ("_target_=training:Model", "OverrideError", "_target_", "what the recipe calls"),
        ("_partial_=false", "OverrideError", "_partial_", "what the recipe calls"),
        ("~nope", "UnknownKeyError", "nope", "no key nope"),
    ],
)
def test_a_typed_value_that_does_not_fit_is_refused_by_its_key(
    resolver: Resolver, override: str, error: str, key: str, said: str
) -> None:
    answer = resolver.error("recipes.py:plain", override)
    assert (answer["class"], answer["key"]) == (error, key)
    assert said in answer["message"]


def test_a_mistyped_member_names_the_nearest(resolver: Resolver) -> None:
    assert resolver.error("recipes.py:plain", "model.act=GELA")["hint"] == "model.act=GELU"


def test_an_array_is_never_rounded_to_the_type_that_it_had(resolver: Resolver) -> None:
    assert "another type" in resolver.error("recipes.py:typed", "tags.2=[0.5]")["message"]


def test_a_recorded_configuration_is_changed_like_a_recipe(resolver: Resolver) -> None:
    config = resolver.config("recipes.py:typed")
    order = {"recipe": "recipes.py:typed", "config": config, "overrides": ["model.hidden=9", "tags.0=GELU"]}
    answer = resolver.order(order, ["."])
    assert answer is not None
    (changed,) = answer["calls"]
    expected = {**config, "model": {**config["model"], "hidden": 9}, "tags": ["Act.GELU", *config["tags"][1:]]}
    assert changed == expected
