"""Which jobs a run of each experiment is, at its default size, by name: an arm that becomes its neighbour, a seed or a rate that is
left out, or a split that is another shows here. [0 1 2]: seeds, of which * is a job's own. <: what must be there before."""

from tests.listing import listed, unwrapped

from .. import eval as runs

LISTED = """
stages:
stages/pretrained stages.found(weights='pretrained')
stages/random stages.found(weights='random')
probes:
probes/easy/seed* [10 11 12 13 14] probes.probed(look='easy')
probes/hard/seed* [10 11 12] probes.probed(look='hard')
llava:
llava/features llava.features()
llava/seed* [0 1 2] llava.looked() < llava/features, stand-in/seed*
speed:
speed/process0 speed.one_process(process=0)
speed/process1 speed.one_process(process=1)
speed/process2 speed.one_process(process=2)
committed:
committed/features committed.features()
committed/seed* [0] committed.looked() < committed/features
own:
own/features own.features()
own/default own.looked(name='default') < own/features
own/triple own.looked(name='triple') < own/features
own/region own.looked(name='region') < own/features
own/cross-attention own.looked(name='cross-attention') < own/features
long:
long/features/dinov2 trained.features(of='long', tower_of='dinov2')
long/default/seed* [0 1 2] trained.trained(of='long', arm='default') < long/features/dinov2
long/default three times/seed* [0 1 2] trained.trained(of='long', arm='default three times') < long/features/dinov2
long/late region/seed* [0 1 2] trained.trained(of='long', arm='late region') < long/features/dinov2
long/external direct, triple/seed* [0 1 2] trained.trained(of='long', arm='external direct, triple') < long/features/dinov2
long/external direct, latter/seed* [0 1 2] trained.trained(of='long', arm='external direct, latter') < long/features/dinov2
long/external modular, triple/seed* [0 1 2] trained.trained(of='long', arm='external modular, triple') < long/features/dinov2
long/external modular, latter/seed* [0 1 2] trained.trained(of='long', arm='external modular, latter') < long/features/dinov2
long/internal direct, triple/seed* [0 1 2] trained.trained(of='long', arm='internal direct, triple') < long/features/dinov2
long/internal direct, latter/seed* [0 1 2] trained.trained(of='long', arm='internal direct, latter') < long/features/dinov2
long/internal modular, triple/seed* [0 1 2] trained.trained(of='long', arm='internal modular, triple') < long/features/dinov2
long/internal modular, latter/seed* [0 1 2] trained.trained(of='long', arm='internal modular, latter') < long/features/dinov2
long-more:
long/features/dinov2 trained.features(of='long', tower_of='dinov2')
long/default/seed* [0 1 2] trained.trained(of='long', arm='default') < long/features/dinov2
long/default three times/seed* [0 1 2] trained.trained(of='long', arm='default three times') < long/features/dinov2
long/late region/seed* [0 1 2] trained.trained(of='long', arm='late region') < long/features/dinov2
long/external direct, triple/seed* [0 1 2] trained.trained(of='long', arm='external direct, triple') < long/features/dinov2
long/external direct, latter/seed* [0 1 2] trained.trained(of='long', arm='external direct, latter') < long/features/dinov2
long/external modular, triple/seed* [0 1 2] trained.trained(of='long', arm='external modular, triple') < long/features/dinov2
long/external modular, latter/seed* [0 1 2] trained.trained(of='long', arm='external modular, latter') < long/features/dinov2
long/internal direct, triple/seed* [0 1 2] trained.trained(of='long', arm='internal direct, triple') < long/features/dinov2
long/internal direct, latter/seed* [0 1 2] trained.trained(of='long', arm='internal direct, latter') < long/features/dinov2
long/internal modular, triple/seed* [0 1 2] trained.trained(of='long', arm='internal modular, triple') < long/features/dinov2
long/internal modular, latter/seed* [0 1 2] trained.trained(of='long', arm='internal modular, latter') < long/features/dinov2
long-more/features/dinov2 trained.features(of='long-more', tower_of='dinov2')
long-more/external direct, single/seed* [0 1 2] trained.trained(of='long-more', arm='external direct, single') <
    long-more/features/dinov2
long-more/external direct, all/seed* [0 1 2] trained.trained(of='long-more', arm='external direct, all') <
    long-more/features/dinov2
long-more/external modular, single/seed* [0 1 2] trained.trained(of='long-more', arm='external modular, single') <
    long-more/features/dinov2
long-more/external modular, all/seed* [0 1 2] trained.trained(of='long-more', arm='external modular, all') <
    long-more/features/dinov2
long-more/internal direct, single/seed* [0 1 2] trained.trained(of='long-more', arm='internal direct, single') <
    long-more/features/dinov2
long-more/internal direct, all/seed* [0 1 2] trained.trained(of='long-more', arm='internal direct, all') <
    long-more/features/dinov2
long-more/internal modular, single/seed* [0 1 2] trained.trained(of='long-more', arm='internal modular, single') <
    long-more/features/dinov2
long-more/internal modular, all/seed* [0 1 2] trained.trained(of='long-more', arm='internal modular, all') <
    long-more/features/dinov2
variants:
long/features/dinov2 trained.features(of='long', tower_of='dinov2')
long/external direct, triple/seed* [0 1 2] trained.trained(of='long', arm='external direct, triple') < long/features/dinov2
long/internal direct, triple/seed* [0 1 2] trained.trained(of='long', arm='internal direct, triple') < long/features/dinov2
long/internal modular, triple/seed* [0 1 2] trained.trained(of='long', arm='internal modular, triple') < long/features/dinov2
variants/features/dinov2 trained.features(of='variants', tower_of='dinov2')
variants/features/random trained.features(of='variants', tower_of='random')
variants/internal modular, post/seed* [0 1 2] trained.trained(of='variants', arm='internal modular, post') <
    variants/features/dinov2
variants/internal modular, parallel/seed* [0 1 2] trained.trained(of='variants', arm='internal modular, parallel') <
    variants/features/dinov2
variants/external direct, 1000 pictures/seed* [0 1 2] trained.trained(of='variants', arm='external direct, 1000 pictures') <
    variants/features/dinov2
variants/external direct, 2000 pictures/seed* [0 1 2] trained.trained(of='variants', arm='external direct, 2000 pictures') <
    variants/features/dinov2
variants/internal direct, 1000 pictures/seed* [0 1 2] trained.trained(of='variants', arm='internal direct, 1000 pictures') <
    variants/features/dinov2
variants/internal direct, 2000 pictures/seed* [0 1 2] trained.trained(of='variants', arm='internal direct, 2000 pictures') <
    variants/features/dinov2
variants/default, random tower/seed* [0 1 2] trained.trained(of='variants', arm='default, random tower') <
    variants/features/random
variants/default three times, random tower/seed* [0 1 2] trained.trained(of='variants', arm='default three times, random tower') <
    variants/features/random
variants/triple, random tower/seed* [0 1 2] trained.trained(of='variants', arm='triple, random tower') < variants/features/random
variants/default, Qwen3/seed* [0 1 2] trained.trained(of='variants', arm='default, Qwen3') < variants/features/dinov2
variants/default three times, Qwen3/seed* [0 1 2] trained.trained(of='variants', arm='default three times, Qwen3') <
    variants/features/dinov2
variants/triple, Qwen3/seed* [0 1 2] trained.trained(of='variants', arm='triple, Qwen3') < variants/features/dinov2
smollm2:
smollm2/features/dinov2 smollm2.features()
smollm2/default/seed* [0 1 2] smollm2.run(arm='default') < smollm2/features/dinov2
smollm2/default three times/seed* [0 1 2] smollm2.run(arm='default three times') < smollm2/features/dinov2
smollm2/external direct, triple/seed* [0 1 2] smollm2.run(arm='external direct, triple') < smollm2/features/dinov2
smollm2/internal direct, triple/seed* [0 1 2] smollm2.run(arm='internal direct, triple') < smollm2/features/dinov2
"""


def test_the_jobs_of_every_run_are_these(monkeypatch):
    assert listed(runs.EXPERIMENTS, monkeypatch).splitlines() == unwrapped(LISTED).splitlines()
