# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

"""The stages of mos.sh on a fabricated corpus of twelve utterances."""

import json
import os
import shutil
import signal
import subprocess
import time

import numpy as np
import pytest
import soundfile
import torch
import yaml

from espnet2_distilmos import MOSPredictor
from espnet2_distilmos.mos.build import build_frontend

TOKENS = "dump/tokens/train_tiny_k4_lall"
EXP = "exp/mos_train_tiny_raw"
CALIBRATION = "dump/raw/dev_calibration"
PACKED = f"{EXP}/mos_train_tiny_raw_valid.utt_mse.best.zip"


def ids(lines):
    return [line.split()[0] for line in lines]


def results(recipe):
    return json.loads((recipe.dir / EXP / "results.json").read_text())


# The stages that need no model


def test_audio_that_cannot_be_used_stops_stage_2_with_the_rest_done(recipe):
    audio = recipe.dir / "source" / "train" / "audio"
    (audio / "train0.wav").unlink()
    soundfile.write(audio / "train3.wav", np.zeros(100), 16000)
    # A stereo file of another rate is no fault.
    soundfile.write(audio / "train5.wav", np.zeros((22050, 2)), 44100)
    lines = recipe.lines("source/test/wav.scp")
    recipe.write("test", "wav.scp", [*lines, lines[0]])

    result = recipe.run(code=1)
    assert "Stage 3" not in result.stdout
    for utt_id in ("train0", "train3", "test0"):
        assert f"utterance {utt_id}: " in result.stderr
    assert "bad utterances in: train test " in result.stderr.splitlines()[-1]
    good = recipe.lines("dump/raw/org/train/utt2num_samples")
    assert ids(good) == ["train1", "train2", "train4", "train5"]
    assert good[-1] == "train5 8000"
    # A later stage does not go on quietly; asked to, it goes on without them.
    later = recipe.run("--stage", 4, "--stop_stage", 4, code=1)
    assert "stage 2 left bad utterances out" in later.stderr
    recipe.run("--stage", 2, "--stop_stage", 4, "--skip_bad", "true")
    assert len(recipe.lines("dump/raw/train/metric.scp")) == 4
    # Mended, and with a file that a kill left unfinished: no file is written twice.
    for i in (0, 3):
        soundfile.write(audio / f"train{i}.wav", np.zeros(8000), 16000)
    data = recipe.dir / "dump/raw/org/train/data"
    (data / "train1.flac").rename(data / ".train1.flac.tmp1")
    recipe.write("test", "wav.scp", lines)
    result = recipe.run("--stop_stage", 4)
    assert "dump/raw/org/train has 6 utterances, 3 of them written" in result.stderr
    assert len(recipe.lines("dump/raw/train/wav.scp")) == 6


def test_byte_order_marks_and_carriage_returns_change_nothing(recipe):
    def run_and_read():
        shutil.rmtree(recipe.dir / "dump", ignore_errors=True)
        recipe.run("--stop_stage", 4)
        folders = ("org/train", "train", "test")
        files = (p for f in folders for p in (recipe.dir / "dump/raw" / f).iterdir())
        return {p: p.read_bytes() for p in files if p.is_file()}

    recipe.write("test", "score_range", ["0 100"])
    expected = run_and_read()
    assert len(expected) > 15
    for path in (recipe.dir / "source").glob("*/*"):
        if path.is_file():
            text = path.read_bytes().replace(b"\n", b"\r\n")
            path.write_bytes(b"\xef\xbb\xbf" + text)
    assert run_and_read() == expected


def test_labels_that_cannot_be_used_stop_stage_3(recipe):
    labels = recipe.lines("source/train/metric.scp")
    labels[1] = 'train1 {"mos": 5.5}'
    labels[5] = "train5 {}"  # unlabelled is no fault
    recipe.write("train", "metric.scp", labels)
    recipe.write("test", "utt2sys", recipe.lines("source/test/utt2sys")[:2])
    labels = recipe.lines("source/dev/metric.scp")
    recipe.write("dev", "metric.scp", [*labels, 'dev9 {"mos": 3}'])

    result = recipe.run(code=1)
    assert "Stage 4" not in result.stdout and "train5" not in result.stderr
    for utt_id in ("train1", "test2", "dev9"):
        assert f"utterance {utt_id} " in result.stderr
    later = recipe.run("--stage", 4, "--stop_stage", 4, code=1)
    assert "stage 3 left bad utterances out" in later.stderr
    recipe.run("--stage", 3, "--stop_stage", 4, "--skip_bad", "true")
    for file in ("wav.scp", "metric.scp", "utt2spk", "utt2num_samples"):
        kept = ids(recipe.lines(f"dump/raw/train/{file}"))
        assert kept == ["train0", "train2", "train3", "train4", "train5"]


def test_stage_4_filters_durations_and_keeps_a_calibration_set_back(recipe):
    """By source: dev0 and dev2 have one, and at 0.3 it calibrates."""
    recipe.write("dev", "utt2src", ["dev0 s5", "dev1 s1", "dev2 s5"])
    recipe.run("--stop_stage", 3)
    stage_4 = ["--stage", 4, "--stop_stage", 4]
    share = ["--calibration_share", 0.3, "--max_wav_duration", 0.75]
    recipe.run(*stage_4, *share)
    for file in ("wav.scp", "metric.scp", "utt2sys", "utt2num_samples", "spk2utt"):
        kept = ids(recipe.lines(f"dump/raw/train/{file}"))
        assert kept == ["train0", "train1", "train2"]  # 0.5, 0.6 and 0.7 s
        assert ids(recipe.lines(f"dump/raw/dev/{file}")) == ["dev1"]
        assert ids(recipe.lines(f"{CALIBRATION}/{file}")) == ["dev0", "dev2"]
    assert len(recipe.lines("dump/raw/test/wav.scp")) == 3
    recipe.run(*stage_4)  # alone, without the limits
    assert len(recipe.lines("dump/raw/train/wav.scp")) == 6
    assert len(recipe.lines("dump/raw/dev/wav.scp")) == 3
    wrong = recipe.run(*stage_4, "--max_wav_duration", 0.2, code=1)
    assert "no utterance of train lasts between" in wrong.stderr.splitlines()[-1]


def test_unlabelled_sets_keep_further_scores(recipe):
    """They reach the loss aux_scores; the set's own labels are not read."""
    shutil.copytree(recipe.dir / "source/train", recipe.dir / "source" / "unlab")
    for file in ("wav.scp", "utt2spk", "utt2sys"):
        lines = recipe.lines(f"source/train/{file}")[:2]
        recipe.write("unlab", file, [f"unlab_{line}" for line in lines])
    labels = ['unlab_train0 {"mos": 9, "dnsmos_ovrl": 2.5}', "unlab_train1 nothing"]
    recipe.write("unlab", "metric.scp", labels)
    recipe.write("unlab", "votes.scp", ['unlab_train0 [["l1", 3]]'])
    recipe.run("--unlabelled_sets", "unlab", "--stop_stage", 4)
    combined = recipe.lines("dump/raw/train+unlab/metric.scp")
    assert combined[0] == 'train0 {"mos": 1.5}' and len(combined) == 8
    assert combined[-2:] == ['unlab_train0 {"dnsmos_ovrl": 2.5}', "unlab_train1 {}"]
    assert not (recipe.dir / "dump/raw/train+unlab/votes.scp").exists()


def test_pseudo_labels_become_a_training_set(recipe):
    """Of a table of scores; what has none is named."""
    script = "scripts/pseudo_label.sh"
    speech = recipe.dir / "source" / "train" / "wav.scp"
    ids = [f"train{i}_c{k}" for i in range(6) for k in range(2)]
    table = recipe.dir / "teacher.csv"
    table.write_text("id,score\n" + "".join(f"{i},3.5\n" for i in ids[1:]))
    options = ["--speech_dir", speech, "--copies", 2, "--teachers", "t=teacher.csv"]
    result = recipe.run(*options, script=script, code=1)
    assert "some copies have no label" in result.stderr.splitlines()[-1]
    result = recipe.run(*options, "--skip_bad", "true", script=script)
    assert "run.sh --train_set" in result.stdout
    assert recipe.lines("data/pseudo/metric.scp") == [
        f'{i} {{"mos": 3.5, "t": 3.5}}' for i in ids[1:]
    ]
    # What an earlier run has left is not this one's.
    for bad in (("--teachers", "nobody"), ("--target", "nokey"), ("--copies", 0)):
        wrong = [*options, *bad, "--skip_bad", "true"]
        assert recipe.run(*wrong, script=script, code=1).stdout == ""
    copies = dict(line.split() for line in recipe.lines("data/pseudo/wav.scp"))
    assert all((recipe.dir / path).is_file() for path in copies.values())
    assert "--speech_dir is missing" in recipe.run(script=script, code=1).stderr


def test_a_test_set_may_have_its_own_scale_and_no_systems(recipe):
    labels = [f'test{i} {{"mos": {40 * i}}}' for i in range(3)]
    recipe.write("test", "metric.scp", labels)
    recipe.write("test", "score_range", ["0  100"])
    (recipe.dir / "source" / "test" / "utt2sys").unlink()
    result = recipe.run("--stop_stage", 3)
    assert "test has no utt2sys: it is scored by utterances only" in result.stdout
    # The training set's scale is that of the model, and it has systems.
    (recipe.dir / "source" / "train" / "utt2sys").unlink()
    assert "utt2sys" in recipe.run("--stop_stage", 3, code=1).stderr
    recipe.run("--stop_stage", 3, "--need_systems", "false")
    recipe.write("train", "score_range", ["0 100"])
    refused = recipe.run("--stop_stage", 3, "--need_systems", "false", code=1)
    assert "give --score_range '0 100'" in refused.stderr.splitlines()[-1]


def test_a_corpus_of_test_sets_only(recipe):
    options = ["--train_set", "", "--valid_set", "", "--skip_train", "true"]
    options += ["--ood", "no/test", "--stop_stage", 5]
    result = recipe.run(*options)
    assert "Stage 3" in result.stdout and "Stage 4" not in result.stdout
    assert result.stderr.startswith("no/test is left out: there is no recipe egs2/no")
    assert len(recipe.lines("dump/raw/test/wav.scp")) == 3
    assert not (recipe.dir / "dump" / "raw" / "org").exists()


@pytest.mark.parametrize(
    "options, words",
    [
        (["--stage", "two"], "--stage two is not a whole number"),
        (["--no_such", 1], "there is no option --no_such"),
        (["surplus"], "'surplus' is not an option"),
        (["--stage", 4], "dump/raw/org/train/wav.scp is missing or empty; run stage 2"),
        (["--stage", 5], "dump/raw/train/wav.scp is missing or empty; run stage 4"),
        (["--stage", 7], "speech_shape is missing or empty; run stage 6 first"),
        (["--stage", 8], "config.yaml is missing or empty; run stage 7 first"),
        # before any stage, and only where a stage needs one
        (["--ngpu", 1], "--ngpu is 1 and no CUDA device was found, expected 1"),
        (["--stage", 8, "--gpu_inference", "true"], "--ngpu is 1 and no CUDA device"),
        (["--stage", 6, "--stop_stage", 6, "--ngpu", 1], "wav.scp is missing or empty"),
        (
            ["--train_sets", "train no/train", "--stop_stage", 1],
            "--train_sets names no/train, which cannot be prepared; see",
        ),
    ],
)
def test_what_cannot_work_ends_with_a_sentence(recipe, options, words, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    result = recipe.run(*options, code=1)
    assert words in result.stderr.splitlines()[-1]
    assert "CUDA" not in words or "Stage" not in result.stdout


def test_another_name_of_the_model_file(finished, tmp_path):
    recipe = finished[0].copy(tmp_path)
    name = ["--inference_model", "valid.sys_srcc.best.pth"]
    for options in (["--stage", 8], ["--stage", 10, "--skip_upload", "false"]):
        refused = recipe.run(*options, *name, code=1).stderr.splitlines()[-1]
        assert f"{EXP}/valid.sys_srcc.best.pth is missing; found" in refused
        assert "valid.utt_mse.best.pth" in refused and "checkpoint" not in refused
        assert "choose one with --inference_model" in refused


@pytest.mark.slow
def test_another_training_is_refused_and_leaves_the_model_alone(finished, tmp_path):
    """Weights of equal shapes, and all epochs done."""
    recipe = finished[0].copy(tmp_path)
    names = ["config.yaml", "run.sh", "checkpoint.pth", "valid.utt_mse.best.pth"]

    def contents():
        return [(recipe.dir / EXP / name).read_bytes() for name in names]

    before = contents()
    options = ["--stage", 7, "--stop_stage", 7, "--mos_exp", EXP]
    args = ["--tokens_tag", "train_tiny_k4_lall", "--train_args"]
    refused = recipe.run(*options, *args, "--head_conf layer_mix=softmax", code=1)
    *_, reason, last = refused.stderr.splitlines()
    assert "head_conf.layer_mix 'entmax15' (now 'softmax')" in reason
    assert "mend what is said above" in last and "Traceback" not in refused.stderr
    assert contents() == before
    recipe.run(*options)


def test_help_lists_every_option(recipe):
    script = (recipe.dir / "mos.sh").read_text()
    text = script[script.index("# General") : script.index("help_message=")]
    names = [line.partition("=")[0] for line in text.splitlines() if "=" in line]
    assert len(names) > 40
    shown = recipe.run("--help").stdout
    assert all(f"  --{name} (" in shown for name in names)


# The stages with a model


def test_all_stages_end_with_the_table_and_where_it_lies(finished):
    recipe, result = finished
    lines = result.stdout.splitlines()
    assert lines[-1] == f"The results are in {EXP}/RESULTS.md"
    # Three clips have no interval, which is said below the table.
    assert "found 3 of the at least 6 utterances" in lines[-2]
    row = next(line for line in reversed(lines) if "| test " in line)
    assert "mos_train_tiny_raw" in row
    assert "epoch 2 (validation): loss=" in result.stdout
    assert row in recipe.lines(f"{EXP}/RESULTS.md")
    assert "format_version" in results(recipe)
    predictions = recipe.lines(f"{EXP}/inference_valid.utt_mse.best/test/metric.scp")
    assert ids(predictions) == ["test0", "test1", "test2"]
    source, _ = soundfile.read(recipe.dir / "source" / "test" / "audio" / "test1.wav")
    written, rate = soundfile.read(
        recipe.dir / recipe.lines("dump/raw/test/wav.scp")[1].split()[1]
    )
    assert rate == 16000
    np.testing.assert_allclose(written, source, atol=1e-4)
    for name in ("train", "dev"):
        rows = [line.split() for line in recipe.lines(f"{TOKENS}/{name}/tokens.scp")]
        table = recipe.lines(f"dump/raw/{name}/utt2num_samples")
        lengths = dict(line.split() for line in table)
        assert [row[0] for row in rows] == sorted(lengths)
        for utt_id, path in rows:
            tokens = np.load(recipe.dir / path)
            assert tokens.dtype == np.int16
            assert abs(len(tokens) - int(lengths[utt_id]) / 320) <= 2
            assert 0 <= tokens.min() and tokens.max() < 4


@pytest.mark.slow
def test_several_training_sets_with_listeners_and_corpora(recipe):
    """From all directories to scores; the other test gave 0 to 100."""
    for name, count in (("other", 2), ("unlab", 1)):
        shutil.copytree(recipe.dir / "source/train", recipe.dir / "source" / name)
        for file in ("wav.scp", "utt2spk", "utt2sys", "metric.scp"):
            lines = recipe.lines(f"source/train/{file}")[:count]
            recipe.write(name, file, [f"{name}_{line}" for line in lines])
    (recipe.dir / "source" / "unlab" / "utt2sys").unlink()
    labels = ['other_train0 {"mos": 0}', 'other_train1 {"mos": 50.0}']
    recipe.write("other", "metric.scp", labels)
    recipe.write("other", "score_range", ["0 100"])
    recipe.write("dev", "utt2domain", [f"dev{i} train" for i in range(3)])
    votes = [f'train{i} [["l{i % 3}", {1.5 + 0.5 * i}]]' for i in range(5)]
    recipe.write("train", "votes.scp", votes)
    recipe.write("other", "votes.scp", ['other_train1 [["l1", 100]]'])
    options = ["--nj", 1, "--inference_nj", 1, "--use_tokens", "false"]
    sets = ["--train_sets", "train other", "--stop_stage", 4]
    result = recipe.run(*options, *sets, code=1)
    assert "dump/raw/other/score_range is '0 100'" in result.stderr
    options += ["--train_sets", "train:2 other:1.0", "--unlabelled_sets", "unlab:1"]
    options += ["--map_scores", "true", "--use_votes", "true", "--use_corpora", "true"]
    args = "--max_epoch 1 --losses token_ce.weight=0"
    for kind in ("listener", "corpus"):
        args += f" --model_conf {kind}_embedding=true"
    options += ["--train_args", args, "--tag", "several"]
    recipe.run(*options, "--inference_args", "--corpus other")
    combined = recipe.lines("dump/raw/train+other+unlab/metric.scp")
    assert combined[:2] == ['other_train0 {"mos": 1.0}', 'other_train1 {"mos": 3.0}']
    assert combined[-1] == "unlab_train0 {}" and len(combined) == 9
    exp = recipe.dir / "exp" / "mos_several"
    config = yaml.safe_load((exp / "config.yaml").read_text())
    assert config["listener_list"] == ["other/l1", "train/l0", "train/l1", "train/l2"]
    assert config["corpus_list"] == ["other", "train", "unlab"]
    assert config["sampling_weights"] == {"train": 2, "other": 1, "unlab": 1}
    inference = "inference_corpusother_valid.utt_mse.best"
    predictions = recipe.lines(f"exp/mos_several/{inference}/test/metric.scp")
    assert ids(predictions) == ["test0", "test1", "test2"]
    assert (exp / "RESULTS.md").exists()
    # The other scale is kept, since the loss compares utterances of one set alone.
    options[options.index("--map_scores")] = "--keep_scores"
    options[options.index("--train_args") + 1] += (
        " --losses mos_l1.weight=0 --losses bradley_terry.weight=1"
        " --sampling_batches single --best_model_criterion valid,utt_srcc,max"
    )
    recipe.run(*options, "--tag", "kept", "--stage", 2, "--stop_stage", 7)
    combined = recipe.lines("dump/raw/train+other+unlab/metric.scp")
    assert combined[:2] == ['other_train0 {"mos": 0.0}', 'other_train1 {"mos": 50.0}']
    config = yaml.safe_load((exp.parent / "mos_kept/config.yaml").read_text())
    assert config["score_range"] == [0.0, 100.0]
    data = config["valid_data_path_and_name_and_type"]
    assert ["dump/raw/dev/utt2domain", "corpus", "text"] in data


@pytest.mark.slow
def test_stage_9_again_with_baselines_another_scale_and_another_model(
    finished, tmp_path
):
    recipe = finished[0].copy(tmp_path)
    before = results(recipe)["results"]
    recipe.run("--stage", 9)
    assert results(recipe)["results"] == before
    # A listening test on another scale: correlations, and no error.
    (recipe.dir / "dump" / "raw" / "test" / "score_range").write_text("0 100\n")
    script = recipe.dir / "local" / "baselines.sh"
    script.write_text("""#!/usr/bin/env bash
set -eu
exp="${@: -1}"
mkdir -p "$exp/oracle/test"
cp dump/raw/test/metric.scp "$exp/oracle/test"
echo "oracle $exp/oracle" > "$exp/extra_predictions"
""")
    script.chmod(0o755)
    (recipe.dir / "conf" / "results_notes.txt").write_text("Simulated.\n")
    shutil.copytree(recipe.dir / EXP, recipe.dir / "exp" / "mos_other")
    for path in (recipe.dir / "exp" / "mos_other").glob("inference*/test/metric.scp"):
        path.touch()
    recipe.run("--stage", 9)
    own, oracle = results(recipe)["results"]
    assert before[0]["utt_mos_mse"] > 0 and own["utt_mos_mse"] is None
    assert own["utt_mos_srcc"] == before[0]["utt_mos_srcc"]
    assert oracle["utt_mos_srcc"] == pytest.approx(1)
    assert "Simulated." in (recipe.dir / EXP / "RESULTS.md").read_text()
    table = json.loads((recipe.dir / "exp" / "results.json").read_text())
    assert [row["model"] for row in table["results"]] == [
        *("mos_train_tiny_raw", "mos_other")
    ]


@pytest.mark.slow
def test_a_packed_model_is_used_and_fine_tuned(finished, tmp_path):
    recipe = finished[0].copy(tmp_path)
    upload = ["--skip_upload", "false", "--stage"]
    assert "--hf_repo is missing" in recipe.run(*upload, 11, code=1).stderr
    refused = recipe.run(*upload, 11, "--hf_repo", "someone/model", code=1)
    assert "run stage 10 first" in refused.stderr
    recipe.run(*upload, 10, "--stop_stage", 10)
    shutil.move(recipe.dir / PACKED, recipe.dir / "model.zip")
    before = recipe.lines(f"{EXP}/inference_valid.utt_mse.best/test/metric.scp")
    old = json.loads("".join(recipe.lines(f"{TOKENS}/train/tokens.json")))
    for folder in ("exp/mos_train_tiny_raw", TOKENS):
        shutil.rmtree(recipe.dir / folder)
    options = ["--stage", 8, "--stop_stage", 8, "--inference_nj", 1]
    recipe.run(*options, "--download_model", "model.zip")
    (found,) = (recipe.dir / "exp" / "model").glob("inference*/test/metric.scp")
    scores = [
        [json.loads(line.split(None, 1)[1])["mos"] for line in lines]
        for lines in (before, found.read_text().splitlines())
    ]
    np.testing.assert_allclose(scores[0], scores[1], atol=1e-4)
    # Fine-tuning: its tokens are made with the network that the training starts from.
    options = ["--stage", 5, "--stop_stage", 7, "--nj", 1, "--tag", "fine"]
    recipe.run(*options, "--train_args", "--init_model model.zip --max_epoch 1")
    config = yaml.safe_load((recipe.dir / "exp/mos_fine/config.yaml").read_text())
    assert config["init_model"] == "model.zip"
    tokens = f"{TOKENS}_init_modelmodel.zip/train/tokens.json"
    assert config["token_info"] == json.loads("".join(recipe.lines(tokens)))
    new = config["token_info"]["upstream_fingerprint"]
    assert new != old["upstream_fingerprint"]


@pytest.mark.slow
def test_calibration_is_made_and_packed(finished, tmp_path):
    recipe = finished[0].copy(tmp_path)
    options = ["--calibration_share", 0.9, "--nj", 1, "--inference_nj", 1]
    missing = recipe.run("--stage", 8, "--stop_stage", 8, *options, code=1)
    assert "dev_calibration/wav.scp is missing or empty; run stage 4" in missing.stderr
    recipe.run("--stage", 4, "--stop_stage", 4, *options)
    options += ["--skip_upload", "false"]
    recipe.run("--stage", 8, "--stop_stage", 10, *options)
    predictor = MOSPredictor.from_pretrained(str(recipe.dir / PACKED))
    path = recipe.lines("dump/raw/test/wav.scp")[0].split()[1]
    found = predictor(*soundfile.read(recipe.dir / path))
    low, high = found.interval(0.5)
    assert 1 <= low <= high <= 5 and found.novelty > 0


def run_until(recipe, condition, *options):
    """Start mos.sh, and kill it and all its jobs as soon as ``condition()`` holds."""
    process = subprocess.Popen(
        recipe.command(*options),
        cwd=recipe.dir,
        env=recipe.environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    deadline = time.time() + 300
    while not condition():
        assert process.poll() is None, "it ended before it could be killed"
        assert time.time() < deadline
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


@pytest.mark.slow
def test_tokens_are_resumed_kept_and_renewed(finished, tmp_path):
    recipe = finished[0].copy(tmp_path)

    def tokens(name):
        rows = [line.split() for line in recipe.lines(f"{TOKENS}/{name}/tokens.scp")]
        return {utt_id: np.load(recipe.dir / path) for utt_id, path in rows}

    before = tokens("train")
    shutil.rmtree(recipe.dir / TOKENS / "train")
    options = ["--stage", 5, "--stop_stage", 5, "--nj", 1]
    data = recipe.dir / TOKENS / "train" / "split1" / "1" / "data"
    run_until(recipe, lambda: data.exists() and any(data.glob("*.npy")), *options)
    assert not (recipe.dir / TOKENS / "train" / "tokens.scp").exists()
    result = recipe.run(*options)
    assert f"the tokens in {TOKENS}/dev are there already" in result.stdout
    after = tokens("train")
    assert after.keys() == before.keys()
    assert all(np.array_equal(after[utt_id], before[utt_id]) for utt_id in before)

    # New audio under an old name; the others are kept.
    before = tokens("dev")
    path = recipe.dir / "source" / "dev" / "audio" / "dev0.wav"
    tone = 0.3 * np.sin(0.2 * np.arange(8000))
    tone += 0.01 * np.random.default_rng(1).standard_normal(8000)
    soundfile.write(path, tone, 16000)
    lines = recipe.lines("source/dev/wav.scp")
    recipe.write("dev", "wav.scp", [f"dev0 {path}", *lines[1:]])
    time.sleep(1.1)  # dates of files may be whole seconds
    result = recipe.run("--stop_stage", 5, "--nj", 1)
    assert f"the tokens in {TOKENS}/train are there already" in result.stdout
    after = tokens("dev")
    assert np.any(after["dev0"] != before["dev0"])
    np.testing.assert_array_equal(after["dev1"], before["dev1"])


@pytest.mark.slow
def test_tokens_of_several_upstreams(finished, whisper, tmp_path):
    recipe = finished[0].copy(tmp_path)
    config = yaml.safe_load((recipe.dir / "conf" / "train_tiny.yaml").read_text())
    own = build_frontend("hf", config["frontend_conf"])
    own.model.save_pretrained(recipe.dir / "upstream" / "own")
    upstreams = ["--token_upstreams", f"upstream/own {whisper}", "--nj", 1]
    upstreams += ["--train_args", "--max_epoch 1", "--tag", "several"]
    options = ["--stage", 5, "--stop_stage", 7, "--num_clusters", "4 3", *upstreams]
    recipe.run(*options)
    (folder,) = (recipe.dir / "dump" / "tokens").glob(
        "train_tiny_k4+3_lall_upstream-own+*"
    )
    for name in ("train", "dev"):
        info = json.loads((folder / name / "tokens.json").read_text())
        found = [(c["stream"], c["layer"], c["K"]) for c in info["columns"]]
        assert found == [
            (s, n, k) for s, k in (("hubert", 4), ("whisper", 3)) for n in (1, 2)
        ]
        assert len(np.load(next(folder.rglob("*.npy")))[0]) == 4
    log = (recipe.dir / "exp" / "mos_several" / "train.log").read_text()
    assert "token_acc_hubert_l01=" in log and "token_acc_whisper_l02=" in log
    again = recipe.run(*options, "--stop_stage", 5)
    assert again.stdout.count("are there already") == 2
    # Those of one upstream are not what is asked for.
    options = ["--stage", 7, "--stop_stage", 7, *upstreams, "--tag", "other"]
    refused = recipe.run(*options, "--tokens_tag", "train_tiny_k4_lall", code=1)
    assert (
        "tokens made by another upstream or in another way (hubert " in refused.stderr
    )
    # One codebook for both.
    options = ["--stage", 5, "--stop_stage", 5, *upstreams]
    unequal = [*options, "--token_aggregate", "concat", "--token_layers", "1 1,2"]
    said = recipe.run(*unequal, code=1).stderr.splitlines()[-1]
    assert "stage 5 failed: found different numbers of layers to pair" in said
    recipe.run(*options, "--token_aggregate", "concat", "--token_layers", "1 2")
    (folder,) = (recipe.dir / "dump" / "tokens").glob("*_l1+2_*_concat")
    info = json.loads((folder / "dev" / "tokens.json").read_text())
    assert info["columns"] == [{"stream": "hubert+whisper", "layer": 1, "K": 4}]
    # They are not those of both side by side.
    options = ["--stage", 7, "--stop_stage", 7, *upstreams, "--tag", "joint"]
    options += ["--tokens_tag", folder.name]
    refused = recipe.run(*options, code=1)
    assert "in another way (hubert+whisper concat:" in refused.stderr
    recipe.run(*options, "--token_aggregate", "concat")


@pytest.mark.slow
def test_a_training_resumes_after_a_kill_and_says_where_to_look(finished, tmp_path):
    """It needs no tokens where no loss reads them."""
    recipe = finished[0].copy(tmp_path)
    shutil.rmtree(recipe.dir / TOKENS)
    options = ["--stage", 5, "--stop_stage", 7, "--tag", "killed"]
    options += ["--use_tokens", "false"]
    args = "--losses token_ce.weight=0 --max_epoch 4"
    exp = recipe.dir / "exp" / "mos_killed"
    log = exp / "train.log"
    wrong = f"{args} --best_model_criterion valid,no_such,max"
    failed = recipe.run(*options, "--train_args", wrong, code=1)
    *_, reason, last = failed.stderr.splitlines()
    assert reason.startswith("found --best_model_criterion valid,no_such,max")
    assert "stage 7 failed, see exp/mos_killed/train.log; mend what" in last

    def second_epoch_is_done():
        return log.exists() and "2epoch results" in log.read_text()

    shutil.rmtree(exp)
    options += ["--train_args", args]
    run_until(recipe, second_epoch_is_done, *options)
    recipe.run(*options)
    text = log.read_text()
    assert "4epoch results" in text and "1epoch results" not in text
    assert (exp / "valid.utt_mse.best.pth").exists()
    assert not (recipe.dir / TOKENS).exists()


@pytest.mark.slow
def test_the_upstream_is_adapted_before_the_training_on_labels(finished, tmp_path):
    """On audio without labels; tokens are of the original upstream or the adapted."""
    recipe = finished[0].copy(tmp_path)
    conf = recipe.dir / "conf"
    train = yaml.safe_load((conf / "train_tiny.yaml").read_text())
    train["frontend_conf"]["upstream_config"]["mask_time_prob"] = 0.05
    (conf / "train_tiny.yaml").write_text(yaml.safe_dump(train))
    config = {**train, "head": "token", "losses": {"masked_token_ce": {"alpha": 1.0}}}
    config.update(crop_seconds=0.6, num_iters_per_epoch=2, upstream_lr=1e-2)
    config.update(best_model_criterion=[["valid", "loss", "min"]])
    (conf / "adapt_tiny.yaml").write_text(yaml.safe_dump(config))
    # A set for the adaptation alone; it has no labels at all.
    (recipe.dir / "data" / "more").mkdir()
    lines = [f"more_{line}" for line in recipe.lines("source/train/wav.scp")[:4]]
    (recipe.dir / "data" / "more" / "wav.scp").write_text("\n".join(lines) + "\n")

    script = "scripts/adapt_upstream.sh"
    options = ["--adapt_config", "conf/adapt_tiny.yaml", "--num_clusters", 4]
    options += ["--ngpu", 0, "--nj", 1, "--min_wav_duration", 0.5, "--adapt_sets"]
    refused = recipe.run(*options, "no/train", script=script, code=1)
    assert "no/train is left out: there is no recipe egs2/no/mos1" in refused.stderr
    said = recipe.run(*options, "train more", script=script).stdout
    exp = "exp/adapt_tiny_train+more"
    shapes = recipe.lines(f"{exp}/train_shape")
    assert len(shapes) == 10 and "more_train3 9600" in shapes  # 0.8 s, cropped
    original = build_frontend("hf", config["frontend_conf"]).fingerprint()
    assert f'./run.sh --stage 5 --train_args "--init_model {exp}/valid.loss' in said
    assert f"--token_source {original}" in said

    model = f"{exp}/valid.loss.best.pth"
    states = torch.load(recipe.dir / model, weights_only=True)
    adapted = build_frontend("hf", config["frontend_conf"])
    adapted.load_state_dict(
        {k[len("frontend.") :]: v for k, v in states.items() if "frontend." in k}
    )
    assert adapted.fingerprint() != original
    start = f"--init_model {model} --max_epoch 1"
    recipe.run("--nj", 1, "--stage", 5, "--stop_stage", 5)
    runs = {
        adapted.fingerprint(): ["--stage", 5, "--train_args", start],
        original: [
            *("--stage", 7, "--tokens_tag", "train_tiny_k4_lall"),
            *("--train_args", f"{start} --token_source {original}"),
        ],
    }
    for fingerprint, command in runs.items():
        recipe.run("--nj", 1, "--stop_stage", 7, "--tag", fingerprint, *command)
        path = recipe.dir / "exp" / f"mos_{fingerprint}" / "config.yaml"
        found = yaml.safe_load(path.read_text())
        assert found["init_model"] == model and found["head"] == "distilmos"
        assert found["token_info"]["upstream_fingerprint"] == fingerprint
