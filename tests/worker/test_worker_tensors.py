"""Tensor digests: equal for equal tensors, different for different ones, never executing anything."""

from __future__ import annotations

import argparse
import os
import pickle
import subprocess
import zipfile
from collections import OrderedDict, defaultdict
from pathlib import Path

import numpy as np
import pytest
import torch
from run_directory import WORKER, require_python

from nemo_gitexp.worker.tensors import read_tensors, tensor_digest

DTYPES = [
    torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64, torch.float16, torch.bfloat16,
    torch.float32, torch.float64, torch.complex64, torch.complex128, torch.float8_e4m3fn, torch.float8_e5m2,
    torch.uint16, torch.uint32, torch.uint64,
]  # fmt: skip


def saved(tmp_path: Path, value: object, name: str = "x.pt") -> Path:
    torch.save(value, tmp_path / name)
    return tmp_path / name


def raw(tensor: torch.Tensor) -> bytes:
    return tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def model() -> torch.nn.Module:
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.BatchNorm1d(8), torch.nn.Linear(8, 2, bias=False))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_every_type_is_read_as_torch_reads_it(tmp_path, dtype):
    tensor = torch.arange(24).reshape(2, 3, 4).to(dtype)
    ((name, kind, shape, content),) = read_tensors(str(saved(tmp_path, {"a": tensor})))
    assert (name, f"torch.{kind}", shape) == ("a", str(dtype), (2, 3, 4))
    assert bytes(content) == raw(tensor)


VIEWS = {
    "transposed": lambda t: t.t(),
    "permuted": lambda t: t.reshape(2, 5, 6).permute(2, 0, 1),
    "strided": lambda t: t[::2, ::3],
    "column": lambda t: t[:, 3],
    "expanded": lambda t: t[:1].expand(7, 6),
    "offset": lambda t: t[4:],
    "scalar": lambda t: t[1, 2],
    "empty": lambda t: t[:0],
    "channels last": lambda t: t.reshape(1, 5, 2, 6).to(memory_format=torch.channels_last),
    "diagonal": lambda t: t.diagonal(),
    "unfolded": lambda t: t.reshape(-1).unfold(0, 4, 1),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.complex128, torch.int8], ids=str)
@pytest.mark.parametrize("view", VIEWS)
def test_a_view_has_the_digest_of_its_clone(tmp_path, view, dtype):
    tensor = VIEWS[view](torch.arange(60).reshape(10, 6).to(dtype))
    ((_, _, shape, content),) = read_tensors(str(saved(tmp_path, [tensor])))
    assert shape == tuple(tensor.shape)
    assert bytes(content) == raw(tensor)
    clone = tensor.clone(memory_format=torch.contiguous_format)
    assert tensor_digest(str(saved(tmp_path, [tensor], "a.pt"))) == tensor_digest(str(saved(tmp_path, [clone], "b.pt")))


def test_name_key_order_and_sharing_do_not_matter(tmp_path):
    state = model().state_dict()
    backwards = OrderedDict(reversed(list(state.items())))
    shared = torch.arange(6.0)
    digest = tensor_digest(str(saved(tmp_path, state, "run1.pt")))
    assert digest is not None
    assert digest.startswith("sha256:")
    assert (tmp_path / "run1.pt").read_bytes() != saved(tmp_path, state, "run2.pt").read_bytes()
    assert tensor_digest(str(tmp_path / "run2.pt")) == digest
    assert tensor_digest(str(saved(tmp_path, backwards, "c.pt"))) == digest
    assert tensor_digest(str(saved(tmp_path, dict(state), "d.pt"))) == digest
    parameters = {key: torch.nn.Parameter(value, requires_grad=False) for key, value in state.items()}
    assert tensor_digest(str(saved(tmp_path, parameters, "e.pt"))) == digest
    assert tensor_digest(str(saved(tmp_path, [shared[:3], shared[3:]], "f.pt"))) == tensor_digest(
        str(saved(tmp_path, [shared[:3].clone(), shared[3:].clone()], "g.pt"))
    )


def test_one_bit_one_name_one_type_one_shape_or_one_value_matters(tmp_path):
    variants = [
        {"a": torch.zeros(4)},
        {"a": -torch.zeros(4)},
        {"b": torch.zeros(4)},
        {"a": torch.zeros(4, dtype=torch.int32)},
        {"a": torch.zeros(2, 2)},
        {"a": torch.zeros(4), "epoch": 1},
        {"a": torch.zeros(4), "epoch": 1.0},
        {"a": torch.zeros(4), "epoch": True},
        {"a": torch.zeros(4), "epoch": None},
        {"a": torch.zeros(4), "epoch": "1"},
        {"a": torch.zeros(4), "epoch": []},
        {"a": torch.zeros(4), "epoch": {}},
    ]
    digests = [tensor_digest(str(saved(tmp_path, value))) for value in variants]
    assert None not in digests
    assert len(set(digests)) == len(variants)


def test_a_training_checkpoint_with_optimizer_and_plain_values_has_a_digest(tmp_path):
    net = model()
    optimizer = torch.optim.AdamW(net.parameters())
    net(torch.randn(5, 4)).sum().backward()
    optimizer.step()
    checkpoint = {
        "model": net.state_dict(), "optimizer": optimizer.state_dict(), "rng": torch.get_rng_state(),
        "epoch": 3, "names": {"b", "a"}, "size": torch.Size([1, 2]), "dtype": torch.bfloat16,
        "device": torch.device("cpu"), "blob": b"\x00\xff", "z": 1 + 2j, "d": defaultdict(list, x=[1]),
        "numpy": np.arange(6, dtype=">i4").reshape(2, 3), "fortran": np.asfortranarray(np.eye(3)[:, :2]),
        "scalar": np.float32(1.5), "text": np.array(["ab", "c"]), 7: (1, 2), ("a", 1): None,
    }  # fmt: skip
    first = tensor_digest(str(saved(tmp_path, checkpoint, "a.pt")))
    assert first is not None
    assert tensor_digest(str(saved(tmp_path, checkpoint, "b.pt"))) == first
    checkpoint["numpy"] = checkpoint["numpy"].astype("<i4")
    checkpoint["fortran"] = np.ascontiguousarray(checkpoint["fortran"])
    assert tensor_digest(str(saved(tmp_path, checkpoint, "c.pt"))) == first


def test_what_is_opaque_has_no_digest(tmp_path):
    tensor = torch.ones(2)
    recursive: dict = {"t": tensor}
    recursive["self"] = recursive
    for value in (
        model(), {"t": tensor, "args": argparse.Namespace(lr=1)}, {"t": tensor.to_sparse()}, {"plain": 1}, recursive,
        {"t": torch.view_as_complex(torch.ones(2, 2)).conj()}, {"t": tensor, "array": np.array([{}], dtype=object)},
    ):  # fmt: skip
        assert tensor_digest(str(saved(tmp_path, value))) is None


class Attack:
    def __reduce__(self):
        return os.unlink, (os.environ["ATTACK_MARK"],)


def test_a_hostile_pickle_runs_nothing(tmp_path, monkeypatch):
    mark = tmp_path / "precious"
    mark.touch()
    monkeypatch.setenv("ATTACK_MARK", str(mark))
    assert tensor_digest(str(saved(tmp_path, {"t": torch.ones(1), "x": Attack()}))) is None
    with zipfile.ZipFile(tmp_path / "bomb.pt", "w") as archive:
        archive.writestr("bomb/data.pkl", bomb())
    assert tensor_digest(str(tmp_path / "bomb.pt")) is None
    assert mark.exists()


def bomb() -> bytes:
    value: list = []
    for _ in range(60):
        value = [value, value]
    return pickle.dumps(value, 2)


def test_a_damaged_file_has_no_digest(tmp_path):
    whole = saved(tmp_path, {"a": torch.arange(1000.0)}).read_bytes()
    cut = tmp_path / "cut.pt"
    for size in range(0, len(whole), 97):
        cut.write_bytes(whole[:size])
        assert tensor_digest(str(cut)) is None
    torch.save({"a": torch.ones(3)}, cut, _use_new_zipfile_serialization=False)
    assert tensor_digest(str(cut)) is None


@pytest.mark.parametrize("code", ["<f4", ">f8", "|b1", "<i8", ">u2", "<c16", ">c8", "<U3", "|S4", "<M8[ns]", "<f2"])
def test_npy_and_npz_are_read_in_any_order_and_layout(tmp_path, code):
    array = np.arange(24).reshape(2, 3, 4).astype(code)
    np.save(tmp_path / "a.npy", array)
    np.save(tmp_path / "native.npy", array.astype(array.dtype.newbyteorder("<")))
    digest = tensor_digest(str(tmp_path / "a.npy"))
    assert digest is not None
    assert tensor_digest(str(tmp_path / "native.npy")) == digest
    np.savez(tmp_path / "s.npz", x=array, y=array[0])
    np.savez_compressed(tmp_path / "c.npz", y=array[0], x=array)
    assert tensor_digest(str(tmp_path / "s.npz")) == tensor_digest(str(tmp_path / "c.npz")) is not None
    if array.dtype.itemsize in (1, 2, 4, 8, 16):
        np.save(tmp_path / "f.npy", np.asfortranarray(array))
        assert tensor_digest(str(tmp_path / "f.npy")) == digest


def test_an_array_of_objects_has_no_digest(tmp_path):
    np.save(tmp_path / "o.npy", np.array([{}, 1], dtype=object))
    np.save(tmp_path / "r.npy", np.zeros(2, dtype=[("a", "f4")]))
    assert tensor_digest(str(tmp_path / "o.npy")) is None
    assert tensor_digest(str(tmp_path / "r.npy")) is None


def test_equal_tensors_in_torch_numpy_and_safetensors_have_one_digest(tmp_path):
    weight = torch.arange(6.0).reshape(2, 3)
    torch_digest = tensor_digest(str(saved(tmp_path, {"w": weight})))
    np.savez(tmp_path / "w.npz", w=weight.numpy())
    header = b'{"__metadata__":{"format":"pt"},"w":{"dtype":"F32","shape":[2,3],"data_offsets":[0,24]}}'
    (tmp_path / "w.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + weight.numpy().tobytes())
    assert tensor_digest(str(tmp_path / "w.npz")) == torch_digest
    assert tensor_digest(str(tmp_path / "w.safetensors")) == torch_digest
    (tmp_path / "short.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + b"1234")
    assert tensor_digest(str(tmp_path / "short.safetensors")) is None


@pytest.mark.parametrize("version", ["3.8", "3.13"])
def test_every_python_gives_the_same_digest(tmp_path, version):
    path = saved(tmp_path, {"model": model().state_dict(), "t": torch.ones(3, 4).t(), "lr": 0.1, "n": np.eye(2)})
    program = f"import sys; sys.path.insert(0, {str(WORKER.parent)!r}); from worker.tensors import tensor_digest; print(tensor_digest({str(path)!r}))"  # noqa: E501
    done = subprocess.run([require_python(version), "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == tensor_digest(str(path))
