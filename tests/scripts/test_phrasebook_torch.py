"""The recording of the phrasebook is what the installed torch does."""

import numpy as np
import pytest
from phrasebook import ROWS, reference
from phrasebook.compare import unequal

pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit.script:DeprecationWarning")


@pytest.mark.parametrize("slug", ROWS)
def test_torch_does_what_was_recorded(slug):
    live, recorded = reference.live(ROWS[slug]), reference.recorded(ROWS[slug])
    if isinstance(live, list) or isinstance(recorded, list):
        assert isinstance(live, list)
        assert isinstance(recorded, list)
        different = unequal(live, recorded)
        assert not different, different
        return
    np.testing.assert_allclose(live.losses, recorded.losses, rtol=1e-12)  # of one release
    for new, old in zip(live.points, recorded.points, strict=True):
        assert list(new.want) == list(old.want)
        for key, want in old.want.items():  # another CPU may round otherwise, within parity's bars
            assert (np.abs(new.want[key] - want) <= old.bar[key]).all(), key
