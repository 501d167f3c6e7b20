"""Train a small network on the UCI digits on several CPU processes at once (DistributedDataParallel over gloo).

By itself:

    torchrun --standalone --nproc-per-node=2 experiments/ddp/train.py

Every process shows the network its share of the images; the gradients are averaged after each batch, so that all of
them hold the same weights at any time. Rank 0 tells how it goes, by one JSON line per epoch in `GITEXP_METRICS`, and
leaves the weights.
"""

from __future__ import annotations

import argparse
import json
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel

DATA = Path(__file__).resolve().parents[2] / "data" / "digits.npz"
TEST_IMAGES = 360  # a fifth of 1,797
BRIGHTEST = 16.0


@dataclass(frozen=True, slots=True)
class Config:
    """What can be changed from experiment to experiment: `nemo-gitexp run ddp lr=0.05`."""

    hidden: int = 64
    lr: float = 0.1
    epochs: int = 6
    batch_size: int = 32


def read_digits(seed: int) -> tuple[Tensor, Tensor]:
    """Return images (n, 64) from 0 to 1 and labels (n,), in an order that the seed decides, the same in all ranks."""
    with np.load(DATA) as arrays:
        images, labels = arrays["images"].astype(np.float32) / BRIGHTEST, arrays["labels"].astype(np.int64)
    order = np.random.default_rng(seed).permutation(len(labels))
    return torch.from_numpy(images[order]), torch.from_numpy(labels[order])


def train(config: Config, seed: int, out: Path) -> dict[str, float]:
    """Train in this process and the others of its group; return the last epoch's metrics, the same in every rank."""
    rank, size = distributed.get_rank(), distributed.get_world_size()
    images, labels = read_digits(seed)
    test, shares = slice(0, TEST_IMAGES), slice(TEST_IMAGES + rank, None, size)
    # The weights of rank 0 count: DistributedDataParallel gives them to all others.
    model = DistributedDataParallel(
        nn.Sequential(nn.Linear(images.shape[1], config.hidden), nn.ReLU(), nn.Linear(config.hidden, 10))
    )
    optimizer = torch.optim.SGD(model.parameters(), lr=config.lr, momentum=0.9)
    metrics: dict[str, float] = {}
    for epoch in range(1, config.epochs + 1):
        loss = train_epoch(model, optimizer, images[shares], labels[shares], config.batch_size)
        distributed.all_reduce(loss)
        metrics = {"loss": loss.item() / size, "accuracy": measure(model.module, images[test], labels[test])}
        if rank == 0:
            log_metrics(epoch, metrics)
    if rank == 0:
        out.mkdir(parents=True, exist_ok=True)
        torch.save(model.module.state_dict(), out / "model.pt")
    return metrics


def train_epoch(
    model: nn.Module, optimizer: torch.optim.Optimizer, images: Tensor, labels: Tensor, batch_size: int
) -> Tensor:
    """Show this rank's images once, in an order of its own, and return their mean loss, shape ()."""
    whole = len(labels) // batch_size * batch_size  # every rank as many batches: one more would wait for ever
    total = torch.zeros(())
    for batch in torch.randperm(len(labels))[:whole].split(batch_size):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(images[batch]), labels[batch])
        loss.backward()
        optimizer.step()
        total += loss.detach() * len(batch) / whole
    return total


@torch.no_grad()
def measure(model: nn.Module, images: Tensor, labels: Tensor) -> float:
    """Return the share of images whose digit is named rightly."""
    return float((model(images).argmax(dim=1) == labels).float().mean())


def log_metrics(step: int, metrics: dict[str, float]) -> None:
    """Print one epoch, and append it to the file in GITEXP_METRICS when there is one."""
    print(f"epoch {step:3d}  loss {metrics['loss']:.4f}  accuracy {metrics['accuracy']:.4f}", flush=True)
    path = os.environ.get("GITEXP_METRICS")
    if path:
        with Path(path).open("a", encoding="utf-8") as stream:
            stream.write(json.dumps({"step": step, **metrics}) + "\n")


def train_digits(config: Config, out: Path | None = None) -> dict[str, float]:
    """Train as one process of the group that torchrun has started; return the last epoch's metrics.

    Args:
        config: of the training.
        out: where rank 0 leaves `model.pt`; None: the directory of the experiment, else `outputs`.
    """
    seed = int(os.environ.get("GITEXP_SEED", "42"))
    distributed.init_process_group("gloo")
    try:
        torch.manual_seed(seed + distributed.get_rank())  # every rank shows its images in an order of its own
        return train(config, seed, out or Path(os.environ.get("GITEXP_OUTPUTS", "outputs")))
    finally:
        distributed.destroy_process_group()


def main() -> None:
    """Read the command line and train."""
    parser = argparse.ArgumentParser(description="Train a small network on the digits, on several processes.")
    parser.add_argument("--config", type=Path, help="JSON file with any of hidden, lr, epochs, batch_size")
    parser.add_argument("--out", type=Path, help="directory for model.pt (default: outputs)")
    arguments = parser.parse_args()
    config = Config(**json.loads(arguments.config.read_text(encoding="utf-8"))) if arguments.config else Config()
    train_digits(config, arguments.out)


if __name__ == "__main__":
    main()
