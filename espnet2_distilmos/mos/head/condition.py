# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

"""What a score depends on besides the speech: the listener and the corpus."""

from typing import NamedTuple, Optional, Sequence

import torch

# Index of the mean listener, and of the mean over all corpora.
MEAN = -1


class ConditionRows(NamedTuple):
    """Which rows the decoder of a head makes of a batch.

    Attributes:
        offset: added to the decoder's input in every frame of a row, (R, C).
        item: the utterance of each row, (R,); None where row r is utterance r.
    """

    offset: torch.Tensor
    item: Optional[torch.Tensor] = None

    def apply(self, x: torch.Tensor, *others: torch.Tensor):
        """Rows of the decoder's input (B, T, C), with offsets, and of other tensors."""
        if self.item is not None:
            x, *others = (tensor[self.item] for tensor in (x, *others))
        return (x + self.offset.to(x.dtype).unsqueeze(1), *others)


class Condition(torch.nn.Module):
    """Embeddings of listeners and corpora, as offsets to the decoder's input.

    The listener embedding is that of LDNet (Huang et al. 2022) and UTMOS (Saeki et al.
    2022), the corpus embedding UTMOS' domain embedding. There they are concatenated to
    the frames; here they are added, which before a linear map is the same.

    The *mean listener*, whose label is the mean of the votes, has the offset zero, and
    so has the mean over the corpora: the rows of ``corpus`` are relative to their mean.
    Inference is that of these two, and runs the head alone, unless a corpus is named or
    all listeners are asked for.
    All rows are zero at the start.

    Args:
        size: C, of the decoder's input; 0 of a head that takes no condition.
        listeners: their names; None for no listener embedding.
        corpora: their names; None for no corpus embedding.
        corpus_dropout: share of the training utterances that get the mean over the
            corpora, so that it is trained as well.

    Raises:
        ValueError: for a head that takes none, missing names or a single corpus.
    """

    def __init__(
        self,
        size: int,
        listeners: Optional[Sequence[str]] = None,
        corpora: Optional[Sequence[str]] = None,
        corpus_dropout: float = 0.2,
    ):
        super().__init__()
        if not size:
            raise ValueError(
                "found a listener or corpus embedding with a head that takes none, "
                "expected --head distilmos or ssl_mos"
            )
        self.corpus_dropout = corpus_dropout
        for kind, names, least in (("listener", listeners, 1), ("corpus", corpora, 2)):
            table = None
            if names is not None:
                if len(names) < least:
                    raise ValueError(
                        f"found model_conf.{kind}_embedding=true and {len(names)} names"
                        f" in {kind}_list, expected at least {least}: train with their "
                        "data (votes, corpus), or set it to false"
                    )
                table = torch.nn.Parameter(torch.zeros(len(names), size))
            self.register_parameter(kind, table)
        self.listeners = tuple(listeners or ())
        self.corpora = tuple(corpora or ())

    def forward(
        self,
        batch_size: int,
        listeners: Optional[torch.Tensor] = None,
        corpus: Optional[torch.Tensor] = None,
    ) -> Optional[ConditionRows]:
        """Rows of a batch: its utterances with the mean listener, then the votes.

        Args:
            batch_size: B.
            listeners: index of each vote's listener, (B, V), negative where there is
                no vote.
            corpus: index of each utterance's corpus, (B,), or ``MEAN``.

        Returns:
            The rows, the votes in the order of ``listeners``; None if each row is an
            utterance without an offset.
        """
        offset = item = None
        if self.corpus is not None and corpus is not None:
            if self.training and self.corpus_dropout > 0:
                dropped = torch.rand(batch_size, device=corpus.device)
                corpus = corpus.masked_fill(dropped < self.corpus_dropout, MEAN)
            offset = self.of_corpus(corpus)
        if self.listener is not None and listeners is not None:
            voted = listeners >= 0
            votes = self.listener[listeners[voted]]
            utterances = torch.arange(batch_size, device=listeners.device)
            item = torch.cat([utterances, voted.nonzero()[:, 0]])
            if offset is None:
                offset = votes.new_zeros(batch_size, votes.size(1))
            offset = torch.cat([offset, offset[item[batch_size:]] + votes])
        return None if offset is None else ConditionRows(offset, item)

    def of_corpus(self, corpus: torch.Tensor) -> torch.Tensor:
        """Offsets (R, C) of corpora by index (R,), zero for ``MEAN``."""
        offsets = (self.corpus - self.corpus.mean(dim=0))[corpus.clamp(min=0)]
        known = (corpus >= 0).unsqueeze(1)
        return torch.where(known, offsets, torch.zeros_like(offsets))

    @torch.no_grad()
    def take_rows(self, kind: str, names: Sequence[str], table: torch.Tensor) -> int:
        """Start from the rows of another model, for the names that both have.

        Args:
            kind: ``listener`` or ``corpus``.
            names: of the other model's rows.
            table: the rows, (len(names), C).

        Returns:
            How many rows were taken; new corpora start from the mean of the old.
        """
        own = self.listeners if kind == "listener" else self.corpora
        parameter: torch.nn.Parameter = getattr(self, kind)
        if kind == "corpus":
            parameter.copy_(table.mean(dim=0).expand_as(parameter))
        common = set(own) & set(names)
        for row, name in enumerate(names):
            if name in common:
                parameter[own.index(name)] = table[row]
        return len(common)
