# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

"""The upstreams that tokens are made with: one, several side by side, or as one.

Ensembles of teachers as arXiv 2302.12757 has them, on tokens.
"""

from typing import Any, Dict, List, Optional, Sequence, Tuple

import numpy as np
import torch

from espnet2_distilmos.mos.build import build_frontend
from espnet2_distilmos.mos.checkpoint import initial_frontend
from espnet2_distilmos.mos.frontend.abs_frontend import AbsLayerFrontend
from espnet2_distilmos.mos.grid import JOINT, Grid, aggregate, side_by_side
from espnet2_distilmos.mos.tokens import Codebooks, token_info


def load_upstreams(
    upstreams: Sequence[str],
    config: Optional[str],
    train_args: str,
    device: torch.device,
) -> Tuple[List[AbsLayerFrontend], Grid]:
    """Load what tokens are made with, in eval mode.

    Args:
        upstreams: As ``frontend_conf.upstream`` of ``frontend: hf`` has them; none for
            the upstream that a training starts from.
        config, train_args: Of that training, as ``initial_frontend`` takes them; None
            has the first of ``upstreams`` for the grid.
        device: Where they run.

    Returns:
        The upstreams, and the grid of the one that is trained.

    Raises:
        ValueError, OSError: One cannot be loaded, or they do not go together.
    """
    if config is None and not upstreams:
        raise ValueError(
            "neither --config nor --upstreams is given, expected one of them; name the "
            "upstream that the tokens are of."
        )
    frontends = [build_frontend("hf", {"upstream": name}) for name in upstreams]
    trained = frontends[0] if config is None else initial_frontend(config, train_args)
    frontends = frontends or [trained]
    grid = Grid.of(trained)
    check_upstreams(frontends, grid)
    return [frontend.to(device).eval() for frontend in frontends], grid


def stream_names(frontends: Sequence[AbsLayerFrontend]) -> List[str]:
    """Names of the upstreams' token streams: the n-th of a family is ``family-n``."""
    families = [frontend.name for frontend in frontends]
    counts = [families[: n + 1].count(name) for n, name in enumerate(families)]
    return [n if count == 1 else f"{n}-{count}" for n, count in zip(families, counts)]


def check_upstreams(frontends: Sequence[AbsLayerFrontend], grid: Grid) -> None:
    """Refuse upstreams whose frames cannot be paired, or that are one network.

    Raises:
        ValueError: One sentence with the names of two of them.
    """
    names = stream_names(frontends)
    for name, frontend in zip(names, frontends):
        if frontend.frame_shift != grid.frame_shift:
            raise ValueError(
                f"found upstreams with a frame every {grid.frame_shift} samples "
                f"({grid.name}) and every {frontend.frame_shift} ({name}), expected "
                "one frame shift; choose upstreams that share it."
            )
    if len(frontends) == 1:
        return
    prints = [frontend.fingerprint() for frontend in frontends]
    for name, fingerprint in zip(names, prints):
        twin = names[prints.index(fingerprint)]
        if twin != name:
            raise ValueError(
                f"found one network as the upstreams {twin} and {name}, expected "
                "different ones; name each once."
            )


class JointUpstream(torch.nn.Module):
    """Several upstreams that give one stream of states.

    Args:
        frontends: Two or more, of the grid's frame shift.
        grid: Of the frames that are wanted.
        how: ``average`` or ``concat``, see :func:`aggregate`.
        layers: Of each upstream, paired by their order. The pairs are numbered as the
            layers of the first upstream.

    Raises:
        ValueError: The upstreams cannot be aggregated.
    """

    def __init__(
        self,
        frontends: Sequence[AbsLayerFrontend],
        grid: Grid,
        how: str,
        layers: Sequence[Sequence[int]],
    ):
        super().__init__()
        names = stream_names(frontends)
        sizes = [frontend.output_size() for frontend in frontends]

        def listed(values: Sequence[object]) -> str:
            return ", ".join(f"{name} {value}" for name, value in zip(names, values))

        if len(frontends) < 2 or how not in JOINT:
            raise ValueError(
                f"found the aggregate {how!r} of {len(frontends)} upstreams, expected "
                f"{' or '.join(JOINT)} of two or more; correct --aggregate."
            )
        if len({len(some) for some in layers}) > 1:
            raise ValueError(
                f"found different numbers of layers to pair, "
                f"{listed([len(some) for some in layers])}, expected as many of each "
                "upstream; name them (--layers 3,6,9,12 1,2,3,4; --token_layers in a "
                "recipe)."
            )
        if how == "average" and len(set(sizes)) > 1:
            raise ValueError(
                f"found states of different sizes to average, {listed(sizes)}, "
                "expected one size; choose concat or heads."
            )
        self.frontends = torch.nn.ModuleList(frontends)
        self.how, self.layers = how, [list(some) for some in layers]
        self.name = "+".join(names)
        self.frame_shift = frontends[0].frame_shift
        self.sample_rate = frontends[0].sample_rate
        self.minimum_samples = max(f.minimum_samples for f in frontends)
        self._size = sizes[0] if how == "average" else sum(sizes)
        self._offsets = grid.offsets(frontends)

    def output_size(self) -> int:
        """Dimension D of the states."""
        return self._size

    def num_frames(self, num_samples: int) -> int:
        """Frames that ``num_samples`` samples give."""
        pairs = zip(self.frontends, self._offsets)
        return max(0, min(f.num_frames(num_samples) - offset for f, offset in pairs))

    def fingerprint(self) -> str:
        """How, and the upstreams' own fingerprints in their order."""
        prints = [frontend.fingerprint() for frontend in self.frontends]
        return f"{self.how}:{'+'.join(prints)}"

    def forward(
        self, speech: torch.Tensor, speech_lengths: torch.Tensor
    ) -> Tuple[Dict[int, torch.Tensor], torch.Tensor]:
        """Compute the states of all pairs of layers, each network once.

        Args:
            speech, speech_lengths: As in :meth:`AbsLayerFrontend.forward`.

        Returns:
            (B, T, D) by the number of the pair; and the valid frames (B,).
        """
        found = [frontend(speech, speech_lengths) for frontend in self.frontends]
        lengths = [frames for _, frames in found]
        states = {}
        for numbers in zip(*self.layers):
            parts = [hidden[number] for (hidden, _), number in zip(found, numbers)]
            parts, valid = side_by_side(parts, lengths, self._offsets)
            states[numbers[0]] = aggregate(parts, self.how)
        return states, valid


class Tokenizer:
    """Waveforms in, tokens of all streams out; each network is run once.

    Args:
        frontends, grid: As :func:`load_upstreams` gives them.
        streams: Codebooks that were fitted to them: of each upstream, or one of all.

    Attributes:
        info: Contents of tokens.json.
        minimum_samples: Fewest that give a frame of every upstream.
        sample_rate: In Hz.

    Raises:
        ValueError: The codebooks are of other upstreams.
    """

    def __init__(
        self,
        frontends: Sequence[AbsLayerFrontend],
        grid: Grid,
        streams: Sequence[Codebooks],
    ):
        made = streams[0].settings
        self.sources, self.streams = list(frontends), list(streams)
        self.offsets = grid.offsets(frontends)
        if "aggregate" in made:
            joint = JointUpstream(frontends, grid, made["aggregate"], made["layers"])
            self.sources, self.offsets = [joint], [0]
        found = [book.upstream_fingerprint for book in streams]
        expected = [source.fingerprint() for source in self.sources]
        if found != expected:
            streams_found = ", ".join(book.stream for book in streams)
            raise ValueError(
                f"found codebooks that were learned with another upstream "
                f"({streams_found}, fingerprint {', '.join(found)}), expected "
                f"{', '.join(stream_names(frontends))}, fingerprint "
                f"{', '.join(expected)}; rerun stage 5 from the codebooks on "
                "(learn_codebooks --overwrite, then dump_tokens)."
            )
        self.info: Dict[str, Any] = token_info(streams, grid)
        self.minimum_samples = max(f.minimum_samples for f in frontends)
        self.sample_rate = frontends[0].sample_rate

    def num_frames(self, num_samples: int) -> int:
        """Frames with tokens that ``num_samples`` samples give."""
        pairs = zip(self.sources, self.offsets)
        return min(s.num_frames(num_samples) - offset for s, offset in pairs)

    @torch.inference_mode()
    def __call__(
        self, speech: torch.Tensor, speech_lengths: torch.Tensor
    ) -> Tuple[torch.Tensor, torch.Tensor]:
        """Assign every frame of every layer to its nearest centroid.

        Args:
            speech, speech_lengths: As in :meth:`AbsLayerFrontend.forward`.

        Returns:
            Tokens (B, T, S) int64, -1 in padded frames; and the valid frames (B,).
        """
        columns, frames = [], []
        for codebooks, source in zip(self.streams, self.sources):
            hidden_states, lengths = source(speech, speech_lengths)
            columns.append(codebooks.assign(hidden_states, lengths))
            frames.append(lengths)
        columns, lengths = side_by_side(columns, frames, self.offsets)
        return torch.cat(columns, dim=-1), lengths

    def joined(self, parts: Sequence[np.ndarray]) -> np.ndarray:
        """Tokens of an utterance by each source, (T_m, S_m), as one array (T, S)."""
        columns = [torch.from_numpy(part)[None] for part in parts]
        frames = [torch.tensor([len(part)]) for part in parts]
        columns, _ = side_by_side(columns, frames, self.offsets)
        return torch.cat(columns, dim=-1)[0].numpy()
