# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

import csv
import json
import os
import shutil

import numpy as np
import pytest
import scipy.stats
import soundfile
import torch
import yaml

from espnet2_distilmos import MOSPredictor
from espnet2_distilmos.bin.calibrate import main, sample_train
from espnet2_distilmos.bin.mos_pack import main as mos_pack
from espnet2_distilmos.bin.predict import main as predict
from espnet2_distilmos.data.calibration import read_calibration, read_scale
from espnet2_distilmos.evaluation.conformal import conformal_quantile
from espnet2_distilmos.evaluation.novelty import distance

MODEL = "valid.sys_srcc.best.pth"
NUM_CALIBRATION, NUM_TEST = 119, 160


LISTENERS_SD = 0.4


def write_clips(folder, count, seed):
    """Tones in noise; wav.scp and a utt2src that is not in its place."""
    generator = np.random.default_rng(seed)
    (folder / "wav").mkdir(parents=True)
    with open(folder / "wav.scp", "w") as wav_scp:
        for k in range(count):
            n = int(generator.integers(3000, 6000))
            tone = np.sin(2 * np.pi * generator.uniform(200, 400) * np.arange(n) / 16e3)
            share = generator.uniform()
            wave = share * tone + (1 - share) * generator.normal(size=n)
            path = folder / "wav" / f"{folder.name}{k:03d}.wav"
            soundfile.write(path, 0.1 * wave / wave.std(), 16000)
            wav_scp.write(f"{path.stem} {path}\n")


def waves_of(folder):
    lines = (folder / "wav.scp").read_text().splitlines()
    return [soundfile.read(line.split(None, 1)[1])[0] for line in lines]


class Setting:
    """A tiny model, clips to calibrate it on, and clips to test it on.

    The listeners agree with the model up to normal errors of a known deviation.
    """

    def __init__(self, root, scorer_dir):
        self.root = root
        self.train_set = root / "train"
        self.valid_set = root / "valid"
        self.exp = shutil.copytree(scorer_dir, root / "exp")
        write_clips(self.train_set, 60, 0)
        predictor = MOSPredictor.from_pretrained(str(self.exp))
        scores = [predictor(w, 16000).score for w in waves_of(self.train_set)]
        # Its last layer gets the scale of the labels.
        states = torch.load(self.exp / MODEL, weights_only=True)
        factor = 0.5 / np.std(scores)
        states["head.linear.weight"] *= factor
        states["head.linear.bias"] -= float(np.mean(scores))
        states["head.linear.bias"] *= factor
        states["head.linear.bias"] += 3
        torch.save(states, self.exp / MODEL)
        config = yaml.safe_load((self.exp / "config.yaml").read_text())
        config["score_range"] = [1, 5]
        for name in ("train", "valid"):
            entry = [str(root / name / "wav.scp"), "speech", "sound"]
            config[f"{name}_data_path_and_name_and_type"] = [entry]
        (self.exp / "config.yaml").write_text(yaml.safe_dump(config))

        self.predictor = MOSPredictor.from_pretrained(str(self.exp))
        generator = np.random.default_rng(1)
        self.found, self.true = {}, {}
        sizes = {"calibration": NUM_CALIBRATION, "test": NUM_TEST, "valid": 11}
        for seed, (name, count) in enumerate(sizes.items(), 1):
            write_clips(root / name, count, seed)
            # One at a time: other batches than those of the commands.
            found = [self.predictor(wave, 16000) for wave in waves_of(root / name)]
            scores = np.array([result.score for result in found])
            labels = scores + LISTENERS_SD * generator.normal(size=count)
            self.found[name], self.true[name] = found, np.clip(labels, 1, 5).round(3)
            with open(root / name / "metric.scp", "w") as metric_scp:
                for k, label in enumerate(self.true[name]):
                    metric_scp.write(f'{name}{k:03d} {{"mos": {label}}}\n')

    def labels(self, name):
        return self.true[name]

    def results(self, name):
        return self.found[name]


@pytest.fixture(scope="module")
def setting(tmp_path_factory, scorer_dir):
    return Setting(tmp_path_factory.mktemp("calibrate"), scorer_dir)


@pytest.fixture(scope="module")
def calibrated(setting):
    """The experiment with its calibration; tests copy what they change."""
    exp = shutil.copytree(setting.exp, setting.root / "calibrated")
    labels, train = setting.root / "calibration", setting.train_set
    command = [str(exp), "--labels", str(labels), "--train", str(train / "wav.scp")]
    assert main(command) == 0
    return exp


@pytest.fixture
def run(capsys):
    def call(command, *options):
        capsys.readouterr()
        code = command([*map(str, options)])
        return code, capsys.readouterr()

    return call


def read_csv(path):
    with open(path, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def columns(rows, *names):
    return [np.array([float(row[name]) for row in rows]) for name in names]


# Intervals


def test_intervals_are_the_direct_formula_and_cover(setting, calibrated, run):
    output = setting.root / "intervals.csv"
    test = setting.root / "test"
    code, _ = run(
        predict, *(test / "wav.scp", "--model", calibrated, "--output", output),
        *("--interval", "0.9"),
    )  # fmt: skip
    rows = read_csv(output)
    assert code == 0 and list(rows[0])[:9] == (
        "id path score error lower upper novelty novel seconds".split()
    )
    raw = np.array([result.score for result in setting.results("calibration")])
    residuals = np.sort(np.abs(raw - setting.labels("calibration")))
    half = residuals[108 - 1]  # ceil(0.9 * 120)
    score, lower, upper = columns(rows, "score", "lower", "upper")
    np.testing.assert_allclose(lower, np.clip(score - half, 1, 5), atol=2e-4)
    np.testing.assert_allclose(upper, np.clip(score + half, 1, 5), atol=2e-4)
    # What the 108th of 119 covers of 160 others, whatever the distribution.
    labels = setting.labels("test")
    covered = int(((lower <= labels) & (labels <= upper)).sum())
    band = scipy.stats.betabinom(NUM_TEST, 108, 12).interval(0.999)
    assert band[0] <= covered <= band[1]
    # Of normal errors, the quantile is known.
    expected = scipy.stats.norm.ppf(0.95) * LISTENERS_SD
    assert half == pytest.approx(expected, rel=0.25)

    predictor = MOSPredictor.from_pretrained(str(calibrated))
    for row, result in zip(rows[:5], setting.results("test")):
        wave, fs = soundfile.read(row["path"])
        found = predictor(wave, fs)
        ends = np.clip([result.score - half, result.score + half], 1, 5)
        np.testing.assert_allclose(found.interval(0.9), ends, atol=1e-4)
        assert found.novelty == pytest.approx(float(row["novelty"]), abs=1e-3)
        assert found.novel is (found.novelty > 1) and row["novel"] == str(
            int(found.novel)
        )


def test_clips_of_one_source_are_one_cluster(setting, run, tmp_path):
    labels = shutil.copytree(setting.root / "calibration", tmp_path / "labels")
    clusters = [f"source{k % 40}" for k in range(NUM_CALIBRATION)]
    lines = [f"calibration{k:03d} {c}\n" for k, c in enumerate(clusters)]
    (labels / "utt2src").write_text("".join(lines))
    output = tmp_path / "c.npz"
    code, printed = run(main, setting.exp, "--labels", labels, "--output", output)
    assert code == 0 and "119 clips of labels in 40 clusters" in printed.out
    assert "no --train is given" in printed.out
    raw = np.array([result.score for result in setting.results("calibration")])
    residuals = np.abs(raw - setting.labels("calibration"))
    predictor = MOSPredictor.from_pretrained(str(setting.exp), calibration=str(output))
    for level in (0.5, 0.9):
        expected = conformal_quantile(residuals, level, clusters)
        assert expected != conformal_quantile(residuals, level)
        found = predictor.confidence.half_width(level)
        assert found == pytest.approx(expected, abs=1e-4)
    # an expression says the same as the file
    other = tmp_path / "other.npz"
    options = ["--labels", setting.root / "calibration", "--output", other]
    assert run(main, setting.exp, *options, "--cluster", r"n(\d+)$")[0] == 0
    assert read_calibration(str(other))["intervals"]["num_clusters"] == 119


def test_the_stored_file_tells_nothing_of_the_machine(setting, calibrated):
    path = calibrated / "calibration.npz"
    with np.load(path, allow_pickle=False) as file:
        text = " ".join(str(file[name]) for name in file.files)
    assert "/" not in text and os.fsencode(setting.root) not in path.read_bytes()
    stored = read_calibration(str(path))
    assert (stored["labels"], stored["train"]) == ("calibration", "train")
    assert stored["intervals"]["num_clips"] == NUM_CALIBRATION
    assert int(stored["novelty"]["num_train"]) == 60


# Novelty


def test_what_is_unlike_the_training_set_is_flagged(setting, calibrated, run, tmp_path):
    for rate in (16000, 48000):
        t = np.arange(rate // 2) / rate
        for hertz in (2000, 3000, 5000, 7000):
            tone = 0.5 * np.sin(2 * np.pi * hertz * t)
            soundfile.write(tmp_path / f"tone{hertz}_{rate}.wav", tone, rate)
    output = tmp_path / "s.csv"
    options = ["--model", calibrated, "--interval", 0.9, "--output", output]
    code, printed = run(predict, tmp_path, *options)
    assert code == 0
    assert "8 of 8 files are unlike the training set" in printed.err
    strange = columns(read_csv(output), "novel")[0]
    assert len(strange) == 8 and strange.all()
    assert run(predict, setting.root / "test" / "wav", *options)[0] == 0
    novelty, flags = columns(read_csv(output), "novelty", "novel")
    assert flags.sum() <= 0.05 * NUM_TEST  # 1 % of the calibration clips are
    embeddings = [result.embedding for result in setting.results("test")]
    stored = read_calibration(str(calibrated / "calibration.npz"))["novelty"]
    expected = distance(stored, embeddings) / stored["threshold"]
    np.testing.assert_allclose(novelty, expected, rtol=1e-2)


def test_the_sample_of_the_training_set_is_seeded(setting, tmp_path):
    lines = (setting.train_set / "wav.scp").read_text().splitlines()
    (tmp_path / "wav.scp").write_text("\n".join(reversed(lines)) + "\n")
    first = sample_train([str(setting.train_set)], 9, 0)
    assert len({item.id for item in first}) == 9
    assert sample_train([str(tmp_path)], 9, 0) == first
    assert sample_train([str(tmp_path / "wav.scp")], 9, 1) != first
    assert len(sample_train([str(tmp_path)], 100, 0)) == len(lines)


def test_knn_and_another_quantile(setting, run, tmp_path):
    output = tmp_path / "c.npz"
    code, printed = run(
        main, setting.exp, "--labels", setting.root / "calibration",
        *("--train", setting.train_set, "--max-train", 20, "--novelty", "knn"),
        *("--novelty-quantile", 0.8, "--output", output),
    )  # fmt: skip
    assert code == 0 and "20 clips of train; knn distance" in printed.out
    predictor = MOSPredictor.from_pretrained(str(setting.exp), calibration=str(output))
    results = setting.results("calibration")
    found = [predictor.confidence.novelty(result.embedding) for result in results]
    flagged = sum(novelty > 1 + 1e-6 for novelty in found)
    assert abs(flagged - round(0.2 * NUM_CALIBRATION)) <= 1


# The model and its calibration


def test_another_checkpoints_calibration_is_refused(calibrated, setting, run, tmp_path):
    other = shutil.copytree(calibrated, tmp_path / "other", symlinks=True)
    states = torch.load(other / MODEL, weights_only=True)
    states["head.linear.bias"] += 1e-3
    (other / MODEL).unlink()
    torch.save(states, other / MODEL)
    audio = setting.root / "test" / "wav" / "test000.wav"
    assert run(predict, audio, "--model", other)[0] == 0
    code, printed = run(predict, audio, "--model", other, "--interval", 0.9)
    assert code == 1 and printed.out == ""
    assert "cannot give intervals: the calibration is of the model" in printed.err
    assert f"distilmos calibrate {other} --labels" in printed.err
    named = calibrated / "calibration.npz"
    options = ["--model", other, "--calibration", named]
    code, printed = run(predict, audio, *options)
    assert code == 1 and "the calibration is of the model" in printed.err
    # the same model elsewhere is the same
    moved = shutil.copytree(setting.exp, tmp_path / "moved")
    options = ["--model", moved, "--calibration", named, "--interval", 0.9]
    assert run(predict, audio, *options)[0] == 0


def test_packed_and_unpacked_it_says_the_same(calibrated, setting, run, tmp_path):
    audio = setting.root / "test" / "wav"
    packed = tmp_path / "model.zip"
    options = ["--train_config", calibrated / "config.yaml", "--outpath", packed]
    code, printed = run(mos_pack, *options, "--model_file", calibrated / MODEL)
    assert code == 0
    assert run(mos_pack, "--unpack", packed, "--output_dir", tmp_path / "un")[0] == 0
    rows = []
    for model in (calibrated, packed, tmp_path / "un", tmp_path / "un" / "unpacked"):
        output = tmp_path / "s.csv"
        options = ["--model", model, "--interval", 0.8, "--output", output]
        assert run(predict, audio, *options)[0] == 0
        rows.append(read_csv(output))
    assert len(rows[0]) == NUM_TEST and rows[0] == rows[1] == rows[2] == rows[3]
    # a .zip has no place beside it
    code, printed = run(main, packed, "--labels", setting.root / "calibration")
    assert code == 1 and "--output is missing: there is no place" in printed.err


def test_what_is_of_another_checkpoint_is_not_packed(calibrated, run, tmp_path):
    exp = shutil.copytree(calibrated, tmp_path / "exp")
    states = torch.load(exp / MODEL, weights_only=True)
    states["head.linear.bias"] += 1e-3
    torch.save(states, exp / "other.pth")
    packed = tmp_path / "model.zip"
    options = ["--train_config", exp / "config.yaml", "--outpath", packed]
    code, printed = run(mos_pack, *options, "--model_file", exp / "other.pth")
    assert code == 0
    assert "calibration.npz is left out: the calibration is of the model" in printed.err
    assert MOSPredictor.from_pretrained(str(packed)).confidence.calibration is None


def test_without_a_calibration_the_command_is_named(setting, run):
    audio = setting.root / "test" / "wav" / "test000.wav"
    code, printed = run(predict, audio, "--model", setting.exp, "--interval", 0.9)
    assert code == 1 and printed.out == ""
    assert f"`distilmos calibrate {setting.exp} --labels DATA_DIR" in printed.err
    result = setting.predictor(np.full(5000, 0.1), 16000)
    with pytest.raises(ValueError, match="run `distilmos calibrate`"):
        result.interval(0.9)
    assert result.novelty is None and result.novel is None


def test_levels_outputs_and_resuming(calibrated, setting, run, tmp_path):
    audio = setting.root / "test" / "wav" / "test00*.wav"
    options = [audio, "--model", calibrated, "--interval"]
    for level, words in ((0.999, "too few"), (1.2, "expected one between 0 and 1")):
        code, printed = run(predict, *options, level)
        assert code == 1 and words in printed.err
    code, printed = run(predict, *options, 0.9, "--output", tmp_path / "s.scp")
    assert code == 1 and "expected .csv or .jsonl for --interval" in printed.err
    output = tmp_path / "s.jsonl"
    assert run(predict, *options, 0.9, "--output", output)[0] == 0
    before = output.read_text()
    row = json.loads(before.splitlines()[0])
    assert list(row)[4:8] == ["lower", "upper", "novelty", "novel"]
    code, printed = run(predict, *options, 0.8, "--output", output, "--resume")
    assert code == 1 and "scores of the scorer" in printed.err
    assert run(predict, *options, 0.9, "--output", output, "--resume")[0] == 0
    again = map(json.loads, output.read_text().splitlines())
    assert list(again) == list(map(json.loads, before.splitlines()))
    # the screen has the same columns
    code, printed = run(predict, *options, 0.9)
    shown = list(csv.DictReader(printed.out.splitlines()))[0]
    assert list(shown)[4:8] == ["lower", "upper", "novelty", "novel"]
    assert float(shown["lower"]) == pytest.approx(row["lower"], abs=1e-5)


# Labels


def test_labels_in_other_files(calibrated, setting, run, tmp_path):
    labels = setting.labels("calibration")
    files = sorted((setting.root / "calibration" / "wav").glob("*.wav"))
    (tmp_path / "audio").mkdir()
    with open(tmp_path / "sheet.csv", "w") as sheet:
        sheet.write("wav_path,score,system_id,sample_id\n")
        for path, label in zip(files, labels):
            shutil.copy(path, tmp_path / "audio")
            sheet.write(f"audio/{path.name},{label},s,{path.stem}\n")
    answer = "".join(f"{p.stem},{x}\n" for p, x in zip(files, labels))
    (tmp_path / "answer.txt").write_text(answer)
    expected = read_calibration(str(calibrated / "calibration.npz"))["intervals"]
    for name, options in (
        ("sheet.csv", []),
        ("answer.txt", ["--audio", tmp_path / "audio"]),
    ):
        output = tmp_path / "c.npz"
        options = ["--labels", tmp_path / name, "--output", output, *options]
        assert run(main, setting.exp, *options)[0] == 0
        found = read_calibration(str(output))
        assert found["labels"] == name
        np.testing.assert_allclose(
            found["intervals"]["scores"], expected["scores"], atol=1e-4
        )


def test_bad_clips_are_named_and_the_others_calibrate(setting, run, tmp_path):
    labels = shutil.copytree(setting.root / "calibration", tmp_path / "labels")
    lines = (labels / "wav.scp").read_text().splitlines()
    (tmp_path / "bad.wav").write_text("no audio")
    lines[3] = f"{lines[3].split()[0]} {tmp_path / 'bad.wav'}"
    (labels / "wav.scp").write_text("\n".join(lines[:-1]) + "\n")
    output = tmp_path / "c.npz"
    code, printed = run(main, setting.exp, "--labels", labels, "--output", output)
    assert code == 1
    assert "bad.wav cannot be read as audio" in printed.err
    assert "has 1 utterance (the first is calibration118) without audio" in printed.err
    stored = read_calibration(str(output))["intervals"]
    assert stored["num_clips"] == NUM_CALIBRATION - 2
    (labels / "wav.scp").write_text(f"calibration000 {tmp_path / 'bad.wav'}\n")
    output.unlink()
    code, printed = run(main, setting.exp, "--labels", labels, "--output", output)
    assert code == 1 and "none of the 1 labelled clips could be" in printed.err
    assert not output.exists()


def test_labels_of_another_scale_are_refused(setting, run, tmp_path):
    labels = shutil.copytree(setting.root / "calibration", tmp_path / "labels")
    lines = (labels / "metric.scp").read_text().splitlines()
    lines[0] = 'calibration000 {"mos": 73}'
    (labels / "metric.scp").write_text("\n".join(lines) + "\n")
    code, printed = run(main, setting.exp, "--labels", labels)
    assert code == 1 and not (setting.exp / "calibration.npz").exists()
    assert "calibration000 has the label 73, expected one on the model's" in printed.err


def test_clips_that_chose_the_checkpoint_are_noticed(setting, run, tmp_path):
    options = ["--labels", setting.valid_set, "--output", tmp_path / "c.npz"]
    code, printed = run(main, setting.exp, *options)
    assert code == 0
    assert "11 of the 11 labelled clips are in" in printed.err
    assert "which chose its checkpoint: the intervals are too narrow" in printed.err
    options[1] = setting.root / "calibration"
    assert "too narrow" not in run(main, setting.exp, *options)[1].err


# Another listening test


def rescaled(setting, folder, name, transform):
    """The clips with the labels of listeners who use 0 to 100."""
    target = shutil.copytree(setting.root / name, folder / name)
    lines = (target / "wav.scp").read_text().splitlines()
    labels = [round(float(transform(x)), 3) for x in setting.labels(name)]
    text = [f'{x.split()[0]} {{"mos": {y}}}\n' for x, y in zip(lines, labels)]
    (target / "metric.scp").write_text("".join(text))
    (target / "score_range").write_text("0 100\n")
    return target, np.array(labels)


def test_a_linear_scale(calibrated, setting, run, tmp_path):
    few, labels = rescaled(setting, tmp_path, "calibration", lambda x: 20 * x - 10)
    scale = tmp_path / "scale.json"
    options = ["--labels", few, "--fit-scale", "linear", "--output", scale]
    code, printed = run(main, calibrated, *options)
    assert code == 0 and "linear, 119 clips of calibration" in printed.out
    raw = np.array([result.score for result in setting.results("calibration")])
    slope, intercept = np.polyfit(raw, labels, 1)
    stored = read_scale(str(scale))
    assert stored["slope"] == pytest.approx(slope, rel=1e-3)
    assert stored["intercept"] == pytest.approx(intercept, rel=1e-3)
    assert stored["score_range"] == [0, 100] and stored["labels"] == "calibration"

    audio, output = setting.root / "test" / "wav", tmp_path / "s.csv"
    options = ["--model", calibrated, "--scale", scale, "--output", output]
    code, printed = run(predict, audio, *options)
    assert code == 0 and "a linear scale fitted to 119 clips" in printed.err
    assert "not known" not in printed.err
    rows = read_csv(output)
    found = columns(rows, "score")[0]
    expected = np.array([result.score for result in setting.results("test")])
    np.testing.assert_allclose(found, intercept + slope * expected, atol=2e-2)
    beyond = (expected < raw.min() - 1e-4) | (expected > raw.max() + 1e-4)
    noted = np.array(["beyond the scores" in row["note"] for row in rows])
    assert (noted >= beyond).all() and noted.sum() <= beyond.sum() + 2
    # Another scale is another scorer.
    assert rows[0]["scorer"] != setting.predictor.fingerprint

    code, printed = run(predict, audio, *options, "--interval", 0.9)
    assert code == 0 and "is not known, as they were calibrated on" in printed.err
    half = MOSPredictor.from_pretrained(str(calibrated)).confidence.half_width(0.9)
    lower = columns(read_csv(output), "lower")[0]
    ends = intercept + slope * np.clip(expected - half, 1, 5)
    np.testing.assert_allclose(lower, np.clip(ends, 0, 100), atol=2e-2)

    # Other clips of that test make it known.
    others, labels = rescaled(setting, tmp_path, "test", lambda x: 20 * x - 10)
    own = tmp_path / "own.npz"
    options = ["--labels", others, "--scale", scale]
    code, printed = run(main, calibrated, *options)
    assert code == 1 and "has no place beside the model" in printed.err
    assert run(main, calibrated, *options, "--output", own)[0] == 0
    options = ["--model", calibrated, "--scale", scale, "--output", output]
    options += ["--interval", 0.9, "--calibration", own]
    code, printed = run(predict, audio, *options)
    assert code == 0 and "not known" not in printed.err
    half = np.sort(np.abs(intercept + slope * expected - labels))[145 - 1]
    lower, score = columns(read_csv(output), "lower", "score")
    np.testing.assert_allclose(lower, np.clip(score - half, 0, 100), atol=2e-2)


def test_a_monotone_scale_and_gradients(setting, run, tmp_path):
    few, labels = rescaled(setting, tmp_path, "calibration", lambda x: 4 * x**2)
    wave = torch.from_numpy(waves_of(setting.root / "test")[0]).requires_grad_()
    gradients = {}
    for kind in (None, "linear", "monotone"):
        scale = str(tmp_path / f"{kind}.json") if kind else None
        if kind:
            options = ["--labels", few, "--fit-scale", kind, "--output", scale]
            assert run(main, setting.exp, *options)[0] == 0
        predictor = MOSPredictor.from_pretrained(str(setting.exp), scale=scale)
        raw = setting.predictor(wave.detach(), 16000)
        found = predictor(wave.detach(), 16000)
        assert found.raw_score == pytest.approx(raw.score, abs=1e-5)
        if kind == "monotone":
            x, y = (read_scale(scale)[name] for name in "xy")
            assert found.score == pytest.approx(np.interp(raw.score, x, y), abs=1e-3)
            np.testing.assert_allclose(
                found.frames, np.interp(raw.frames, x, y), atol=1e-3
            )
            assert found.frames.dtype == np.float32
            with pytest.raises(ValueError, match="monotone scale, which is flat"):
                predictor(wave, 16000, grad=True)
            continue
        score = predictor(wave, 16000, grad=True).score
        (gradients[kind],) = torch.autograd.grad(score, wave)
    slope = read_scale(str(tmp_path / "linear.json"))["slope"]
    np.testing.assert_allclose(
        gradients["linear"], slope * gradients[None], rtol=1e-3, atol=1e-4
    )


def test_what_cannot_be_fitted_or_used_is_said(calibrated, setting, run, tmp_path):
    labels = ["--labels", setting.root / "calibration"]
    options = [*labels, "--fit-scale", "linear", "--train", setting.train_set]
    code, printed = run(main, calibrated, *options)
    assert code == 1 and "run the command twice" in printed.err
    falling, _ = rescaled(setting, tmp_path, "calibration", lambda x: 100 - 20 * x)
    scale = tmp_path / "scale.json"
    options = ["--labels", falling, "--fit-scale", "linear", "--output", scale]
    code, printed = run(main, calibrated, *options)
    assert code == 1 and "do not rise with the model's" in printed.err
    (tmp_path / "empty").mkdir()
    code, printed = run(main, calibrated, "--labels", tmp_path / "empty")
    assert code == 1 and "metric.scp cannot be read" in printed.err
    # a scale of another model
    options = [*labels, "--fit-scale", "linear", "--output", scale]
    assert run(main, calibrated, *options)[0] == 0
    stored = {**read_scale(str(scale)), "model": "000000000000"}
    scale.write_text(json.dumps(stored))
    audio = setting.root / "test" / "wav" / "test000.wav"
    code, printed = run(predict, audio, "--model", calibrated, "--scale", scale)
    assert code == 1 and "scores of the model 000000000000 and this" in printed.err
