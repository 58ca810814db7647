# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

"""Frames of several upstreams, side by side in time or as one.

Networks that pad their input begin earlier than those that lose their receptive field,
so that frames of one number are not of one time: each frame of the grid, which is that
of the upstream to be trained, goes with the frame of another upstream whose centre is
nearest.
"""

from typing import List, NamedTuple, Sequence, Tuple

import torch
import torch.nn.functional as F

from espnet2_distilmos.mos.frontend.abs_frontend import AbsLayerFrontend

# How several upstreams give one state; or they do not, and each is a target of its own.
HEADS, AVERAGE, CONCAT = AGGREGATES = ("heads", "average", "concat")
JOINT = (AVERAGE, CONCAT)


class Grid(NamedTuple):
    """When the frames are whose tokens are wanted, as an upstream has it."""

    name: str
    frame_shift: int
    frame_centre: float
    minimum_samples: int

    @classmethod
    def of(cls, frontend: AbsLayerFrontend) -> "Grid":
        return cls(*(getattr(frontend, field) for field in cls._fields))

    def offsets(self, frontends: Sequence[AbsLayerFrontend]) -> List[int]:
        """By how many frames upstreams are ahead.

        The frame t + offset of an upstream is the one nearest to the grid's frame t.
        """
        return [
            round((self.frame_centre - frontend.frame_centre) / self.frame_shift)
            for frontend in frontends
        ]


def side_by_side(
    parts: Sequence[torch.Tensor],
    lengths: Sequence[torch.Tensor],
    offsets: Sequence[int],
) -> Tuple[List[torch.Tensor], torch.Tensor]:
    """Bring frames of several upstreams to one grid.

    Where an upstream begins later, its first frame serves for those before, too; the
    ends are cut to the shortest.

    Args:
        parts: (B, T_m, ...) of each upstream.
        lengths: Valid frames of each upstream, (B,).
        offsets: As :meth:`Grid.offsets` gives them.

    Returns:
        The parts (B, T, ...), and their valid frames (B,).
    """
    frames = min(part.size(1) - offset for part, offset in zip(parts, offsets))
    steps = torch.arange(frames, device=parts[0].device)
    moved = [
        part[:, (steps + offset).clamp(min=0)] for part, offset in zip(parts, offsets)
    ]
    valid = [length - offset for length, offset in zip(lengths, offsets)]
    return moved, torch.stack(valid).amin(dim=0)


def aggregate(states: Sequence[torch.Tensor], how: str) -> torch.Tensor:
    """One state of several upstreams' for each frame.

    Each is standardised first, over its dimensions in every frame: no upstream counts
    by the size of its states, and no statistics are needed.

    Args:
        states: (..., D_m) of each upstream.
        how: ``average``, of equal sizes, or ``concat``.

    Returns:
        (..., D), or (..., sum of D_m).
    """
    standard = [F.layer_norm(state, state.shape[-1:]) for state in states]
    if how == "average":
        return torch.stack(standard).mean(dim=0)
    return torch.cat(standard, dim=-1)
