# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

"""What a training resumes with and no model has."""

from typing import Any, Callable, Dict, Mapping

import torch


def keep_in_state(
    optimizer: torch.optim.Optimizer,
    key: str,
    what: str,
    save: Callable[[], Any],
    load: Callable[[Any], None],
) -> None:
    """Make something part of an optimizer's state, hence of the training checkpoint.

    Args:
        optimizer: whose state dict gets it.
        key: its name there.
        what: its name in an error.
        save: returns it, as tensors and plain types.
        load: takes what ``save`` returned. A state dict without it is refused with a
            ValueError.
    """

    def saved(_, state: Dict[str, Any]) -> Dict[str, Any]:
        return {**state, key: save()}

    def loaded(_, state: Mapping[str, Any]) -> Dict[str, Any]:
        if key not in state:
            raise ValueError(f"the checkpoint has no {what}")
        load(state[key])
        return {name: value for name, value in state.items() if name != key}

    optimizer.register_state_dict_post_hook(saved)
    optimizer.register_load_state_dict_pre_hook(loaded)
