"""Writes with tensorboard, wandb and mlflow themselves: `python tracker_writers.py DIR AGAIN`."""

from __future__ import annotations

import math
import os
import struct
import sys
import zlib
from collections.abc import Iterable
from pathlib import Path

NAME = "a run: with 'quotes' and \"double\" — ünicode, so long that a writer of YAML breaks it into two lines # really"


def framed(records: Iterable[bytes]) -> bytes:
    """Return a log of W&B's with these records, cut into the parts that its blocks ask for."""
    log = bytearray(b":W&B\xe1\xbe\0")
    for record in records:
        left, is_first = record, True
        while left or is_first:
            room = 32 * 1024 - len(log) % (32 * 1024)
            if room < 7:
                log += bytes(room)
                continue
            part, left = left[: room - 7], left[room - 7 :]
            kind = (2 if left else 1) if is_first else (3 if left else 4)
            log += struct.pack("<IHB", zlib.crc32(part, zlib.crc32(bytes([kind]))), len(part), kind) + part
            is_first = False
    return bytes(log)


def write_events(place: Path) -> None:
    """Every way that torch and tensorboard write a scalar, and much that is none."""
    import numpy as np
    from tensorboard.compat.proto import summary_pb2, tensor_pb2, tensor_shape_pb2, types_pb2
    from torch.utils.tensorboard import SummaryWriter

    writer = SummaryWriter(place / "events")
    for step in range(3):
        writer.add_scalar("loss/train", 1.0 / (step + 1), step)
        writer.add_scalar("tensor", 0.1 * step, step, new_style=True)
        writer.add_scalar("double", 0.1 * step, step, new_style=True, double_precision=True)
        writer.add_histogram("weights", np.arange(10.0), step)
        writer.add_text("notes", "a text", step)
    writer.add_scalar("odd", math.nan, 7)
    writer.add_scalar("odd", math.inf, 8)
    writer.add_scalar("negative", -1.5, -3)
    writer.add_image("image", np.zeros((3, 4, 4), dtype=np.uint8))
    metadata = summary_pb2.SummaryMetadata(plugin_data=summary_pb2.SummaryMetadata.PluginData(plugin_name="scalars"))
    kinds = [
        (types_pb2.DT_FLOAT, {"tensor_content": np.float32(2.5).tobytes()}),
        (types_pb2.DT_DOUBLE, {"tensor_content": np.float64(2.5).tobytes()}),
        (types_pb2.DT_HALF, {"half_val": [int(np.float16(2.5).view("uint16"))]}),
        (types_pb2.DT_BFLOAT16, {"half_val": [0x4020]}),
        (types_pb2.DT_INT32, {"int_val": [-2]}),
        (types_pb2.DT_INT64, {"int64_val": [-2]}),
        (types_pb2.DT_INT64, {"tensor_content": np.int64(-2).tobytes()}),
        (types_pb2.DT_UINT8, {"int_val": [2]}),
        (types_pb2.DT_FLOAT, {}),
        (types_pb2.DT_STRING, {"string_val": [b"no number"]}),
    ]
    for number, (kind, content) in enumerate(kinds):
        tensor = tensor_pb2.TensorProto(dtype=kind, tensor_shape=tensor_shape_pb2.TensorShapeProto(), **content)
        value = summary_pb2.Summary.Value(tag=f"kind/{number}", tensor=tensor, metadata=metadata)
        writer._get_file_writer().add_summary(summary_pb2.Summary(value=[value]), 1)
    writer.close()
    first = SummaryWriter(place / "resumed", filename_suffix=".1")
    for step in range(5):
        first.add_scalar("loss", float(step), step)
    first.close()
    second = SummaryWriter(place / "resumed", purge_step=3, filename_suffix=".2")
    second.add_scalar("loss", 30.0, 3)
    second.close()


def write_wandb(place: Path) -> None:
    """One offline run with everything that a history can hold."""
    import wandb

    run = wandb.init(
        dir=place,
        project="proj",
        name="my run",
        id="abc123xyz",
        mode="offline",
        tags=["x"],
        group="g",
        config={"lr": 0.1, "nested": {"a": [1, 2], "b": None}},
    )
    for step in range(3):
        media = wandb.Histogram([1, 2, 3])
        run.log(
            {
                "loss": 1.0 / (step + 1),
                "nan": math.nan,
                "inf": math.inf,
                "big": 2**60,
                "said": "text",
                "hist": media,
                "nested": {"x": step},
                "system/gpu": 1.0,
                "_mine": 2.0,
                "flag": True,
            }
        )
    run.log({"late": 3}, step=10)
    run.log({"long": "x" * 100_000, "after": 1}, step=11)  # a record longer than a block
    run.summary["best"] = 0.9
    run.config.update({"late": True})
    run.finish(exit_code=3)


def write_mlflow(place: Path) -> None:
    """One run in a file store."""
    import mlflow

    mlflow.set_tracking_uri((place / "mlruns").as_uri())
    mlflow.set_experiment("my exp")
    with mlflow.start_run(run_name=NAME):
        mlflow.log_params({"lr": 0.1, "group/x": "text\nmore"})
        for step in range(3):
            mlflow.log_metrics({"loss": 1.0 / (step + 1), "val/acc": step / 3, "nan": math.nan}, step=step)
            mlflow.log_metric("system/cpu", 50.0, step=step)
        mlflow.log_metric("final", 3)
        mlflow.log_metric("inf", math.inf, step=2)
        mlflow.set_tag("k", "v")


if __name__ == "__main__":
    os.environ.update(MLFLOW_ALLOW_FILE_STORE="true", WANDB_SILENT="true")
    where, again = Path(sys.argv[1]), Path(sys.argv[2])
    write_events(where)
    for place in (where, again):
        write_wandb(place)
        write_mlflow(place)
