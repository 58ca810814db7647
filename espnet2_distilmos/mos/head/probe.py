# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

"""A linear probe of hidden states: what ridge regression makes of them."""

from numbers import Real
from typing import Any, List, Optional, Sequence

import numpy as np
import torch

from espnet2_distilmos.mos.head.abs_head import (
    AbsMOSHead,
    MOSPrediction,
    TokenColumn,
    checked_layers,
)
from espnet2_distilmos.mos.head.pooling import Statistics
from espnet2_distilmos.mos.masking import frame_mask, masked_mean

# Penalties that fit() chooses from, for standardised features.
PENALTIES = tuple(10 ** (exponent / 2) for exponent in range(0, 13))


class Probe(torch.nn.Module):
    """Linear regression on statistics over time of hidden states.

    The features of an utterance are the mean of every dimension over the frames and,
    by ``pooling``, further statistics. Before training :meth:`fit` standardises them by
    the training set and sets the weights to those of ridge regression: training starts
    from a linear probe and not from random numbers, which keeps a fine-tuned upstream
    closer to its pretrained states ("linear probing then fine-tuning", Kumar et al.
    2022).

    Args:
        input_size: dimension D of the hidden states.
        num_layers: L.
        layers: which of the L + 1 hidden states are read; None means two, at three
            quarters of the network's height and at its top.
        pooling: ``mean``, and any of ``sd`` and ``attention``; see :class:`Statistics`.
        penalty: of the ridge regression; None chooses it, see :meth:`fit`.

    Raises:
        ValueError: there is no such layer or statistic, or it is named twice.
    """

    def __init__(
        self,
        input_size: int,
        num_layers: int,
        layers: Optional[Sequence[int]] = None,
        pooling: Sequence[str] = ("mean", "sd"),
        penalty: Optional[float] = None,
    ):
        super().__init__()
        if layers is None:
            layers = sorted({round(0.75 * num_layers), num_layers})
        self.layers = checked_layers("the probe's layers", layers, num_layers)
        is_number = isinstance(penalty, Real) and not isinstance(penalty, bool)
        if penalty is not None and not (is_number and 0 <= penalty < np.inf):
            raise ValueError(
                f"found the probe's penalty={penalty!r}, expected a number of at least "
                "0, which YAML writes as 30000.0 or 3.0e+4"
            )
        self.penalty = penalty
        size = input_size * len(self.layers)
        self.statistics = Statistics(size, pooling)
        self.linear = torch.nn.Linear(size + self.statistics.output_size, 1)
        torch.nn.init.zeros_(self.linear.weight)
        torch.nn.init.zeros_(self.linear.bias)
        size = self.linear.in_features
        self.register_buffer("centre", torch.zeros(size))
        self.register_buffer("scale", torch.ones(size))
        self.register_buffer("is_fitted", torch.tensor(False))

    def features(
        self, hidden_states: List[torch.Tensor], lengths: torch.Tensor
    ) -> torch.Tensor:
        """L + 1 tensors (B, T, D) and (B,) to (B, F)."""
        x = torch.cat([hidden_states[layer] for layer in self.layers], dim=-1)
        mask = frame_mask(lengths, x.size(1))
        return torch.cat([masked_mean(x, mask), self.statistics(x, mask)], dim=1)

    def forward(
        self, hidden_states: List[torch.Tensor], lengths: torch.Tensor
    ) -> torch.Tensor:
        """Frame scores (B, T), arbitrary in padded frames.

        Their mean over the valid frames is the score of the utterance: a frame's is
        what its own states contribute to the mean, and the whole utterance to the
        other statistics.
        """
        x = torch.cat([hidden_states[layer] for layer in self.layers], dim=-1)
        size = x.size(-1)
        weight = self.linear.weight[0] / self.scale
        frames = (x - self.centre[:size]) @ weight[:size]
        others = self.statistics(x, frame_mask(lengths, x.size(1)))
        rest = (others - self.centre[size:]) @ weight[size:] + self.linear.bias
        return frames + rest.unsqueeze(1)

    def standardised(self, features: torch.Tensor) -> torch.Tensor:
        """Features (B, F) as the regression reads them."""
        return (features - self.centre) / self.scale

    @torch.no_grad()
    def fit(
        self,
        features: torch.Tensor,
        labels: torch.Tensor,
        corpora: Optional[torch.Tensor] = None,
        shares: Optional[torch.Tensor] = None,
    ) -> float:
        """Set standardisation and weights by ridge regression.

        The penalty is the one with the least squared error on the training utterances,
        each left out in turn. With several corpora it is the one that ranks best a
        corpus left out, on average over them; then only differences within a corpus
        are fitted, not those between corpora, which may be of scale and of recording,
        and whatever spread of labels it has.

        Args:
            features: of the training utterances, (N, F).
            labels: their scores, (N,), finite.
            corpora: index of each utterance's corpus, (N,); None is one corpus.
            shares: of several corpora, what each utterance counts, (N,), above 0; None
                lets each corpus count alike, however many utterances it has.

        Returns:
            The penalty.

        Raises:
            ValueError: there are fewer than three utterances.
        """
        from sklearn.linear_model import Ridge, RidgeCV

        if len(labels) < 3:
            raise ValueError(
                f"found {len(labels)} labelled training utterances, expected at least "
                "three to fit the head's probe to: label more, or leave the probe out"
            )
        x, y = features.double().cpu().numpy(), labels.double().cpu().numpy()
        groups = np.zeros(len(y), int) if corpora is None else corpora.cpu().numpy()
        # A corpus whose labels are all equal says nothing; if none says anything, the
        # prediction is constant.
        spread = {g: y[groups == g].std() for g in np.unique(groups)}
        groups_used = [g for g in spread if spread[g] > 0] or list(spread)
        kept = np.isin(groups, groups_used)
        x, y, groups = x[kept], y[kept], groups[kept]
        if shares is None or len(groups_used) == 1:
            sizes = {g: (groups == g).sum() for g in groups_used}
            weights = np.array([1 / sizes[g] for g in groups])
        else:
            weights = shares.double().cpu().numpy()[kept]
        weights *= len(y) / weights.sum()
        centre = np.average(x, axis=0, weights=weights)
        middle = np.average(y, weights=weights)
        if len(groups_used) > 1:
            parts = {g: weights[groups == g] for g in groups_used}
            unit = sum(parts[g].sum() * spread[g] for g in groups_used) / len(y)
            x, y = x.copy(), y.copy()
            for group, part in parts.items():
                rows = groups == group
                x[rows] += centre - np.average(x[rows], axis=0, weights=part)
                own = y[rows] - np.average(y[rows], weights=part)
                y[rows] = middle + own * unit / (spread[group] or 1.0)
        scale = np.sqrt(np.average((x - centre) ** 2, axis=0, weights=weights))
        # A constant dimension says nothing; divided by its SD it would be noise.
        scale[scale <= 1e-5 * scale.max()] = np.inf
        inputs, outputs = (x - centre) / scale, y - middle

        def regression(penalty: float, rows: Any = slice(None)) -> np.ndarray:
            model = Ridge(penalty, fit_intercept=False)
            return model.fit(inputs[rows], outputs[rows], weights[rows]).coef_

        if self.penalty is not None:
            penalty = self.penalty
        elif len(groups_used) == 1:
            penalty = float(RidgeCV(PENALTIES).fit(inputs, outputs).alpha_)
        else:
            penalty = max(
                PENALTIES,
                key=lambda value: sum(
                    _rank_correlation(
                        inputs[groups == g] @ regression(value, groups != g),
                        outputs[groups == g],
                    )
                    for g in groups_used
                ),
            )
        self.centre.copy_(torch.from_numpy(centre))
        self.scale.copy_(torch.from_numpy(scale))
        self.linear.weight.copy_(torch.from_numpy(regression(penalty))[None])
        self.linear.bias.fill_(float(middle))
        self.is_fitted.fill_(True)
        return penalty


def _rank_correlation(scores: np.ndarray, labels: np.ndarray) -> float:
    """Spearman's correlation; 0 of constant scores, which rank nothing."""
    from scipy.stats import spearmanr

    return float(spearmanr(scores, labels)[0]) if np.ptp(scores) > 0 else 0.0


class ProbeHead(AbsMOSHead):
    """Ridge regression on hidden states, as a head: the baseline of small sets.

    Trained with a frozen upstream and a learning rate of 0 it is the regression
    itself; it predicts no tokens. Its embedding are the standardised features.

    Args:
        input_size, num_layers: see :class:`AbsMOSHead`.
        token_columns: not read; this head predicts no tokens.
        layers, pooling, penalty: see :class:`Probe`.
    """

    training_options = ("penalty",)

    def __init__(
        self,
        input_size: int,
        num_layers: int,
        token_columns: Sequence[TokenColumn] = (),
        layers: Optional[Sequence[int]] = None,
        pooling: Sequence[str] = ("mean", "sd"),
        penalty: Optional[float] = None,
    ):
        super().__init__(input_size, num_layers, token_columns)
        self.probe = Probe(input_size, num_layers, layers, pooling, penalty)
        self.embedding_size = self.probe.linear.in_features

    def forward(
        self,
        hidden_states: List[torch.Tensor],
        lengths: torch.Tensor,
        token_columns: Sequence[int] = (),
        condition=None,
        scores: bool = True,
    ) -> MOSPrediction:
        """See :meth:`AbsMOSHead.forward`."""
        self.set_token_training(bool(token_columns))
        mask = frame_mask(lengths, hidden_states[0].size(1))
        frame_mos = self.probe(hidden_states, lengths).masked_fill(~mask, 0.0)
        features = self.probe.features(hidden_states, lengths)
        return MOSPrediction(
            utt_mos=masked_mean(frame_mos, mask),
            frame_mos=frame_mos,
            lengths=lengths,
            token_logits=None,
            embedding=self.probe.standardised(features),
        )
