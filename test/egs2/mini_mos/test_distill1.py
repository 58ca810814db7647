# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

import json
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
import yaml
from sklearn.linear_model import Ridge
from sklearn.preprocessing import StandardScaler

from espnet2_distilmos.mos.frontend.hf import HFFrontend

from ..conftest import load_script, make_tree
from .test_ssl1 import SSL1, TOY, write_speech

ROOT = Path(__file__).resolve().parents[3]
DISTILL1 = ROOT / "egs2" / "mini_mos" / "distill1"
RATINGS = {0: 1.5, 1: 3.0, 2: 4.5}


@pytest.fixture(scope="module")
def probes():
    return load_script("mini_mos/distill1/local/probe_students.py")


@pytest.fixture
def recipe(tmp_path):
    """The recipe in a tree of its own, and two tiny teachers of different sizes."""
    make_tree(tmp_path)
    for name in ("ssl1", "distill1"):
        folder = tmp_path / "egs2" / "mini_mos" / name
        folder.mkdir(parents=True)
        for path in (DISTILL1.parent / name).iterdir():
            if path.name not in ("data", "dump", "exp"):
                (folder / path.name).symlink_to(path)
    for seed, size in enumerate((16, 24)):
        conf = yaml.safe_load((SSL1 / "conf" / "train_hubert.yaml").read_text())
        conf = conf["frontend_conf"]["upstream_config"]
        conf = {**conf, **TOY, "hidden_size": size}
        teacher = HFFrontend(upstream_config=conf, init_seed=seed)
        teacher.model.save_pretrained(tmp_path / f"teacher{size}")
    return folder


def run(recipe, *options):
    top = recipe.parents[2]
    teachers = f"{top}/teacher16 {top}/teacher24"
    command = ["./run.sh", "--nj", "1", "--teachers", teachers, "--student_layers", "1"]
    command += ["--dumpdir", str(top / "dump"), "--expdir", str(top / "exp")]
    command += ["--tag", "a=student", *options]
    small = "--batch_bins 48000 --num_iters_per_epoch 2 --max_epoch 2 --crop_seconds 1"
    command += ["--train_args", small]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        command, cwd=recipe, env=environment, capture_output=True, text=True
    )


@pytest.mark.slow
def test_from_speech_to_a_student_of_two_teachers(recipe, tmp_path):
    write_speech(tmp_path / "speech")
    rated = tmp_path / "rated"
    rated.mkdir()
    files = sorted((tmp_path / "speech").glob("*/*.wav"))
    lines = {"wav.scp": [], "metric.scp": [], "utt2spk": []}
    for number, path in enumerate(files):
        lines["wav.scp"].append(f"u{number:02d} {path}")
        mos = RATINGS[int(path.parent.name[-1])]
        lines["metric.scp"].append(f"u{number:02d} " + json.dumps({"mos": mos}))
        lines["utt2spk"].append(f"u{number:02d} s{number % 4}")
    for name, content in lines.items():
        (rated / name).write_text("\n".join(content) + "\n")
    probe_opts = "--num_clusters 4 --seconds 1 --train_utterances 8 --ratings "
    result = run(
        recipe,
        *("--local_data_opts", f"--speech_dir {tmp_path}/speech"),
        *("--cdm", "setup2", "--dat", "alternating", "--equivariant", "0.1"),
        *("--probe_opts", f"{probe_opts}heard={rated}:utt2spk"),
    )
    exp = tmp_path / "exp" / "a=student"
    log = (exp / "train.log").read_text()[-2000:] if exp.exists() else ""
    assert result.returncode == 0, result.stdout + result.stderr + log
    config = yaml.safe_load((exp / "config.yaml").read_text())
    assert config["noisy_view"] == {"scheme": "double", "teacher": "own"}
    distill = config["losses"]["layer_distill"]
    assert [t["size"] for t in distill["known"]] == [16, 24]
    assert distill["view"] == "masked"
    student = HFFrontend(upstream=str(exp / "upstream"))
    trained = torch.load(exp / "valid.layer_distill.best.pth")
    for key, value in student.state_dict().items():
        assert torch.equal(value, trained[f"frontend.{key}"])
    (row,) = json.loads((exp / "probes.json").read_text())["rows"].values()
    row = {key.partition("=")[0]: value for key, value in row.items()}
    assert set(row) == {
        *(f"{p}_{v}" for p in ("recovered", "tokens", "speakers") for v in VIEWS),
        "srcc_heard",
    }
    assert -1.0 <= row["srcc_heard"] <= 1.0


@pytest.mark.slow
def test_a_list_of_students(recipe, tmp_path):
    """One is another's teacher, one fails; then nothing is made again."""
    write_speech(tmp_path / "speech")
    speech = ("--local_data_opts", f"--speech_dir {tmp_path}/speech")
    result = run(recipe, "--stop_stage", "2", *speech)
    assert result.returncode == 0, result.stdout + result.stderr
    (tmp_path / "list.txt").write_text(
        "# teacher's, of both seeds\n"
        "first | {whisper} | --student_layers all |\n"
        "bad | {whisper} | --cdm setup2 | --no_such 1\n"
        "second | {whisper} {first} | --aggregate average | --upstream_lr 0.001\n"
    )
    command = ["local/run_students.sh", "--list", str(tmp_path / "list.txt")]
    command += ["--whisper", str(tmp_path / "teacher16"), "--steps", "2"]
    command += ["--batch_bins", "48000", "--dumpdir", str(tmp_path / "dump")]
    command += ["--expdir", str(tmp_path / "students"), "--probe_opts"]
    command += ["--num_clusters 4 --seconds 1 --train_utterances 8"]

    def students(*options):
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        return subprocess.run(
            [*command, *options],
            cwd=recipe,
            env=environment,
            capture_output=True,
            text=True,
        )

    result = students()
    assert result.returncode == 1, result.stdout + result.stderr
    (line,) = [x for x in result.stderr.splitlines() if "seed0/bad: failed" in x]
    made = {f"seed{seed}/{name}" for seed in (0, 1) for name in ("first", "second")}
    folder = tmp_path / "students"
    assert {str(p.parent.relative_to(folder)) for p in folder.rglob(".done")} == made
    config = yaml.safe_load((folder / "seed1/second/config.yaml").read_text())
    assert config["seed"] == 1 and config["upstream_lr"] == 0.001
    teachers = [str(tmp_path / "teacher16"), str(folder / "seed0/first/upstream")]
    assert config["losses"]["layer_distill"]["teachers"] == teachers
    table = (folder / "RESULTS.md").read_text()
    names = [row.split(" | ")[0] for row in table.splitlines()[2:]]
    rows = ["teacher", "its first 2 layers", "first", "second", "*SD between seeds*"]
    assert names == [f"| {row}" for row in rows]
    again = students("--only", "first second")
    assert again.returncode == 0 and "begins" not in again.stdout
    assert (folder / "RESULTS.md").read_text() == table
    other = students("--only", "first second", "--steps", "3")
    assert other.returncode == 1 and "was made as" in other.stderr


def test_probes_are_kept_and_averaged(probes, tmp_path):
    found = probes.Probes(str(tmp_path / "x"), {"seed": 0})
    rows = [
        {"a": 1.0, "b=d:f": 4.0},
        {"a": 2.0, "b=d:f": 9.0},
        {"a": 7.0, "b=d:f": 0.0},
    ]
    for name, row in zip(("s", "s", "t"), rows):
        found.add(name, f"{name}{row['a']}", f"print{row['a']}", row)
    *_, s, t, spread = found.table(["s", "t"], ["a", "b=d:f"]).splitlines()
    assert s == "| s | 1.500 | 6.500 |" and t == "| t | 7.000 | 0.000 |"
    expected = np.std([rows[0]["a"], rows[1]["a"]], ddof=1)
    assert f"| {expected:.3f} |" in spread
    assert found.table(["t"], ["a", "b=d:f"]).startswith("| student | a | b |")
    assert probes.Probes(str(tmp_path / "x"), {"seed": 0}).rows == found.rows
    assert not probes.Probes(str(tmp_path / "x"), {"seed": 1}).rows


def test_experiments_of_other_options_have_other_names(recipe):
    def tag(*options):
        command = ["./run.sh", "--stage", "4", "--stop_stage", "4", *options]
        result = subprocess.run(command, cwd=recipe, capture_output=True, text=True)
        assert "/config.yaml is missing or empty" in result.stderr
        return result.stderr

    several = [
        (),
        ("--teachers", "a b"),
        ("--teachers", "a  b", "--aggregate", "concat"),
        ("--student_layers", "all"),
        ("--layers", "[1, 2]"),
        ("--cdm", "same"),
        ("--cdm", "same", "--scheme", "gsm  hum"),
        ("--cdm", "same", "--noisy_args", "--noisy_view rt60=[1,2]"),
        ("--cdm", "same", "--dat", "reversal"),
        ("--cdm", "same", "--dat", "reversal", "--dat_weight", "1"),
        ("--cdm", "same", "--equivariant", "0.1"),
        ("--train_args", "--seed 1"),
    ]
    assert len({tag(*options) for options in several}) == len(several)
    assert "a+b_concat" in tag(*several[2])


VIEWS = ("clean", "seen", "unseen")


def test_options_are_checked(recipe):
    result = run(recipe, "--help")
    assert result.returncode == 0 and "--cdm (none)" in result.stdout
    for options, words in (
        (["--cdm", "setup3"], "--cdm is 'setup3', expected one of: none same"),
        (["--dat", "on"], "--dat is 'on', expected one of"),
        (["--equivariant", "0.1"], "expected a distorted view"),
        (["--scheme", "single"], "expected a distorted view"),
        (["--noisy_args", "--noisy_view rt60=[1,2]"], "expected a distorted view"),
        (["--dat", "reversal", "--dat_domain", "distortion"], "a distorted view"),
        (["--student_layers", "0"], "--student_layers is '0'"),
        (["--stage", "3", "--stop_stage", "3"], "run stage 2 first"),
    ):
        result = run(recipe, *options)
        assert result.returncode == 1 and words in result.stderr


def test_the_linear_probe_is_scikit_learns(probes):
    rng = np.random.default_rng(0)
    x, y = rng.normal(2.0, 3.0, (40, 5)), rng.normal(1.0, 1.0, (40, 2))
    other = rng.normal(2.0, 3.0, (7, 5))
    scaler = StandardScaler().fit(x)
    expected = Ridge(alpha=0.1 * 40).fit(scaler.transform(x), y)
    found = probes.Linear(x, y, penalty=0.1)(other)
    np.testing.assert_allclose(found, expected.predict(scaler.transform(other)), 1e-5)


def test_frames_are_paired_in_time(probes):
    own = [np.arange(5.0)[:, None], np.arange(10.0, 13.0)[:, None]]
    other = [np.arange(6.0)[:, None], np.arange(10.0, 14.0)[:, None]]
    x, y = probes.frames_of(own, other, 1)
    assert (y - x == 1).all() and len(x) == 8
    x, y = probes.frames_of(other, own, -1)
    assert (x - y == 1).all() and len(x) == 8


def test_ratings_of_a_group_are_predicted_from_the_others(probes, tmp_path):
    """A state that knows the rating has 1; one that knows the group alone has not."""
    rng = np.random.default_rng(0)
    lines = {"wav.scp": [], "metric.scp": [], "utt2sys": []}
    for number in range(24):
        level = 0.01 * (1 + number)
        path = tmp_path / f"{number}.wav"
        soundfile.write(path, level * rng.choice([-1.0, 1.0], 800), 16000)
        lines["wav.scp"].append(f"u{number:02d} {path}")
        lines["metric.scp"].append(f"u{number:02d} " + json.dumps({"mos": 1 + level}))
        lines["utt2sys"].append(f"u{number:02d} s{number % 6}")
    for name, content in lines.items():
        (tmp_path / name).write_text("\n".join(content) + "\n")

    def loudness(speech, lengths):
        return [speech.abs()[:, :, None]], lengths

    def place(speech, lengths):
        found.append(float(len(found) % 6))
        return [torch.full((1, 3, 1), found[-1])], lengths

    found = []
    srcc = probes.rated_srcc(loudness, str(tmp_path), "utt2sys")
    assert srcc == pytest.approx(1.0)
    assert probes.rated_srcc(place, str(tmp_path), "utt2sys") < 0.1
