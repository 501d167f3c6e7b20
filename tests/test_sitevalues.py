"""`${site:NAME}`: recorded by name, bound per machine."""

from __future__ import annotations

import json

import pytest
from builder import Work

from nemo_gitexp.errors import SettingsError
from nemo_gitexp.sitevalues import bind_site, bind_text, site_words

DEFINITION = """\
purpose: writes its checkpoint where this machine has room
command: python train.py {config}
config: {scratch: "${site:scratch}/tmp", lr: 0.1}
outputs:
  - {path: "${site:SCRATCH}/ckpt", keep: in-place}
"""
TRAIN = """\
import json, os, sys
config = json.load(open(sys.argv[1]))
folder = config["scratch"].removesuffix("/tmp") + "/ckpt"
os.makedirs(folder)
open(os.path.join(folder, "weights.txt"), "w").write("1")
"""


def test_values_are_bound_wherever_they_stand():
    value = {"a": ["${site:scratch}/x", 1], "b": {"c": "${site:SCRATCH}"}, "d": None}
    assert bind_site(value, {"Scratch": "/big"}) == {"a": ["/big/x", 1], "b": {"c": "/big"}, "d": None}


def test_a_value_that_this_machine_lacks_is_named():
    with pytest.raises(SettingsError) as refused:
        bind_text("${site:scratch}/x", {})
    assert refused.value.hint == "git config gitexp.site.scratch VALUE"


def test_the_word_for_a_value_is_spelled_as_in_the_record_whatever_this_machine_calls_it():
    texts = ["${site:Scratch}/ckpt"]
    for name in ("scratch", "SCRATCH"):
        assert site_words({name: "/big", "ACCOUNT": "me"}, texts) == {
            "/big": "${site:Scratch}",
            "me": "${site:account}",
        }
    assert site_words({"scratch": "/big", "tmp": "/big"}, texts) == {"/big": "${site:Scratch}"}


def test_an_output_on_the_site_is_recorded_by_name(work: Work):
    work.write("train.py", TRAIN)
    work.write("experiments/big/experiment.yaml", DEFINITION)
    work.commit()
    refused = work.gitexp("run", "big", "--json", code=3)
    assert refused.json["error"]["setting"] == "site.scratch"
    assert work.refs() == {}
    scratch = work.root.parent / "scratch"
    work.git("config", "gitexp.site.scratch", str(scratch))
    ran = work.gitexp("run", "big", "--json").json
    assert ran["status"] == "completed"
    assert [output["path"] for output in ran["outputs"]] == ["${site:SCRATCH}/ckpt"]
    assert ran["config"]["scratch"] == "${site:scratch}/tmp"
    assert str(scratch) not in json.dumps(ran)
    assert (scratch / "ckpt/weights.txt").read_text() == "1"
    work.gitexp("outputs", ran["experiment"], "--get", str(work.root.parent / "got"))
    assert (work.root.parent / "got/ckpt/weights.txt").read_text() == "1"
    work.git("config", "gitexp.site.scratch", str(work.root.parent / "elsewhere"))
    verdict = work.gitexp("reproduce", ran["experiment"], "--require", "bitwise", "--json").json
    assert verdict["verdict"] == "bitwise"
