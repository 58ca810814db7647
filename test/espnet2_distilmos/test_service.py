# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

"""The service over real connections, and the predictor that calls it."""

import concurrent.futures
import contextlib
import io
import json
import os
import pickle
import re
import socket
import threading
import time

import numpy as np
import pytest
import soundfile

from espnet2_distilmos import MOSPredictor
from espnet2_distilmos.evaluation.trust import Confidence, fit_novelty
from espnet2_distilmos.remote import RemoteMOSPredictor
from espnet2_distilmos.service import Batcher, Limits, make_app

uvicorn = pytest.importorskip("uvicorn")
urllib3 = pytest.importorskip("urllib3")
pytest.importorskip("fastapi")
pytest.importorskip("python_multipart")
pytest.importorskip("prometheus_client")

RATE = 16000


def noise(seed, seconds, rate=RATE):
    generator = np.random.default_rng(seed)
    shape = np.sin(np.arange(int(seconds * rate)) / rate * generator.uniform(200, 2000))
    return (0.1 * shape + 0.02 * generator.normal(size=len(shape))).astype(np.float32)


def as_file(wave, rate=RATE, format="WAV"):
    file = io.BytesIO()
    soundfile.write(file, wave, rate, format=format)
    return file.getvalue()


@pytest.fixture(scope="module")
def predictor(scorer_dir):
    return MOSPredictor.from_pretrained(str(scorer_dir))


class Held:
    """A predictor that waits until it may score, and remembers the batches."""

    def __init__(self, predictor):
        self.predictor = predictor
        self.batches = []
        self.begun, self.may_score = threading.Semaphore(0), threading.Event()

    def __getattr__(self, name):
        return getattr(self.predictor, name)

    def __call__(self, waves, rates):
        self.batches.append([wave.shape[-1] for wave in waves])
        self.begun.release()
        assert self.may_score.wait(60)
        return self.predictor(waves, rates)


@contextlib.contextmanager
def serving(predictor, token=None, **limits):
    """A server in a thread; gives its URL."""
    app = make_app(predictor, Limits(**limits), token)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        server = uvicorn.Server(uvicorn.Config(app, log_level="warning"))
        thread = threading.Thread(target=server.run, args=([listening],))
        thread.start()
        try:
            yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join(60)
            assert not thread.is_alive()


@pytest.fixture(scope="module")
def url(predictor):
    with serving(predictor, duration=50, body=2**22) as url:
        yield url


def ask(url, body=None, fields=None, method="POST", **headers):
    """(status, content, headers)"""
    with urllib3.PoolManager(retries=False) as pool:
        more = {"fields": fields} if fields else {"body": body}
        answer = pool.request(method, url, headers=headers, timeout=60, **more)
        content = answer.data
        if answer.headers.get("content-type") == "application/json":
            content = json.loads(content)
        return answer.status, content, answer.headers


def metric(url, name):
    text = ask(url + "/metrics", method="GET")[1].decode()
    return float(re.search(rf"^{re.escape(name)} (\S+)$", text, re.MULTILINE)[1])


# Scores


@pytest.mark.parametrize("format", ["WAV", "FLAC", "OGG", "MP3"])
def test_a_file_has_the_score_that_predict_gives(url, predictor, tmp_path, format):
    wave = np.stack([noise(1, 0.8, 22050), noise(2, 0.8, 22050)], 1)
    body = as_file(wave, 22050, format)
    path = tmp_path / f"x.{format.lower()}"
    path.write_bytes(body)
    (expected,) = predictor.predict_files([str(path)])
    for name in ("", f"?name=x.{format.lower()}"):
        status, row, _ = ask(f"{url}/score{name}", body)
        assert status == 200 and row["error"] == ""
        assert row["score"] == pytest.approx(expected.result.score, abs=1e-5)
        assert row["seconds"] == expected.result.seconds and "frames" not in row
    _, row, _ = ask(f"{url}/score?frames=1&embedding=true", body)
    np.testing.assert_allclose(row["frames"], expected.result.frames, atol=1e-4)
    np.testing.assert_allclose(row["times"], expected.result.times)
    np.testing.assert_allclose(row["embedding"], expected.result.embedding, atol=1e-4)


def test_raw_samples_and_what_is_longer_than_a_window(url, predictor):
    wave = noise(3, 0.7, 8000)
    stereo = np.stack([wave, 0.5 * wave])
    for given, query, rate in (
        (wave, "rate=8000", 8000),
        (stereo.T.copy(), "rate=8000&channels=2", 8000),
        (noise(4, 40), "rate=16000", 16000),
    ):
        _, row, _ = ask(f"{url}/score?{query}", given.astype("<f4").tobytes())
        expected = predictor(given.T, rate)
        assert row["score"] == pytest.approx(expected.score, abs=1e-5)
        assert row["note"] == expected.note
    assert "windows of 20 s" in row["note"]


def test_several_files_have_a_row_each_in_their_order(url, predictor):
    good = {f"{k}.wav": noise(k, 0.2 + 0.1 * k) for k in (3, 1, 2)}
    fields = [("f", (name, as_file(wave))) for name, wave in good.items()]
    fields.insert(1, ("f", ("../../etc/passwd", b"root:x:0:0")))
    status, content, _ = ask(f"{url}/score", fields=fields)
    assert status == 200
    bad = content["results"].pop(1)
    assert bad["score"] is None and bad["name"] == "../../etc/passwd"
    assert bad["error"].startswith("../../etc/passwd cannot be read as audio")
    assert [row["name"] for row in content["results"]] == list(good)
    for row, wave in zip(content["results"], good.values()):
        pcm = soundfile.read(io.BytesIO(as_file(wave)), dtype="float32")[0]
        assert row["score"] == pytest.approx(predictor(pcm, RATE).score, abs=1e-5)


def test_what_cannot_be_scored_has_a_sentence(url, tmp_path):
    nan = np.full(4000, np.nan, "<f4").tobytes()
    long = as_file(np.zeros(51 * 8000), 8000)
    cases = [
        ("", b"", 422, "the upload is empty (0 bytes)"),
        ("?name=a%0Ab.wav", b"nothing", 422, "a\nb.wav cannot be read as audio"),
        ("?name=c.m4a", b"nothing", 422, "c.m4a cannot be read as audio (libsndfile"),
        ("?name=d", as_file(np.zeros(1)), 422, "d has 1 samples at 16000 Hz, expected"),
        ("", long, 422, "the upload is longer than the 50 s"),
        ("?rate=16000", nan, 422, "the upload has 4000 samples that are NaN"),
        ("?rate=16000", b"12345", 422, "the upload has 5 bytes, expected samples"),
        ("?rate=16000", b"1234", 422, "the upload has 1 samples at 16000 Hz"),
        ("?rate=1", b"1234", 422, "found rate=1, expected another: Input should"),
        ("?channels=0&rate=8000", b"1234", 422, "found channels=0, expected"),
        ("?interval=0.9", b"", 422, "no intervals can be given: the model has no"),
        ("", bytes(2**22 + 1), 413, "the request is larger than the 4194304 bytes"),
    ]
    for query, body, expected, sentence in cases:
        status, content, _ = ask(f"{url}/score{query}", body)
        assert (status, content["error"][: len(sentence)]) == (expected, sentence)
        assert content.get("score") is None
        assert "/tmp" not in content["error"]
    status, content, _ = ask(f"{url}/score", fields={"path": "/etc/passwd"})
    assert status == 422 and "the part path is text" in content["error"]
    # Chunked, so that no header says how much it will be.
    status, content, _ = ask(f"{url}/score", iter([bytes(2**20)] * 5))
    assert status == 413 and "is larger than" in content["error"]
    assert ask(f"{url}/nothing", method="GET")[0] == 404


def test_intervals_and_novelty(predictor):
    calibration = {
        "what": "calibration",
        "format_version": 1,
        "intervals": {
            "what": "prediction intervals",
            "format_version": 1,
            "scores": np.linspace(0, 1, 99).tolist(),
            "clusters": None,
        },
    }
    generator = np.random.default_rng(0)
    width = len(predictor(noise(0, 0.3), RATE).embedding)
    calibration["novelty"] = fit_novelty(
        generator.normal(size=(200, width)), generator.normal(size=(50, width))
    )
    own, predictor.confidence = predictor.confidence, Confidence("", calibration)
    try:
        wave = noise(1, 0.4)
        expected = predictor(wave, RATE)
        with serving(predictor) as url:
            body = wave.tobytes()
            _, row, _ = ask(f"{url}/score?rate=16000&interval=0.8", body)
            remote = RemoteMOSPredictor(url)
            found = remote(wave, RATE)
        fingerprint = predictor.confidence.fingerprint
    finally:
        predictor.confidence = own
    interval = expected.interval(0.8)
    assert (row["lower"], row["upper"]) == pytest.approx(interval, abs=1e-5)
    assert row["novelty"] == pytest.approx(expected.novelty, rel=1e-4)
    assert row["novel"] is expected.novel
    assert found.interval(0.8) == pytest.approx(interval, abs=1e-5)
    assert found.novelty == pytest.approx(expected.novelty, rel=1e-4)
    assert remote.confidence.fingerprint == fingerprint
    assert remote.confidence.has_novelty and found.novel is expected.novel


# Batches


def test_requests_that_come_together_are_scored_together(predictor):
    held = Held(predictor)
    seconds = [0.5, 0.9, 0.2, 0.6, 0.55, 1.9, 0.21, 0.58, 0.22]
    waves = [noise(k, s) for k, s in enumerate(seconds)]
    with serving(held) as url, concurrent.futures.ThreadPoolExecutor(9) as pool:

        def score(wave):
            return ask(f"{url}/score?rate=16000", wave.tobytes())[1]["score"]

        answers = [pool.submit(score, waves[0])]
        assert held.begun.acquire(timeout=60)
        for count, wave in enumerate(waves[1:], 2):
            answers.append(pool.submit(score, wave))
            while metric(url, "distilmos_in_work_requests") < count:
                time.sleep(0.01)
        # Read, but decoded in threads.
        while metric(url, "distilmos_in_work_seconds") < sum(seconds) - 1e-6:
            time.sleep(0.01)
        time.sleep(0.1)
        held.may_score.set()
        scores = [answer.result() for answer in answers]
        assert metric(url, "distilmos_batch_files_count") == len(held.batches)
    for wave, score in zip(waves, scores):
        assert score == pytest.approx(predictor(wave, RATE).score, abs=1e-4)
    assert len(held.batches) < len(waves)
    assert sum(map(len, held.batches)) == len(waves)
    for batch in held.batches:
        padded = len(batch) * max(batch) / RATE
        assert len(batch) == 1 or padded <= predictor.batch_seconds


def test_one_bad_waveform_of_a_batch_is_its_own(predictor):
    held = Held(predictor)
    batcher = Batcher(held, lambda *_: None)
    waves = [noise(0, 0.3), noise(1, 0.3), np.zeros(3, np.float32), noise(2, 0.3)]
    futures = [batcher.submit(waves[0], RATE)]
    assert held.begun.acquire(timeout=60)
    futures += [batcher.submit(wave, RATE) for wave in waves[1:]]
    cancelled = batcher.submit(noise(3, 0.3), RATE)
    assert cancelled.cancel()
    held.may_score.set()
    batcher.close()
    assert not batcher.is_alive
    for k in (0, 1, 3):
        expected = predictor(waves[k], RATE).score
        assert futures[k].result(0).score == pytest.approx(expected, abs=1e-4)
    with pytest.raises(ValueError, match="3 samples at 16000 Hz"):
        futures[2].result(0)
    assert len(waves[2]) in held.batches[1] and len(held.batches[1]) > 1


# Bounds


def test_a_server_that_is_full_says_when_to_come_back(predictor):
    held = Held(predictor)
    body = noise(0, 0.5).tobytes()
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        with serving(held, requests=2, seconds=1.2, duration=1.1) as url:
            score = f"{url}/score?rate=16000"
            first = pool.submit(ask, score, body)
            assert held.begun.acquire(timeout=60)
            status, content, headers = ask(score, noise(0, 0.8).tobytes())
            assert status == 429 and int(headers["Retry-After"]) >= 1
            assert "0.5 seconds in work" in content["error"]
            second = pool.submit(ask, score, body)
            while metric(url, "distilmos_in_work_requests") < 2:
                time.sleep(0.01)
            status, content, headers = ask(score, body)
            assert status == 429 and int(headers["Retry-After"]) >= 1
            assert "2 requests in work" in content["error"]
            assert ask(f"{url}/health", method="GET")[0] == 200
            held.may_score.set()
            assert first.result()[0] == second.result()[0] == 200
            assert ask(score, body)[0] == 200
            assert metric(url, 'distilmos_answers_total{status="429"}') == 2


def test_time_outs_of_body_and_score(predictor, tmp_path):
    held = Held(predictor)
    body = noise(0, 0.3).tobytes()
    with serving(held, timeout=0.5) as url:
        status, content, headers = ask(f"{url}/score?rate=16000", body)
        assert status == 503 and "no score within 0.5 s" in content["error"]
        soundfile.write(tmp_path / "a.wav", noise(0, 0.3), RATE)
        remote = RemoteMOSPredictor(url, patience=0)
        (found,) = remote.predict_files([str(tmp_path / "a.wav")])
        assert found.error.startswith(f"{tmp_path}/a.wav has no score (http")
        assert int(headers["Retry-After"]) >= 1
        held.may_score.set()
        host, port = url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port)), timeout=60) as slow:
            slow.sendall(
                b"POST /score HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n"
            )
            answer = slow.recv(4096)
        assert answer.startswith(b"HTTP/1.1 408")
        assert ask(f"{url}/score?rate=16000", body)[0] == 200
        assert metric(url, "distilmos_in_work_bytes") == 0


def test_a_token_is_asked_for(predictor):
    body = noise(0, 0.3).tobytes()
    with serving(predictor, "s3cret") as url:
        score = f"{url}/score?rate=16000"
        for headers in ({}, {"Authorization": "Bearer s3creT"}):
            status, content, _ = ask(score, body, **headers)
            assert status == 401 and "Authorization: Bearer TOKEN" in content["error"]
            for path in ("model", "metrics", "openapi.json"):
                assert ask(f"{url}/{path}", method="GET", **headers)[0] == 401
        assert ask(f"{url}/health", method="GET")[0] == 200
        assert ask(score, body, Authorization="Bearer s3cret")[0] == 200
        with pytest.raises(OSError, match="found no token or another one"):
            RemoteMOSPredictor(url, token="other")
        assert RemoteMOSPredictor(url, token="s3cret")(noise(0, 0.3), RATE).score


def test_shutdown_answers_what_was_taken_on(predictor):
    held = Held(predictor)
    body = noise(0, 0.5).tobytes()
    with concurrent.futures.ThreadPoolExecutor(3) as pool:
        with serving(held) as url:
            score = f"{url}/score?rate=16000"
            answers = [pool.submit(ask, score, body) for _ in range(3)]
            while metric(url, "distilmos_in_work_requests") < 3:
                time.sleep(0.01)
            threading.Timer(0.5, held.may_score.set).start()
        assert [answer.result()[0] for answer in answers] == [200] * 3


# From Python


def test_remote_predictor_is_a_predictor(url, predictor):
    remote = RemoteMOSPredictor(url)
    assert remote.fingerprint == predictor.fingerprint
    assert remote.frame_shift == predictor.frame_shift
    waves = [noise(k, 0.2 + 0.3 * (k % 3)) for k in range(20)]
    waves[1] = (waves[1] * 2**15).astype(np.int16)
    waves[2] = np.stack([waves[2], waves[2] / 2])
    rates = [16000 + 100 * k for k in range(20)]
    for found, expected in zip(remote(waves, rates), predictor(waves, rates)):
        assert found.score == pytest.approx(expected.score, abs=1e-4)
        np.testing.assert_allclose(found.frames, expected.frames, atol=1e-3)
        np.testing.assert_allclose(found.embedding, expected.embedding, atol=1e-3)
        assert found.times.tolist() == expected.times.tolist()
        assert found.raw_score == pytest.approx(expected.raw_score, abs=1e-4)
        assert (found.seconds, found.note) == (expected.seconds, expected.note)
        assert found.novelty is expected.novelty is None
    torch = pytest.importorskip("torch")
    few = RemoteMOSPredictor(url, frames=False)
    found = pickle.loads(pickle.dumps(few))(torch.from_numpy(waves[0]), 16000)
    assert found.score == pytest.approx(predictor(waves[0], 16000).score, abs=1e-4)
    assert found.frames is None
    with pytest.raises(ValueError, match="no calibration"):
        found.interval(0.9)
    for bad, rate, sentence in (
        ([noise(0, 0.3), np.zeros(2)], RATE, "waveform 1 of 2 has 2 samples at 16000"),
        ([noise(0, 0.3)], [1, 2], "1 waveforms and 2 sampling rates"),
        (["x"], RATE, "waveform 0 of 1 is of type"),
        ([np.zeros((2, 3, 4))], RATE, "has the shape"),
        ([np.full(4000, 1e6)], RATE, "waveform 0 of 1 has float samples up to 1e\\+06"),
    ):
        with pytest.raises(ValueError, match=sentence):
            remote(bad, rate)
    with pytest.raises(ValueError, match="found grad=True for the server"):
        remote(noise(0, 0.3), RATE, grad=True)


def test_remote_predictor_scores_files_with_the_same_sentences(
    url, predictor, tmp_path
):
    paths = []
    for k in range(12):
        paths.append(str(tmp_path / f"clip {k}.wav"))
        soundfile.write(paths[-1], noise(k, 0.1 + 0.2 * (k % 5)), 24000)
    open(paths[3], "wb").write(b"nothing")
    os.truncate(paths[4], 3000)
    soundfile.write(paths[7], np.zeros(3), 16000)
    soundfile.write(paths[8], np.full(9999, np.nan), 16000, subtype="FLOAT")
    paths.append(str(tmp_path / "absent.wav"))
    soundfile.write(tmp_path / "long.wav", np.zeros(51 * 8000), 8000)
    ids = [f"u{k}" for k in range(13)]
    found = list(RemoteMOSPredictor(url).predict_files(paths, utt_ids=ids))
    expected = list(predictor.predict_files(paths, utt_ids=ids))
    for one, other in zip(found, expected, strict=True):
        assert (one.index, one.path, one.error) == (
            other.index,
            other.path,
            other.error,
        )
        if other.result is not None:
            assert one.result.score == pytest.approx(other.result.score, abs=1e-4)
    assert sum(one.result is None for one in found) == 5
    (long,) = RemoteMOSPredictor(url).predict_files([str(tmp_path / "long.wav")])
    assert long.error.startswith(f"{tmp_path}/long.wav is longer than the 50 s")


def test_what_may_be_tried_again_is(predictor):
    """A server that hangs up, is busy, and then answers."""
    row = {"score": 3.5, "seconds": 1.0, "note": "", "raw_score": 3.5, "error": ""}
    busy = b"HTTP/1.1 429 x\r\nRetry-After: 0\r\nContent-Length: 0\r\n\r\n"
    body = json.dumps(row).encode()
    good = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
    good += f"Content-Length: {len(body)}\r\n\r\n".encode() + body
    refused = body.replace(b"3.5", b"null").replace(b'""', b'"no"', 1)
    refused = b"HTTP/1.1 422 x\r\nContent-Length: %d\r\n\r\n" % len(refused) + refused
    answers = [b"", busy, good[:-5], busy.replace(b"429", b"503"), good, refused, b""]
    with serving(predictor) as url:
        remote = RemoteMOSPredictor(url, frames=False)
    seen = []

    def play(listening):
        for answer in answers:
            connection, _ = listening.accept()
            with connection:
                request = b""
                # All of it: what is unread when a connection is closed resets it.
                while len(request.partition(b"\r\n\r\n")[2]) < 4 * RATE:
                    request += connection.recv(65536)
                seen.append(request.partition(b"\r\n\r\n")[2])
                connection.sendall(answer)

    with socket.create_server(("127.0.0.1", 0)) as listening:
        remote.url = f"http://127.0.0.1:{listening.getsockname()[1]}"
        thread = threading.Thread(target=play, args=(listening,))
        thread.start()
        assert remote(noise(0, 1.0), RATE).score == 3.5
        assert len(seen) == 5 and len(set(seen)) == 1
        with pytest.raises(ValueError):  # and not again
            remote(noise(0, 1.0), RATE)
        assert len(seen) == 6
        remote.patience = 0
        with pytest.raises(OSError, match="gave no answer within 0 s"):
            remote(noise(0, 1.0), RATE)
        thread.join()


def test_what_is_no_server(monkeypatch):
    monkeypatch.setattr("espnet2_distilmos.remote._FIRST_PATIENCE", 0)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
    with pytest.raises(OSError, match="gave no answer within 0 s .*refused"):
        RemoteMOSPredictor(f"http://127.0.0.1:{port}")
    with pytest.raises(ValueError, match="found the URL 'localhost:1', expected one"):
        RemoteMOSPredictor("localhost:1")
