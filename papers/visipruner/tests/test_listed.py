"""Which jobs a run of each experiment is, at its default size, by name: an arm that becomes its neighbour, a seed or a rate that is
left out, or a split that is another shows here. [0 1 2]: seeds, of which * is a job's own. <: what must be there before."""

from tests.listing import listed, unwrapped

from .. import eval as runs

LISTED = """
llava:
features/val llava.features(split='val')
features/test llava.features(split='test')
knocked/seed* [0 1 2] llava.knocked() < features/val, features/test, stand-in/seed*
looked/seed* [0 1 2] llava.looked() < features/val, features/test, stand-in/seed*
pruned/seed* [0 1 2] llava.pruned() < features/val, features/test, stand-in/seed*
speed:
speed/process0 speed.one_process(process=0)
speed/process1 speed.one_process(process=1)
speed/process2 speed.one_process(process=2)
clock:
features/val llava.features(split='val')
features/test llava.features(split='test')
pruned/seed* [0 1 2] llava.pruned() < features/val, features/test, stand-in/seed*
clock/seed* [0] clock.one_process(settings={'boundary': 1, 'threshold': 0.2, 'FastV': [1, 0.5], 'PyramidDrop': [[1, 3, 5], 0.5]})
guideline:
guideline/middle/seed* [0 1 2] guideline.trained(arm='middle')
guideline/last/seed* [0 1 2] guideline.trained(arm='last')
guideline/dense/seed* [0 1 2] guideline.dense()
qwen3:
qwen3/features/test qwen3.features()
qwen3/knocked/seed* [0] qwen3.knocked() < qwen3/features/test
qwen3/looked/seed* [0] qwen3.looked() < qwen3/features/test
qwen3/pruned/seed* [0] qwen3.pruned() < qwen3/features/test
smollm2:
smollm2/features/test smollm2.features()
smollm2/knocked/seed* [0] smollm2.knocked() < smollm2/features/test
smollm2/looked/seed* [0] smollm2.looked() < smollm2/features/test
smollm2/recognised/seed* [0] smollm2.recognised() < smollm2/features/test
smollm2/pruned/seed* [0] smollm2.pruned() < smollm2/features/test
equal:
equal/seed* [0 1 2] equal.equal()
precision:
precision/seed* [0 1 2] precision.precision()
oracle:
oracle/seed* [0 1 2] oracle.oracle()
budget:
budget/seed* [0 1 2] budget.budget()
"""


def test_the_jobs_of_every_run_are_these(monkeypatch):
    assert listed(runs.EXPERIMENTS, monkeypatch).splitlines() == unwrapped(LISTED).splitlines()
