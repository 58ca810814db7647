# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

"""Overlapping windows of long waveforms, and one track of frames out of them."""

from dataclasses import dataclass
from typing import Iterable, Iterator, Sequence, Tuple

import torch


@dataclass(frozen=True)
class WindowPlan:
    """Where the windows of a long waveform lie, all in samples.

    Windows start at multiples of ``hop``; the last one ends where the waveform ends.
    Starts are multiples of ``grid``, so that the frames of all windows are frames of
    one grid; the last window may therefore be longer, by less than ``grid``.

    Attributes:
        limit: a waveform of at most so many samples is left whole.
        window, hop: length and distance of the windows, multiples of ``grid``.
        grid: samples from one frame score to the next.
    """

    limit: int
    window: int
    hop: int
    grid: int

    @classmethod
    def make(
        cls, limit: int, window: int, grid: int, minimum_samples: int = 1
    ) -> "WindowPlan":
        """The plan with half-overlapping windows, no longer than ``limit``.

        Raises:
            ValueError: ``limit`` leaves no windows of two frames, or of
                ``minimum_samples``.
        """
        least = grid * (1 + max(2, -(-minimum_samples // grid)))
        if limit < least:
            raise ValueError(
                f"found a limit of {limit} samples for whole utterances, expected at "
                f"least the {least} that windows of this model need; raise "
                "--max-seconds"
            )
        window = min(window, limit - grid) // grid * grid
        return cls(limit, window, max(window // 2 // grid, 1) * grid, grid)

    def split(
        self, blocks: Iterable[torch.Tensor]
    ) -> Iterator[Tuple[int, torch.Tensor]]:
        """Cut a waveform that comes in blocks; about limit + window of it is held.

        Args:
            blocks: (n,) each, joined they are the waveform.

        Yields:
            Start and samples of each window; (0, the waveform) where it is within the
            limit.
        """
        buffer, start, whole = torch.zeros(0), 0, True
        for block in blocks:
            buffer = torch.cat([buffer.to(block), block])
            if whole and len(buffer) > self.limit:
                whole = False
                yield 0, buffer[: self.window]
            # A window is not the last one where more follows than that could hold.
            while not whole and len(buffer) >= self.hop + self.window + self.grid:
                buffer = buffer[self.hop :]
                start += self.hop
                yield start, buffer[: self.window]
        if whole:
            yield 0, buffer
            return
        skip = (len(buffer) - self.window) // self.grid * self.grid
        yield start + skip, buffer[skip:]


def blend(
    tracks: Sequence[torch.Tensor], starts: Sequence[int]
) -> Tuple[torch.Tensor, torch.Tensor]:
    """Join overlapping tracks of frames, fading linearly from one to the next.

    The weight of a frame within its window rises by one a frame from either end to the
    middle; the weights of a frame are then divided by their sum. Where two windows
    overlap by half this is a linear fade; at either end one window counts.

    Args:
        tracks: (T_w, ...) of each window.
        starts: first frame of each window on the common grid.

    Returns:
        The joint track (T, ...), and each window's share in it, (W,), summing to one.
    """
    num_frames = max(start + len(track) for start, track in zip(starts, tracks))
    sizes = (1,) * (tracks[0].dim() - 1)
    total = tracks[0].new_zeros((num_frames, *tracks[0].shape[1:]))
    weights = tracks[0].new_zeros(num_frames)
    ramps = []
    for start, track in zip(starts, tracks):
        rise = torch.arange(1, len(track) + 1, dtype=track.dtype, device=track.device)
        ramps.append(torch.minimum(rise, rise.flip(0)))
        end = start + len(track)
        weights[start:end] += ramps[-1]
        total[start:end] = total[start:end] + ramps[-1].reshape(-1, *sizes) * track
    shares = [
        (ramp / weights[start : start + len(ramp)]).sum()
        for start, ramp in zip(starts, ramps)
    ]
    return total / weights.reshape(-1, *sizes), torch.stack(shares) / num_frames
