"""The door of the command line: what happens before there is a command line."""

from __future__ import annotations

import subprocess
import sys

IMPATIENT = """
import sys

class Impatient:
    def find_spec(self, name, path=None, target=None):
        if name == "nemo_gitexp.cli":
            raise KeyboardInterrupt

sys.meta_path.insert(0, Impatient())
from nemo_gitexp.__main__ import main
sys.exit(main())
"""


def test_ctrl_c_while_the_command_line_is_imported_ends_it_without_a_stack() -> None:
    done = subprocess.run([sys.executable, "-c", IMPATIENT], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")
