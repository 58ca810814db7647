# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

"""The command; what it answers: test_service.py."""

import concurrent.futures
import csv
import re
import signal
import socket
import subprocess
import sys
import time

import numpy as np
import pytest
import soundfile

from espnet2_distilmos.bin import predict
from espnet2_distilmos.bin.serve import main


@pytest.fixture
def server():
    """Start the command with options; gives the process and its URL.

    It serves the scorer in the box, which is there before torch would be imported.
    """
    for package in ("fastapi", "uvicorn", "python_multipart", "prometheus_client"):
        pytest.importorskip(package)
    started = []

    def start(*options):
        module = "espnet2_distilmos.bin.distilmos"
        command = [sys.executable, "-m", module, "serve", "--model", "box"]
        process = subprocess.Popen(
            [*command, *options], stdout=subprocess.PIPE, text=True
        )
        started.append(process)
        found = re.fullmatch(r"listening at (\S+)\n", process.stdout.readline())
        return process, found[1]

    yield start
    for process in started:
        process.kill()
        process.wait()
        process.stdout.close()


def test_predict_by_a_server_and_its_end(server, tmp_path, capsys):
    generator = np.random.default_rng(0)
    for k in range(12):
        wave = 0.1 * generator.normal(size=4000 + 999 * (k % 5))
        soundfile.write(tmp_path / f"{k:02d}.wav", wave, 16000)
    (tmp_path / "05.wav").write_bytes(b"nothing")
    process, url = server("--port", "0")
    tables, printed = [], []
    for model in ("box", url):
        output = tmp_path / "scores.csv"
        options = ["--model", model, "--output", f"{output}", "--interval", "0.8"]
        code = predict.main([f"{tmp_path}", *options])
        assert code == 1
        tables.append(list(csv.DictReader(output.open())))
        printed.append(capsys.readouterr().out)
    assert printed[0] == printed[1]
    for here, there in zip(*tables, strict=True):
        for name in ("score", "lower", "upper", "novelty"):
            numbers = [float(row.pop(name) or "nan") for row in (here, there)]
            np.testing.assert_allclose(*numbers, atol=2e-4)
        assert here == there
    assert predict.main([f"{tmp_path}", "--model", url, "--device", "cuda"]) == 1
    assert "--device is given for http" in capsys.readouterr().err

    # While it scores, it is asked to end.
    remote = pytest.importorskip("espnet2_distilmos.remote").RemoteMOSPredictor(url)
    waves = [0.1 * generator.normal(size=16000 * 25) for _ in range(4)]
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        answers = [pool.submit(remote, wave, 16000) for wave in waves]
        time.sleep(0.3)
        process.send_signal(signal.SIGTERM)
        assert all(answer.result().score for answer in answers)
    assert process.wait(60) == 0


def test_what_cannot_be_served(scorer_dir, tmp_path, capsys, monkeypatch):
    (tmp_path / "empty").touch()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        cases = [
            (["--model", "x", "--timeout", "0"], "--timeout is 0, expected a number"),
            (["--model", "x", "--token-file", f"{tmp_path}/empty"], "empty is empty"),
            (["--model", "x", "--port", port], "Address already in use"),
            (["--model", "x", "--port", "99999"], "--port is 99999, expected one"),
            (["--model", f"{tmp_path}/no", "--port", "0"], "no"),
        ]
        if not _has_uvicorn():
            cases = cases[:2]
        for options, sentence in cases:
            assert main(options) == 1
            error = capsys.readouterr().err
            assert sentence in error and error.count("\n") == 1
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    monkeypatch.setitem(sys.modules, "fastapi", None)
    assert main(["--model", str(scorer_dir), "--port", "0"]) == 1
    error = capsys.readouterr().err
    assert "pip install 'espnet2_distilmos[serve]'" in error and "fastapi" in error


def _has_uvicorn():
    try:
        import fastapi  # noqa: F401
        import uvicorn  # noqa: F401
    except ImportError:
        return False
    return True


def test_a_connection_without_a_request_is_closed(server):
    process, url = server("--port", "0", "--timeout", "1")
    host, port = url.removeprefix("http://").split(":")
    head = b"GET /health HTTP/1.1\r\nHost: here\r\n"
    with socket.create_connection((host, int(port)), timeout=20) as silent:
        with socket.create_connection((host, int(port)), timeout=20) as slow:
            slow.sendall(head)
            assert slow.recv(100) == b"" and silent.recv(100) == b""
    with socket.create_connection((host, int(port)), timeout=20) as good:
        for _ in range(2):  # an answered connection may ask again
            good.sendall(head + b"\r\n")
            answer = b""
            while not answer.endswith(b"}"):
                answer += good.recv(1000)
            assert answer.startswith(b"HTTP/1.1 200")
            time.sleep(1.2)
        good.sendall(head)
        assert good.recv(100) == b""
