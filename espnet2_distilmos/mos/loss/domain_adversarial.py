# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

"""Domain-adversarial training: states by which a domain cannot be told."""

from typing import Any, Dict, List, Mapping, Optional, Sequence, Tuple

import torch
import torch.nn.functional as F

from espnet2_distilmos.mos.frontend.abs_frontend import AbsLayerFrontend
from espnet2_distilmos.mos.head.abs_head import AbsMOSHead, MOSPrediction
from espnet2_distilmos.mos.loss.abs_loss import CLEAN, MASKED, AbsMOSLoss, Target
from espnet2_distilmos.mos.loss.layer_distill import common_lengths
from espnet2_distilmos.mos.masking import frame_mask, masked_mean
from espnet2_distilmos.mos.optimizer_state import keep_in_state

TEACHER_STUDENT, DISTORTION, CORPUS = DOMAINS = (
    "teacher_student",
    "distortion",
    "corpus",
)
REVERSAL, ALTERNATING = METHODS = ("reversal", "alternating")


class DomainAdversarialLoss(AbsMOSLoss):
    """A discriminator of domains, and its gradient, reversed, for the upstream.

    The discriminator D is a linear map, ReLU and a linear map on the mean over valid
    frames of what it reads; its loss is a cross-entropy. The upstream gets the gradient
    of -weight r L_D, r the ramp 2 / (1 + exp(-10 p)) - 1 with p from 0 to 1 over
    ``ramp_steps`` (Ganin et al. 2016, equation 14; for distilled upstreams arXiv
    2210.07978).

    Args:
        domain: what D tells.

            * ``teacher_student``: predictions of the last target of ``layer_distill``
              from the target itself;
            * ``distortion``: which kinds of distortion ``noisy_view`` has, each yes or
              no, from the hidden state;
            * ``corpus``: of which corpus an utterance is, from the hidden state.
        method: ``reversal``: D learns in the same step, by the model's optimizer;
            ``alternating``: D has an optimizer of its own (AdamW) and every
            ``discriminator_interval``-th step first takes a step on detached states,
            then the upstream learns against D as it is.
        view: of the model; None is ``masked`` for distortions and else ``clean``.
        layer: number of the hidden state that is read; None is the last.
        hidden_size: of D.
        ramp_steps: training steps until the ramp is at its end; 0 is no ramp.
        discriminator_lr: of D's own optimizer.
        discriminator_interval: steps from one of its steps to the next.
        classes: filled in by training: kinds of distortion, or corpora.
    """

    name = "domain_adversarial"
    reads_states = True

    def __init__(
        self,
        weight: float = 0.1,
        domain: str = DISTORTION,
        method: str = REVERSAL,
        view: Optional[str] = None,
        layer: Optional[int] = None,
        hidden_size: int = 256,
        ramp_steps: int = 1000,
        discriminator_lr: float = 1e-3,
        discriminator_interval: int = 1,
        classes: Optional[Sequence[str]] = None,
    ):
        super().__init__(weight)
        self.expect(domain in DOMAINS, "domain", domain, f"one of {', '.join(DOMAINS)}")
        self.expect(method in METHODS, "method", method, f"one of {', '.join(METHODS)}")
        if view is None:
            view = MASKED if domain == DISTORTION else CLEAN
        self.view = self.checked_view(view)
        self.expect(
            domain != DISTORTION or view == MASKED,
            "view",
            view,
            f"{MASKED} for the domain {DISTORTION}: the other is not distorted",
        )
        need = {TEACHER_STUDENT: "teacher", DISTORTION: "distortion", CORPUS: "corpus"}
        self.needs = frozenset({need[domain]})
        if domain == CORPUS:
            self.uses = frozenset({"corpus"})
        self.domain, self.method, self.layer = domain, method, layer
        whole = {"hidden_size": hidden_size, "interval": discriminator_interval}
        for option, value in whole.items():
            self.checked_number(option, value, positive=True, whole=True)
        self.hidden_size, self.interval = hidden_size, discriminator_interval
        self.ramp_steps = self.checked_number("ramp_steps", ramp_steps, whole=True)
        self.rate = self.checked_number(
            "discriminator_lr", discriminator_lr, positive=True
        )
        self.classes = list(classes or ())
        self.accuracy: Optional[torch.Tensor] = None
        self.discriminator: Optional[torch.nn.Module] = None
        # In a list and no module: no state dict has it, and nothing else trains it.
        self._own: List[torch.nn.Module] = []
        self._own_optimizer: Optional[torch.optim.Optimizer] = None
        self._own_state: Optional[Mapping[str, Any]] = None

    def attach(self, frontend: AbsLayerFrontend, head: AbsMOSHead) -> None:
        """See :meth:`AbsMOSLoss.attach`."""
        self.layer = checked_state(self, self.layer, frontend)
        if self.domain == TEACHER_STUDENT:
            size, outputs = self.teacher_sizes[-1], 1
        else:
            size, outputs = frontend.output_size(), len(self.classes)
        if self.domain == CORPUS and outputs < 2:
            raise ValueError(
                f"found losses.{self.name}.domain=corpus and the corpora "
                f"{self.classes}, expected two or more: give utt2domain,corpus,text "
                "(in a recipe --use_corpora true) of several"
            )
        if self.domain == DISTORTION:
            check_kinds(self, self.classes)
        network = torch.nn.Sequential(
            torch.nn.Linear(size, self.hidden_size),
            torch.nn.ReLU(),
            torch.nn.Linear(self.hidden_size, outputs),
        )
        # Counts training steps; a training resumes with it.
        self.register_buffer("steps", torch.zeros((), dtype=torch.long))
        if self.method == REVERSAL:
            self.discriminator = network
        else:
            self._own = [network]

    def follow(
        self, optimizer: torch.optim.Optimizer, frontend: AbsLayerFrontend
    ) -> None:
        """Keep the discriminator and its optimizer in the checkpoint."""
        if self.method != ALTERNATING:
            return

        def save() -> Dict[str, Any]:
            own = self._own_optimizer
            state = self._own_state if own is None else own.state_dict()
            return {"network": self._own[0].state_dict(), "optimizer": state}

        def load(state: Mapping[str, Any]) -> None:
            self._own[0].load_state_dict(state["network"])
            # Where the network is going to be is not known yet.
            self._own_optimizer, self._own_state = None, state["optimizer"]

        keep_in_state(optimizer, self.name, "discriminator", save, load)

    def ramp(self) -> torch.Tensor:
        """The factor r of this step, a scalar."""
        if self.ramp_steps == 0:
            return torch.ones((), device=self.steps.device)
        progress = (self.steps / self.ramp_steps).clamp(max=1.0)
        return 2.0 / (1.0 + torch.exp(-10.0 * progress)) - 1.0

    def forward(self, prediction: MOSPrediction, target: Target) -> torch.Tensor:
        features, labels = self._inputs(prediction, target)
        if self.method == ALTERNATING and self.training:
            self._own_step(features.detach(), labels)
        reversed_ = _Reversed.apply(features, self.ramp())
        if self.training:
            self.steps += 1
        logits = self._logits(reversed_)
        self.accuracy = _accuracy(logits.detach(), labels)
        return _cross_entropy(logits, labels)

    def _inputs(
        self, prediction: MOSPrediction, target: Target
    ) -> Tuple[torch.Tensor, torch.Tensor]:
        """What the discriminator reads, (R, D), and what it is to find."""
        if self.domain == TEACHER_STUDENT:
            lengths = common_lengths(prediction, target)
            both = [prediction.layers[-1], target["teacher"][-1]]
            means = [pooled(states.float(), lengths) for states in both]
            labels = torch.zeros(2 * len(lengths), 1, device=lengths.device)
            labels[len(lengths) :] = 1.0
            return torch.cat(means), labels
        state = prediction.hidden_states[self.layer].float()
        return (
            pooled(state, prediction.state_lengths),
            target["corpus" if self.domain == CORPUS else "distortion"],
        )

    def _logits(self, features: torch.Tensor) -> torch.Tensor:
        if self.discriminator is not None:
            return self.discriminator(features)
        network = self._placed(features.device)
        fixed = {name: p.detach() for name, p in network.named_parameters()}
        return torch.func.functional_call(network, fixed, (features,))

    def _placed(self, device: torch.device) -> torch.nn.Module:
        """The discriminator of alternating updates, with its optimizer."""
        network = self._own[0].to(device)
        if self._own_optimizer is None:
            own = torch.optim.AdamW(network.parameters(), lr=self.rate)
            if self._own_state is not None:
                own.load_state_dict(dict(self._own_state))
            self._own_optimizer = own
        return network

    @torch.enable_grad()
    def _own_step(self, features: torch.Tensor, labels: torch.Tensor) -> None:
        network = self._placed(features.device)
        if int(self.steps) % self.interval:
            return
        self._own_optimizer.zero_grad()
        _cross_entropy(network(features), labels).backward()
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            for parameter in network.parameters():
                torch.distributed.all_reduce(parameter.grad)
                parameter.grad /= torch.distributed.get_world_size()
        self._own_optimizer.step()

    def statistics(self) -> Dict[str, torch.Tensor]:
        """Share of its answers in which the discriminator was right.

        None of distortions in validation, which has none.
        """
        nothing = self.domain == DISTORTION and not self.training
        if self.accuracy is None or nothing:
            return {}
        return {f"{self.name}_acc": self.accuracy}

    def count(self, prediction: MOSPrediction, target: Target) -> torch.Tensor:
        if self.domain == CORPUS:
            return (target["corpus"] >= 0).sum()
        return prediction.state_lengths.new_tensor(len(prediction.state_lengths))


class _Reversed(torch.autograd.Function):
    """The identity, whose gradient is multiplied by minus a factor."""

    @staticmethod
    def forward(ctx, x: torch.Tensor, factor: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(factor)
        return x.view_as(x)

    @staticmethod
    def backward(ctx, grad: torch.Tensor):
        (factor,) = ctx.saved_tensors
        return -factor.to(grad.dtype) * grad, None


def pooled(states: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
    """Mean (B, D) of the valid frames of states (B, T, D)."""
    return masked_mean(states, frame_mask(lengths, states.size(1)))


def checked_state(
    loss: AbsMOSLoss, layer: Optional[int], frontend: AbsLayerFrontend
) -> int:
    """Number of a hidden state; None is the last. Raises a ValueError for no state."""
    last = frontend.num_layers
    layer = last if layer is None else layer
    good = type(layer) is int and 0 <= layer <= last
    loss.expect(good, "layer", layer, f"0 to {last}, or null for the last")
    return layer


def check_kinds(loss: AbsMOSLoss, kinds: Sequence[str]) -> None:
    """Refuse a loss on distortions where no view is distorted."""
    if not kinds:
        raise ValueError(
            f"found losses.{loss.name} and no distorted view, expected one: give "
            "noisy_view, such as `--noisy_view scheme=double`"
        )


def _cross_entropy(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Of classes (R,) long, negative where there is none, or of yes and no (R, K)."""
    if labels.dim() == 2:
        return F.binary_cross_entropy_with_logits(logits, labels.float())
    known = labels >= 0
    each = F.cross_entropy(logits, labels.clamp(min=0), reduction="none")
    return masked_mean(each, known, dim=0)


def _accuracy(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    if labels.dim() == 2:
        return ((logits > 0) == (labels > 0.5)).float().mean()
    right = (logits.argmax(dim=-1) == labels).float()
    return masked_mean(right, labels >= 0, dim=0)
