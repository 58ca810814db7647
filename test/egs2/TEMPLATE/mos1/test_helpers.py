# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

"""The Kaldi-style helpers of the recipes."""

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

TEMPLATE = Path(__file__).resolve().parents[4] / "egs2" / "TEMPLATE" / "mos1"
UTILS = TEMPLATE / "utils"


def call(*command, code=0, stdin="", cwd=None, env=None):
    result = subprocess.run(
        [str(part) for part in command],
        input=stdin,
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


@pytest.fixture
def data(tmp_path):
    """A data directory of two speakers with two utterances each."""
    utts = ["a-1", "a-2", "b-1", "b-2"]
    folder = tmp_path / "data"
    write(folder / "wav.scp", *(f"{u} audio/{u}.wav" for u in utts))
    write(folder / "utt2spk", *(f"{u} {u[0]}" for u in utts))
    write(folder / "spk2utt", "a a-1 a-2", "b b-1 b-2")
    write(folder / "metric.scp", *(f'{u} {{"mos": 3.5, "n": 1}}' for u in utts))
    write(folder / "utt2sys", *(f"{u} sys{u[-1]}" for u in utts))
    return folder


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
        ([], "default|false||"),
        (["--name", "a b", "--some-flag", "true"], "a b|true||"),
        (["--some_flag", "true", "rest", "--name"], "default|true||rest --name"),
        (["--empty", "--max_epoch 1 --x"], "default|false|--max_epoch 1 --x|"),
        (["--name", "", "pos"], "|false||pos"),
        (["--name", "$(echo x); `id`"], "$(echo x); `id`|false||"),
    ],
)
def test_parse_options(tmp_path, options, output):
    assert parse(tmp_path, *options).stdout.rstrip("\n") == output


@pytest.mark.parametrize(
    "options, words",
    [
        (["--nmae", "x"], "there is no option --nmae"),
        (["--name"], "option --name needs a value"),
        (["--name=x"], "write '--name x' with a space"),
        (["--some_flag", "yes"], "is true or false, not 'yes'"),
        (["--a[$(id)]", "x"], "there is no option"),
    ],
)
def test_parse_options_refuses(tmp_path, options, words):
    assert words in parse(tmp_path, *options, code=1).stderr


def test_parse_options_help_and_config(tmp_path):
    assert parse(tmp_path, "--help").stdout == "the help\n"
    config = write(tmp_path / "config", "name=from_config", "empty=x")
    result = parse(tmp_path, "--name", "mine", "--config", config)
    assert result.stdout == "mine|false|x|\n"


# run.pl


def test_run_pl_runs_every_job_with_its_log(tmp_path):
    call(
        *(UTILS / "run.pl", "--gpu", "0", "--mem", "1G", "JOB=1:3"),
        *(tmp_path / "log" / "x.JOB.log", "sh", "-c", "echo job JOB; echo 'a  b' >&2"),
    )
    for job in "123":
        lines = (tmp_path / "log" / f"x.{job}.log").read_text().splitlines()
        assert lines[0].startswith("# sh -c ")
        assert lines[1].startswith("# Started at ")
        assert lines[3:5] == [f"job {job}", "a  b"]
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


def test_run_pl_names_a_command_that_does_not_exist(tmp_path):
    result = call(UTILS / "run.pl", tmp_path / "x.log", "no_such_command", code=1)
    assert "no_such_command" in result.stderr and "1 / 1 failed" in result.stderr


def test_run_pl_keeps_arguments_and_knows_shell_operators(tmp_path):
    odd = ["two words", "$HOME", "*", "", "it's", "{a: b}"]
    call(UTILS / "run.pl", tmp_path / "x.log", "printf", "[%s]\\n", *odd)
    lines = (tmp_path / "x.log").read_text().splitlines()[3:-2]
    assert lines == [f"[{argument}]" for argument in odd]
    out = tmp_path / "out"
    pipe = ["echo", "b a", "|", "tr", " ", ":", f">{out}"]
    call(UTILS / "run.pl", tmp_path / "y.log", *pipe)
    assert out.read_text() == "b:a\n"


def test_run_pl_limits_the_jobs_at_once(tmp_path):
    # With one at a time the jobs cannot overlap: a lock directory is always free.
    command = f"mkdir {tmp_path}/lock && sleep 0.5 && rmdir {tmp_path}/lock"
    arguments = ["JOB=1:3", tmp_path / "x.JOB.log", "bash", "-c", command]
    call(UTILS / "run.pl", "--max-jobs-run", "1", *arguments)
    assert not (tmp_path / "lock").exists()
    # Without the limit they do, so the lock tells.
    result = call(UTILS / "run.pl", *arguments, code=1)
    assert "File exists" in result.stderr


def test_run_pl_ends_its_jobs_when_stopped(tmp_path):
    process = subprocess.Popen(
        [UTILS / "run.pl", "JOB=1:2", tmp_path / "x.JOB.log", "sleep", "60.JOB"]
    )
    deadline = time.time() + 20
    while not (tmp_path / "x.2.log").exists() and time.time() < deadline:
        time.sleep(0.05)
    time.sleep(0.3)
    children = f"/proc/{process.pid}/task/{process.pid}/children"
    with open(children) as f:
        pids = [int(pid) for pid in f.read().split()]
    process.send_signal(signal.SIGTERM)
    assert process.wait(20) == 128 + signal.SIGTERM
    assert len(pids) == 2
    deadline = time.time() + 20
    while any(is_running(pid) for pid in pids) and time.time() < deadline:
        time.sleep(0.05)
    assert not any(is_running(pid) for pid in pids)


def is_running(pid):
    try:
        with open(f"/proc/{pid}/stat") as f:
            return f.read().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.parametrize("arguments", [[], ["x.log"], ["JOB=3:1", "x.JOB.log", "true"]])
def test_run_pl_refuses(tmp_path, arguments):
    assert "run.pl" in call(UTILS / "run.pl", *arguments, code=1, cwd=tmp_path).stderr


def test_run_pl_refuses_one_log_for_many_jobs(tmp_path):
    result = call(UTILS / "run.pl", "JOB=1:2", tmp_path / "x.log", "true", code=1)
    assert "needs JOB in its name" in result.stderr


# lists


@pytest.mark.parametrize("count, parts", [(7, 3), (3, 3), (10, 1)])
def test_split_scp(tmp_path, count, parts):
    lines = [f"u{i} x" for i in range(count)]
    names = [tmp_path / "split" / f"{i}.scp" for i in range(parts)]
    call(UTILS / "split_scp.pl", write(tmp_path / "all", *lines), *names)
    pieces = [name.read_text().splitlines() for name in names]
    assert sum(pieces, []) == lines
    assert max(map(len, pieces)) - min(map(len, pieces)) <= 1


def test_split_scp_keeps_speakers_together(tmp_path, data):
    names = [tmp_path / "1", tmp_path / "2"]
    script = UTILS / "split_scp.pl"
    call(script, f"--utt2spk={data}/utt2spk", data / "wav.scp", *names)
    assert [n.read_text()[:2] for n in names] == ["a-", "b-"]
    assert [n.read_text().count("\n") for n in names] == [2, 2]


def test_split_scp_refuses_more_parts_than_lines(tmp_path):
    names = [tmp_path / "1", tmp_path / "2"]
    source = write(tmp_path / "all", "u x")
    result = call(UTILS / "split_scp.pl", source, *names, code=1)
    assert "has 1 pieces, too few for 2 parts" in result.stderr


def test_filter_scp(tmp_path):
    ids = write(tmp_path / "ids", "b 1", "d")
    scp = write(tmp_path / "scp", "a x", "b y z", "b again", "c x")
    script = UTILS / "filter_scp.pl"
    assert call(script, ids, scp).stdout == "b y z\nb again\n"
    assert call(script, ids, stdin=scp.read_text()).stdout == "b y z\nb again\n"
    assert call(script, "--exclude", ids, scp).stdout == "a x\nc x\n"
    assert call(script, "-f", "2", ids, stdin="x b\ny a\n").stdout == "x b\n"
    assert "line 1" in call(script, "-f", "3", ids, scp, code=1).stderr
    assert "Usage" in call(script, code=1).stderr


def test_speaker_lists_are_each_others_inverse(data):
    to_spk2utt = UTILS / "utt2spk_to_spk2utt.pl"
    to_utt2spk = UTILS / "spk2utt_to_utt2spk.pl"
    spk2utt = call(to_spk2utt, data / "utt2spk").stdout
    assert spk2utt == (data / "spk2utt").read_text()
    assert call(to_utt2spk, stdin=spk2utt).stdout == (data / "utt2spk").read_text()
    assert "line 1 has 1 fields" in call(to_spk2utt, stdin="u\n", code=1).stderr
    assert "line 1 has 1 fields" in call(to_utt2spk, stdin="s\n", code=1).stderr


# data directories


def test_copy_data_dir(tmp_path, data):
    copy = tmp_path / "copy"
    call(UTILS / "copy_data_dir.sh", "--validate_opts", "--non-print", data, copy)
    for file in data.iterdir():
        assert (copy / file.name).read_text() == file.read_text()


def test_copy_data_dir_with_prefixes(tmp_path, data):
    copy = tmp_path / "copy"
    options = ["--utt-prefix", "x_", "--spk-prefix", "y_", "--utt-suffix", "_z"]
    call(UTILS / "copy_data_dir.sh", *options, data, copy)
    assert (copy / "utt2spk").read_text().startswith("x_a-1_z y_a\n")
    assert (copy / "spk2utt").read_text().startswith("y_a x_a-1_z x_a-2_z\n")
    label = (copy / "metric.scp").read_text().splitlines()[0]
    assert label == 'x_a-1_z {"mos": 3.5, "n": 1}'
    call(UTILS / "validate_data_dir.sh", "--no-text", copy)


def test_copy_data_dir_refuses_what_is_no_data_directory(tmp_path):
    result = call(UTILS / "copy_data_dir.sh", tmp_path, tmp_path / "copy", code=1)
    assert "is not a data directory yet" in result.stderr


def test_validate_data_dir_accepts_good_data(data):
    result = call(UTILS / "validate_data_dir.sh", "--no-text", data)
    assert "good data directory with 4 utterances" in result.stderr


@pytest.mark.parametrize(
    "file, lines, words",
    [
        ("wav.scp", [], "wav.scp is missing or empty"),
        ("utt2sys", ["a-2 s", "a-1 s", "b-1 s", "b-2 s"], "is not sorted by id"),
        ("metric.scp", ["a-1 {}", "a-1 {}", "a-2 {}"], "more than one line for a-1"),
        ("spk2utt", ["a a-1 a-2", "b b-1"], "name different utterances"),
        ("wav.scp", ["a-1 x", "a-2 x", "b-1 x"], "differ in b-2"),
    ],
)
def test_validate_data_dir_finds(data, file, lines, words):
    write(data / file, *lines)
    result = call(UTILS / "validate_data_dir.sh", "--no-text", data, code=1)
    assert words in result.stderr


def test_fix_data_dir_sorts_and_keeps_what_all_files_have(data):
    write(data / "wav.scp", "b-1 x", "a-2 x", "a-1 x", "c-1 x")
    call(UTILS / "fix_data_dir.sh", data)
    assert (data / "wav.scp").read_text() == "a-1 x\na-2 x\nb-1 x\n"
    assert (data / "spk2utt").read_text() == "a a-1 a-2\nb b-1\n"
    assert (data / ".backup" / "wav.scp").read_text().startswith("b-1 x\n")
    call(UTILS / "validate_data_dir.sh", "--no-text", data)


def test_fix_data_dir_changes_nothing_when_nothing_would_remain(data):
    write(data / "wav.scp", "z x")
    assert "nothing was changed" in call(UTILS / "fix_data_dir.sh", data, code=1).stderr
    assert (data / "utt2spk").read_text().count("\n") == 4


def test_subset_data_dir(tmp_path, data):
    script = UTILS / "subset_data_dir.sh"
    call(script, data, 2, tmp_path / "spread")
    assert (tmp_path / "spread" / "spk2utt").read_text() == "a a-2\nb b-2\n"
    call(script, "--first", data, 2, tmp_path / "first")
    assert (tmp_path / "first" / "spk2utt").read_text() == "a a-1 a-2\n"
    ids = write(tmp_path / "ids", "b-1")
    call(script, "--utt-list", ids, data, tmp_path / "listed")
    assert (tmp_path / "listed" / "metric.scp").read_text().startswith("b-1 {")
    result = call(script, data, 9, tmp_path / "many", code=1)
    assert "9 utterances are asked for" in result.stderr


def test_print_args_can_be_read_back(tmp_path):
    arguments = ["--a", "two words", "it's", "$x", "", "a=b,c"]
    script = TEMPLATE / "scripts" / "utils" / "print_args.sh"
    line = call(script, *arguments).stdout
    again = call("bash", "-c", f"printf '<%s>' {line}").stdout
    assert again == "".join(f"<{argument}>" for argument in arguments)


def test_show_env(tmp_path):
    out = call(TEMPLATE / "scripts" / "utils" / "show_env.sh").stdout
    assert "- python version: `" in out and "- Git hash: `" in out


def test_setup_makes_a_frame_and_keeps_what_is_there(tmp_path):
    (tmp_path / "egs2").mkdir()
    (tmp_path / "egs2" / "TEMPLATE").symlink_to(TEMPLATE.parent)
    recipe = tmp_path / "egs2" / "new" / "mos1"
    call(TEMPLATE / "setup.sh", recipe)
    for name in ("mos.sh", "path.sh", "db.sh", "scripts", "utils"):
        assert os.readlink(recipe / name) == f"../../TEMPLATE/mos1/{name}"
        assert (recipe / name).exists()
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
