"""A job sees what `python script.py`, `-m` and `-c` would show it: compared with the real thing, for every Python."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from run_directory import VERSIONS, Run, new_run, require_python, script

PROBE = """
import sys, pickle
main = sys.modules["__main__"]
names = {k: (v if isinstance(v, (str, type(None), dict)) else type(v).__name__) for k, v in sorted(vars(main).items())
         if k.startswith("__") and k not in ("__builtins__", "__loader__")}
print(names)
print(type(__builtins__).__name__, getattr(main.__loader__, "name", main.__loader__), __name__)
print(sys.argv, sys.path)
print(getattr(sys, "orig_argv", [])[1:])
class Thing: pass
print(type(pickle.loads(pickle.dumps(Thing()))) is Thing, Thing.__module__, globals() is vars(main))
"""


def plain(run: Run, *args: str, flags: tuple[str, ...] = ()) -> tuple[int, str]:
    env = {**os.environ, "PYTHONHASHSEED": "0", "PYTHONUNBUFFERED": "1"}
    done = subprocess.run(
        [str(run.plan["interpreter"]), *flags, *args], cwd=str(run.plan["cwd"]), env=env,
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False,
    )  # fmt: skip
    return done.returncode, done.stdout.decode()


def ours(run: Run, entry: dict[str, object], flags: tuple[str, ...] = ()) -> tuple[int, str]:
    result = run.go(entry, interpreter_flags=list(flags))
    code = result["exit_code"] if result["exit_code"] is not None else -result["signal"]
    return code, run.log


@pytest.mark.parametrize("path", ["train.py", "./train.py", "sub/../train.py", "sub dir/tráin.py", "link.py", "ABS"])
def test_a_script_sees_what_python_shows_it(any_run: Run, path):
    any_run.put("train.py", PROBE)
    any_run.put("sub dir/tráin.py", PROBE)
    any_run.put("sub/elsewhere.py", PROBE)
    (any_run.workspace / "link.py").symlink_to("sub/elsewhere.py")
    path = str(any_run.workspace / "train.py") if path == "ABS" else path
    assert ours(any_run, script(path, "--lr", "0.1", "")) == plain(any_run, path, "--lr", "0.1", "")


FLAGS = "import sys; print(sys.path, sys.flags)"


@pytest.mark.parametrize("flags", [("-I",), ("-O", "-u"), ("-X", "dev"), ("-E", "-s"), ("-P",), ("-W", "error")])
@pytest.mark.parametrize("kind", ["script", "module", "code"])
def test_interpreter_flags_mean_the_same(run: Run, flags, kind):
    run.put("train.py", PROBE + "print(sys.flags)")
    entries = {
        "script": (script("train.py"), ["train.py"]),
        "module": ({"kind": "module", "module": "train", "args": []}, ["-m", "train"]),
        "code": ({"kind": "code", "code": FLAGS, "args": []}, ["-c", FLAGS]),
    }
    entry, args = entries[kind]
    assert ours(run, entry, flags) == plain(run, *args, flags=flags)


def test_a_module_a_package_and_a_missing_one(any_run: Run, tmp_path):
    any_run.put("pkg/__init__.py", "")
    any_run.put("pkg/train.py", PROBE)
    any_run.put("pkg/__main__.py", PROBE)
    for number, name in enumerate(["pkg.train", "pkg", "pkg.missing", "missing"]):
        run = again(any_run, tmp_path / str(number))
        assert ours(run, {"kind": "module", "module": name, "args": ["-x", "1"]}) == plain(run, "-m", name, "-x", "1")


def again(run: Run, root: Path) -> Run:
    """A new run directory over the same workspace."""
    fresh = new_run(root)
    fresh.plan["interpreter"] = run.plan["interpreter"]
    fresh.workspace.rmdir()
    fresh.workspace.symlink_to(run.workspace)
    fresh.plan["workspace"] = fresh.plan["cwd"] = str(run.workspace)
    fresh.plan["allow_extra"] = ["."]
    subprocess.run(["find", str(run.workspace), "-name", "__pycache__", "-exec", "rm", "-r", "{}", "+"], check=True)
    return fresh


def test_code_directories_and_zip_files(any_run: Run, tmp_path):
    any_run.put("app/__main__.py", PROBE)
    with zipfile.ZipFile(any_run.workspace / "app.zip", "w") as archive:
        archive.writestr("__main__.py", PROBE)
    for number, path in enumerate(["app", "app.zip", "nothing.py"]):
        run = again(any_run, tmp_path / str(number))
        assert ours(run, script(path, "a")) == plain(run, path, "a")
    run = again(any_run, tmp_path / "code")
    assert ours(run, {"kind": "code", "code": PROBE, "args": ["a"]}) == plain(run, "-c", PROBE, "a")


ENDINGS = {
    "exit code": "import sys; sys.exit(7)",
    "exit text": "import sys; sys.exit('no data')",
    "exit none": "raise SystemExit",
    "exit big": "import sys; sys.exit(300)",
    "os exit": "import os; print('a', flush=True); os._exit(5)",
    "error": "def f():\n    raise ValueError('bad lr')\nf()",
    "chained": "try:\n    1/0\nexcept ZeroDivisionError as e:\n    raise KeyError('x') from e",
    "syntax": "def f(:\n",
    "import error": "import nothing_here",
    "error in module": "import broken",
    "interrupt": "raise KeyboardInterrupt",
    "hook": "import sys\nsys.excepthook = lambda *a: print('hook', a[0].__name__, a[2].tb_lineno, a[2].tb_next)\n1/0",
    "atexit": "import atexit\natexit.register(print, 'bye')\nprint('x', end='')\n1/0",
    "thread": "import threading as t, time\nt.Thread(target=lambda: (time.sleep(.2), print(2))).start()\nprint(1)",
    "thread error": "import threading\nt = threading.Thread(target=lambda: 1/0, name='t'); t.start(); t.join()",
    "kill": "import os, signal; os.kill(os.getpid(), signal.SIGKILL)",
    "recursion": "import sys\ndef f(): f()\ntry: f()\nexcept RecursionError: print('deep')",
    "unflushed": "import sys; sys.stdout.write('no newline'); sys.stderr.write('err')",
    "cookie": "# -*- coding: latin-1 -*-\nprint(ascii('\xe9'))",
}


@pytest.mark.parametrize("version", ["3.8", "3.11", "3.13"])
@pytest.mark.parametrize("ending", ENDINGS)
def test_it_ends_as_python_ends(run: Run, ending, version):
    run.plan["interpreter"] = require_python(version)
    run.put("train.py", ENDINGS[ending].encode("latin-1"))
    run.put("broken.py", "import json\nx = json.nothing\n")
    expected, said = plain(run, "train.py")
    subprocess.run(["rm", "-rf", str(run.workspace / "__pycache__")], check=True)
    code, log = ours(run, script("train.py"))
    assert log.replace(hex_ids(log), "") == said.replace(hex_ids(said), "")
    assert code == expected


def hex_ids(text: str) -> str:
    return text.partition("0x")[2].partition(">")[0] or "\0"


SHADOWS = "settings git worker start job node manifest seeding environment documents random json traceback queue typing"
SHADOWS = SHADOWS.split()


@pytest.mark.parametrize("version", ["3.8", "3.13"])
@pytest.mark.parametrize("failing", [False, True])
def test_modules_of_the_users_own_win_over_ours_and_over_the_standard_library(run: Run, version, failing):
    run.plan["interpreter"] = require_python(version)
    for name in SHADOWS:
        run.put(f"{name}.py", f"mine = {name!r}\n")
    code = f"names = {SHADOWS!r}\nassert all(__import__(n).mine == n for n in names)\n"
    run.put("train.py", code + "1/0" * failing)
    result = run.go(script("train.py"))
    assert result["status"] == ("failed" if failing else "completed"), run.log
    assert run.json("job.json")["python"].startswith(version)


SPAWN = """
import multiprocessing as mp, sys, os
class Task:
    def __init__(self, n): self.n = n
def work(task):
    return task.n * 2, __name__
if __name__ == "__main__":
    for method in ("fork", "spawn", "forkserver"):
        with mp.get_context(method).Pool(2) as pool:
            print(method, pool.map(work, [Task(1), Task(2)]))
    from concurrent.futures import ProcessPoolExecutor
    with ProcessPoolExecutor(1, mp_context=mp.get_context("spawn")) as pool:
        print(pool.submit(work, Task(4)).result())
"""


@pytest.mark.parametrize("entry", ["script", "module"])
def test_multiprocessing_works_in_every_start_method(any_run: Run, entry):
    any_run.put("sub/train.py", SPAWN)
    entries = {"script": script("sub/train.py"), "module": {"kind": "module", "module": "sub.train", "args": []}}
    result = any_run.go(entries[entry])
    assert result["status"] == "completed", any_run.log
    name = "__mp_main__"
    assert any_run.log.splitlines() == [
        "fork [(2, '__main__'), (4, '__main__')]",
        f"spawn [(2, '{name}'), (4, '{name}')]",
        f"forkserver [(2, '{name}'), (4, '{name}')]",
        f"(8, '{name}')",
    ]


FUNCTIONS = """
import numpy_like
def by_config(config): return {"lr": config["lr"], "ok": True, "note": "x"}
def single(cfg): return {"lr": cfg["lr"]}
def by_keys(lr, epochs=3, **rest):
    return {"lr": lr, "epochs": epochs, "nan": float("nan"), "array": numpy_like.Scalar()}
class Trainer:
    @staticmethod
    def fit(config): return {"loss": 1}
def nothing(config): return None
def broken(config): raise ValueError("no such optimizer")
"""


@pytest.mark.parametrize(
    "target,metrics",
    [
        ("by_config", {"lr": 0.1}),
        ("single", {"lr": 0.1}),
        ("by_keys", {"lr": 0.1, "epochs": 2, "nan": "NaN", "array": 2.5}),
        ("Trainer.fit", {"loss": 1}),
        ("nothing", None),
        ("broken", None),
    ],
)
def test_a_function_is_called_with_the_config_and_its_numbers_are_metrics(run: Run, target, metrics):
    run.put("numpy_like.py", "class Scalar:\n    shape = ()\n    def item(self): return 2.5\n")
    run.put("pkg/train.py", FUNCTIONS)
    (run.dir / "config.json").write_text('{"lr": 0.1, "epochs": 2}')
    result = run.go({"kind": "function", "target": f"pkg.train:{target}"})
    assert result["function_metrics"] == metrics
    assert result["status"] == ("failed" if target == "broken" else "completed"), run.log
    if target == "broken":
        assert result["error"]["type"] == "ValueError"
        assert "node" not in run.log


@pytest.mark.parametrize("version", VERSIONS)
def test_nothing_is_imported_before_the_script_that_python_would_not_import(run: Run, version):
    run.plan["interpreter"] = require_python(version)
    run.put("train.py", "import sys; print(sorted(sys.modules))")
    _, said = plain(run, "train.py")
    run.go(script("train.py"))
    more = set(eval(run.log)) - set(eval(said))
    others = {name for name in more if not name.startswith("_gitexp_worker")}
    assert others <= {"marshal", "atexit", "zlib", "__future__"}


def test_standard_output_goes_to_the_log_while_the_job_runs(run: Run):
    run.put("train.py", "import time\nprint('one')\nimport sys; print('two', file=sys.stderr)\ntime.sleep(30)")
    process = run.start(script("train.py"))
    try:
        wait_for(lambda: (run.dir / "log.txt").exists() and run.log == "one\ntwo\n")
    finally:
        process.terminate()
        process.wait(20)


def wait_for(condition, seconds: float = 15) -> None:
    import time

    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


assert sys.version_info >= (3, 11)
