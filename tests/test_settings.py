"""Every setting has one value and says where it came from; what is no setting is refused."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nemo_gitexp.errors import SettingsError, UnknownExecutorError
from nemo_gitexp.settings import SITE_FILE, Settings, read_settings, require_executor, require_profile


@pytest.fixture
def root(tmp_path) -> Path:
    return tmp_path


def project(root: Path, text: str) -> None:
    (root / "pyproject.toml").write_text(text)


def test_without_anything_the_defaults_hold(root):
    settings = read_settings(root, {}, {})
    assert settings == Settings()
    assert settings.executors == {"local": {"type": "local"}}
    assert (settings.max_untracked_file_mb, settings.max_untracked_total_mb) == (10, 50)
    assert settings.source("threads") == "built in"


def test_later_sources_win_and_are_named(root):
    project(root, '[tool.nemo-gitexp]\nrun-root = "runs"\nthreads = 1\npython = "a"\nmax_untracked_file_mb = 1\n')
    (root / SITE_FILE).write_text('python = "c"\nmax_untracked_file_mb = 3.5\n')
    git = {"gitexp.threads": "2", "gitexp.python": "b", "gitexp.maxuntrackedfilemb": "2", "user.name": "x"}
    settings = read_settings(root, git, {"NEMO_GITEXP_MAX_UNTRACKED_FILE_MB": "4", "HOME": "/"})
    assert settings.run_root == root / "runs"
    assert (settings.threads, settings.python, settings.max_untracked_file_mb) == (2, "c", 4.0)
    assert settings.sources == {
        "run_root": "pyproject.toml",
        "threads": "git config gitexp.threads",
        "python": SITE_FILE,
        "max_untracked_file_mb": "NEMO_GITEXP_MAX_UNTRACKED_FILE_MB",
    }


@pytest.mark.parametrize("name", ["gitexp.runroot", "gitexp.run-root", "gitexp.runRoot"])
def test_git_spells_names_without_underscores(root, name):
    assert read_settings(root, {name: "/runs"}, {}).run_root == Path("/runs")


def test_home_is_expanded_in_paths(root, monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    assert read_settings(root, {}, {"NEMO_GITEXP_RUN_ROOT": "~/runs"}).run_root == Path("/home/me/runs")


def test_executors_are_merged_by_name(root):
    project(
        root,
        '[tool.nemo-gitexp.executors.a100]\ntype = "slurm"\nnodes = 2\n'
        "[tool.nemo-gitexp.executors.local]\nntasks = 2\n",
    )
    (root / SITE_FILE).write_text('[executors.a100]\naccount = "mine"\n')
    settings = read_settings(root, {}, {})
    assert require_executor(settings, "a100") == {"type": "slurm", "nodes": 2, "account": "mine"}
    assert require_executor(settings, "local") == {"type": "local", "ntasks": 2}
    assert settings.source("executors.a100") == f"pyproject.toml, {SITE_FILE}"


def test_inner_tables_of_profiles_are_merged_key_by_key_and_say_where_they_came_from(root):
    project(
        root,
        '[tool.nemo-gitexp.executors.a100]\ntype = "slurm"\ntunnel.host = "login"\nenv.A = "1"\n',
    )
    (root / SITE_FILE).write_text('[executors.a100]\ntunnel.identity = "~/.ssh/x"\nenv.B = "2"\n')
    git = {
        "gitexp.executors.a100.account": "mine",
        "gitexp.executors.a100.cpus-per-task": "4",
        "gitexp.executors.a100.tunnel.port": "2222",
        "gitexp.executors.a100.shared": "true",
    }
    settings = read_settings(root, git, {})
    assert require_executor(settings, "a100") == {
        "type": "slurm",
        "account": "mine",
        "cpus_per_task": "4",
        "shared": True,
        "tunnel": {"host": "login", "port": 2222, "identity": "~/.ssh/x"},
        "env": {"A": "1", "B": "2"},
    }
    assert settings.source("executors.a100.tunnel.host") == "pyproject.toml"
    assert settings.source("executors.a100.tunnel.identity") == SITE_FILE
    assert settings.source("executors.a100.account") == "git config gitexp.executors.a100.account"
    assert require_profile(settings, "a100").tunnel.port == 2222


@pytest.mark.parametrize("text", ["nodes = 2", "gpus_per_node = 1", 'image = "x"', 'env.OMP_NUM_THREADS = "1"'])
def test_a_machine_does_not_change_the_shape_of_a_profile_that_others_have(root, text):
    project(root, '[tool.nemo-gitexp.executors.a100]\ntype = "slurm"\n')
    (root / SITE_FILE).write_text(f"[executors.a100]\n{text}\n")
    with pytest.raises(SettingsError, match="belongs to the experiment"):
        read_settings(root, {}, {})
    (root / SITE_FILE).write_text(f"[executors.local]\n{text}\n")
    with pytest.raises(SettingsError, match="belongs to the experiment"):
        read_settings(root, {}, {})
    (root / SITE_FILE).write_text(f'[executors.mine]\ntype = "slurm"\n{text}\n')
    assert read_settings(root, {}, {}).executors["mine"]["type"] == "slurm"


@pytest.mark.parametrize(
    "text",
    [
        'client_secret = "hunter"',
        'env.HF_TOKEN = "abc"',
        'env.NOTE = "hf_' + "a" * 34 + '"',
        'setup_lines = "export X=ghp_' + "a" * 36 + '"',
        'env.URL = "https://me:pass@host/x"',
        'srun_args = ["--x=hf_' + "b" * 34 + '"]',
    ],
)
def test_secrets_are_not_for_committed_files(root, text):
    project(root, f'[tool.nemo-gitexp.executors.x]\ntype = "dgxcloud"\n{text}\n')
    with pytest.raises(SettingsError, match="looks like a secret") as caught:
        read_settings(root, {}, {})
    assert "${env:" in caught.value.hint
    assert text.partition(" = ")[2].strip('"') not in str(caught.value)
    (root / SITE_FILE).write_text(f'[executors.x]\ntype = "dgxcloud"\n{text}\n')
    project(root, "")
    assert "x" in read_settings(root, {}, {}).executors


@pytest.mark.parametrize(
    "text",
    [
        'client_secret = "${env:DGX_SECRET}"',
        'secret_vars.HF_TOKEN = "name-of-secret"',
        'image_pull_secrets = ["ngc"]',
        'env.TOKENIZERS_PARALLELISM = "false"',
        'env.HF_TOKEN_PATH = "/etc/token"',
    ],
)
def test_references_and_names_of_secrets_are_fine(root, text):
    project(root, f'[tool.nemo-gitexp.executors.x]\ntype = "dgxcloud"\n{text}\n')
    assert require_profile(read_settings(root, {}, {}), "x").kind == "dgxcloud"


def test_git_may_speak_of_a_profile_before_the_site_file_defines_it(root):
    (root / SITE_FILE).write_text('[executors.mine]\ntype = "slurm"\nnodes = 2\n')
    settings = read_settings(root, {"gitexp.executors.mine.account": "a"}, {})
    assert settings.executors["mine"] == {"type": "slurm", "nodes": 2, "account": "a"}
    with pytest.raises(SettingsError, match="needs a type"):
        read_settings(root / "elsewhere", {"gitexp.executors.mine.account": "a"}, {})


@pytest.mark.parametrize("name", ["gitexp.executors", "gitexp.executors.a100", "gitexp.executors.a100.env.x"])
def test_git_configuration_holds_no_tables(root, name):
    with pytest.raises(SettingsError):
        read_settings(root, {name: "x"}, {})


def test_unknown_executor_names_the_nearest(root):
    with pytest.raises(UnknownExecutorError) as caught:
        require_executor(read_settings(root, {}, {}), "locl")
    assert caught.value.facts["nearest"] == "local"
    assert caught.value.exit_code == 2


def test_an_unknown_executor_like_none_can_be_replaced_by_the_local_one(root):
    with pytest.raises(UnknownExecutorError) as caught:
        require_executor(read_settings(root, {}, {}), "slurm")
    assert caught.value.hint.startswith("--executor local")
    assert "[tool.nemo-gitexp.executors.slurm]" in caught.value.hint


def test_site_values_come_from_git_file_and_environment(root):
    (root / SITE_FILE).write_text('[site]\nSCRATCH = "/b"\nPORT = 80\n')
    git = {"gitexp.site.scratch": "/a", "gitexp.site.data": "/d"}
    settings = read_settings(root, git, {"NEMO_GITEXP_SITE_OTHER": "/c", "NEMO_GITEXP_SITE_port": "81"})
    assert settings.site == {"SCRATCH": "/b", "PORT": "81", "OTHER": "/c", "data": "/d"}
    assert settings.source("site.SCRATCH") == SITE_FILE
    assert settings.source("site.data") == "git config gitexp.site.data"


@pytest.mark.parametrize(
    "text, setting",
    [
        ("threads = 0", "threads"),
        ("threads = 1.5", "threads"),
        ("threads = true", "threads"),
        ('threads = "2"', "threads"),
        ("run_root = 3", "run_root"),
        ('python = ""', "python"),
        ("reproduce_cost_limit = -1", "reproduce_cost_limit"),
        ("reproduce_cost_limit = nan", "reproduce_cost_limit"),
        ("executors = 1", "executors"),
        ("executors.x = 1", "executors.x"),
        ("executors.x.nodes = 1", "executors.x.type"),
        ("site.x = [1]", "site.x"),
    ],
)
def test_wrong_values_name_setting_and_source(root, text, setting):
    project(root, f"[tool.nemo-gitexp]\n{text}\n")
    with pytest.raises(SettingsError) as caught:
        read_settings(root, {}, {})
    assert caught.value.facts["setting"] == setting
    assert caught.value.facts["source"] == "pyproject.toml"


def test_unknown_keys_name_the_nearest(root):
    project(root, '[tool.nemo-gitexp]\nrun_rot = "x"\n')
    with pytest.raises(SettingsError) as caught:
        read_settings(root, {}, {})
    assert caught.value.hint == "did you mean run_root?"
    with pytest.raises(SettingsError, match="git config"):
        read_settings(root / "other", {"gitexp.thread": "1"}, {})
    with pytest.raises(SettingsError, match="NEMO_GITEXP_THREAD"):
        read_settings(root / "other", {}, {"NEMO_GITEXP_THREAD": "1"})


def test_other_variables_of_ours_are_no_settings(root):
    assert read_settings(root, {}, {"NEMO_GITEXP_DEBUG": "1", "NEMO_GITEXP_THREADS": ""}) == Settings()


@pytest.mark.parametrize("text", ["[tool.nemo-gitexp", "\udcff nemo-gitexp", "[tool]\nnemo-gitexp = 1"])
def test_damaged_project_file_is_refused(root, text):
    (root / "pyproject.toml").write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(SettingsError):
        read_settings(root, {}, {})


def test_damaged_project_file_without_our_table_is_not_our_concern(root):
    project(root, "[broken")
    assert read_settings(root, {}, {}) == Settings()


def test_numbers_from_texts(root):
    settings = read_settings(root, {}, {"NEMO_GITEXP_THREADS": "3", "NEMO_GITEXP_REPRODUCE_COST_LIMIT": "0.5"})
    assert (settings.threads, settings.reproduce_cost_limit) == (3, 0.5)
    with pytest.raises(SettingsError, match="whole number"):
        read_settings(root, {}, {"NEMO_GITEXP_THREADS": "many"})


def test_yes_and_no_from_files_and_texts(root):
    project(root, "[tool.nemo-gitexp]\npush_status = true\npush_status_minutes = 2.5\n")
    settings = read_settings(root, {}, {})
    assert (settings.push_status, settings.push_status_minutes) == (True, 2.5)
    assert read_settings(root, {"gitexp.pushstatus": "False"}, {}).push_status is False
    with pytest.raises(SettingsError, match="true or false"):
        read_settings(root, {}, {"NEMO_GITEXP_PUSH_STATUS": "perhaps"})


@given(st.dictionaries(st.text(max_size=12).map(lambda name: f"gitexp.{name}"), st.text(max_size=5), max_size=3))
def test_no_git_configuration_makes_anything_but_a_settings_error(configuration):
    with contextlib.suppress(SettingsError):
        read_settings(Path("/nonexistent"), configuration, {})


def test_toml_is_not_imported_without_our_table(root):
    project(root, "[project]\nname = 'x'\n")
    import subprocess

    code = (
        "import sys; from pathlib import Path; from nemo_gitexp.settings import read_settings\n"
        f"read_settings(Path({str(root)!r}), {{}}, {{}}); print('tomllib' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
