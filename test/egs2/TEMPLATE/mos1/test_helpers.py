# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

"""utils/, scripts/utils/, setup.sh and cmd.sh of the TEMPLATE."""

import hashlib
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from ...conftest import make_tree
from .conftest import TEMPLATE

UTILS = TEMPLATE / "utils"


def call(*command, code=0, cwd=None, env=None):
    result = subprocess.run(
        [str(part) for part in command],
        capture_output=True,
        text=True,
        cwd=cwd,
        env={**os.environ, **(env or {})},
    )
    assert result.returncode == code, result.stdout + result.stderr
    return result


def write(path, *lines):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in lines))
    return path


# parse_options.sh


def parse(tmp_path, *options, code=0):
    script = write(
        tmp_path / "script.sh",
        "set -eu",
        "name=default; some_flag=false; empty=; help_message='the help'",
        f". {UTILS}/parse_options.sh",
        'echo "$name|$some_flag|$empty|$*"',
    )
    return call("bash", script, *options, code=code)


@pytest.mark.parametrize(
    "options, output",
    [
        (["--name", "a b", "--some-flag", "true"], "a b|true||"),
        (["--some_flag", "true", "rest", "--name"], "default|true||rest --name"),
        (["--empty", "--max_epoch 1 --x"], "default|false|--max_epoch 1 --x|"),
        (["--name", "$(echo x); `id`"], "$(echo x); `id`|false||"),
        (["--name", "mine", "--config", "config"], "mine|false|x|"),
        (["--help"], "the help"),
    ],
)
def test_parse_options(tmp_path, monkeypatch, options, output):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "config", "name=from_config", "empty=x")
    assert parse(tmp_path, *options).stdout.rstrip("\n") == output


@pytest.mark.parametrize(
    "options",
    [["--nmae", "x"], ["--name"], ["--name=x"], ["--some_flag", "yes"]]
    + [["--a[$(id)]", "x"]],
)
def test_parse_options_refuses(tmp_path, options):
    (line,) = parse(tmp_path, *options, code=1).stderr.splitlines()
    assert options[0].partition("=")[0] in line


# run.pl


def test_run_pl_runs_every_job_with_its_log(tmp_path):
    odd = ["two words", "$HOME", "*", "", "it's", "|", ">x"]
    command = ["printf", "[%s]\\n", "job JOB", *odd]
    log = tmp_path / "log" / "x.JOB.log"
    call(UTILS / "run.pl", "--gpu", "0", "--mem", "1G", "JOB=1:3", log, *command)
    for job in "123":
        lines = (tmp_path / "log" / f"x.{job}.log").read_text().splitlines()
        assert lines[0].startswith("# printf ")
        assert lines[1].startswith("# Started at ")
        assert lines[3:-2] == [f"[{word}]" for word in [f"job {job}", *odd]]
        assert lines[-2].startswith("# Accounting: time=")
        assert lines[-1].startswith("# Ended (code 0) at ")


def test_run_pl_counts_failures_and_shows_the_log(tmp_path):
    log = tmp_path / "x.JOB.log"
    command = 'echo "reason of JOB"; test JOB = 2'
    result = call(UTILS / "run.pl", "JOB=1:3", log, "bash", "-c", command, code=1)
    assert f"2 / 3 failed, log is in {tmp_path}/x.*.log" in result.stderr
    assert "reason of" in result.stderr
    assert "# Ended (code 1)" in (tmp_path / "x.1.log").read_text()
    assert "# Ended (code 0)" in (tmp_path / "x.2.log").read_text()


def test_run_pl_limits_the_jobs_at_once(tmp_path):
    # With one at a time the jobs cannot overlap: a lock directory is always free.
    command = f"mkdir {tmp_path}/lock && sleep 0.3 && rmdir {tmp_path}/lock"
    arguments = ["JOB=1:3", tmp_path / "x.JOB.log", "bash", "-c", command]
    call(UTILS / "run.pl", "--max-jobs-run", "1", *arguments)
    # Without the limit they do.
    assert "File exists" in call(UTILS / "run.pl", *arguments, code=1).stderr


def test_run_pl_ends_its_jobs_when_stopped(tmp_path):
    command = ["bash", "-c", f"echo $$ > {tmp_path}/JOB.pid; exec sleep 60"]
    process = subprocess.Popen(
        [UTILS / "run.pl", "JOB=1:2", tmp_path / "x.JOB.log", *command]
    )
    files = [tmp_path / "1.pid", tmp_path / "2.pid"]
    deadline = time.time() + 20
    while not all(f.exists() and f.read_text() for f in files):
        assert time.time() < deadline
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    assert process.wait(20) == 128 + signal.SIGTERM
    for file in files:
        status = Path("/proc", file.read_text().strip(), "stat")
        while status.exists() and " Z " not in status.read_text():
            assert time.time() < deadline
            time.sleep(0.05)


@pytest.mark.parametrize(
    "arguments",
    [["x.log"], ["JOB=3:1", "x.JOB.log", "true"], ["JOB=1:2", "x.log", "true"]],
)
def test_run_pl_refuses(tmp_path, arguments):
    assert "run.pl" in call(UTILS / "run.pl", *arguments, code=1, cwd=tmp_path).stderr


# Lists and data directories


def test_split_scp(tmp_path):
    count, parts = 7, 3
    lines = [f"u{i} x" for i in range(count)]
    names = [tmp_path / "split" / f"{i}.scp" for i in range(parts)]
    source = write(tmp_path / "all", *lines)
    call(UTILS / "split_scp.pl", source, *names)
    pieces = [name.read_text().splitlines() for name in names]
    assert sum(pieces, []) == lines
    assert max(map(len, pieces)) - min(map(len, pieces)) <= 1
    many = [tmp_path / f"{i}" for i in range(count + 1)]
    result = call(UTILS / "split_scp.pl", source, *many, code=1)
    assert f"has {count} lines, too few for {count + 1} parts" in result.stderr


def test_filter_data_dir(tmp_path):
    script = TEMPLATE / "pyscripts" / "utils" / "filter_data_dir.py"
    src, dst = tmp_path / "src", tmp_path / "dst"
    write(src / "wav.scp", "c x", "a y", "b z")
    write(src / "utt2num_samples", "a 1", "b 2", "c 3")
    write(src / "metric.scp", 'b {"mos": 3.5, "n": 1}', "", "a {}", "no {}")
    write(src / "utt2spk", "a s2", "b s1", "c s2")
    write(dst / "votes.scp", "of an earlier run")
    ids = write(tmp_path / "ids", "c 3", "a 1", "no")
    call(script, ids, src, dst)
    files = {path.name: path.read_text() for path in dst.iterdir()}
    assert files == {
        "wav.scp": "a y\nc x\n",
        "utt2num_samples": "a 1\nc 3\n",
        "metric.scp": "a {}\nno {}\n",
        "utt2spk": "a s2\nc s2\n",
        "spk2utt": "s2 a c\n",
    }
    # What would not change keeps its date; newer audio gives wav.scp a new one.
    for path in [*src.iterdir(), *dst.iterdir()]:
        os.utime(path, (1000, 1000))
    call(script, ids, src, dst)
    assert {path.stat().st_mtime for path in dst.iterdir()} == {1000}
    os.utime(src / "wav.scp", (2000, 2000))
    call(script, "--exclude", ids, src, dst)
    assert (dst / "wav.scp").read_text() == "b z\n"
    assert (dst / "wav.scp").stat().st_mtime > 2000
    # The labels alone
    call(script, "--labels_only", ids, src, dst)
    assert (dst / "wav.scp").read_text() == "b z\n"
    assert (dst / "utt2spk").read_text() == "a s2\nc s2\n"
    write(src / "utt2spk", "a")
    assert "has the line 'a'" in call(script, ids, src, dst, code=1).stderr
    # Of an unlabelled set the scores of others are left; faulty labels are no fault.
    write(src / "metric.scp", 'b {"mos": 3.5, "n": 1}', "a broken", 'c {"mos": "x"}')
    write(src / "utt2spk", "a s2", "b s1", "c s2")
    write(dst / "votes.scp", 'b [["l1", 3]]')
    ids = write(tmp_path / "none")
    call(script, "--exclude", "--unlabelled", ids, src, dst)
    assert (dst / "metric.scp").read_text() == 'a {}\nb {"n": 1}\nc {}\n'
    assert not (dst / "votes.scp").exists()


def test_print_args_can_be_read_back(tmp_path):
    arguments = ["--a", "two words", "it's", "$x", "", "a=b,c"]
    script = TEMPLATE / "scripts" / "utils" / "print_args.sh"
    line = call(script, *arguments).stdout
    again = call("bash", "-c", f"printf '<%s>' {line}").stdout
    assert again == "".join(f"<{argument}>" for argument in arguments)


# Corpora


@pytest.fixture
def recipe(tmp_path):
    """A folder with the links of a recipe."""
    for name in ("scripts", "utils"):
        (tmp_path / name).symlink_to(TEMPLATE / name)
    return tmp_path


def test_download_goes_on_where_it_stopped(recipe):
    content = bytes(range(256)) * 64
    (recipe / "served").write_bytes(content)
    url = f"file://{recipe}/served"
    file = recipe / "downloads" / "corpus.zip"
    file.parent.mkdir()
    Path(f"{file}.part").write_bytes(content[:1000])
    script = "scripts/utils/download.sh"
    command = [script, "--md5", "0" * 32, url, "downloads/corpus.zip"]
    refused = call(*command, cwd=recipe, code=1)
    assert "has the checksum" in refused.stderr and list(file.parent.iterdir()) == []
    command[2] = hashlib.md5(content).hexdigest()
    call(*command, cwd=recipe)
    assert file.read_bytes() == content and list(file.parent.iterdir()) == [file]
    # What is there is kept: no second download.
    (recipe / "served").unlink()
    call(*command, cwd=recipe)
    failed = call(script, url, "downloads/x", cwd=recipe, code=1)
    assert "downloads/x by hand" in failed.stderr.splitlines()[-1]


@pytest.mark.parametrize("value", ["", "/nowhere"])
def test_a_corpus_that_is_not_there_is_named(recipe, value):
    (recipe / "path.sh").write_text("")
    (recipe / "db.sh").write_text(f"BVCC={value}\n")
    script = "scripts/utils/prepare_corpus.sh"
    options = ("--corpus", "BVCC", "--corpus_home", "a place", "--download", "false")
    result = call(script, *options, cwd=recipe, code=1)
    (line,) = result.stderr.splitlines()
    assert "BVCC of db.sh" in line and "a place" in line


def test_setup_makes_a_frame_and_keeps_what_is_there(tmp_path):
    make_tree(tmp_path)
    recipe = tmp_path / "egs2" / "new" / "mos1"
    call(TEMPLATE / "setup.sh", recipe)
    for name in ("mos.sh", "path.sh", "db.sh", "pyscripts", "scripts", "utils"):
        assert os.readlink(recipe / name) == f"../../TEMPLATE/mos1/{name}"
    for name in ("cmd.sh", "conf", "local"):
        assert (recipe / name).exists() and not (recipe / name).is_symlink()
    (recipe / "cmd.sh").write_text("mine")
    call(TEMPLATE / "setup.sh", recipe)
    assert (recipe / "cmd.sh").read_text() == "mine"
    result = call(TEMPLATE / "setup.sh", tmp_path / "x" / "y" / "z", code=1)
    assert "the recipe's directory is egs2/<corpus>/mos1" in result.stderr


def test_cmd_sh_knows_the_back_ends():
    show = f'. {TEMPLATE}/cmd.sh; echo "$train_cmd $cuda_cmd $decode_cmd"'
    assert call("bash", "-c", show).stdout == "run.pl run.pl run.pl\n"
    slurm = call("bash", "-c", show, env={"cmd_backend": "slurm"})
    assert slurm.stdout == "slurm.pl slurm.pl slurm.pl\n"
    result = call("bash", "-c", show, env={"cmd_backend": "moon"}, code=1)
    assert "is not local, slurm" in result.stderr


def test_every_recipe_has_its_frame():
    for run in TEMPLATE.parents[1].glob("*/*1/run.sh"):
        recipe = run.parent
        assert (recipe / "cmd.sh").read_bytes() == (TEMPLATE / "cmd.sh").read_bytes()
        for name in ("conf/train.yaml", "local/data.sh", "path.sh", "scripts", "utils"):
            assert (recipe / name).exists(), (recipe, name)
        if recipe.name == "mos1":
            assert os.readlink(recipe / "pyscripts") == "../../TEMPLATE/mos1/pyscripts"
            assert "./mos.sh" in run.read_text(), recipe
