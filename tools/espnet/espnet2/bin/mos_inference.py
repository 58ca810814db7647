#!/usr/bin/env python3
# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

"""Predict the MOS of every utterance of a wav.scp."""

import argparse
import json
import logging
import sys
from pathlib import Path
from typing import Any, Dict, Optional, Sequence, Tuple, Union

import numpy as np
import torch
from espnet2.fileio.datadir_writer import DatadirWriter
from espnet2.mos.checkpoint import load_model, open_trained_model
from espnet2.tasks.mos import MOSTask
from espnet2.torch_utils.device_funcs import to_device
from espnet2.train.collate_fn import CommonCollateFn
from espnet2.utils import config_argparse
from espnet2.utils.types import str2triple_str, str_or_none
from typeguard import typechecked


class MOSInference:
    """Score speech with a trained model.

    Args:
        train_config: config.yaml of the experiment.
        model_file: its weights (.pth).
        device: such as ``cpu`` or ``cuda``.
        corpus: name of the corpus of the training to score as, where the model has
            embeddings of them; None is the mean over all.

    >>> scorer = MOSInference("exp/config.yaml", "exp/model.pth")  # doctest: +SKIP
    >>> scorer(speech)["mos"]  # doctest: +SKIP
    tensor([3.7])
    """

    @typechecked
    def __init__(
        self,
        train_config: Union[Path, str],
        model_file: Union[Path, str],
        device: str = "cpu",
        corpus: Optional[str] = None,
    ):
        self.model, self.train_args = load_model(
            str(train_config), str(model_file), device
        )
        self.model.set_corpus(corpus)
        self.device = device

    @typechecked
    def __call__(
        self,
        speech: Union[np.ndarray, torch.Tensor],
        speech_lengths: Union[np.ndarray, torch.Tensor, None] = None,
    ) -> Dict[str, Any]:
        """Score an utterance or a padded batch.

        Args:
            speech: (N,) or (B, N) in [-1, 1] at 16 kHz.
            speech_lengths: valid samples, (B,); None is all of N.

        Returns:
            ``mos`` (B,), ``frame_mos`` (B, T) and ``lengths`` (B,), valid frames.
        """
        speech = torch.as_tensor(speech, dtype=torch.float32)
        speech = speech[None] if speech.dim() == 1 else speech
        if speech_lengths is None:
            speech_lengths = torch.full((len(speech),), speech.size(1))
        batch = {"speech": speech, "speech_lengths": torch.as_tensor(speech_lengths)}
        prediction = self.model.inference(**to_device(batch, device=self.device))
        return {
            "mos": prediction.utt_mos,
            "frame_mos": prediction.frame_mos,
            "lengths": prediction.lengths,
        }

    @staticmethod
    def from_pretrained(model_tag: str, **kwargs: Any) -> "MOSInference":
        """Load a model of the Hugging Face hub, a packed file or an experiment.

        Args:
            model_tag: ``user/name`` of the hub, a packed .zip, or a directory.
            kwargs: of the constructor, besides the two files.
        """
        with open_trained_model(model_tag) as files:
            return MOSInference(*files, **kwargs)


def inference(
    output_dir: str,
    data_path_and_name_and_type: Sequence[Tuple[str, str, str]],
    key_file: Optional[str],
    train_config: Optional[str],
    model_file: Optional[str],
    model_tag: Optional[str],
    corpus: Optional[str],
    ngpu: int,
    batch_size: int,
    num_workers: int,
    log_level: Union[int, str],
) -> None:
    """Score all utterances of ``key_file`` and write ``metric.scp``."""
    logging.basicConfig(
        level=log_level,
        format="%(asctime)s (%(module)s:%(lineno)d) %(levelname)s: %(message)s",
    )
    options: Dict[str, Any] = {"device": "cuda" if ngpu > 0 else "cpu"}
    options["corpus"] = corpus
    if model_tag is not None:
        scorer = MOSInference.from_pretrained(model_tag, **options)
    elif train_config is not None and model_file is not None:
        scorer = MOSInference(train_config, model_file, **options)
    else:
        raise ValueError("expected --train_config and --model_file, or --model_tag")
    loader = MOSTask.build_streaming_iterator(
        data_path_and_name_and_type,
        preprocess_fn=None,
        collate_fn=CommonCollateFn(float_pad_value=0.0),
        key_file=key_file,
        batch_size=batch_size,
        dtype="float32",
        num_workers=num_workers,
        inference=True,
    )
    with DatadirWriter(output_dir) as writer:
        for keys, batch in loader:
            scores = scorer(batch["speech"], batch["speech_lengths"])["mos"]
            for key, score in zip(keys, scores.tolist()):
                writer["metric.scp"][key] = json.dumps({"mos": round(score, 6)})


def get_parser() -> argparse.ArgumentParser:
    """Parser of the inference command."""
    parser = config_argparse.ArgumentParser(
        description="Predict the MOS of speech",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--log_level", default="INFO", help="Of the log")
    parser.add_argument("--output_dir", required=True, help="For metric.scp")
    parser.add_argument("--ngpu", type=int, default=0, help="0 is the CPU")
    parser.add_argument("--batch_size", type=int, default=1, help="Utterances")
    parser.add_argument("--num_workers", type=int, default=1, help="Of the loader")
    group = parser.add_argument_group("Input data related")
    group.add_argument(
        "--data_path_and_name_and_type",
        type=str2triple_str,
        required=True,
        action="append",
        help="Such as wav.scp,speech,sound; 16 kHz",
    )
    group.add_argument("--key_file", type=str_or_none, help="Ids of the utterances")
    group = parser.add_argument_group("The model configuration related")
    group.add_argument("--train_config", type=str_or_none, help="Its config.yaml")
    group.add_argument("--model_file", type=str_or_none, help="Its weights")
    group.add_argument(
        "--model_tag", type=str_or_none, help="A model of the hub, or a packed one"
    )
    group.add_argument(
        "--corpus", type=str_or_none, help="Score as this corpus of the training"
    )
    return parser


def main(cmd: Optional[Sequence[str]] = None) -> None:
    """Score a wav.scp."""
    print(" ".join(sys.argv), file=sys.stderr)
    args = get_parser().parse_args(cmd)
    kwargs = vars(args)
    kwargs.pop("config", None)
    inference(**kwargs)


if __name__ == "__main__":
    main()
