# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

"""The environment's scripts in tools/."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

TOOLS = Path(__file__).resolve().parents[2] / "tools"
# What the scripts need besides Python.
COMMANDS = ["bash", "cat", "cksum", "dirname", "env", "ln", "mkdir", "mv", "rm"]


def fake_python(path, version="3.12", works=True):
    """Write a stand-in for a Python of some version, or a shim that fails."""
    path.parent.mkdir(parents=True, exist_ok=True)
    good = works and version in ("3.11", "3.12", "3.13")
    path.write_text(
        f"#!/bin/sh\ncase \"$2\" in *'print(sys.executable)'*) echo {path}; exit 0;; "
        f"esac\nexit {0 if good else 1}\n"
    )
    path.chmod(0o755)
    return path


@pytest.fixture
def bare(tmp_path):
    """An environment with no Python anywhere."""
    bin_dir = tmp_path / "bin"
    bin_dir.mkdir()
    for command in COMMANDS:
        (bin_dir / command).symlink_to(shutil.which(command))
    return {"PATH": str(bin_dir), "HOME": str(tmp_path / "home")}


def find(environment, **extra):
    return subprocess.run(
        [TOOLS / "find_python.sh"],
        env={**environment, **extra},
        capture_output=True,
        text=True,
    )


def test_the_first_python_that_works_is_found(bare, tmp_path):
    result = find(bare)
    assert result.returncode == 1 and result.stdout == ""
    assert len(result.stderr.splitlines()) == 1 and "install one" in result.stderr

    def expect(python, **extra):
        assert find(bare, **extra).stdout.strip() == str(python)

    # From the last choice to the first; neither a shim of a version that is not
    # installed nor an old Python is taken.
    expect(fake_python(tmp_path / "home/miniconda3/envs/mos/bin/python3"))
    fake_python(tmp_path / "home/.pyenv/versions/3.10.7/bin/python3", "3.10")
    fake_python(tmp_path / "bin" / "python3.13", works=False)
    fake_python(tmp_path / "bin" / "python3", "3.10")
    expect(fake_python(tmp_path / "home/.pyenv/versions/3.11.7/bin/python3", "3.11"))
    expect(fake_python(tmp_path / "home/.pyenv/versions/3.12.1/bin/python3"))
    expect(fake_python(tmp_path / "home/.pyenv/versions/3.13.0/bin/python3", "3.13"))
    pyenv = fake_python(tmp_path / "elsewhere/versions/3.13.1/bin/python3", "3.13")
    expect(pyenv, PYENV_ROOT=str(tmp_path / "elsewhere"))
    expect(fake_python(tmp_path / "bin" / "python3.12"))
    mine = fake_python(tmp_path / "mine", "3.13")
    expect(mine, PYTHON=str(mine))
    old = fake_python(tmp_path / "old", "3.9")
    result = find(bare, PYTHON=str(old))
    assert result.returncode == 1 and result.stdout == ""
    assert f"PYTHON={old} is not a Python 3.11 to 3.13" in result.stderr


@pytest.fixture
def checkout(tmp_path):
    """A copy of tools/ in a repository without packages, and a stand-in Python."""
    tools = tmp_path / "repo" / "tools"
    tools.mkdir(parents=True)
    for name in ("setup_venv.sh", "find_python.sh", "activate_python.sh"):
        shutil.copy(TOOLS / name, tools / name)
    (tmp_path / "repo" / "setup.py").write_text("# one\n")
    # It notes what it is asked to do; "-m venv DIR" copies it into DIR.
    python = tmp_path / "python"
    python.write_text(f"""#!/bin/bash
echo "$*" >> {tmp_path}/calls
case "$*" in
    *"print(sys.executable)"*) echo "$0" ;;
    "-m venv"*) mkdir -p "${{@: -1}}/bin"; cp "$0" "${{@: -1}}/bin/python" ;;
    "-m pip"*) [ ! -e {tmp_path}/offline ] ;;
    "--version") echo "Python 3.12.1" ;;
esac
""")
    python.chmod(0o755)
    return tmp_path


def set_up(checkout, venv=None, code=0):
    """Run setup_venv.sh; return what Python was asked to do, and the output."""
    (checkout / "calls").write_text("")
    tools = checkout / "repo" / "tools"
    result = subprocess.run(
        [tools / "setup_venv.sh", venv or tools / "venv"],
        env={**os.environ, "PYTHON": str(checkout / "python")},
        capture_output=True,
        text=True,
    )
    assert result.returncode == code, result.stdout + result.stderr
    return (checkout / "calls").read_text(), result.stdout + result.stderr


def test_set_up_installs_once_and_again_when_setup_py_changes(checkout):
    # One that failed is not taken as done.
    (checkout / "offline").write_text("")
    _, output = set_up(checkout, code=1)
    assert "then run make again" in output
    (checkout / "offline").unlink()
    calls, _ = set_up(checkout)
    assert "-m pip install" in calls
    calls, _ = set_up(checkout)
    assert "-m venv" not in calls and "-m pip" not in calls
    (checkout / "repo" / "setup.py").write_text("# two\n")
    calls, _ = set_up(checkout)
    assert "-m venv" not in calls and "-m pip install" in calls


def test_a_directory_of_the_user_is_left_alone(checkout):
    mine = checkout / "mine"
    mine.mkdir()
    (mine / "thesis.tex").write_text("years of work")
    calls, output = set_up(checkout, mine, code=1)
    assert "give VENV a new directory" in output and "-m venv" not in calls
    assert (mine / "thesis.tex").read_text() == "years of work"
    # One that an earlier run did not finish is finished.
    (mine / ".unfinished").write_text("")
    set_up(checkout, mine)
    assert not (mine / ".unfinished").exists()


def activated(checkout, path):
    """Source activate_python.sh with ``path`` in front of PATH."""
    show = f"set -eu; . {checkout}/repo/tools/activate_python.sh; command -v python3"
    return subprocess.run(
        ["bash", "-c", show],
        capture_output=True,
        text=True,
        env={**os.environ, "PATH": f"{path}:{os.environ['PATH']}"},
    )


def test_what_is_activated(checkout):
    """The recorded environment, else tools/venv, else the active one with ESPnet."""
    active = Path(sys.executable).parent
    assert Path(activated(checkout, active).stdout.strip()).parent == active
    empty = fake_python(checkout / "empty" / "python3", works=False)
    result = activated(checkout, empty.parent)
    assert result.returncode == 1 and "run 'make -C" in result.stderr
    for venv in (checkout / "my venv", checkout / "repo" / "tools" / "venv"):
        set_up(checkout, venv)
        (venv / "bin" / "python3").symlink_to("python")
        assert activated(checkout, active).stdout == f"{venv}/bin/python3\n"


def test_link_espnet_adds_what_is_not_there_and_restores(tmp_path):
    template = tmp_path / "template"
    for name in ("utils/run.pl", "scripts/utils/ours", "pyscripts/utils/ours"):
        (template / name).parent.mkdir(parents=True)
        (template / name).write_text("ours")
    (template / "utils" / "relative").symlink_to("run.pl")
    espnet = tmp_path / "espnet" / "egs2" / "TEMPLATE" / "asr1"
    kaldi = tmp_path / "espnet" / "tools" / "kaldi_utils"
    for path in (kaldi / "run.pl", kaldi / "slurm.pl", espnet / "scripts/asr/theirs"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("theirs")
    (espnet / "utils").symlink_to("../../../tools/kaldi_utils")

    def link(argument, code=0):
        result = subprocess.run(
            [TOOLS / "link_espnet.sh", argument],
            env={**os.environ, "DISTILMOS_TEMPLATE": str(template)},
            capture_output=True,
            text=True,
        )
        assert result.returncode == code, result.stderr
        return result.stdout + result.stderr

    def files():
        paths = [path for path in template.rglob("*") if path.is_file()]
        return {str(p.relative_to(template)): p.read_text() for p in paths}

    before = files()
    for _ in range(2):  # a repeat changes nothing
        assert "Not linked: pyscripts" in link(tmp_path / "espnet")
        added = {"utils/slurm.pl": "theirs", "scripts/asr/theirs": "theirs"}
        assert files() == {**before, **added}
    link("--restore")
    assert files() == before and not (template / "scripts" / "asr").exists()
    assert "is not a checkout of ESPnet" in link(tmp_path, code=1)
