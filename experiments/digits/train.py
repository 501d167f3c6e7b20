"""Train a small network on the UCI handwritten digits: an ordinary script, and a study of this repository.

It knows nothing of nemo-gitexp. By itself it trains with the defaults below:

    python experiments/digits/train.py

As an experiment (`nemo-gitexp run digits`) it is given the resolved configuration and a directory for what it makes.
Two environment variables are all that connects it: `GITEXP_METRICS` names a file that takes one JSON line per epoch,
and `GITEXP_SEED` says that the launcher has seeded this process already.
"""

from __future__ import annotations

import argparse
import json
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

ROOT = Path(__file__).resolve().parents[2]
TEST_IMAGES = 360  # a fifth of 1,797
HALF_DARKEST = 8.0  # pixels go from 0 to 16; centred ones are learnt faster


@dataclass(frozen=True, slots=True)
class Config:
    """What can be changed from experiment to experiment: `nemo-gitexp run digits lr=0.05`."""

    hidden: int = 64
    lr: float = 0.1
    epochs: int = 10
    batch_size: int = 32
    momentum: float = 0.9


@dataclass(frozen=True, slots=True)
class Split:
    """Images (n, 64) as floats from -1 to 1, labels (n,) as class indices."""

    images: Tensor
    labels: Tensor


def read_config(path: Path | None) -> Config:
    """Return the configuration in a JSON file, or the defaults."""
    return Config(**json.loads(path.read_text(encoding="utf-8"))) if path else Config()


def read_splits(path: Path, seed: int) -> tuple[Split, Split]:
    """Return the training and the test images; which is which depends on the seed alone."""
    with np.load(path) as arrays:
        images = torch.from_numpy(arrays["images"]).float() / HALF_DARKEST - 1
        labels = torch.from_numpy(arrays["labels"]).long()
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
    test, train = order[:TEST_IMAGES], order[TEST_IMAGES:]
    return Split(images[train], labels[train]), Split(images[test], labels[test])


def build_model(config: Config) -> nn.Sequential:
    """Return a network with one hidden layer: 64 pixels in, 10 classes out."""
    return nn.Sequential(nn.Linear(64, config.hidden), nn.ReLU(), nn.Linear(config.hidden, 10))


def train_epoch(model: nn.Module, optimizer: torch.optim.Optimizer, train: Split, batch_size: int) -> float:
    """Show every training image once, in random order, and return the mean loss."""
    model.train()
    total = 0.0
    for batch in torch.randperm(len(train.labels)).split(batch_size):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(train.images[batch]), train.labels[batch])
        loss.backward()
        optimizer.step()
        total += loss.item() * len(batch)
    return total / len(train.labels)


@torch.no_grad()
def measure_accuracy(model: nn.Module, test: Split) -> float:
    """Return the share of test images whose digit is named rightly."""
    model.eval()
    return float((model(test.images).argmax(dim=1) == test.labels).float().mean())


def log_metrics(step: int, loss: float, accuracy: float) -> None:
    """Print one epoch, and append it to the file in GITEXP_METRICS when there is one."""
    print(f"epoch {step:3d}  loss {loss:.4f}  accuracy {accuracy:.4f}", flush=True)
    path = os.environ.get("GITEXP_METRICS")
    if path:
        with Path(path).open("a", encoding="utf-8") as stream:
            stream.write(json.dumps({"step": step, "loss": loss, "accuracy": accuracy}) + "\n")


def train(config: Config, data: Path, out: Path, seed: int) -> None:
    """Train, log every epoch, and leave the weights in `model.pt`."""
    train_split, test_split = read_splits(data, seed)
    model = build_model(config)
    optimizer = torch.optim.SGD(model.parameters(), lr=config.lr, momentum=config.momentum)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, config.epochs)  # settles: no lucky last epoch
    for epoch in range(1, config.epochs + 1):
        loss = train_epoch(model, optimizer, train_split, config.batch_size)
        schedule.step()
        log_metrics(epoch, loss, measure_accuracy(model, test_split))
    out.mkdir(parents=True, exist_ok=True)
    torch.save(model.state_dict(), out / "model.pt")


def main() -> None:
    """Read the command line and train."""
    parser = argparse.ArgumentParser(description="Train a small network on the UCI handwritten digits.")
    parser.add_argument("--config", type=Path, help="JSON file with any of hidden, lr, epochs, batch_size, momentum")
    parser.add_argument("--out", type=Path, default=Path("outputs"), help="directory for model.pt (default: outputs)")
    parser.add_argument("--data", type=Path, default=ROOT / "data" / "digits.npz", help="what make_data.py wrote")
    parser.add_argument("--seed", type=int, default=42, help="used when no launcher has seeded the process")
    arguments = parser.parse_args()
    if not arguments.data.exists():
        parser.error(f"{arguments.data} is not there; `dvc repro digits` makes it")
    seed = arguments.seed
    if "GITEXP_SEED" in os.environ:
        seed = int(os.environ["GITEXP_SEED"])
    else:
        torch.manual_seed(seed)
    train(read_config(arguments.config), arguments.data, arguments.out, seed)


if __name__ == "__main__":
    main()
