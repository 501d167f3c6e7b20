"""The guide's ReproducibilityManager: usable alone, in any script."""

from __future__ import annotations

import importlib.metadata
import json
import os
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from builder import Work, isolated_environment

import nemo_gitexp
from nemo_gitexp.errors import ConflictingConfigError, InvalidNameError, UsageError
from nemo_gitexp.reproducibility import ReproducibilityManager
from nemo_gitexp.versioning import config_hash
from nemo_gitexp.worker.seeding import rank_seed

DRAW = "print(random.random(), numpy.random.rand(), torch.rand(1).item(), torch.initial_seed())"
IMPORTS = "import random, numpy, torch"
SEED = "from nemo_gitexp import ReproducibilityManager as M; report = M.set_seed(42)"
LOADER = """
import random, numpy, torch
from nemo_gitexp import ReproducibilityManager as M
class Data(torch.utils.data.Dataset):
    def __len__(self): return 8
    def __getitem__(self, index): return index, random.random(), numpy.random.rand()
def numbers():
    made = torch.utils.data.DataLoader(
        Data(), batch_size=2, shuffle=True, num_workers=2, generator=M.generator(7), worker_init_fn=M.worker_init_fn,
        multiprocessing_context=METHOD,
    )
    return [[value.tolist() for value in batch] for batch in made]
if __name__ == "__main__":
    M.set_seed(42)
    print(numbers())
"""


@pytest.fixture(autouse=True)
def unchanged_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PYTHONHASHSEED", "CUBLAS_WORKSPACE_CONFIG", "RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)


def ask(tmp_path: Path, *lines: str, **env: str) -> str:
    script = tmp_path / "ask.py"
    script.write_text("\n".join(lines))
    whole = {**isolated_environment(tmp_path), **env}
    done = subprocess.run([sys.executable, script], env=whole, capture_output=True, text=True, check=True, cwd=tmp_path)
    return done.stdout


def test_everything_is_seeded_whether_it_was_imported_before_or_after(tmp_path: Path):
    before = ask(tmp_path, IMPORTS, SEED, DRAW)
    assert ask(tmp_path, IMPORTS, SEED, DRAW) == before
    assert ask(tmp_path, SEED, IMPORTS, DRAW) == before
    assert ask(tmp_path, SEED, "M.set_seed(42)", IMPORTS, DRAW) == before
    assert ask(tmp_path, SEED, "M.set_seed(43)", IMPORTS, DRAW) != before
    assert before.split()[-1] == "42"


def test_cudnn_is_deterministic_and_bitwise_also_forbids_the_rest(tmp_path: Path):
    flags = (
        "b = torch.backends.cudnn; print(b.deterministic, b.benchmark, torch.are_deterministic_algorithms_enabled())"
    )
    assert ask(tmp_path, IMPORTS, SEED, flags).split() == ["True", "False", "False"]
    bitwise = SEED.replace("set_seed(42)", "set_seed(42, bitwise=True)")
    assert ask(tmp_path, bitwise, IMPORTS, flags).split() == ["True", "False", "True"]
    said = ask(tmp_path, bitwise, "import os; print(os.environ['NCCL_ALGO'], os.environ['CUBLAS_WORKSPACE_CONFIG'])")
    assert said.split() == ["Ring", ":4096:8"]


def test_each_rank_has_a_seed_of_its_own(tmp_path: Path):
    tell = "print(report.process_seed, random.random())"
    answers = [ask(tmp_path, IMPORTS, SEED, tell, RANK=str(rank), WORLD_SIZE="4") for rank in range(4)]
    assert [int(answer.split()[0]) for answer in answers] == [rank_seed(42, 4, rank) for rank in range(4)]
    assert len(set(answers)) == 4
    assert answers[0] == ask(tmp_path, IMPORTS, SEED, tell)
    by_slurm = [ask(tmp_path, IMPORTS, SEED, tell, SLURM_PROCID=str(rank), SLURM_NTASKS="4") for rank in (0, 3)]
    assert by_slurm == [answers[0], answers[3]]


def test_what_is_too_late_for_this_process_is_said_and_done_for_its_children(tmp_path: Path):
    tell = "import subprocess, sys; print(report.remarks); print(hash('a'))"
    child = "print(subprocess.run([sys.executable, '-c', 'print(hash(chr(97)))'], capture_output=True).stdout)"
    children = f"for _ in range(2): {child}"
    late = ask(tmp_path, SEED, tell, children).splitlines()
    assert "PYTHONHASHSEED" in late[0]
    assert late[2] == late[3]
    early = ask(tmp_path, SEED, tell, children, PYTHONHASHSEED="42").splitlines()
    assert early[0] == "()"
    assert early[2:] == late[2:]
    assert early[2] == repr(early[1].encode() + b"\n")


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_workers_of_a_loader_draw_the_same_numbers_again_and_different_ones_each(tmp_path: Path, method: str):
    script = LOADER.replace("METHOD", repr(method))
    drawn = ask(tmp_path, script)
    assert ask(tmp_path, script) == drawn
    batches = json.loads(drawn)
    order = [index for batch in batches for index in batch[0]]
    assert sorted(order) == list(range(8))
    assert order != list(range(8))
    assert len({number for batch in batches for kind in batch[1:] for number in kind}) == 16


@pytest.mark.parametrize("seed", [-1, 1.0, "42", True, None])
def test_what_is_no_seed_is_refused(seed: object):
    state = random.getstate()
    for call in (
        lambda: ReproducibilityManager.set_seed(seed),
        lambda: ReproducibilityManager.generator(seed),
        lambda: ReproducibilityManager.create_reproducible_config({}, seed),
    ):
        with pytest.raises(UsageError):
            call()
    assert random.getstate() == state
    assert "PYTHONHASHSEED" not in os.environ


def test_large_seeds_and_numpy_seeds_are_taken(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PYTHONHASHSEED", "0")
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":16:8")
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()  # noqa: NPY002 - what is seeded
    try:
        assert ReproducibilityManager().set_seed(np.int64(7)).seed == 7
        assert ReproducibilityManager.set_seed(2**70).process_seed == 2**70
        assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":16:8"
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])  # noqa: NPY002
        torch.set_rng_state(states[2])


def test_a_reproducible_configuration_is_a_deep_copy():
    base = {"model": {"layers": [1, 2]}}
    made = nemo_gitexp.ReproducibilityManager.create_reproducible_config(base, 42)
    assert made == {"model": {"layers": [1, 2]}, "seed": 42, "deterministic": True}
    made["model"]["layers"].append(3)
    assert base == {"model": {"layers": [1, 2]}}
    assert ReproducibilityManager.create_reproducible_config(base_config=made, seed=42) == made
    assert ReproducibilityManager.create_reproducible_config({"seed": None}, 1)["seed"] == 1


@pytest.mark.parametrize("there", [{"seed": 1}, {"seed": 42.0}, {"seed": "42"}, {"deterministic": False}])
def test_a_configuration_that_says_otherwise_is_refused(there: dict[str, object]):
    with pytest.raises(ConflictingConfigError) as refusal:
        ReproducibilityManager.create_reproducible_config(there, 42)
    assert refusal.value.facts["key"] == next(iter(there))
    assert refusal.value.hint


def test_what_is_no_mapping_is_no_configuration():
    with pytest.raises(UsageError):
        ReproducibilityManager.create_reproducible_config([1], 42)  # type: ignore[arg-type]


def test_the_saved_information_says_what_it_takes(work: Work, monkeypatch: pytest.MonkeyPatch):
    work.write("data/x.csv.dvc", f"outs:\n- md5: {'a' * 32}\n  size: 3\n  hash: md5\n  path: x.csv\n")
    work.write("broken.dvc", "outs: [")
    head = work.commit()
    monkeypatch.chdir(work.root)
    config = {"lr": 0.1, "path": Path("a/b")}
    path = ReproducibilityManager.save_reproducibility_info("exp_1", 42, config)
    assert path == Path("experiments/exp_1_reproducibility.json")
    saved = json.loads(path.read_text())
    assert (saved["experiment_name"], saved["seed"], saved["config"]) == ("exp_1", 42, {"lr": 0.1, "path": "a/b"})
    assert saved["config_hash"] == config_hash(config)
    assert saved["timestamp"].endswith("Z")
    assert saved["code"] == {"commit": head, "dirty": False}
    assert saved["data"] == {"data/x.csv": "a" * 32}
    assert saved["environment"]["packages"]["torch"] == importlib.metadata.version("torch")
    assert saved["environment"]["key"].startswith("sha256:")
    assert saved["determinism"]["torch"]["version"] == torch.__version__
    work.write("train.py", "changed")
    again = ReproducibilityManager.save_reproducibility_info("exp_1", 42, config, output_dir=work.root / "elsewhere")
    assert json.loads(again.read_text())["code"]["dirty"] is True


def test_outside_a_repository_there_is_no_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    path = ReproducibilityManager.save_reproducibility_info("exp_1", 42, {})
    assert json.loads(path.read_text())["code"] is None
    with pytest.raises(InvalidNameError):
        ReproducibilityManager.save_reproducibility_info("../x", 42, {})
    with pytest.raises(UsageError):
        ReproducibilityManager.save_reproducibility_info("x", -1, {})
    assert list((tmp_path / "experiments").iterdir()) == [tmp_path / "experiments/exp_1_reproducibility.json"]


def test_in_a_job_the_record_says_that_the_script_seeds_itself(work: Work):
    work.write(
        "train.py",
        "import random\nfrom nemo_gitexp import ReproducibilityManager\nReproducibilityManager.set_seed(7)\n"
        "print(random.random())\n",
    )
    ran = work.gitexp("run", "--json", "--", "python", "train.py").json
    assert ran["status"] == "completed", ran["error"]
    assert "seeds itself" in work.gitexp("show", "latest").out
    assert work.gitexp("logs", "latest").out.split() == [str(random.Random(7).random())]
