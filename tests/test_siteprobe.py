"""A site is looked at by one script, here or through ssh; what it has is named, nothing is submitted."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from nemo_gitexp.finding import Finding
from nemo_gitexp.profiles import TunnelProfile, parse_profile
from nemo_gitexp.shells import ssh_command
from nemo_gitexp.sitecheck import _key, _places, _python_findings, _scheduler, _way_there
from nemo_gitexp.siteprobe import Asked, is_known_host, look_at_site
from nemo_gitexp.submission import Tunnel

TOOLS = ("sh", "tr", "tail", "grep", "dirname", "timeout", "ssh-keygen")
FAKES = {
    "sbatch": "echo submitted >> $FAKE_LOG",
    "sacct": "exit 0",
    "squeue": "exit 0",
    "scancel": "exit 0",
    "srun": "echo '      --container-image=image'",
    "scontrol": "echo 'Slurmctld(primary) at login is UP'",
}


def program(folder: Path, name: str, text: str) -> None:
    (folder / name).write_text(f"#!/bin/sh\n{text}\n")
    (folder / name).chmod(0o755)


@pytest.fixture
def bare(tmp_path) -> dict[str, str]:
    """Return an environment whose PATH has a shell's tools and nothing else."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name in TOOLS:
        (folder / name).symlink_to(str(shutil.which(name)))
    return {"PATH": str(folder), "HOME": str(tmp_path), "FAKE_LOG": str(tmp_path / "log")}


@pytest.fixture
def cluster(bare) -> dict[str, str]:
    for name, text in FAKES.items():
        program(Path(bare["PATH"]), name, text)
    return bare


def states(findings) -> dict[str, str]:
    return {finding.check: finding.state for finding in findings}


def test_a_machine_without_slurm_has_none_of_its_commands(bare):
    seen = look_at_site(None, Asked(sys.executable), bare)
    assert not seen.fault
    assert not [word for word in seen.facts if word.startswith("command.")]
    assert "accounting" not in seen.facts


def test_a_cluster_is_seen_and_nothing_is_submitted(cluster, tmp_path):
    seen = look_at_site(None, Asked(sys.executable, root=str(tmp_path / "a" / "b c"), cache=str(tmp_path)), cluster)
    assert seen.facts["command.sbatch"].endswith("/sbatch")
    assert (seen.facts["root"], seen.facts["cache"], seen.facts["accounting"]) == ("yes", "yes", "yes")
    assert seen.facts["python"].startswith(f"{sys.version_info[0]}.{sys.version_info[1]}")
    profile = parse_profile("x", {"type": "slurm", "image": "i"})
    assert states(_scheduler(seen, profile)) == {"slurmctld": "ok", "pyxis": "ok"}
    assert not (tmp_path / "log").exists()
    assert not (tmp_path / "a").exists()


def test_a_cluster_that_is_down_or_has_no_accounting_is_told_apart(cluster):
    program(Path(cluster["PATH"]), "scontrol", "echo 'Slurmctld(primary) at login is DOWN'")
    program(Path(cluster["PATH"]), "sacct", "echo 'Slurm accounting storage is disabled' >&2; exit 1")
    program(Path(cluster["PATH"]), "srun", "exit 0")
    seen = look_at_site(None, Asked(sys.executable), cluster)
    findings = list(_scheduler(seen, parse_profile("x", {"type": "slurm", "image": "i"})))
    assert states(findings) == {"slurmctld": "missing", "accounting": "warning", "pyxis": "missing"}
    assert "storage is disabled" in findings[1].said


def test_interpreters_must_exist_and_be_new_enough(bare, tmp_path):
    program(tmp_path, "old", "echo 3.6.8")
    for python, state in ((sys.executable, "ok"), (str(tmp_path / "old"), "missing"), ("/no/such", "missing")):
        seen = look_at_site(None, Asked(python, slurm=False), bare)
        assert states(_python_findings(seen, python, "x")) == {"python there": state}


def test_what_must_be_written_or_read_there_is_looked_at(cluster, tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("")
    asked = Asked(sys.executable, root=str(blocked / "runs"), job_dir=str(tmp_path / "jobs"), cache="/no/such/cache")
    seen = look_at_site(None, asked, cluster)
    assert seen.facts["root.no"] == str(blocked)
    profile = parse_profile(
        "x", {"type": "slurm", "root": "/r", "cache": "/no/such/cache", "data": "pull", "tunnel": {"host": "h"}}
    )
    found = states(_places(None, seen, profile, "there", is_far=True))
    assert found == {"root": "missing", "job_dir": "ok", "cache": "missing", "dvc there": "missing"}


def test_words_for_the_site_are_data_and_no_shell(bare, tmp_path):
    evil = f"{tmp_path}/x'; touch {tmp_path}/PWNED; '$(touch {tmp_path}/PWNED)"
    seen = look_at_site(None, Asked(evil, root=evil, cache=evil, marker=evil), bare)
    assert not seen.fault
    assert not (tmp_path / "PWNED").exists()


def test_ssh_is_given_the_script_and_never_asks_a_person(cluster, tmp_path):
    program(Path(cluster["PATH"]), "ssh", f'echo "$@" > {tmp_path}/argv; exec sh -s')
    tunnel = TunnelProfile("ssh", "login", "me", 2222, "~/key", pre_command="export GX_LOADED=1")
    seen = look_at_site(tunnel, Asked(sys.executable, marker=str(tmp_path)), cluster)
    assert seen.facts["marker"] == "yes"
    assert "command.sbatch" in seen.facts
    argv = (tmp_path / "argv").read_text()
    assert "BatchMode=yes" in argv
    assert "StrictHostKeyChecking=yes" in argv
    assert f"-p 2222 -i {Path('~/key').expanduser()} -l me -- login sh -s" in argv


def test_no_command_there_swallows_the_rest_of_the_script(cluster):
    program(Path(cluster["PATH"]), "scontrol", "while read line; do :; done; echo is UP")
    seen = look_at_site(None, Asked(sys.executable), cluster)
    assert (seen.facts["ping"], seen.fault) == ("is UP", "")
    assert "python" in seen.facts


def test_a_host_cannot_be_an_option_of_ssh():
    assert ssh_command(Tunnel("-oProxyCommand=x", "me"))[-2:] == ["--", "-oProxyCommand=x"]


def test_a_connection_that_fails_says_why(bare):
    program(Path(bare["PATH"]), "ssh", "echo 'Permission denied (publickey).' >&2; exit 255")
    seen = look_at_site(TunnelProfile("ssh", "login", "me"), Asked("python3"), bare)
    assert (seen.facts, seen.fault) == ({}, "Permission denied (publickey).")
    assert "ssh" in look_at_site(TunnelProfile("ssh", "h", "me"), Asked("p"), {"PATH": "/nowhere"}).fault


def test_known_hosts_are_looked_up_with_their_port(bare, tmp_path):
    subprocess.run(
        ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(tmp_path / "host")], check=True, capture_output=True
    )
    key = (tmp_path / "host.pub").read_text()
    (tmp_path / ".ssh").mkdir()
    (tmp_path / ".ssh" / "known_hosts").write_text(f"[login]:2222 {key}plain {key}")
    assert is_known_host(TunnelProfile("ssh", "login", port=2222), bare) is True
    assert is_known_host(TunnelProfile("ssh", "login"), bare) is False
    assert is_known_host(TunnelProfile("ssh", "plain"), bare) is True
    (Path(bare["PATH"]) / "ssh-keygen").unlink()
    assert is_known_host(TunnelProfile("ssh", "plain"), bare) is None


def test_the_way_there_needs_programs_a_key_and_the_hosts_key(bare, tmp_path):
    tunnel = TunnelProfile("ssh", "login", "me", 2222, str(tmp_path / "key"))
    findings = list(_way_there(tunnel, bare))
    assert states(findings) == dict.fromkeys(("ssh", "rsync", "key", "known_hosts"), "missing")
    assert findings[-1].mend.startswith("ssh-keyscan -p 2222 login >> ~/.ssh/known_hosts")


def test_a_key_that_others_can_read_is_refused_as_ssh_does(tmp_path):
    key = tmp_path / "key"
    key.write_text("x")
    key.chmod(0o644)
    assert _key(key) == Finding("key", "missing", f"others can read {key}, so ssh does not take it", f"chmod 600 {key}")
    key.chmod(0o600)
    assert _key(key).state == "ok"
