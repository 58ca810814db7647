# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

"""What a score depends on beside the speech: who listens, and in which corpus."""

from typing import Dict, NamedTuple, Optional, Sequence

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


class Condition(torch.nn.Module):
    """Embeddings of listeners and corpora, as offsets to the decoder's input.

    The listener embedding is that of LDNet (Huang et al. 2022) and UTMOS (Saeki et al.
    2022), the corpus embedding UTMOS' domain embedding. There they are concatenated to
    the frames; here they are added, which in front of a linear map says the same.

    The *mean listener*, whose label is the mean of the votes, has the offset zero, and
    so has the mean over the corpora: the rows of ``corpus`` count from their mean.
    A constant that all rows share is left to the head's own biases. So neither needs
    a row of its own, and inference, which hears with the mean listener and as the mean
    over the corpora unless one is named, runs the head alone.

    All rows start from zero: at the start every listener hears as the mean one does.

    Args:
        size: C, of the decoder's input.
        listeners: their names; empty for no listener embedding.
        corpora: their names; empty for no corpus embedding.
        corpus_dropout: share of the training utterances that are heard as of the mean
            over the corpora, so that it is trained as well.

    Raises:
        ValueError: for a share outside [0, 1) or a single corpus.
    """

    def __init__(
        self,
        size: int,
        listeners: Sequence[str] = (),
        corpora: Sequence[str] = (),
        corpus_dropout: float = 0.2,
    ):
        super().__init__()
        if not 0 <= corpus_dropout < 1:
            raise ValueError(
                f"found model_conf.corpus_dropout={corpus_dropout}, expected 0 or more "
                "and less than 1"
            )
        if len(corpora) == 1:
            raise ValueError(
                f"found model_conf.corpus_embedding=true with the one corpus "
                f"{corpora[0]}, expected two at least: there is nothing to tell apart"
            )
        self.listeners = tuple(listeners)
        self.corpora = tuple(corpora)
        self.corpus_dropout = corpus_dropout
        # Without random numbers: the rest of the model starts as without them.
        for name, rows in (("listener", listeners), ("corpus", corpora)):
            table = torch.nn.Parameter(torch.zeros(len(rows), size)) if rows else None
            self.register_parameter(name, table)

    def of_corpus(self, corpus: torch.Tensor) -> torch.Tensor:
        """Offsets (R, C) of corpora by index (R,), or ``MEAN``."""
        return _rows(self.corpus - self.corpus.mean(dim=0), corpus)

    def forward(
        self,
        batch_size: int,
        listeners: Optional[torch.Tensor] = None,
        corpus: Optional[torch.Tensor] = None,
    ) -> Optional[ConditionRows]:
        """Rows of a batch: its utterances as the mean listener hears them, then votes.

        Args:
            batch_size: B.
            listeners: index of each vote's listener, (B, V), negative where there is
                no vote.
            corpus: index of each utterance's corpus, (B,), or ``MEAN``.

        Returns:
            The rows, the votes in the order of ``listeners``; None if each is the
            utterance as the head alone hears it.
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

    def index(self, corpus: Optional[str]) -> int:
        """Index of a corpus by its name; ``MEAN`` for None.

        Raises:
            ValueError: there is none of this name.
        """
        if corpus is None:
            return MEAN
        if corpus not in self.corpora:
            raise ValueError(
                f"found the corpus {corpus}, expected one of "
                f"{', '.join(self.corpora) or 'none'}, which the model was trained on, "
                "or no name for the mean over them"
            )
        return self.corpora.index(corpus)

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
        own = {"listener": self.listeners, "corpus": self.corpora}[kind]
        parameter: torch.nn.Parameter = getattr(self, kind)
        if kind == "corpus":
            parameter.copy_(table.mean(dim=0).expand_as(parameter))
        places: Dict[str, int] = {name: row for row, name in enumerate(names)}
        common = [name for name in own if name in places]
        for name in common:
            parameter[own.index(name)] = table[places[name]]
        return len(common)


def _rows(table: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
    """Rows by index; zeros for a negative one."""
    known = index >= 0
    rows = table[index.clamp(min=0)]
    return torch.where(known.unsqueeze(1), rows, torch.zeros_like(rows))
