"""Seeds the job: Python, numpy and torch, each at the moment the job imports it, and notes when the job seeds itself.

Nothing is imported for the job's sake. Without numpy or torch in the job, nothing of them is loaded.
"""

from __future__ import annotations

import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from importlib.machinery import ModuleSpec
    from types import ModuleType
    from typing import Callable, Mapping, Sequence

    from .shapes import JsonValue

MOST_NOTES = 20
NUMPY_MODULUS = 2**32
TORCH_MODULUS = 2**64
RANK_NAMES = (("WORLD_SIZE", "RANK"), ("SLURM_NTASKS", "SLURM_PROCID"))
RANK_STRIDE = 2654435761
"""Knuth's multiplicative constant: neighbouring ranks get seeds far apart, each computable from seed and rank."""


def rank_seed(seed: int, world_size: int, rank: int) -> int:
    """Return the seed of one global rank: rank 0 and single processes keep the seed itself."""
    if world_size <= 1 or rank <= 0:
        return seed
    return (seed + rank * RANK_STRIDE) % NUMPY_MODULUS


def process_seed(seed: int, env: Mapping[str, str], *, is_alone: bool = False) -> int:
    """Return the seed of this process: of its rank, where torchrun, else Slurm, says which of how many it is.

    Args:
        seed: of the run.
        env: the environment.
        is_alone: the run has one process: what Slurm says is of a job around it.
    """
    for size_name, rank_name in RANK_NAMES[: 1 if is_alone else None]:
        world_size, rank = env.get(size_name, ""), env.get(rank_name, "")
        if world_size.isdigit() and rank.isdigit():
            return rank_seed(seed, int(world_size), int(rank))
    return seed


def seed_python(module: ModuleType, seed: int) -> int:
    """Seed the module `random`; return the value that it took."""
    module.seed(seed)
    return seed


def seed_numpy(module: ModuleType, seed: int) -> int:
    """Seed the module `numpy.random`; return the value that it took."""
    module.seed(seed % NUMPY_MODULUS)
    return seed % NUMPY_MODULUS


def seed_torch(module: ModuleType, seed: int, *, bitwise: bool) -> int:
    """Seed torch with all of its devices and make cuDNN deterministic; return the value that it took.

    Args:
        module: torch.
        seed: any whole number.
        bitwise: also refuse operations that have no deterministic form.
    """
    in_range = -(2**63) <= seed < TORCH_MODULUS
    value = seed if in_range else seed % TORCH_MODULUS
    module.manual_seed(value)  # also every CUDA device, at once or when CUDA starts
    module.backends.cudnn.benchmark = False
    module.backends.cudnn.deterministic = True
    if bitwise:
        module.use_deterministic_algorithms(True)
    return value


class Seeding:
    """What was seeded with which value, and how the job seeded itself.

    Args:
        seed: the seed of this process.
        determinism: off (only note), seeded, or bitwise (also torch's deterministic algorithms).
    """

    def __init__(self, seed: int, determinism: str) -> None:
        self.seed = seed
        self.determinism = determinism
        self.seeds: dict[str, JsonValue] = {"python": None, "numpy": None, "torch": None}
        self.self_seeded: dict[str, list[JsonValue]] = {}
        self.faults: list[JsonValue] = []

    def install(self) -> None:
        """Seed what is imported already, and the rest when it comes."""
        actions = {"random": self._seed_python, "numpy.random": self._seed_numpy, "torch": self._seed_torch}
        waiting = {}
        for name, action in actions.items():
            module = sys.modules.get(name)
            if module is None:
                waiting[name] = self._guarded(action)
            else:
                self._guarded(action)(module)
        sys.meta_path.insert(0, AfterImport(waiting))

    def _guarded(self, action: Callable[[ModuleType], None]) -> Callable[[ModuleType], None]:
        def act(module: ModuleType) -> None:
            try:
                action(module)
            except Exception as fault:  # noqa: BLE001 - a library we cannot seed must still be importable
                self.faults.append(f"{module.__name__}: {type(fault).__name__}: {fault}"[:300])

        return act

    def _seed_python(self, module: ModuleType) -> None:
        if not hasattr(module, "SystemRandom"):
            return  # a module of the user's own that is called random
        if self.determinism != "off":
            self.seeds["python"] = seed_python(module, self.seed)
        self._listen(module, "seed", "python")

    def _seed_numpy(self, module: ModuleType) -> None:
        if self.determinism != "off":
            self.seeds["numpy"] = seed_numpy(module, self.seed)
        self._listen(module, "seed", "numpy")

    def _seed_torch(self, module: ModuleType) -> None:
        if self.determinism != "off":
            self.seeds["torch"] = seed_torch(module, self.seed, bitwise=self.determinism == "bitwise")
        wrapper = self._listen(module, "manual_seed", "torch")
        module.random.manual_seed = wrapper
        module.jit._builtins._register_builtin(wrapper, "aten::manual_seed")  # noqa: SLF001 - as torch._dynamo does

    def _listen(self, module: ModuleType, attribute: str, name: str) -> Callable[..., object]:
        """Replace the seeding function by one that notes its argument first."""
        original = getattr(module, attribute)
        process = os.getpid()

        def listening(*args: object, **kwargs: object) -> object:
            if os.getpid() == process:
                self._note(name, args, kwargs)
            return original(*args, **kwargs)

        listening.__name__ = listening.__qualname__ = attribute  # pickles by reference
        listening.__module__ = module.__name__
        listening.__doc__ = original.__doc__
        listening.__wrapped__ = original  # type: ignore[attr-defined]
        setattr(module, attribute, listening)
        return listening

    def _note(self, name: str, args: tuple[object, ...], kwargs: dict[str, object]) -> None:
        notes = self.self_seeded.setdefault(name, [])
        if len(notes) < MOST_NOTES:
            value = (*args, *kwargs.values(), None)[0]
            plain = value is None or type(value) in (int, float, str)
            notes.append(value if plain else repr(value)[:100])  # type: ignore[arg-type]


class AfterImport:
    """A finder that lets the other finders find, and calls one action when its module has been executed.

    It leaves `sys.meta_path` with its last action. The loader that the others found stays: only its `exec_module` is
    covered, on that one instance, for that one call.

    Args:
        actions: what to call with the module, by its full name.
    """

    def __init__(self, actions: dict[str, Callable[[ModuleType], None]]) -> None:
        self.actions = actions
        self._searching: set[str] = set()

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Return what the other finders find, with the action attached; None for any other module."""
        if name not in self.actions or name in self._searching:
            return None
        self._searching.add(name)
        try:
            spec = self._find_elsewhere(name, path, target)
        finally:
            self._searching.discard(name)
        loader = getattr(spec, "loader", None)
        if hasattr(loader, "exec_module"):
            self._cover(name, loader)
        return spec

    def _find_elsewhere(self, name: str, path: Sequence[str] | None, target: ModuleType | None) -> ModuleSpec | None:
        for finder in list(sys.meta_path):
            find = None if finder is self else getattr(finder, "find_spec", None)
            spec: ModuleSpec | None = find(name, path, target) if find else None
            if spec is not None:
                return spec
        return None

    def _cover(self, name: str, loader: object) -> None:
        execute = loader.exec_module  # type: ignore[attr-defined]

        def exec_module(module: ModuleType) -> None:
            loader.__dict__.pop("exec_module", None)
            execute(module)
            self._act(name, module)

        try:
            loader.exec_module = exec_module  # type: ignore[attr-defined]
        except AttributeError:
            return  # a loader without attributes of its own: this module stays unseeded, and the report says so

    def _act(self, name: str, module: ModuleType) -> None:
        action = self.actions.pop(name, None)
        if not self.actions and self in sys.meta_path:
            sys.meta_path.remove(self)
        if action:
            action(module)
