"""From images of handwritten digits to a network that names them, in four stages: load, preprocess, features, train.

Plain functions: each gets what its parameters name and returns what the later ones need. By itself:

    python experiments/digits-pipeline/pipeline.py
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

DATA = Path(__file__).resolve().parents[2] / "data" / "digits.npz"
TEST_SHARE = 5  # every fifth image, after shuffling, is kept for testing
BRIGHTEST = 16
SIDE = 8


def load() -> dict[str, np.ndarray]:
    """Return the images (n, 8, 8), pixels from 0 to 16, and their labels (n,)."""
    with np.load(DATA) as arrays:
        return {"images": arrays["images"].reshape(-1, SIDE, SIDE), "labels": arrays["labels"]}


def preprocess(load: Mapping[str, np.ndarray], seed: int) -> dict[str, np.ndarray]:
    """Return images from 0 to 1, labels, and which images (n,) are for testing; the seed alone decides which."""
    count = len(load["labels"])
    place = np.random.default_rng(seed).permutation(count)
    return {
        "images": load["images"].astype(np.float32) / BRIGHTEST,
        "labels": load["labels"].astype(np.int64),
        "is_test": place < count // TEST_SHARE,
    }


def features(preprocess: Mapping[str, np.ndarray], threshold: int) -> dict[str, np.ndarray]:
    """Return per image its pixels, the sums of its rows and columns, and which pixels are dark: x (n, 144)."""
    images = preprocess["images"]
    dark = (images * BRIGHTEST >= threshold).astype(np.float32)
    parts = [images.reshape(len(images), -1), images.mean(axis=2), images.mean(axis=1), dark.reshape(len(images), -1)]
    x = np.concatenate(parts, axis=1)
    return {"x": x - x.mean(axis=0), "y": preprocess["labels"], "is_test": preprocess["is_test"]}


def train(
    features: Mapping[str, np.ndarray], hidden: int, lr: float, epochs: int, batch_size: int, outputs: Path
) -> dict[str, Any]:
    """Train a network with one hidden layer, log every epoch, leave the weights in `model.pt`."""
    is_test = torch.from_numpy(features["is_test"])
    x, y = torch.from_numpy(features["x"]).float(), torch.from_numpy(features["y"])
    model = nn.Sequential(nn.Linear(x.shape[1], hidden), nn.ReLU(), nn.Linear(hidden, 10))
    optimizer = torch.optim.SGD(model.parameters(), lr=lr, momentum=0.9)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs)
    for epoch in range(1, epochs + 1):
        loss = _train_epoch(model, optimizer, x[~is_test], y[~is_test], batch_size)
        schedule.step()
        with torch.no_grad():
            accuracy = float((model(x[is_test]).argmax(dim=1) == y[is_test]).float().mean())
        _log_metrics(epoch, loss, accuracy)
    torch.save(model.state_dict(), outputs / "model.pt")
    return {"model": outputs / "model.pt"}


def _train_epoch(
    model: nn.Module, optimizer: torch.optim.Optimizer, x: torch.Tensor, y: torch.Tensor, batch_size: int
) -> float:
    """Show every image once, in random order, and return the mean loss."""
    total = 0.0
    for batch in torch.randperm(len(y)).split(batch_size):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(x[batch]), y[batch])
        loss.backward()
        optimizer.step()
        total += loss.item() * len(batch)
    return total / len(y)


def _log_metrics(step: int, loss: float, accuracy: float) -> None:
    """Print one epoch, and append it to the file in GITEXP_METRICS when there is one."""
    print(f"epoch {step:3d}  loss {loss:.4f}  accuracy {accuracy:.4f}", flush=True)
    path = os.environ.get("GITEXP_METRICS")
    if path:
        with Path(path).open("a", encoding="utf-8") as stream:
            stream.write(json.dumps({"step": step, "loss": loss, "accuracy": accuracy}) + "\n")


def main() -> None:
    """Run the stages one after the other in this process, recording nothing."""
    torch.manual_seed(42)
    ready = preprocess(load(), seed=42)
    with tempfile.TemporaryDirectory() as outputs:
        train(features(ready, threshold=8), 48, 0.1, 12, 32, Path(outputs))


if __name__ == "__main__":
    main()
