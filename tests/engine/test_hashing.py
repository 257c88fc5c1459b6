"""Seeds and keys from integers."""

import numpy as np

from mamdr_core.engine.hashing import derive_seed, splitmix64, step_keys


def test_a_seed_is_splitmix64_over_its_parts():
    value = np.zeros(1, dtype=np.uint64)
    for part in (3, 0, 2**63, 17):
        value = splitmix64(value ^ np.uint64(part))
    assert derive_seed(3, 0, 2**63, 17) == int(value[0] >> np.uint64(1))
    assert splitmix64(np.zeros(1, dtype=np.uint64))[0] == 0xE220A8397B1DCDAF  # of the published generator, seed 0


def test_keys_do_not_depend_on_other_trajectories():
    keys = step_keys([5, 6, 2**63 - 1], 4)
    assert keys.shape == (4, 3)
    assert keys.dtype == np.int32
    assert np.array_equal(step_keys([6], 2)[:, 0], keys[:2, 1])
    assert len(np.unique(step_keys(range(100), 100))) > 9_980  # of 10,000 draws from 2^32
