# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

import copy
import multiprocessing
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from espnet2_distilmos import MOSPredictor, load_predictor
from espnet2_distilmos.bin.calibrate import main as calibrate
from espnet2_distilmos.bin.export import main as export
from espnet2_distilmos.bin.predict import main as predict
from espnet2_distilmos.data.datadir import read_scp
from espnet2_distilmos.evaluation.formats import read_scores
from espnet2_distilmos.evaluation.trust import fit_scale, write_scale
from espnet2_distilmos.onnx_predictor import ONNXPredictor

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")


@pytest.fixture(scope="module")
def exported(scorer_dir, tmp_path_factory):
    path = tmp_path_factory.mktemp("onnx") / "mos.onnx"
    assert export([str(scorer_dir), str(path)]) == 0
    return str(path)


@pytest.fixture(scope="module")
def files(mos_corpus, tmp_path_factory):
    """Clips of one and two channels, of other rates, too long for the limit, broken."""
    folder = tmp_path_factory.mktemp("clips")
    noise = np.random.default_rng(0)
    for name, fs, shape in (
        ("a", 16000, (9000,)),
        ("stereo", 44100, (30000, 2)),
        ("long", 16000, (61234,)),
        ("silent", 8000, (8000,)),
    ):
        samples = (
            np.zeros(shape) if name == "silent" else 0.1 * noise.normal(size=shape)
        )
        soundfile.write(folder / f"{name}.wav", samples, fs)
    (folder / "broken.wav").write_bytes(b"RIFF")
    return sorted(str(path) for path in folder.iterdir())


def test_files_and_waves_get_the_scores_of_torch(exported, scorer_dir, files):
    options = {"max_seconds": 1.5}  # so that "long" is scored in windows
    ours = load_predictor(exported, **options)
    theirs = MOSPredictor.from_pretrained(str(scorer_dir), **options)
    assert type(ours) is ONNXPredictor
    for one, other in zip(ours.predict_files(files), theirs.predict_files(files)):
        assert (one.path, one.error) == (other.path, other.error)
        if other.result is None:
            continue
        assert one.result.score == pytest.approx(other.result.score, abs=1e-5)
        assert one.result.note == other.result.note
        for name in ("frames", "embedding", "times"):
            a, b = getattr(one.result, name), getattr(other.result, name)
            np.testing.assert_allclose(a, b, atol=1e-4)
    waves = [np.int16(3000 * np.sin(np.arange(n) / 9)) for n in (5000, 24001)]
    waves.append(np.stack([waves[0], -waves[0]]).astype(np.float32) / 2**15)
    for one, other in zip(ours(waves, 22050), theirs(waves, 22050)):
        assert one.score == pytest.approx(other.score, abs=1e-5)
        assert one.note == other.note


def test_names_of_any_kind_and_notes_of_others(exported, scorer_dir, tmp_path):
    wave = 0.1 * np.sin(np.arange(20000) / 7)
    score = load_predictor(exported)(wave, 16000).score
    proto = onnx.load(exported)
    onnx.helper.set_model_props(
        proto, {p.key: p.value for p in proto.metadata_props} | {"note": "free text"}
    )
    path = tmp_path / "UP.ONNX"
    onnx.save(proto, str(path))
    folder = tmp_path / "exp.onnx"
    folder.symlink_to(scorer_dir)
    for model in (path, Path(exported), folder, Path(scorer_dir)):
        for load in (load_predictor, MOSPredictor.from_pretrained):
            assert load(model)(wave, 16000).score == pytest.approx(score, abs=1e-5)


def test_a_damaged_file_is_refused(exported, tmp_path, caplog):
    data = Path(exported).read_bytes()
    proto, path = onnx.load(exported), tmp_path / "damaged.onnx"
    weights = max(proto.graph.initializer, key=lambda t: len(t.raw_data)).raw_data
    first = data.index(weights)
    # A sign, a last digit; somebody else's note is no damage, see above.
    for place, bit in ((first + 3, 128), (first + len(weights) // 2, 1)):
        flipped = bytearray(data)
        flipped[place] ^= bit
        path.write_bytes(flipped)
        assert len(onnx.load(str(path)).graph.initializer)  # it is a graph still
        with pytest.raises(ValueError, match="damaged.onnx is damaged"):
            load_predictor(str(path))
    for end in (len(data) // 2, len(data) - 1):
        path.write_bytes(data[:end])
        with pytest.raises(ValueError, match="export the model again"):
            load_predictor(str(path))
    assert not caplog.records
    # Of an earlier version.
    entries = {p.key: p.value for p in proto.metadata_props if p.key != "graph_sha256"}
    onnx.helper.set_model_props(proto, entries)
    onnx.save(proto, str(path))
    wave = 0.1 * np.sin(np.arange(20000) / 7)
    found = load_predictor(str(path))(wave, 16000).score
    assert found == load_predictor(exported)(wave, 16000).score
    (record,) = caplog.records
    assert "by an earlier version" in record.getMessage()


def test_threads_are_those_of_openmp(exported, monkeypatch):
    wave = 0.1 * np.sin(np.arange(20000) / 7)
    scores = []
    for value in ("2", "1,2", "nonsense", "-3"):
        monkeypatch.setenv("OMP_NUM_THREADS", value)
        scores.append(load_predictor(exported)(wave, 16000).score)
    np.testing.assert_allclose(scores, scores[0], atol=1e-5)


def test_it_can_be_copied_pickled_and_forked(exported):
    predictor = load_predictor(exported)
    wave = 0.1 * np.sin(np.arange(20000) / 7)
    score = predictor(wave, 16000).score
    assert copy.deepcopy(predictor)(wave, 16000).score == score
    assert pickle.loads(pickle.dumps(predictor))(wave, 16000).score == score
    with multiprocessing.get_context("fork").Pool(1) as pool:
        found = pool.apply_async(_score, (predictor, wave)).get(timeout=60)
    assert found == score


def _score(predictor, wave):
    return predictor(wave, 16000).score


@pytest.mark.parametrize(
    "weights, size, change", [("fp16", 0.6, 5e-3), ("int8", 0.4, 0.1)]
)
def test_rounded_weights(weights, size, change, scorer_dir, exported, files, tmp_path):
    """Smaller by what they say, and near the scores of the model that was rounded."""
    path = tmp_path / "mos.onnx"
    assert export([str(scorer_dir), str(path), "--weights", weights]) == 0
    # What is stored, without names and nodes.
    stored = [
        sum(
            len(tensor.raw_data)
            for tensor in onnx.load(str(file)).graph.initializer
            if not tensor.name.endswith("_step")
        )
        for file in (path, exported)
    ]
    assert stored[0] < size * stored[1]
    whole, rounded = load_predictor(exported), load_predictor(str(path))
    assert whole.model_fingerprint != rounded.model_fingerprint
    for one, other in zip(whole.predict_files(files), rounded.predict_files(files)):
        if one.result is not None:
            assert 0 < abs(one.result.score - other.result.score) < change


@pytest.mark.parametrize("score_range", [None, [0, 100]])
def test_a_scale_goes_into_the_graph(
    score_range, exported, scorer_dir, files, tmp_path, capsys
):
    model = MOSPredictor.from_pretrained(str(scorer_dir)).method_fingerprint
    scores = np.linspace(1, 5, 60)
    for kind, labels in (("linear", 7 * scores - 3), ("monotone", scores**2)):
        scale = {**fit_scale(scores, labels, kind), "model": model, "labels": "test"}
        if score_range:
            scale["score_range"] = score_range
        write_scale(str(tmp_path / f"{kind}.json"), scale)
    path = tmp_path / "mos.onnx"
    options = [str(scorer_dir), str(path), "--scale"]
    assert export([*options, str(tmp_path / "monotone.json")]) == 1
    assert "expected a linear one" in capsys.readouterr().err and not path.exists()
    about = "for  tests\nonly"
    assert export([*options, str(tmp_path / "linear.json"), "--about", about]) == 0
    plain, scaled = load_predictor(exported), load_predictor(str(path))
    assert scaled.about == "for tests only" and plain.about == ""
    assert scaled.score_range == score_range
    assert scaled.model_fingerprint != plain.model_fingerprint
    for one, other in zip(plain.predict_files(files), scaled.predict_files(files)):
        if one.result is not None:
            score = 7 * one.result.score - 3
            assert other.result.score == pytest.approx(score, abs=1e-4)
            expected = 7 * one.result.frames - 3
            np.testing.assert_allclose(other.result.frames, expected, atol=1e-3)


def test_calibration_and_neighbours_of_the_trained_model(
    exported, scorer_dir, mos_corpus, tmp_path, capsys
):
    """They name the trained model, which the exported one is."""
    labels = str(mos_corpus.root / "valid")
    made = {"": tmp_path / "calibration.npz", "--datastore": tmp_path / "datastore.npz"}
    for option, output in made.items():
        options = [option] if option else []
        command = [str(scorer_dir), "--labels", labels, "--output", str(output)]
        assert calibrate(command + options) == 0
    options = {"calibration": str(made[""])}
    options.update(knn=3, knn_datastore=str(made["--datastore"]))
    clip = next(iter(read_scp(f"{labels}/wav.scp").values()))
    without = {k: v for k, v in options.items() if k != "calibration"}
    found = [
        load_predictor(model, **without).predict_files([clip]).__next__().result.score
        for model in (exported, str(scorer_dir))
    ]
    assert found[0] == pytest.approx(found[1], abs=1e-5)
    interval = [
        load_predictor(model, calibration=str(made[""]))
        .predict_files([clip])
        .__next__()
        .result.interval(0.7)
        for model in (exported, str(scorer_dir))
    ]
    np.testing.assert_allclose(*interval, atol=1e-5)
    # Made with the exported one, it lies beside it.
    assert calibrate([exported, "--labels", labels]) == 0
    assert "calibration" in capsys.readouterr().out


def test_the_command_imports_no_torch(exported, files, tmp_path):
    output = tmp_path / "scores.csv"
    code = (
        "import sys\n"
        "from espnet2_distilmos.bin.predict import main\n"
        "code = main(sys.argv[1:])\n"
        "assert not {'torch', 'transformers', 'espnet2'} & set(sys.modules)\n"
        "sys.exit(code)\n"
    )
    options = ["--model", exported, "--output", str(output)]
    command = [sys.executable, "-c", code, *files, *options]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 1 and done.stderr.count("broken.wav") == 1
    scored = {r.id: r.score for r in read_scores(str(output)).records}
    assert len(scored) == len(files)
    assert predict([*files, "--model", exported, "--output", f"{output}.csv"]) == 1
    assert {r.id: r.score for r in read_scores(f"{output}.csv").records} == scored


def test_what_cannot_be_is_one_sentence(exported, tmp_path):
    for options, words in (
        ({"device": "cuda"}, "cuda"),
        ({"corpus": "a"}, "corpus"),
        ({"listener": "all"}, "listener"),
    ):
        with pytest.raises(ValueError, match=words):
            load_predictor(exported, **options)
    with pytest.raises(FileNotFoundError, match="distilmos export"):
        load_predictor(str(tmp_path / "none.onnx"))
    with pytest.raises(ValueError, match="an iterable of paths"):
        next(load_predictor(exported).predict_files("a.wav"))
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(b"no graph")
    with pytest.raises(ValueError, match="broken.onnx is no readable ONNX graph"):
        load_predictor(str(broken))
    proto = onnx.load(exported)
    del proto.metadata_props[:]
    onnx.save(proto, str(broken))
    with pytest.raises(ValueError, match="export the model again"):
        load_predictor(str(broken))
    for key, value in (("sample_rate", "abc"), ("frame_shift", "0")):
        proto = onnx.load(exported)
        for entry in proto.metadata_props:
            entry.value = value if entry.key == key else entry.value
        onnx.save(proto, str(broken))
        with pytest.raises(ValueError, match="export the model again"):
            load_predictor(str(broken))
    predictor = load_predictor(exported)
    with pytest.raises(ValueError, match="gradients"):
        predictor(np.zeros(16000), 16000, grad=True)
    with pytest.raises(ValueError, match="token_posteriors"):
        predictor(np.zeros(16000), 16000, token_posteriors=True)
