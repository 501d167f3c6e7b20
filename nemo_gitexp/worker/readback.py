"""Reads back, at the job's end, what was really in force: seeds, thread counts, determinism flags, loaded packages."""

from __future__ import annotations

import os
import sys

from .plainjson import write_plain

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import ModuleType
    from typing import Callable, Mapping, TypeVar

    from .redirect import RedirectRule
    from .seeding import Seeding
    from .shapes import JsonValue

    T = TypeVar("T")

ENVIRONMENT_ALLOWLIST = (
    "ATEN_CPU_CAPABILITY",
    "CUBLAS_WORKSPACE_CONFIG",
    "CUDA_LAUNCH_BLOCKING",
    "CUDA_VISIBLE_DEVICES",
    "FLASH_ATTENTION_DETERMINISTIC",
    "LOCAL_RANK",
    "MKL_CBWR",
    "MKL_DYNAMIC",
    "MKL_NUM_THREADS",
    "NCCL_ALGO",
    "NCCL_PROTO",
    "NUMEXPR_NUM_THREADS",
    "NVTE_ALLOW_NONDETERMINISTIC_ALGO",
    "NVTE_FLASH_ATTN",
    "NVTE_FUSED_ATTN",
    "NVIDIA_TF32_OVERRIDE",
    "OMP_DYNAMIC",
    "OMP_NUM_THREADS",
    "ONEDNN_MAX_CPU_ISA",
    "OPENBLAS_NUM_THREADS",
    "PYTHONHASHSEED",
    "RANK",
    "VECLIB_MAXIMUM_THREADS",
    "WORLD_SIZE",
)
"""Variables that move numbers. Everything else in an environment may be a secret and is never written."""

MOST_SMUGGLED = 20


class JobReport:
    """Writes job.json, at the end of the entry point and again at exit if more was imported meanwhile.

    Args:
        path: where job.json goes.
        seeding: what was seeded.
        rule: which module files belong to the user's live tree.
        hash_seed: the PYTHONHASHSEED that this interpreter was started with; set later it changes nothing.
    """

    def __init__(self, path: str, seeding: Seeding, rule: RedirectRule, hash_seed: str | None = None) -> None:
        self._path = path
        self._hash_seed = hash_seed
        self._seeding = seeding
        self._rule = rule
        self._process = os.getpid()
        self._modules_seen = -1

    def write(self) -> None:
        """Write the report; in a forked child, or when it is up to date, do nothing; failing never hurts the job."""
        if os.getpid() != self._process or self._modules_seen == len(sys.modules):
            return
        try:
            write_plain(self._path, self._document())
            self._modules_seen = len(sys.modules)
        except Exception as fault:  # noqa: BLE001 - foreign libraries, full disks: the job's own end must stand
            sys.stderr.write(f"gitexp: the job's settings could not be read back: {fault!r}\n")

    def _document(self) -> dict[str, JsonValue]:
        modules = dict(sys.modules)
        return {
            "seeds": self._seeding.seeds,
            "self_seeded": {name: list(values) for name, values in self._seeding.self_seeded.items()},
            "seeding_faults": self._seeding.faults,
            **settings_in_force(modules, self._hash_seed),
            "loaded_packages": _asked(_loaded_packages, modules),
            "smuggled": self._smuggled(modules),
        }

    def _smuggled(self, modules: dict[str, ModuleType]) -> list[JsonValue]:
        found: list[JsonValue] = []
        directories: dict[str, bool] = {}
        for name, module in sorted(modules.items()):
            file = getattr(module, "__file__", None)
            if not isinstance(file, str) or len(found) == MOST_SMUGGLED:
                continue
            directory = os.path.dirname(file)
            if directory not in directories:
                directories[directory] = any(map(self._rule.is_live, _both(directory)))
            if directories[directory]:
                found.append({"module": name, "file": os.path.abspath(file)})
        return found


def settings_in_force(modules: Mapping[str, ModuleType], hash_seed: str | None) -> dict[str, JsonValue]:
    """Return what moves numbers in this process: Python, variables, and numpy and torch where they are imported."""
    return {
        "python": sys.version.split()[0],
        "hash_seed": None if sys.flags.ignore_environment else hash_seed,
        "env": {name: os.environ[name] for name in ENVIRONMENT_ALLOWLIST if name in os.environ},
        "numpy": _asked(_numpy_settings, modules.get("numpy")),
        "torch": _asked(_torch_settings, modules.get("torch")),
    }


def _both(directory: str) -> set[str]:
    return {os.path.abspath(directory), os.path.realpath(directory)}


def _asked(section: Callable[[T], JsonValue], subject: T) -> JsonValue:
    """Return what the section answers; where a foreign library fails, only its own section is lost, and says why."""
    try:
        return section(subject)
    except Exception as fault:  # noqa: BLE001 - any version of any library
        return {"fault": repr(fault)[:300]}


def _numpy_settings(numpy: ModuleType | None) -> JsonValue:
    version = getattr(numpy, "__version__", None)
    return {"version": str(version)} if version else None


def _torch_settings(torch: ModuleType | None) -> JsonValue:
    if not hasattr(torch, "manual_seed"):
        return None  # not imported, or its import failed half way
    assert torch is not None  # noqa: S101 - for the type checker
    cudnn = torch.backends.cudnn
    return {
        "version": str(torch.__version__),
        "num_threads": torch.get_num_threads(),
        "num_interop_threads": torch.get_num_interop_threads(),
        "deterministic_algorithms": torch.are_deterministic_algorithms_enabled(),
        "initial_seed": torch.initial_seed(),
        "matmul_precision": torch.get_float32_matmul_precision(),
        "default_dtype": str(torch.get_default_dtype()),
        "cudnn": {"enabled": cudnn.enabled, "benchmark": cudnn.benchmark, "deterministic": cudnn.deterministic},
        "cuda": _cuda_settings(torch) if torch.cuda.is_initialized() else None,
    }


def _cuda_settings(torch: ModuleType) -> JsonValue:
    cuda = torch.cuda
    return {
        "version": torch.version.cuda,
        "cudnn_version": torch.backends.cudnn.version(),
        "devices": [cuda.get_device_name(index) for index in range(cuda.device_count())],
        "capability": [list(cuda.get_device_capability(index)) for index in range(cuda.device_count())],
        "matmul_tf32": torch.backends.cuda.matmul.allow_tf32,
        "cudnn_tf32": torch.backends.cudnn.allow_tf32,
    }


def _loaded_packages(modules: dict[str, ModuleType]) -> JsonValue:
    from .environment import loaded_packages

    files = {name: getattr(module, "__file__", None) for name, module in modules.items()}
    return dict(loaded_packages(files, sys.path))
