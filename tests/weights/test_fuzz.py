"""A hundred random files of weights; `benchmarks/fuzz_weights.py` makes as many as are asked for."""

from __future__ import annotations

from collections import Counter

from benchmarks.fuzz_weights import make_states, one


def test_no_tensor_is_lost_in_silence_and_every_error_is_one_line(tmp_path):
    states = make_states()
    ends = Counter(one(seed, tmp_path, states) for seed in range(100))
    assert ends["loaded"] >= 50
    assert len(ends) >= 3
