"""Numbers of a training's config that torch and Lightning take, and that train something else than they say, are refused."""

import pytest
from jsonargparse import Namespace

from common.errors import SetupError
from common.training.cli import check_numbers


def test_what_a_config_holds_deeper_is_looked_at_and_what_means_something_is_left():
    check_numbers(Namespace(model=Namespace(init_args={"config": {"lr": 0.0, "grad_clip": None}, "learning_rate": 1, "warmup_steps": 0})))
    for name in ("lr", "grad_clip"):
        with pytest.raises(SetupError, match=rf"model.config.{name} is nan: a number from 0 on"):
            check_numbers(Namespace(model={"config": {name: float("nan")}}))
