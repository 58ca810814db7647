# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

"""Overlapping windows of long waveforms, and one track of frames out of them.

For arrays of NumPy and tensors of torch, which is not imported for arrays.
"""

from dataclasses import dataclass
from typing import Any, Iterable, Iterator, Sequence, Tuple

import numpy as np

# np.ndarray or torch.Tensor
Array = Any


def _as(values: np.ndarray, like: Array) -> Array:
    """Values as what ``like`` is, in its type and on its device."""
    if isinstance(like, np.ndarray):
        return values.astype(like.dtype)
    return like.new_tensor(values)


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

    def split(self, blocks: Iterable[Array]) -> Iterator[Tuple[int, Array]]:
        """Cut a waveform that comes in blocks; about limit + window of it is held.

        Args:
            blocks: (n,) each, joined they are the waveform.

        Yields:
            Start and samples of each window; (0, the waveform) where it is within the
            limit.
        """
        buffer, start, whole = np.zeros(0, np.float32), 0, True
        for block in blocks:
            buffer = _joined(buffer, block) if len(buffer) else block
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


def _joined(first: Array, second: Array) -> Array:
    if isinstance(first, np.ndarray):
        return np.concatenate([first, second])
    import torch  # loaded already, as there is a tensor

    return torch.cat([first, second])


def blend(tracks: Sequence[Array], starts: Sequence[int]) -> Tuple[Array, Array]:
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
    weights, ramps = np.zeros(num_frames), []
    for start, track in zip(starts, tracks):
        rise = np.arange(1.0, len(track) + 1)
        ramps.append(np.minimum(rise, rise[::-1]))
        weights[start : start + len(track)] += ramps[-1]
    total = _as(np.zeros((num_frames, *tracks[0].shape[1:])), tracks[0])
    shares = np.zeros(len(tracks))
    for i, (start, track, ramp) in enumerate(zip(starts, tracks, ramps)):
        end = start + len(track)
        fade = ramp / weights[start:end]
        shares[i] = fade.sum() / num_frames
        fade = _as(fade, track).reshape(-1, *(1,) * (len(track.shape) - 1))
        total[start:end] = total[start:end] + fade * track
    return total, _as(shares, tracks[0])
