"""Eval mode for a while: every part is as it was behind it, whatever happened inside."""

import pytest
from torch import nn

from common.modes import eval_mode


def test_each_part_gets_its_own_mode_back():
    model = nn.Sequential(nn.Dropout(0.5), nn.Sequential(nn.Dropout(0.1), nn.Linear(2, 2)))
    model[1][0].eval()  # frozen, inside of a part that learns
    before = [module.training for module in model.modules()]
    assert before == [True, True, True, False, True]
    with pytest.raises(KeyError), eval_mode(model):
        assert not any(module.training for module in model.modules())
        raise KeyError
    assert [module.training for module in model.modules()] == before


def test_what_was_in_eval_mode_stays_there():
    model = nn.Sequential(nn.Dropout(0.5)).eval()
    with eval_mode(model), eval_mode(model[0]):
        pass
    assert not model.training and not model[0].training
