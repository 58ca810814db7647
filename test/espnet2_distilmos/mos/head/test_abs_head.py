# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

from espnet2_distilmos.mos.head.abs_head import TokenColumn


def test_column_ids_sort_by_layer():
    ids = [TokenColumn("wavlm", layer, 200).id for layer in (1, 9, 12)]
    assert ids == ["wavlm_l01", "wavlm_l09", "wavlm_l12"] == sorted(ids)
