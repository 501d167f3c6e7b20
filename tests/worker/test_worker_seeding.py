"""Seeds are there before the job draws its first number; what the job sets itself stays and is recorded."""

from __future__ import annotations

import json

import pytest
from run_directory import Run, script

DRAW = """
import random, json, sys, os
import numpy as np
import torch
print(json.dumps([random.random(), float(np.random.rand()), float(torch.rand(1)), hash("a"),
    torch.backends.cudnn.deterministic, torch.are_deterministic_algorithms_enabled(),
    [sorted(f.actions) for f in sys.meta_path if "AfterImport" in type(f).__name__]]))
"""


def drawn(run: Run, determinism: str = "seeded", **env: str) -> list:
    run.put("train.py", DRAW)
    result = run.go(script("train.py"), determinism=determinism, env=env)
    assert result["status"] == "completed", run.log
    return json.loads(run.log)


def test_python_numpy_and_torch_are_seeded_when_they_are_imported(run: Run):
    import random

    import numpy as np
    import torch

    python, numpy, from_torch, _, cudnn, deterministic, finders = drawn(run)
    assert python == random.Random(42).random()
    assert numpy == np.random.RandomState(42).rand()
    assert from_torch == float(torch.rand(1, generator=torch.Generator().manual_seed(42)))
    assert (cudnn, deterministic) == (True, False)
    assert finders == [["wandb"], ["nemo_run.run.experiment"]]  # what waits for random, numpy and torch has left
    job = run.json("job.json")
    assert job["seeds"] == {"python": 42, "numpy": 42, "torch": 42}
    assert (job["self_seeded"], job["seeding_faults"]) == ({}, [])
    assert job["torch"]["num_threads"] > 0
    assert job["torch"]["cuda"] is None
    assert job["hash_seed"] == "0"
    assert job["env"]["PYTHONHASHSEED"] == "0"
    assert {"numpy", "torch"} <= set(job["loaded_packages"])
    assert job["torch"]["version"].startswith(job["loaded_packages"]["torch"].partition("+")[0])
    assert "pytest" not in job["loaded_packages"]


def test_bitwise_adds_the_deterministic_algorithms(run: Run):
    assert drawn(run, "bitwise")[4:6] == [True, True]
    assert run.json("job.json")["torch"]["deterministic_algorithms"]


def test_off_seeds_nothing(run: Run):
    assert drawn(run, "off")[4:6] == [False, False]
    assert run.json("job.json")["seeds"] == {"python": None, "numpy": None, "torch": None}


def test_a_rank_has_a_seed_of_its_own(run: Run):
    run.put("train.py", "import random")
    run.plan["env"] = {"WORLD_SIZE": "4", "RANK": "2"}
    run.go(script("train.py"))
    seed = run.json("job.json")["seeds"]["python"]
    assert seed == (42 + 2 * 2654435761) % 2**32
    (run.dir / "result.json").unlink()
    run.plan["env"] = {"WORLD_SIZE": "4", "RANK": "0"}
    run.go(script("train.py"))
    assert run.json("job.json")["seeds"]["python"] == 42


@pytest.mark.parametrize("seed", [0, -1, 2**32, 2**63, 2**70])
def test_any_whole_number_can_be_the_seed(run: Run, seed):
    run.put("train.py", DRAW)
    result = run.go(script("train.py"), seed=seed)
    assert result["status"] == "completed"
    assert run.json("job.json")["seeding_faults"] == []


SELF = """
import random, numpy, torch, pickle, importlib
random.seed(7); random.seed(a=8); random.seed()
numpy.random.seed(9); torch.manual_seed(10); torch.random.manual_seed(11)
from torch import manual_seed; manual_seed(12)
for _ in range(40): random.seed("x")
assert pickle.loads(pickle.dumps(torch.manual_seed)) is torch.manual_seed
assert pickle.loads(pickle.dumps(random.seed)) is random.seed
@torch.jit.script
def scripted(x: int):
    torch.manual_seed(x)
    return torch.rand(1)
assert float(scripted(3)) == float(scripted(3))
importlib.reload(random)
"""


def test_a_script_that_seeds_itself_keeps_its_seeds_and_the_record_says_so(run: Run):
    run.put("train.py", SELF)
    result = run.go(script("train.py"))
    assert result["status"] == "completed", run.log
    noted = run.json("job.json")["self_seeded"]
    assert noted["python"] == [7, 8, None] + ["x"] * 17
    assert noted["numpy"] == [9]
    assert noted["torch"][:3] == [10, 11, 12]


IMPORTS = """
import importlib, importlib.util, pkgutil, sys
spec = importlib.util.find_spec("numpy"); assert spec and "numpy" not in sys.modules
assert importlib.util.find_spec("numpy.random") is not None
assert importlib.util.find_spec("nothing_at_all") is None
importlib.invalidate_caches()
list(pkgutil.iter_modules())
import importlib.metadata; assert importlib.metadata.version("numpy")
try:
    import numpy.nothing_here
except ImportError: pass
spec = importlib.util.find_spec("random")
module = importlib.util.module_from_spec(spec); spec.loader.exec_module(module)   # a private copy
import random
assert random is not module
import numpy as np
first = np.random.rand()
np.random.seed(42)
assert first == np.random.rand()
import numpy.random as r
assert type(np.__spec__.loader).__name__ == "SourceFileLoader" and "exec_module" not in vars(r.__spec__.loader)
assert "exec_module" not in vars(np.__loader__)
"""


def test_the_hook_leaves_the_import_system_as_it_was(run: Run):
    run.put("train.py", IMPORTS)
    result = run.go(script("train.py"))
    assert result["status"] == "completed", run.log


def test_a_lazy_loader_is_seeded_too(run: Run):
    run.put("train.py", """
import importlib.util, sys
spec = importlib.util.find_spec("random")
spec.loader = importlib.util.LazyLoader(spec.loader)
module = importlib.util.module_from_spec(spec); sys.modules["random"] = module; spec.loader.exec_module(module)
print(module.random())
""")  # fmt: skip
    import random

    run.go(script("train.py"))
    assert float(run.log) == random.Random(42).random()


def test_an_import_that_fails_looks_as_it_always_does(run: Run):
    run.put("numpy/__init__.py", "")
    run.put("numpy/random.py", "import json\n1 / 0\n")
    run.put("train.py", "import numpy.random\n")
    result = run.go(script("train.py"))
    assert result["error"]["type"] == "ZeroDivisionError"
    assert "_gitexp_worker" not in run.log
    assert "importlib" not in run.log


def test_libraries_of_the_users_own_that_cannot_be_seeded_are_no_obstacle(run: Run):
    run.put("torch.py", "mine = True")
    run.put("numpy/__init__.py", "")
    run.put("numpy/random.py", "")
    run.put("random.py", "")
    run.put("train.py", "import torch, numpy.random, random; print(torch.mine)")
    assert run.go(script("train.py"))["status"] == "completed"
    assert len(run.json("job.json")["seeding_faults"]) == 2


def test_data_loader_workers_repeat(run: Run):
    run.put("train.py", """
import torch, random, json, numpy as np
class Data(torch.utils.data.Dataset):
    def __len__(self): return 6
    def __getitem__(self, i): return torch.tensor([float(torch.rand(1)), random.random()])
if __name__ == "__main__":
    loader = torch.utils.data.DataLoader(Data(), batch_size=2, num_workers=2, shuffle=True)
    print(json.dumps([b.tolist() for b in loader]))
""")  # fmt: skip
    run.go(script("train.py"))
    first = json.loads(run.log)
    (run.dir / "result.json").unlink()
    (run.dir / "log.txt").unlink()
    run.go(script("train.py"))
    assert json.loads(run.log) == first
