"""Seeds, threads and flags are set before the job and read back in it; what they leave open is caught by verdicts."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from builder import Work, make_work

DRAWS = """\
import json, os, random
import numpy, torch
from torch.utils.data import DataLoader, Dataset

class Drawn(Dataset):
    def __len__(self):
        return 8
    def __getitem__(self, index):
        return torch.rand(1) + random.random() + numpy.random.rand()

if __name__ == "__main__":
    rows = {
        "python": random.random(),
        "numpy": float(numpy.random.rand()),
        "torch": torch.rand(1).item(),
        "workers": float(sum(batch.sum() for batch in DataLoader(Drawn(), batch_size=2, shuffle=True, num_workers=2))),
        "hash": hash("a") % 1000,
        "set_order": sum(place * len(word) for place, word in enumerate({"a", "bb", "ccc", "dddd", "eeeee"})),
        "cublas": int(os.environ.get("CUBLAS_WORKSPACE_CONFIG") == ":4096:8"),
    }
    with open(os.environ["GITEXP_METRICS"], "a") as stream:
        stream.write(json.dumps(rows) + "\\n")
    torch.save({"weights": torch.rand(3)}, os.path.join(os.environ["GITEXP_OUTPUTS"], "model.pt"))
"""
SELF_SEEDED = """\
import random, torch
random.seed(7)
torch.manual_seed(8)
"""
THREADS = """\
import json, os
import torch
torch.set_num_threads(int(os.environ.get("MY_THREADS", "1")))
generator = torch.Generator().manual_seed(1)
images, labels = torch.randn(2048, 64, generator=generator), torch.randint(10, (2048,), generator=generator)
model = torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.BatchNorm1d(64), torch.nn.Linear(64, 10))
optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
for step in range(60):
    optimizer.zero_grad()
    loss = torch.nn.functional.cross_entropy(model(images), labels)
    loss.backward()
    optimizer.step()
accuracy = round((model(images).argmax(1) == labels).float().mean().item(), 1)
with open(os.environ["GITEXP_METRICS"], "a") as stream:
    stream.write(json.dumps({"step": 60, "accuracy": accuracy}) + "\\n")
torch.save(model.state_dict(), os.path.join(os.environ["GITEXP_OUTPUTS"], "model.pt"))
"""


@pytest.fixture(scope="module")
def numeric(tmp_path_factory) -> Work:
    place = tmp_path_factory.mktemp("numeric")
    files = {"draws.py": DRAWS, "threads.py": THREADS, "self_seeded.py": SELF_SEEDED, "plain.py": "import random\n"}
    work = make_work(place / "work", place / "home", files=files)
    work.env |= {"OMP_NUM_THREADS": "2", "MKL_NUM_THREADS": "2", "OMP_WAIT_POLICY": "PASSIVE"}
    return work


@pytest.fixture(scope="module")
def drawn(numeric: Work) -> dict:
    return numeric.gitexp("run", "--json", "--", "python", "draws.py").json


def settings(work: Work, experiment: dict) -> dict:
    text = work.git("show", f"{experiment['result']}:experiments/{experiment['study']}/record/run.json")
    return json.loads(text)["settings"]


def test_every_source_of_randomness_is_seeded_and_repeats(numeric: Work, drawn: dict):
    assert (drawn["status"], drawn["seed"], drawn["determinism"]) == ("completed", 42, "seeded")
    assert drawn["metrics"]["python"] == 0.6394267984578837  # random.Random(42).random()
    assert drawn["metrics"]["numpy"] == 0.3745401188473625
    assert drawn["metrics"]["torch"] == 0.8822692632675171
    assert drawn["metrics"]["cublas"] == 1
    other = replace(numeric, env={**numeric.env, "PYTHONHASHSEED": "5", "OMP_NUM_THREADS": "1"})
    verdict = other.gitexp("reproduce", drawn["experiment"], "--require", "bitwise", "--json").json
    assert verdict["met"] is True
    assert verdict["drift"] == []


def test_what_was_in_force_is_recorded(numeric: Work, drawn: dict):
    read_back = settings(numeric, drawn)
    assert read_back["seeds"] == {"python": 42, "numpy": 42, "torch": 42}
    assert read_back["self_seeded"] == {}
    assert read_back["hash_seed"] == "42"
    assert read_back["torch"]["num_threads"] == 2
    assert read_back["torch"]["deterministic_algorithms"] is False
    assert read_back["torch"]["cudnn"]["deterministic"] is True
    assert read_back["env"]["OMP_NUM_THREADS"] == drawn["topology"]["environment"]["OMP_NUM_THREADS"] == "2"
    assert read_back["env"]["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
    assert {"numpy", "torch"} <= set(read_back["loaded_packages"])


def test_another_seed_draws_other_numbers(numeric: Work, drawn: dict):
    other = numeric.gitexp("run", "--seed", "43", "--json", "--", "python", "draws.py").json
    same = {name for name in drawn["metrics"] if other["metrics"][name] == drawn["metrics"][name]}
    assert same <= {"cublas", "set_order"}


def test_bitwise_adds_deterministic_algorithms_and_what_they_need(numeric: Work):
    ran = numeric.gitexp("run", "--determinism", "bitwise", "--json", "--", "python", "draws.py").json
    read_back = settings(numeric, ran)
    assert read_back["torch"]["deterministic_algorithms"] is True
    assert read_back["env"]["NCCL_ALGO"] == "Ring"
    assert read_back["env"]["NVTE_ALLOW_NONDETERMINISTIC_ALGO"] == "0"
    assert read_back["env"]["FLASH_ATTENTION_DETERMINISTIC"] == "1"
    assert read_back["env"]["OMP_DYNAMIC"] == "FALSE"


def test_off_needs_a_reason_and_then_sets_nothing(numeric: Work):
    refused = numeric.gitexp("run", "--determinism", "off", "--json", "--", "python", "plain.py", code=2).json["error"]
    assert "reason" in refused["message"]
    reason = "measuring the spread"
    ran = numeric.gitexp("run", "--determinism", "off", "-m", reason, "--json", "--", "python", "plain.py").json
    read_back = settings(numeric, ran)
    assert read_back["seeds"] == {"python": None, "numpy": None, "torch": None}
    assert read_back["hash_seed"] is None
    record = json.loads(numeric.git("show", f"{ran['experiment']}:experiments/plain/record/experiment.json"))
    assert record["determinism_reason"] == reason


def test_a_script_that_seeds_itself_keeps_its_seeds_and_the_record_says_so(numeric: Work):
    ran = numeric.gitexp("run", "--json", "--", "python", "self_seeded.py").json
    assert settings(numeric, ran)["self_seeded"] == {"python": [7], "torch": [8]}
    assert "seeds itself" in numeric.gitexp("show", ran["experiment"]).out


def test_weights_that_differ_while_the_metric_agrees_are_caught_and_the_threads_named(numeric: Work):
    one = replace(numeric, env={**numeric.env, "MY_THREADS": "1"})
    two = replace(numeric, env={**numeric.env, "MY_THREADS": "2"})
    ran = one.gitexp("run", "--json", "--", "python", "threads.py").json
    answered = two.gitexp("reproduce", ran["experiment"], "--require", "bitwise", "--json", code=1)
    verdict = answered.json
    assert (verdict["verdict"], verdict["met"], verdict["environment"]) == ("metrics", False, "drifted")
    assert [metric["ok"] for metric in verdict["metrics"]] == [True]
    assert verdict["first_divergence"] is None
    (output,) = verdict["outputs"]
    assert output["equal"] is False
    assert verdict["drift"][0] == {"kind": "numerics", "name": "torch.num_threads", "recorded": "1", "here": "2"}
