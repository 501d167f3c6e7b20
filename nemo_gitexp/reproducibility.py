"""Seeds and determinism for any script, launched by nemo-gitexp or not: the guide's `ReproducibilityManager`.

In a job the launcher has done this before the first line ran; calling it again changes nothing but what is asked for.
What can only be set before an interpreter starts is set for the processes that this one starts.
"""

from __future__ import annotations

import copy
import logging
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, SupportsIndex

from nemo_gitexp.errors import ConflictingConfigError, DataError, NotARepositoryError, UsageError
from nemo_gitexp.jsontext import JsonValue, render_json
from nemo_gitexp.moments import iso_exact
from nemo_gitexp.naming import MAX_NAME, require_name
from nemo_gitexp.plainform import plain_value
from nemo_gitexp.rundir import save_document
from nemo_gitexp.seeds import agreed_seed, require_seed
from nemo_gitexp.topology import BITWISE_VARIABLES
from nemo_gitexp.versioning import config_hash, plain_config
from nemo_gitexp.worker.readback import settings_in_force
from nemo_gitexp.worker.seeding import NUMPY_MODULUS, AfterImport, process_seed, seed_numpy, seed_python, seed_torch

if TYPE_CHECKING:
    from types import ModuleType

    import torch

    from nemo_gitexp.git.repository import Repository

_LOGGER = logging.getLogger(__name__)
_WAITING: list[AfterImport] = []

SET_LATER: set[str] = set()
"""Variables that `set_seed` set in this process: this interpreter was started without them."""


@dataclass(frozen=True, slots=True)
class SeedReport:
    """What `set_seed` did: the seed asked for, the one of this process (its rank), what it cannot do any more."""

    seed: int
    process_seed: int
    remarks: tuple[str, ...]


class ReproducibilityManager:
    """The guide's manager: seeds, reproducible configurations, and what it takes to repeat an experiment."""

    @staticmethod
    def set_seed(seed: SupportsIndex, *, bitwise: bool = False) -> SeedReport:
        """Seed Python, numpy and torch with CUDA and cuDNN: what is imported now, and the rest when it is imported.

        Of several ranks (RANK, WORLD_SIZE) each gets a seed of its own, derived from this one; rank 0 keeps it.

        Side effects: PYTHONHASHSEED and CUBLAS_WORKSPACE_CONFIG are set for the processes that this one starts, unless
        they are set already; with `bitwise` also the variables that make NCCL, attention and BLAS deterministic.

        Args:
            seed: a whole number from 0.
            bitwise: torch refuses operations that have no deterministic form.

        Raises:
            UsageError: no whole number, or a negative one.
        """
        wanted = require_seed(seed)
        own = process_seed(wanted, os.environ)
        remarks = _too_late(bitwise=bitwise)
        for name, value in {
            "PYTHONHASHSEED": str(wanted % NUMPY_MODULUS),
            "CUBLAS_WORKSPACE_CONFIG": ":4096:8",
            **(BITWISE_VARIABLES if bitwise else {}),
        }.items():
            if name not in os.environ:
                os.environ[name] = value
                SET_LATER.add(name)
        _seed_modules(own, bitwise=bitwise)
        for remark in remarks:
            _LOGGER.warning("set_seed: %s", remark)
        return SeedReport(wanted, own, remarks)

    @staticmethod
    def worker_init_fn(worker_id: int) -> None:
        """Seed Python and numpy in a DataLoader worker, each worker and epoch differently: `worker_init_fn=` of torch.

        torch has given the worker a seed of its own, from the loader's generator.
        """
        del worker_id
        import random

        import torch

        seed = torch.initial_seed() % NUMPY_MODULUS
        seed_python(random, seed)
        numpy = sys.modules.get("numpy")
        if numpy is not None:
            seed_numpy(numpy.random, seed)

    @staticmethod
    def generator(seed: SupportsIndex) -> torch.Generator:
        """Return a torch generator for `DataLoader(generator=…)`: the order of the data depends on it alone.

        Raises:
            UsageError: no whole number, or a negative one.
        """
        import torch

        made = torch.Generator()
        made.manual_seed(process_seed(require_seed(seed), os.environ) % NUMPY_MODULUS)
        return made

    @staticmethod
    def create_reproducible_config(base_config: Mapping[str, object], seed: SupportsIndex) -> dict[str, object]:
        """Return a deep copy of the configuration with `seed` and `deterministic: True`.

        Raises:
            UsageError: no mapping, or no whole number from 0 to 2^63 - 1.
            ConflictingConfigError: it has another seed already, or says that it is not deterministic (`key`).
        """
        if not isinstance(base_config, Mapping):
            raise UsageError(
                f"a configuration is a mapping of keys to values, not {type(base_config).__name__}",
                hint="dataclasses.asdict(config), or dict(config)",
            )
        wanted = agreed_seed(require_seed(seed), base_config)
        there = base_config.get("deterministic")
        if there is not None and plain_value(there) is not True:
            raise ConflictingConfigError(
                f"the configuration says deterministic: {there!r}, and True is asked for",
                hint="leave deterministic out of the configuration",
                key="deterministic",
            )
        return {**copy.deepcopy(dict(base_config)), "seed": wanted, "deterministic": True}

    @staticmethod
    def save_reproducibility_info(
        experiment_name: str,
        seed: SupportsIndex,
        config: object,
        output_dir: str | os.PathLike[str] = "./experiments",
    ) -> Path:
        """Write `<experiment_name>_reproducibility.json` and return its path.

        Keys: experiment_name, seed, config, timestamp (ISO 8601, UTC), config_hash, code {commit, dirty} (None outside
        a repository), data {path: pin} of what DVC tracks here, environment (interpreter, packages), determinism (what
        is in force in this process).

        Side effects: the directory is made; an older file is replaced, by rename.

        Raises:
            UsageError, InvalidNameError, CanonicalFormError: seed, name or configuration cannot be recorded.
            StateDirectoryError: the file cannot be written.
        """
        require_name(experiment_name, "experiment", limit=MAX_NAME)
        plain = plain_config(config)
        document: dict[str, JsonValue] = {
            "experiment_name": experiment_name,
            "seed": require_seed(seed),
            "config": plain,
            "timestamp": iso_exact(datetime.now(UTC)),
            "config_hash": config_hash(plain),
            "environment": _environment(),
            "determinism": settings_in_force(sys.modules, os.environ.get("PYTHONHASHSEED")),
            **_code_and_data(),
        }
        return save_document(Path(output_dir) / f"{experiment_name}_reproducibility.json", render_json(document))


def apply_determinism(seed: int, determinism: str) -> None:
    """Seed this process as a profile of determinism has it: bitwise, seeded, or, if it is off, not at all."""
    if determinism != "off":
        ReproducibilityManager.set_seed(seed, bitwise=determinism == "bitwise")


def _too_late(*, bitwise: bool) -> tuple[str, ...]:
    """Return what this process is too old for: it was started without the variables, or has begun to use CUDA."""
    remarks = []
    if not os.environ.get("PYTHONHASHSEED", "").isdigit():
        remarks.append("the order of sets of text differs from run to run; start Python with PYTHONHASHSEED=0")
    torch = sys.modules.get("torch")
    cuda = getattr(torch, "cuda", None)
    if cuda is not None and cuda.is_initialized() and "CUBLAS_WORKSPACE_CONFIG" not in os.environ:
        remarks.append("CUDA is in use already; set CUBLAS_WORKSPACE_CONFIG=:4096:8 before the script starts")
    missing = [name for name in BITWISE_VARIABLES if name not in os.environ]
    if bitwise and torch is not None and missing:
        remarks.append(f"torch is imported already; set before the script starts: {', '.join(missing)}")
    return tuple(remarks)


def _seed_modules(seed: int, *, bitwise: bool) -> None:
    def python(module: ModuleType) -> None:
        seed_python(module, seed)

    def numpy(module: ModuleType) -> None:
        seed_numpy(module, seed)

    def torch(module: ModuleType) -> None:
        seed_torch(module, seed, bitwise=bitwise)

    for finder in _WAITING:  # of an earlier call: the last seed counts
        if finder in sys.meta_path:
            sys.meta_path.remove(finder)
    _WAITING.clear()
    later: dict[str, Callable[[ModuleType], None]] = {}
    for name, action in {"random": python, "numpy.random": numpy, "torch": torch}.items():
        module = sys.modules.get(name)
        if module is None:
            later[name] = action
        else:
            action(module)
    if later:
        _WAITING.append(AfterImport(later))
        sys.meta_path.insert(0, _WAITING[0])


def _environment() -> JsonValue:
    from nemo_gitexp.environment import capture_environment

    environment = capture_environment()
    return {**environment.to_json(), "key": environment.key}


def _code_and_data() -> dict[str, JsonValue]:
    from nemo_gitexp.thisrepository import find_repository

    try:
        repository = find_repository()
    except NotARepositoryError:
        return {"code": None, "data": {}}
    head = repository.head()
    dirty = bool(repository.run("status", "--porcelain", "-z"))
    return {"code": {"commit": head, "dirty": dirty}, "data": _pins(repository, head)}


def _pins(repository: Repository, head: str | None) -> dict[str, JsonValue]:
    """Return what DVC pins in the work tree, by path; a pointer that cannot be read pins nothing."""
    if head is None:
        return {}
    from nemo_gitexp.data.pins import list_pins
    from nemo_gitexp.git.changes import listed_paths
    from nemo_gitexp.git.objects import list_files

    def read(path: str) -> bytes | None:
        place = repository.root / path
        return place.read_bytes() if place.is_file() else None

    found: dict[str, JsonValue] = {}
    for source in listed_paths(list_files(repository, head), ".dvc", "dvc.lock"):
        try:
            found.update((pin.path, pin.pin) for pin in list_pins(source, read))
        except DataError as fault:
            _LOGGER.warning("%s: %s", source, fault.message)
    return found
