# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

"""The Python of the recipes under test ends as Python does."""

import os
import signal
import subprocess
import sys

import pytest

from .conftest import quick_python

AT_EXIT = "import atexit; atexit.register(print, 'last'); print('first')"
SCRIPTS = {
    "returns": "print('out', end='')",
    "code": "import sys; sys.exit(300)",
    "sentence": "import sys; sys.exit('a sentence')",
    "exception": "raise ValueError('wrong')",
    "interrupt": AT_EXIT + "; raise KeyboardInterrupt",
    "at_exit": AT_EXIT,
    "closed": "import sys; print('out'); sys.stdout.close()",
    "thread": "import threading as t; t.Timer(0.2, print, ['late']).start()",
    "arguments": "import os, sys; print(sys.argv[1:], os.getcwd(), os.environ['X'])",
    "stdin": "print(input()[::-1])",
}


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_script_ends_as_python_ends_it(name, tmp_path):
    (tmp_path / "script.py").write_text(SCRIPTS[name])
    found = [
        subprocess.run(
            [python, "script.py", "a b", "--c"],
            cwd=tmp_path,
            env={**os.environ, "X": "1 2"},
            input="word\n",
            capture_output=True,
            text=True,
        )
        for python in (sys.executable, quick_python() / "python3")
    ]
    (code, out, err), (quick_code, quick_out, quick_err) = (
        (one.returncode, one.stdout, one.stderr.splitlines()[-1:]) for one in found
    )
    # The client of the server reports a signal as a shell does.
    assert quick_code == (code if code >= 0 else 128 - code)
    assert (quick_out, quick_err) == (out, err)
    assert name != "interrupt" or code == -signal.SIGINT
