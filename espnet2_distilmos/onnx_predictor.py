# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

"""MOS of waveforms and files with an exported model, without torch."""

import contextlib
import hashlib
import json
import logging
import os
import re
from functools import cached_property
from typing import Any, Dict, Iterator, List, Mapping, Optional, Sequence, Tuple, Union

import numpy as np

from espnet2_distilmos import FORMAT_VERSION
from espnet2_distilmos.abs_predictor import AbsMOSPredictor, Scored, digest
from espnet2_distilmos.data.audio import Channel

# The scorer that comes with the package, and the name that --model has for it.
BOX = os.path.join(os.path.dirname(__file__), "box", "box.onnx")
BOX_NAME = "box"

OUTPUTS = ("utt_mos", "frame_mos", "embedding")
# Property of the metadata: SHA-256 of the network, its weights above all.
DIGEST = "graph_sha256"
# Numbers of protobuf's fields in ONNX: of a model, and of an entry of its metadata.
_GRAPH, _METADATA, _KEY, _VALUE = 7, 14, 1, 2


def is_exported(model: Optional[str]) -> bool:
    """Whether a model is the scorer in the box or a file of ``distilmos export``."""
    if model is None or model == BOX_NAME:
        return True
    name = os.fspath(model)
    return name.lower().endswith(".onnx") and not os.path.isdir(name)


def load_predictor(model: Optional[str] = None, **options: Any) -> AbsMOSPredictor:
    """Load whatever ``distilmos predict --model`` takes.

    Args:
        model: None or ``box`` for the scorer in the box, a file ``*.onnx`` of
            ``distilmos export``, or what ``MOSPredictor.from_pretrained`` takes. Only
            the last imports torch.
        options: of :class:`ONNXPredictor` or ``MOSPredictor``.

    Raises:
        ValueError, OSError: there is no such model, or an option is impossible.
    """
    if is_exported(model):
        path = BOX if model is None or model == BOX_NAME else os.fspath(model)
        return ONNXPredictor(path, **options)
    from espnet2_distilmos.predictor import MOSPredictor

    return MOSPredictor.from_pretrained(model, **options)


def read_digests(file: bytes) -> Tuple[str, Optional[str]]:
    """SHA-256 of the network in an ONNX file, and what its metadata say of that.

    The network is the field ``graph`` as it stands in the file, so that others may add
    to the metadata. The fields are read here, as onnxruntime has no bytes to give and
    importing onnx would take longer than a first score.

    Args:
        file: its bytes.

    Returns:
        Hexadecimal digits; the second None where there is no such property.

    Raises:
        ValueError: this is no file of ONNX.
    """
    found, stated = hashlib.sha256(), None
    for number, content in _fields(memoryview(file)):
        if number == _GRAPH:
            found.update(content)
        elif number == _METADATA:
            entry = {key: bytes(value) for key, value in _fields(content)}
            if entry.get(_KEY) == DIGEST.encode():
                stated = entry.get(_VALUE, b"").decode("ascii", "replace").strip('"')
    return found.hexdigest(), stated


def _fields(message: memoryview) -> Iterator[Tuple[int, memoryview]]:
    """Number and content of the fields of a protobuf message that have a length.

    Raises:
        ValueError: the bytes are no message.
    """
    place = 0

    def varint() -> int:
        nonlocal place
        value = shift = 0
        while place < len(message) and shift < 64:
            byte = message[place]
            place += 1
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return value
        raise ValueError("found the end of the message within a number")

    while place < len(message):
        tag = varint()
        number, kind = tag >> 3, tag & 7
        if kind == 0:
            varint()
            continue
        if kind not in (1, 2, 5):
            raise ValueError(f"found a field of kind {kind}")
        length = {1: 8, 5: 4}.get(kind) or varint()
        if length > len(message) - place:
            raise ValueError("found the end of the message within a field")
        if kind == 2:
            yield number, message[place : place + length]
        place += length


class ONNXPredictor(AbsMOSPredictor):
    """A model of ``distilmos export`` that scores waveforms and files on the CPU.

    Scores are those of the model in torch (to 1e-4), unless its weights were rounded
    (``--weights``), with the policies of
    :class:`~espnet2_distilmos.predictor.MOSPredictor`. A batch is always one
    utterance. It can be copied, pickled and used in forked children.

    Args:
        model_file: of ``distilmos export``.
        device: ``cpu``.
        channel, max_seconds, scale, calibration, knn, knn_weight, knn_datastore: as of
            ``MOSPredictor``; calibration and datastore are looked for beside the file.
        batch_seconds: changes nothing here.
        corpus, listener, precision: nothing else than what the model was exported with.

    Raises:
        ValueError: the file is no exported model, of another format version, or not
            as it was written, or an option is impossible.
        OSError: it cannot be opened.
    """

    def __init__(
        self,
        model_file: str,
        device: str = "cpu",
        channel: Channel = "mean",
        max_seconds: float = 30.0,
        batch_seconds: Optional[float] = None,
        scale: Union[str, Mapping[str, Any], None] = None,
        calibration: Optional[str] = None,
        corpus: Optional[str] = None,
        listener: str = "mean",
        knn: Optional[int] = None,
        knn_weight: Optional[float] = None,
        knn_datastore: Optional[str] = None,
        precision: str = "fp32",
    ):
        if str(device) not in ("cpu", "cpu:0", "None"):
            raise ValueError(
                f"found device={device!s:.80} for {model_file}, expected cpu: an "
                "exported model computes on the CPU"
            )
        for name, value, expected in (
            ("corpus", corpus, None),
            ("listener", listener, "mean"),
            ("precision", precision, "fp32"),
        ):
            if value != expected:
                raise ValueError(
                    f"found {name}={value!s:.80} for {model_file}, expected "
                    f"{expected}: an exported model is as it was exported; give {name} "
                    "with the trained model"
                )
        model_file = os.fspath(model_file)
        if not os.path.isfile(model_file):
            raise FileNotFoundError(
                f"{model_file} is not there, expected a file of `distilmos export`; "
                "correct the model's path"
            )
        with open(model_file, "rb") as file:
            self._graph = file.read()
        self._path = model_file
        self._check_digest()
        properties = self._read_properties()
        self.sample_rate: int = properties["sample_rate"]
        self.minimum_samples: int = properties["minimum_samples"]
        self.frame_shift: int = properties["frame_shift"]
        self.frame_centre: float = properties["frame_centre"]
        self.score_range = properties.get("score_range")
        self.model_fingerprint: str = properties["fingerprint"]
        self.about = properties.get("about") or ""
        self._set_policies(
            os.path.dirname(model_file),
            channel,
            max_seconds,
            properties.get("maximum_samples"),
            2.0 if batch_seconds is None else batch_seconds,
            scale,
            calibration,
            knn,
            knn_weight,
            knn_datastore,
        )

    def _check_digest(self) -> None:
        """Refuse a network that is not the one that was written.

        Raises:
            ValueError: it is not.
        """
        try:
            found, stated = read_digests(self._graph)
        except ValueError:
            return  # onnxruntime says what it is
        if stated is None:
            logging.warning(
                f"{self._path}: found no {DIGEST} in the metadata, as it was exported "
                "by an earlier version: a damaged file would not be noticed"
            )
        elif found != stated:
            raise ValueError(
                f"{self._path} is damaged: found a network with the SHA-256 "
                f"{found[:12]}..., expected {stated[:12]}..., that of its export; "
                "copy the file again, or export the model again"
            )

    def _read_properties(self) -> Dict[str, Any]:
        """Metadata of ``distilmos export``.

        Raises:
            ValueError: there are none, or of another format version.
        """
        properties: Dict[str, Any] = {}
        for key, value in self._session.get_modelmeta().custom_metadata_map.items():
            with contextlib.suppress(ValueError):  # somebody's note
                properties[key] = json.loads(value) if value else None
        outputs = [output.name for output in self._session.get_outputs()]
        version = properties.get("format_version")
        is_ours = isinstance(properties.get("fingerprint"), str)
        for name in ("sample_rate", "minimum_samples", "frame_shift"):
            value = properties.get(name)
            is_ours &= isinstance(value, int) and value > 0
        is_ours &= isinstance(properties.get("frame_centre"), (int, float))
        if version != FORMAT_VERSION or not is_ours or list(OUTPUTS) != outputs:
            raise ValueError(
                f"{self._path}: found an ONNX graph of format version {version} with "
                f"the outputs {', '.join(outputs)}, expected one of `distilmos export` "
                f"of format version {FORMAT_VERSION} with {', '.join(OUTPUTS)} and its "
                "metadata; export the model again"
            )
        return properties

    @property
    def _session(self):
        """onnxruntime's session, of this process: its threads are not forked."""
        if self.__dict__.get("_pid") != os.getpid():
            import onnxruntime

            options = onnxruntime.SessionOptions()
            options.log_severity_level = 3
            # As of NumPy and torch; onnxruntime does not look there by itself.
            threads = re.match(r"\d+", os.environ.get("OMP_NUM_THREADS", ""))
            options.intra_op_num_threads = int(threads[0]) if threads else 0
            providers = ["CPUExecutionProvider"]
            try:
                self._opened = onnxruntime.InferenceSession(
                    self._graph, options, providers=providers
                )
            except Exception as error:  # it has a dozen, all of its own
                reason = " ".join(str(error).split())[:200]
                raise ValueError(
                    f"{self._path} is no readable ONNX graph ({reason}), expected a "
                    "file of `distilmos export`; export the model again"
                ) from error
            self._pid = os.getpid()
        return self._opened

    def __getstate__(self) -> Dict[str, Any]:
        """All but the session."""
        return {k: v for k, v in self.__dict__.items() if k not in ("_pid", "_opened")}

    @cached_property
    def fingerprint(self) -> str:
        """Identify what scores: the file, and the policies.

        12 hexadecimal digits.
        """
        file = hashlib.sha256(self._graph).hexdigest()
        return digest({"file": file, **self._policies()})

    def _forward(
        self, waves: Sequence[np.ndarray], columns: Mapping[int, str], grad: bool
    ) -> List[Scored]:
        """Waveforms (n,) to scores, one at a time: a batch of one needs no mask."""
        scored = []
        for wave in waves:
            feed = {"speech": wave[None]}
            score, frames, embedding = self._session.run(OUTPUTS, feed)
            is_silent = not wave.any()
            scored.append(
                Scored(score[0], frames[0], embedding[0], {}, len(wave), is_silent)
            )
        return scored
