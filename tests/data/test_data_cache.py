"""The cache is where DVC itself says it is, and a workspace's DVC uses the same cache and remotes."""

from __future__ import annotations

import stat
import sys

import pytest
from conftest import NAME, dvc

from nemo_gitexp.data.cache import configure_workspace, find_cache
from nemo_gitexp.data.session import dvc_session
from nemo_gitexp.errors import DataError


def cache_of_dvc(root):
    with dvc_session(root) as session:
        return session.cache.local_cache_dir


def test_default_cache(repo):
    cache = find_cache(repo.root)
    assert str(cache.cache_dir) == cache_of_dvc(repo.root)
    assert (cache.relative, cache.link_types, cache.has_remote) == ("", ("reflink", "copy"), True)
    assert cache.alternates == (repo.cache / "gitexp",)


def test_no_dvc_is_none(tmp_path):
    assert find_cache(tmp_path) is None
    assert find_cache(tmp_path, "data/x") is None


@pytest.mark.parametrize("level", ["--system", "--global", "--project", "--local"])
@pytest.mark.parametrize("place", ["../shared cache", "/tmp/abs,olute", "~/ours"])
def test_cache_dir_of_every_level_is_read_as_dvc_reads_it(repo, level, place, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "home config"))
    monkeypatch.setenv("XDG_CONFIG_DIRS", str(tmp_path / "etc"))
    folder = {
        "--system": tmp_path / "etc" / "dvc",
        "--global": tmp_path / "home config" / "dvc",
    }.get(level, repo.root / ".dvc")
    folder.mkdir(parents=True, exist_ok=True)
    name = "config.local" if level == "--local" else "config"
    (folder / name).write_text(f'[cache]\n    dir = "{place}"\n    type = "hardlink,symlink"\n')
    cache = find_cache(repo.root)
    assert str(cache.cache_dir) == cache_of_dvc(repo.root)
    assert cache.link_types == ("hardlink", "symlink")


def test_the_explicit_configuration_directories_win(repo, tmp_path):
    (tmp_path / "config").write_text("[cache]\ndir = /somewhere\n")
    env = {"DVC_GLOBAL_CONFIG_DIR": str(tmp_path), "HOME": str(tmp_path)}
    assert str(find_cache(repo.root, env=env).cache_dir) == "/somewhere"


def test_default_places_are_those_of_dvc(monkeypatch, tmp_path):
    from dvc.dirs import global_config_dir, system_config_dir

    from nemo_gitexp.data.cache import _outer_configs

    monkeypatch.delenv("XDG_CONFIG_HOME")
    monkeypatch.delenv("XDG_CONFIG_DIRS")
    monkeypatch.setenv("HOME", str(tmp_path))
    system, user = _outer_configs({"HOME": str(tmp_path)})
    assert [str(system.parent), str(user.parent)] == [system_config_dir(), global_config_dir()]


@pytest.mark.parametrize("text", ["[cache\n", "[a]\nb\n", "\udcff"])
def test_unreadable_configuration_is_refused(repo, text):
    (repo.root / ".dvc" / "config.local").write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(DataError, match=r"config\.local"):
        find_cache(repo.root)


def test_workspace_uses_cache_and_remotes_of_the_user(repo):
    (repo.root / ".dvc" / "config.local").write_text(
        "['remote \"web\"']\n    url = ssh://example.org/x\n    password = 's3cr%et, with comma # and \"'\n"
        "    keyfile = keys/own.pem\n[core]\n    autostage = true\n"
    )
    workspace = repo.workspace()
    path = configure_workspace(workspace, find_cache(repo.root))
    assert path == workspace / ".dvc" / "config.local"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert cache_of_dvc(workspace) == str(repo.cache)
    with dvc_session(workspace) as session, dvc_session(repo.root) as original:
        assert session.config["cache"]["type"] == ["reflink", "hardlink", "copy"]
        assert session.config["remote"]["store"]["url"] == str(repo.root.parent / "remote")
        assert session.config["remote"]["web"]["password"] == 's3cr%et, with comma # and "'
        assert session.config["remote"]["web"] == original.config["remote"]["web"]
        assert session.config["core"]["autostage"] is True
        assert session.config["core"]["remote"] == "store"


def test_job_can_pull_by_itself_in_a_configured_workspace(repo):
    workspace = repo.workspace()
    configure_workspace(workspace, find_cache(repo.root))
    dvc(workspace, "pull", "-q", NAME)
    assert (workspace / NAME).is_file()


def test_workspace_without_dvc_is_left_alone(repo, tmp_path):
    assert configure_workspace(tmp_path, find_cache(repo.root)) is None
    assert not (tmp_path / ".dvc").exists()


def test_none_of_this_imports_dvc():
    import subprocess

    code = (
        "import sys, nemo_gitexp.data.restore, nemo_gitexp.data.commit\n"
        "print([name for name in sys.modules if name.partition('.')[0] in {'dvc', 'dvc_data', 'configobj', 'torch'}])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
