# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

"""Networks that training compares with and does not train."""

import copy
import dataclasses
from typing import Any, Dict, List, Mapping, Optional

import torch

# Key in an optimizer's state dict, hence in the training checkpoint.
_STATE = "ema_target"


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

        def save(_, state: Dict[str, Any]) -> Dict[str, Any]:
            network = self._started(frontend).state_dict()
            return {**state, _STATE: {"updates": self.updates, "network": network}}

        def load(_, state: Mapping[str, Any]) -> Dict[str, Any]:
            if _STATE not in state:
                raise ValueError("the checkpoint has no moving average")
            self._started(frontend).load_state_dict(state[_STATE]["network"])
            self.updates = state[_STATE]["updates"]
            return {key: value for key, value in state.items() if key != _STATE}

        optimizer.register_step_post_hook(lambda *_: self.update(frontend))
        optimizer.register_state_dict_post_hook(save)
        optimizer.register_load_state_dict_pre_hook(load)

    def _started(self, frontend: torch.nn.Module) -> torch.nn.Module:
        if self.network is None:
            self.network = copy.deepcopy(frontend).requires_grad_(False)
            self.network.zero_grad()
        return self.network.eval()
