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
    minor = int(version.split(".")[1]) if works else 0
    path.write_text(
        f"#!/bin/sh\ncase \"$2\" in *'print(sys.executable)'*) echo {path}; exit 0;;\n"
        f"*'(3, 12)'*) exit {int(not 12 <= minor <= 13)};; esac\n"
        f"exit {int(not 11 <= minor <= 13)}\n"
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
    # installed nor an old Python is taken, and 3.11 where there is nothing newer.
    expect(fake_python(tmp_path / "home/.pyenv/versions/3.11.7/bin/python3", "3.11"))
    expect(fake_python(tmp_path / "bin" / "python3.11", "3.11"))
    expect(fake_python(tmp_path / "home/miniconda3/envs/mos/bin/python3"))
    fake_python(tmp_path / "home/.pyenv/versions/3.10.7/bin/python3", "3.10")
    fake_python(tmp_path / "bin" / "python3.13", works=False)
    fake_python(tmp_path / "bin" / "python3", "3.10")
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


# Names of egs2/TEMPLATE/asr1 in a checkout of ESPnet. What the recipes here have of
# their own would end a run.
ESPNET = {
    "utils/parse_options.sh": "exit 9",
    "utils/run.pl": "exit 9",
    "utils/split_scp.pl": "exit 9",
    "utils/parallel/slurm.pl": "grep -q partition conf/slurm.conf && exec run.pl $*",
    "utils/parallel/queue.pl": "grep -q queue conf/queue.conf && exec run.pl $*",
    "scripts/audio/format_wav_scp.sh": "exit 9",
    "scripts/audio/trim_silence.sh": ". ./path.sh; pyscripts/audio/trim_silence.py $*",
    "scripts/utils/print_args.sh": "exit 9",
    "pyscripts/audio/format_wav_scp.py": "exit 9",
    "pyscripts/audio/trim_silence.py": "echo trimmed $*",
    "steps/make_fbank.sh": "exit 9",
    "conf/fbank.conf": "",
    "conf/slurm.conf": "option partition",
    "conf/queue.conf": "option queue",
    "conf/pbs.conf": "option pbs",
}
AUDIO = ("format_wav_scp", "trim_silence")
DATA = ("data", "dump", "exp", "downloads", "corpus", "upstream")


@pytest.fixture
def linking(tmp_path):
    """A copy of the TEMPLATE and a recipe, an ESPnet beside it, and the tool."""
    repo, espnet = tmp_path / "repo", tmp_path / "an espnet"
    (repo / "tools").mkdir(parents=True)
    for name in ("link_espnet.sh", "activate_python.sh", "extra_path.sh"):
        shutil.copy(TOOLS / name, repo / "tools")
    for name in ("TEMPLATE/mos1", "mini_mos/mos1"):
        shutil.copytree(
            TOOLS.parent / "egs2" / name,
            repo / "egs2" / name,
            symlinks=True,
            ignore=shutil.ignore_patterns(*DATA),
        )
    asr = espnet / "egs2" / "TEMPLATE" / "asr1"
    for name, text in ESPNET.items():
        (asr / name).parent.mkdir(parents=True, exist_ok=True)
        (asr / name).write_text(f"#!/usr/bin/env bash\n{text}\n")
        (asr / name).chmod(0o755)
    for name in ("slurm.pl", "queue.pl"):
        (asr / "utils" / name).symlink_to(f"parallel/{name}")

    def link(argument, code=0):
        tool = repo / "tools" / "link_espnet.sh"
        result = subprocess.run([tool, argument], capture_output=True, text=True)
        output = result.stdout + result.stderr
        assert result.returncode == code and len(output.splitlines()) == 1, output
        return output

    return repo / "egs2", asr, link


def tree(egs2):
    """Where each link leads and what each file holds."""
    return {
        str(p.relative_to(egs2)): os.readlink(p) if p.is_symlink() else p.read_bytes()
        for p in egs2.rglob("*")
        if p.is_symlink() or p.is_file()
    }


def test_link_espnet_adds_what_is_not_there_and_restores(linking, tmp_path):
    egs2, asr, link = linking
    conf = egs2 / "mini_mos" / "mos1" / "conf"
    (conf / "queue.conf").write_text("queue of my own")
    (conf / "mine.yaml").symlink_to(tmp_path / "mine.yaml")  # leads nowhere yet
    before = tree(egs2)
    other = shutil.copytree(asr.parents[2], tmp_path / "other", symlinks=True)
    link(other)
    for _ in range(2):  # another checkout takes its place; a repeat changes nothing
        link(asr.parents[2])
        added = {k: v for k, v in tree(egs2).items() if k not in before}
        assert {**before, **added} == tree(egs2)
        assert all(Path(v) == asr / Path(v).relative_to(asr) for v in added.values())
        assert set(added) == {
            *(f"TEMPLATE/mos1/utils/{n}.pl" for n in ("slurm", "queue")),
            *(f"TEMPLATE/mos1/utils/parallel/{n}.pl" for n in ("slurm", "queue")),
            "TEMPLATE/mos1/scripts/audio/trim_silence.sh",
            *(f"TEMPLATE/mos1/pyscripts/audio/{n}.py" for n in AUDIO),
            *(f"TEMPLATE/mos1/conf/{n}.conf" for n in ("slurm", "queue", "pbs")),
            *(f"mini_mos/mos1/conf/{n}.conf" for n in ("slurm", "pbs")),
        }
    for _ in range(2):
        link("--restore")
        assert tree(egs2) == before
        assert not (egs2 / "TEMPLATE/mos1/utils/parallel").exists()


def test_a_recipe_runs_with_the_linked_helpers(linking):
    egs2, asr, link = linking
    link(asr.parents[2])
    active = f"{Path(sys.executable).parent}:{os.environ['PATH']}"

    def run(script, **env):
        result = subprocess.run(
            ["bash", "-euc", script],
            cwd=egs2 / "mini_mos" / "mos1",
            env={**os.environ, "PATH": active, **env},
            capture_output=True,
            text=True,
        )
        assert result.returncode == 0, result.stdout + result.stderr
        return result.stdout

    assert "Finished" in run("./run.sh --stage 12")
    job = (
        '. ./path.sh; . ./cmd.sh; ${train_cmd} JOB=1:2 log.JOB echo "of JOB"; cat log.*'
    )
    for backend in ("local", "slurm", "sge"):
        output = run(job, cmd_backend=backend)
        assert {"of 1", "of 2"} <= set(output.splitlines()), backend
    assert run("scripts/audio/trim_silence.sh --fs 16000") == "trimmed --fs 16000\n"


@pytest.mark.parametrize("name", ["utils", "scripts", "pyscripts", "conf"])
def test_an_incomplete_checkout_is_not_linked(linking, tmp_path, name):
    egs2, asr, link = linking
    before = tree(egs2)
    shutil.rmtree(asr / name)
    assert "is no complete checkout of ESPnet" in link(asr.parents[2], code=1)
    (asr / name).symlink_to("../../../tools/kaldi/egs/wsj/s5/utils")
    assert "tools kaldi.done'" in link(asr.parents[2], code=1)
    assert "is not a checkout of ESPnet" in link(tmp_path, code=1)
    assert tree(egs2) == before
