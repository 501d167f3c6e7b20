"""What is refused before NeMo Run hears of it: paths that it would put unquoted before a shell."""

from __future__ import annotations

import pytest

nemo_run = pytest.importorskip("nemo_run")

from nemo_gitexp.errors import LaunchError  # noqa: E402
from nemo_gitexp.launchers.submit import submit_run  # noqa: E402
from nemo_gitexp.rundir import RunPaths  # noqa: E402


@pytest.mark.parametrize("name", ["with space", "x;touch injected;y", "$(touch injected)", "it's", "a&b", "a\nb", "*"])
def test_a_run_root_that_a_shell_reads_differently_is_refused_with_the_setting(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    root = tmp_path / name / "runs" / "r"
    root.mkdir(parents=True)
    with pytest.raises(LaunchError, match="unquoted") as raised:
        submit_run(nemo_run, RunPaths(root), "cluster", {"type": "slurm", "account": "me"})
    assert "gitexp.run-root" in (raised.value.hint or "")
    assert not list(tmp_path.rglob("injected"))
