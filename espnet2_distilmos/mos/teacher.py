# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

"""Networks that training compares with and does not train."""

import copy
import dataclasses
from typing import Any, Dict, List, Mapping, Optional, Sequence, Tuple, Union

import torch

from espnet2_distilmos.mos.frontend.abs_frontend import AbsLayerFrontend
from espnet2_distilmos.mos.frontend.hf import HFFrontend
from espnet2_distilmos.mos.grid import (
    AGGREGATES,
    AVERAGE,
    HEADS,
    Grid,
    aggregate,
    side_by_side,
)
from espnet2_distilmos.mos.optimizer_state import keep_in_state


@dataclasses.dataclass
class EMATarget:
    """The exponential moving average of a frontend's weights.

    After each step of the optimizer, theta' <- m theta' + (1 - m) theta, with m rising
    evenly from ``momentum`` to ``momentum_end`` over ``momentum_steps`` steps. The
    average starts at the weights that the first batch finds.

    It is no module, so that no state dict of a model contains it, and is stored in the
    optimizer's state (:meth:`follow`), so that a training resumes with it.

    Args:
        momentum, momentum_end: m at the first step and at the end.
        momentum_steps: steps from one to the other.

    Raises:
        ValueError: for a momentum outside [0, 1] or less than one step.
    """

    momentum: float = 0.999
    momentum_end: float = 0.9999
    momentum_steps: int = 30000

    def __post_init__(self):
        shares = 0 <= self.momentum <= 1 and 0 <= self.momentum_end <= 1
        if not shares or self.momentum_steps < 1:
            raise ValueError(
                f"found {self}, expected momenta from 0 to 1 and at least one step"
            )
        self.network: Optional[torch.nn.Module] = None
        self.updates = 0

    @torch.no_grad()
    def hidden_states(
        self,
        frontend: torch.nn.Module,
        speech: torch.Tensor,
        speech_lengths: torch.Tensor,
    ) -> List[torch.Tensor]:
        """Hidden states of a batch, as :meth:`AbsLayerFrontend.forward` gives them."""
        return self._started(frontend).to(speech.device)(speech, speech_lengths)[0]

    @torch.no_grad()
    def update(self, frontend: torch.nn.Module) -> None:
        """Move towards the frontend's weights."""
        done = min(1.0, self.updates / self.momentum_steps)
        m = self.momentum + (self.momentum_end - self.momentum) * done
        network = self._started(frontend)
        for average, value in zip(network.parameters(), frontend.parameters()):
            average.lerp_(value.to(average.device, average.dtype), 1.0 - m)
        for average, value in zip(network.buffers(), frontend.buffers()):
            average.copy_(value)
        self.updates += 1

    def follow(
        self, optimizer: torch.optim.Optimizer, frontend: torch.nn.Module
    ) -> None:
        """Update after each step of the optimizer, and be part of its state.

        A state without an average is refused with a ValueError when it is loaded.
        """

        def save() -> Dict[str, Any]:
            network = self._started(frontend).state_dict()
            return {"updates": self.updates, "network": network}

        def load(state: Mapping[str, Any]) -> None:
            self._started(frontend).load_state_dict(state["network"])
            self.updates = state["updates"]

        optimizer.register_step_post_hook(lambda *_: self.update(frontend))
        keep_in_state(optimizer, "ema_target", "moving average", save, load)

    def _started(self, frontend: torch.nn.Module) -> torch.nn.Module:
        if self.network is None:
            self.network = copy.deepcopy(frontend).requires_grad_(False)
            self.network.zero_grad()
        return self.network.eval()


@dataclasses.dataclass
class FrozenTeachers:
    """Upstreams whose hidden states a student learns to predict.

    They are no modules, so that no state dict, no optimizer and no saved model
    contains them; they run without gradients, in eval mode and in fp32. They are read
    when the targets' sizes are asked for, unless ``known`` says these: a trained model
    needs none of their files.

    How the states h of layer n of M teachers become targets (arXiv 2302.12757):

    * ``heads``: each is a target, M N in all;
    * ``average``: the mean over the teachers of layer_norm(h), of one size;
    * ``concat``: the layer_norm(h) of all teachers side by side.

    Args:
        upstreams: as ``upstream`` of :class:`HFFrontend`: directories or hub ids.
        layers: numbers of the layers that are targets, those of all teachers or a list
            for each; None is a third, two thirds and all of its layers.
        aggregate: one of the above.
        known: what :meth:`describe` said when the training began.

    Raises:
        ValueError: for options that are impossible.
    """

    upstreams: Sequence[str]
    layers: Union[None, Sequence[int], Sequence[Sequence[int]]] = None
    aggregate: str = HEADS
    known: Optional[Sequence[Mapping[str, Any]]] = None

    def __post_init__(self):
        is_list = isinstance(self.upstreams, (list, tuple)) and self.upstreams
        if not is_list or not all(isinstance(x, str) and x for x in self.upstreams):
            raise ValueError(
                f"found teachers={self.upstreams!r}, expected a list of upstreams such "
                "as [facebook/hubert-base-ls960, microsoft/wavlm-base-plus]"
            )
        if self.aggregate not in AGGREGATES:
            raise ValueError(
                f"found aggregate={self.aggregate!r}, expected one of "
                f"{', '.join(AGGREGATES)}"
            )
        self._networks: List[HFFrontend] = []
        self._grid: Optional[Grid] = None  # of the student
        self._facts = [dict(fact) for fact in self.known or ()]

    def describe(self) -> List[Dict[str, Any]]:
        """What the teachers are: fingerprint, dimension and layers of each."""
        if not self._facts:
            networks = self._read()
            for network, layers in zip(networks, self._layers_of(networks)):
                fact = {"fingerprint": network.fingerprint(), "layers": layers}
                self._facts.append({**fact, "size": network.output_size()})
        return self._facts

    def check(self, student: AbsLayerFrontend) -> None:
        """Set the student, and refuse teachers that it cannot follow.

        Raises:
            ValueError: Their frames are of another rate, or their sizes or layers
                cannot be aggregated.
        """
        self._grid = Grid.of(student)
        facts = self.describe()
        sizes = {fact["size"] for fact in facts}
        if self.aggregate == AVERAGE and len(sizes) > 1:
            raise ValueError(
                "found teachers of the sizes "
                f"{', '.join(str(fact['size']) for fact in facts)} for "
                "aggregate=average, expected one size: take heads or concat"
            )
        counts = [len(fact["layers"]) for fact in facts]
        if self.aggregate != HEADS and len(set(counts)) > 1:
            raise ValueError(
                f"found {', '.join(map(str, counts))} layers of the teachers for "
                f"aggregate={self.aggregate}, expected equally many of each: choose "
                "them with layers"
            )

    def sizes(self) -> List[int]:
        """Dimensions of the targets."""
        facts = self.describe()
        if self.aggregate == HEADS:
            return [fact["size"] for fact in facts for _ in fact["layers"]]
        each = [fact["size"] for fact in facts]
        size = sum(each) if self.aggregate != AVERAGE else each[0]
        return [size] * len(facts[0]["layers"])

    @torch.no_grad()
    def targets(
        self, speech: torch.Tensor, speech_lengths: torch.Tensor
    ) -> Tuple[List[torch.Tensor], torch.Tensor]:
        """What a batch of waveforms (B, N) of lengths (B,) is to be predicted as.

        Each frame of the student has those of the teachers that are nearest in time.

        Returns:
            Targets (B, T, D), arbitrary in padded frames, and the valid frames (B,):
            of each utterance those of the teacher with the fewest.
        """
        networks = self._read()
        states, lengths, offsets = [], [], []
        with torch.autocast(speech.device.type, enabled=False):
            for network, fact, offset in zip(
                networks, self.describe(), self._grid.offsets(networks)
            ):
                network.to(speech.device)
                hidden, valid = network(speech.float(), speech_lengths)
                states += [hidden[layer] for layer in fact["layers"]]
                lengths += [valid for _ in fact["layers"]]
                offsets += [offset for _ in fact["layers"]]
        states, valid = side_by_side(states, lengths, offsets)
        if self.aggregate == HEADS:
            return states, valid
        count = len(states) // len(networks)  # layers of each teacher
        pairs = [states[layer::count] for layer in range(count)]
        return [aggregate(some, self.aggregate) for some in pairs], valid

    def _read(self) -> List[HFFrontend]:
        """The networks, read when they are needed first."""
        if not self._networks:
            read = [self._open(name) for name in self.upstreams]
            self._check_rates(read)
            prints = [network.fingerprint() for network in read]
            if len(set(prints)) < len(prints):
                raise ValueError(
                    "found one network twice among the teachers "
                    f"{', '.join(self.upstreams)}, expected different ones: name each "
                    "once"
                )
            self._networks = [network.requires_grad_(False).eval() for network in read]
            known = [fact["fingerprint"] for fact in self._facts]
            if known and known != prints:
                raise ValueError(
                    f"found other weights of {', '.join(self.upstreams)} than training "
                    "began with, expected the same teachers"
                )
        return self._networks

    @staticmethod
    def _open(name: str) -> HFFrontend:
        try:
            return HFFrontend(upstream=name, freeze="all")
        except (OSError, ValueError) as error:
            raise ValueError(f"teacher {name}: {error}") from error

    def _check_rates(self, networks: Sequence[HFFrontend]) -> None:
        for name, network in zip(self.upstreams, networks):
            if network.frame_shift != self._grid.frame_shift:
                raise ValueError(
                    f"found the teacher {name} with a frame every "
                    f"{network.frame_shift} samples, expected every "
                    f"{self._grid.frame_shift} as the student {self._grid.name} has "
                    "them: take a teacher of that rate"
                )

    def _layers_of(self, networks: Sequence[HFFrontend]) -> List[List[int]]:
        """Numbers of the layers of each teacher that are targets."""
        each = self.layers
        if each is None:
            thirds = [[n * x.num_layers / 3 for n in (1, 2, 3)] for x in networks]
            return [sorted({max(1, round(n)) for n in some}) for some in thirds]
        if not each or not isinstance(each[0], (list, tuple)):
            each = [each] * len(networks)
        for name, network, numbers in zip(self.upstreams, networks, each):
            good = all(type(n) is int and 0 <= n <= network.num_layers for n in numbers)
            if not numbers or not good or len(set(numbers)) < len(numbers):
                raise ValueError(
                    f"found the layers {list(numbers)} of the teacher {name}, expected "
                    f"some of 0 to {network.num_layers}, each once"
                )
        if len(each) != len(networks):
            raise ValueError(
                f"found layers of {len(each)} teachers, expected those of "
                f"{len(networks)}, or a single list for all"
            )
        return [list(numbers) for numbers in each]


@dataclasses.dataclass
class TokenTeacher:
    """Frozen upstreams and their codebooks: tokens of what they hear, on the fly.

    A distorted view has tokens of its own then, and not those of the true signal. It
    is no module, and is read when it is needed first.

    Args:
        upstreams: as of :class:`HFFrontend`: one, or several in a list.
        codebooks: file that ``learn_codebooks`` wrote of them.
    """

    upstreams: Union[str, Sequence[str]]
    codebooks: str

    def __post_init__(self):
        self._grid: Optional[Grid] = None
        self._tokenizer: Any = None

    def attach(self, student: AbsLayerFrontend) -> None:
        """Take the frames of the upstream that is trained."""
        self._grid = Grid.of(student)

    def check(self, token_info: Mapping[str, Any]) -> None:
        """Refuse codebooks of other tokens than the training's.

        Args:
            token_info: contents of its tokens.json.

        Raises:
            ValueError: They are others, or of other upstreams.
        """
        found = self._started().info["codebook_fingerprint"]
        if found != token_info.get("codebook_fingerprint"):
            raise ValueError(
                f"found the codebooks {self.codebooks} ({found}), expected those of "
                f"the tokens, {token_info.get('codebook_fingerprint')}: give the "
                "codebooks.npz beside their tokens.json"
            )

    def tokens(
        self, speech: torch.Tensor, speech_lengths: torch.Tensor
    ) -> torch.Tensor:
        """Tokens (B, T, S) of a batch (B, N) of lengths (B,); -1 in padded frames."""
        tokenizer = self._started()
        for source in tokenizer.sources:
            source.to(speech.device)
        with torch.autocast(speech.device.type, enabled=False):
            tokens, _ = tokenizer(speech.float(), speech_lengths)
        # What inference mode made cannot be part of a graph.
        return tokens.clone()

    def _started(self):
        if self._tokenizer is None:
            # Which know the losses, and these this file.
            from espnet2_distilmos.mos.token_upstreams import Tokenizer, check_upstreams
            from espnet2_distilmos.mos.tokens import load_codebooks

            names = self.upstreams
            names = [names] if isinstance(names, str) else list(names)
            read = [HFFrontend(upstream=name, freeze="all").eval() for name in names]
            check_upstreams(read, self._grid)
            codebooks = load_codebooks(self.codebooks)
            self._tokenizer = Tokenizer(read, self._grid, codebooks)
        return self._tokenizer
