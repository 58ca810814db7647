# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

"""Released models by name, from a small hub on this machine, by the real client."""

import functools
import hashlib
import http.server
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import huggingface_hub
import pytest
import torch
import yaml
from mos import official_models as official

from espnet2_distilmos import MOSPredictor, named_models
from espnet2_distilmos.bin.predict import main as predict
from espnet2_distilmos.data.datadir import DataError
from espnet2_distilmos.mos.checkpoint import open_trained_model

REPO = "BaleYang/DistilMOS"
CHECKPOINT = "wavlm/model.pth.tar"
COMMIT, LATER = "1" * 40, "2" * 40


class Hub:
    """Serves the files of one repository, as the hub's own protocol has it."""

    def __init__(self):
        self.files, self.commit, self.requests = {}, COMMIT, []
        self.spoil = None  # content that is sent in place of the checkpoint
        hub = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_HEAD(self):
                hub.answer(self, send=False)

            def do_GET(self):
                hub.answer(self, send=True)

            def log_message(self, *args):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def answer(self, request, send):
        self.requests.append((request.command, request.path))
        prefix, _, rest = request.path.partition("/resolve/")
        revision, _, name = rest.partition("/")
        known = prefix == f"/{REPO}" and revision in ("main", self.commit)
        content = self.files.get(name) if known else None
        if content is None:
            request.send_response(404)
            request.send_header("Content-Length", "0")
            request.end_headers()
            return
        if name.endswith(".tar"):
            etag = hashlib.sha256(content).hexdigest()
        else:
            etag = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
        if self.spoil is not None and name == CHECKPOINT:
            content = self.spoil
        request.send_response(200)
        request.send_header("X-Repo-Commit", self.commit)
        request.send_header("ETag", f'"{etag}"')
        request.send_header("Content-Length", str(len(content)))
        request.end_headers()
        if send:
            request.wfile.write(content)

    def close(self):
        self.server.shutdown()
        self.server.server_close()


@pytest.fixture
def hub(tmp_path, monkeypatch):
    hub = Hub()
    for backbone in ("wavlm", "w2v2"):
        cfg = official.model_cfg(backbone)
        torch.save({"model": official.make_states(cfg)}, tmp_path / "released")
        # As the authors' code does, the folder decides.
        text = yaml.safe_dump({**cfg, "ssl_backbone": "wavlm"})
        hub.files[f"{backbone}/model_cfg.yaml"] = text.encode()
        hub.files[f"{backbone}/model.pth.tar"] = (tmp_path / "released").read_bytes()
    (tmp_path / "released").unlink()
    for name, options in {
        "hf_hub_download": dict(cache_dir=tmp_path / "hub", endpoint=hub.url),
        "cached_assets_path": dict(assets_dir=tmp_path / "assets"),
    }.items():
        function = functools.partial(getattr(huggingface_hub, name), **options)
        monkeypatch.setattr(huggingface_hub, name, function)
    monkeypatch.chdir(tmp_path)
    yield hub
    hub.close()


def converted(tmp_path):
    """The directories of converted models, and whatever else lies beside them."""
    return sorted(p.name for p in (tmp_path / "assets").glob("*/*/*/*"))


def refuse(*words):
    with pytest.raises(DataError) as error:
        MOSPredictor.from_pretrained("distilmos-wavlm")
    assert "\n" not in str(error.value)
    for word in ("distilmos-wavlm", *words):
        assert word in str(error.value)


@pytest.mark.parametrize("backbone", ["wavlm", "w2v2"])
def test_a_name_scores_as_the_released_model(hub, tmp_path, backbone):
    wave = official.make_speech(11111, seed=1)
    found = MOSPredictor.from_pretrained(f"distilmos-{backbone}")(wave, 16000)
    cfg = official.model_cfg(backbone)
    states = official.make_states(cfg)
    expected = official.official_forward(cfg, states, wave)["mos"]
    assert found.score == pytest.approx(float(expected), abs=1e-5)
    assert converted(tmp_path) == [COMMIT]


def test_it_is_fetched_once_whatever_the_hub_has_later(hub, tmp_path):
    import soundfile

    speech = official.make_speech(8000, seed=2).clamp(-1, 1).numpy()
    soundfile.write(tmp_path / "a.wav", speech, 16000)
    for output in ("first.csv", "second.csv"):
        command = ["a.wav", "--model", "distilmos-wavlm", "--output", output]
        assert predict(command) == 0
        # Both files are of the commit that the first one was found to be of.
        assert {path.split("/resolve/")[1] for _, path in hub.requests} == {
            "main/wavlm/model_cfg.yaml",
            f"{COMMIT}/{CHECKPOINT}",
        }
        hub.commit = LATER
        number = len(hub.requests)
    assert len(hub.requests) == number
    first, second = (tmp_path / f"{n}.csv" for n in ("first", "second"))
    assert first.read_text() == second.read_text()
    hub.close()
    with open_trained_model("distilmos-wavlm") as files:
        assert os.path.basename(os.path.dirname(files.model_file)) == COMMIT


def test_a_pinned_revision_is_the_one_that_is_fetched(hub, tmp_path, monkeypatch):
    with open_trained_model("distilmos-wavlm"):
        pass
    content = hub.files[CHECKPOINT]
    pinned = named_models.NamedModel(
        REPO, "wavlm", LATER, len(content), hashlib.sha256(content).hexdigest()
    )
    monkeypatch.setitem(named_models.NAMED_MODELS, "distilmos-wavlm", pinned)
    refuse(LATER, "wavlm/model_cfg.yaml")  # the hub does not have it yet
    hub.commit, hub.requests = LATER, []
    with open_trained_model("distilmos-wavlm") as files:
        assert os.path.basename(os.path.dirname(files.train_config)) == LATER
    assert all(f"/resolve/{LATER}/" in path for _, path in hub.requests)
    assert converted(tmp_path) == [COMMIT, LATER]
    # The hub's own digest fits, what the registry says does not.
    for wrong in (dict(sha256="0" * 64), dict(size=len(content) + 1)):
        shutil.rmtree(tmp_path / "assets")
        other = pinned._replace(**wrong)
        monkeypatch.setitem(named_models.NAMED_MODELS, "distilmos-wavlm", other)
        refuse("model.pth.tar", str(*wrong.values()))


def test_a_broken_download_is_refused_and_fetched_anew(hub, tmp_path):
    content = hub.files[CHECKPOINT]
    hub.spoil = content[:1000] + bytes([content[1000] ^ 1]) + content[1001:]
    refuse("model.pth.tar", "broken", hashlib.sha256(content).hexdigest())
    assert converted(tmp_path) == []
    hub.spoil = None
    with open_trained_model("distilmos-wavlm"):
        assert converted(tmp_path) == [COMMIT]


def test_what_is_no_model_is_refused_and_stays(hub, tmp_path):
    hub.files[CHECKPOINT] = b"404: Not Found"
    refuse("model.pth.tar", "no readable model file")
    refuse("no readable model file")
    # Its digest fits, so that it would come again as it is.
    assert sum(method == "GET" for method, _ in hub.requests) == 2
    assert converted(tmp_path) == []


def test_where_the_cache_states_no_digest_the_structure_decides(hub, tmp_path):
    """As on a file system without links."""
    content = hub.files[CHECKPOINT]
    hub.spoil = content[:-1000] + bytes(1000)
    refuse("broken")
    path = huggingface_hub.hf_hub_download(REPO, "wavlm/model_cfg.yaml")
    broken = os.path.join(os.path.dirname(path), "model.pth.tar")
    with open(broken, "wb") as file:
        file.write(hub.spoil)
    refuse("model.pth.tar", "cannot be converted")
    assert not os.path.lexists(broken)
    hub.spoil = None
    with open_trained_model("distilmos-wavlm"):
        assert converted(tmp_path) == [COMMIT]


def test_without_a_network_it_says_what_to_do_and_that_works(
    hub, tmp_path, monkeypatch
):
    for file in ("wavlm/model_cfg.yaml", CHECKPOINT):  # where there is one
        path = huggingface_hub.hf_hub_download(REPO, file)
    folder = f"models--{REPO.replace('/', '--')}"
    assert f"/{folder}/" in path
    hub.close()
    os.rename(tmp_path / "hub", tmp_path / "there")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    refuse(
        *("network", str(huggingface_hub.constants.HF_HUB_CACHE)),
        *(f"hf download {REPO} wavlm/model_cfg.yaml {CHECKPOINT}`", folder),
    )
    shutil.copytree(
        tmp_path / "there" / folder, tmp_path / "hub" / folder, symlinks=True
    )
    assert converted(tmp_path) == []
    with open_trained_model("distilmos-wavlm"):
        assert converted(tmp_path) == [COMMIT]


@pytest.mark.slow
def test_processes_at_once_leave_one_whole_model(hub, tmp_path):
    code = (
        "from espnet2_distilmos.mos.checkpoint import load_model, open_trained_model\n"
        "print('ready', flush=True); input()\n"
        "with open_trained_model('distilmos-w2v2') as files:\n"
        "    load_model(*files)\n"
        "    print(files.model_file)\n"
    )
    environment = {
        **{k: v for k, v in os.environ.items() if not k.startswith("HF_")},
        "HF_ENDPOINT": hub.url,
        "HF_HOME": str(tmp_path / "home"),
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(Path(named_models.__file__).parents[1]),
    }
    children = [
        subprocess.Popen(
            [sys.executable, "-c", code],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    assert [child.stdout.readline() for child in children] == ["ready\n"] * 2
    for child in children:
        child.stdin.write("\n")
        child.stdin.flush()
    outputs = [child.communicate()[0].strip() for child in children]
    assert [child.returncode for child in children] == [0, 0]
    assert outputs[0] == outputs[1] and COMMIT in outputs[0]
    folder = os.path.dirname(os.path.dirname(outputs[0]))
    assert folder.startswith(str(tmp_path / "home" / "assets"))
    assert os.listdir(folder) == [COMMIT]


def test_the_second_of_two_conversions_gives_way(hub, tmp_path):
    def convert(checkpoint, config, output, backbone):
        """Another process is done just before."""
        if depth.pop():
            named_models.locate("distilmos-wavlm", convert)
        os.mkdir(output)
        with open(os.path.join(output, "config.yaml"), "w") as file:
            file.write(f"{len(depth)}")

    depth = [False, True]
    found = named_models.locate("distilmos-wavlm", convert)
    assert converted(tmp_path) == [COMMIT] == [os.path.basename(found)]


def test_a_full_disk_leaves_nothing(hub, tmp_path, monkeypatch):
    def fail(*args, **kwargs):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", fail)
        refuse("No space left on device", "HF_HOME")
    assert converted(tmp_path) == []
    hub.close()
    with pytest.raises(DataError):  # the hub is not there
        MOSPredictor.from_pretrained("distilmos-w2v2")
    with open_trained_model("distilmos-wavlm"):  # what was fetched is
        assert converted(tmp_path) == [COMMIT]


def test_a_directory_of_that_name_goes_first(hub, tmp_path, scorer_dir):
    shutil.copytree(scorer_dir, tmp_path / "distilmos-wavlm")
    with open_trained_model("distilmos-wavlm") as files:
        assert files.train_config == os.path.join("distilmos-wavlm", "config.yaml")
    assert hub.requests == []
    with pytest.raises(ValueError, match="distilmos-wavlm or distilmos-w2v2"):
        MOSPredictor.from_pretrained("distilmos-wavml")
