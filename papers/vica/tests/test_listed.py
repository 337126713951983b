"""Which jobs a run of each experiment is, at its default size, by name: an arm that becomes its neighbour, a seed or a rate that is
left out, or a split that is another shows here. [0 1 2]: seeds, of which * is a job's own. <: what must be there before."""

from tests.listing import listed, unwrapped
from tests.recipes import recipes

from .. import eval as runs

LISTED = """
llava:
features/train llava.features(split='train')
features/test llava.features(split='test')
features/easy llava.features(split='easy')
features/val llava.features(split='val')
blind llava.blind_answers()
all layers/seed* [0 1 2] llava.all_layers(weights='CACHE/vica/all-layers-*.safetensors') < features/train, features/test,
    features/easy, features/val, stand-in/seed*
dense/seed* [0 1 2] llava.tune(arm='dense', layers=None) < features/train, features/test, features/easy, features/val,
    stand-in/seed*
few/seed* [0 1 2] llava.tune(arm='few', layers=None) < features/train, features/test, features/easy, features/val, stand-in/seed*
text/seed* [0 1 2] llava.tune(arm='text', layers=[]) < features/train, features/test, features/easy, features/val, stand-in/seed*
untuned/seed* [0 1 2] llava.untuned() < features/train, features/test, features/easy, features/val, stand-in/seed*
top/seed* [0 1 2] llava.tune(arm='top', layers=[0, 1])
greedy/seed* [0 1 2] llava.tune(arm='greedy', layers=[0, 3])
drawn/seed* [0] llava.tune(arm='drawn', layers=[0, 6])
drawn/seed* [1] llava.tune(arm='drawn', layers=[2, 4])
drawn/seed* [2] llava.tune(arm='drawn', layers=[0, 7])
again/seed* [0] llava.tune(arm='again', layers=[0, 3])
speed:
speed/process0 speed.one_process(process=0, time_limit=14.0)
speed/process1 speed.one_process(process=1, time_limit=14.0)
speed/process2 speed.one_process(process=2, time_limit=14.0)
clock:
features/train llava.features(split='train')
features/test llava.features(split='test')
features/easy llava.features(split='easy')
features/val llava.features(split='val')
all layers/seed* [0 1 2] llava.all_layers(weights='CACHE/vica/all-layers-*.safetensors') < features/train, features/test,
    features/easy, features/val, stand-in/seed*
clock/seed* [0 1 2] clock.one_process(layers=[0, 3])
ratios:
ratios/process0 ratios.one_process(process=0)
ratios/process1 ratios.one_process(process=1)
ratios/process2 ratios.one_process(process=2)
scratch:
scratch/seed* [0 1 2] scratch.scratch(layers=[0, 4], short=False)
scratch/drawn/seed* [0] scratch.scratch(layers=[0, 6], short=False)
scratch/text/seed* [0 1 2] scratch.scratch(layers=[], short=False)
scratch/short/seed* [0 1 2] scratch.scratch(layers=[0, 4], short=True)
scratch/short dense/seed* [0 1 2] scratch.scratch(layers=None, short=True)
scratch/short text/seed* [0 1 2] scratch.scratch(layers=[], short=True)
scratch/drawn/seed* [1] scratch.scratch(layers=[2, 4], short=False)
scratch/drawn/seed* [2] scratch.scratch(layers=[0, 7], short=False)
draws:
draws/seed* [0 1 2] draws.draws()
patches:
patches/dense/seed* [0 1 2] patches.patches(arm='dense')
patches/vica/seed* [0 1 2] patches.patches(arm='vica')
patches/mixed dense/seed* [0 1 2] patches.patches(arm='mixed dense')
patches/mixed vica/seed* [0 1 2] patches.patches(arm='mixed vica')
smollm2:
smollm2/untuned/seed* [0] smollm2.untuned()
smollm2/dense/seed* [0] smollm2.tuned(arm='dense')
smollm2/all layers/seed* [0] smollm2.tuned(arm='all layers')
few:
smollm2/untuned/seed* [0] smollm2.untuned()
smollm2/dense/seed* [0] smollm2.tuned(arm='dense')
smollm2/all layers/seed* [0] smollm2.tuned(arm='all layers')
smollm2/top/seed* [0] smollm2.tuned(arm='top', layers=[0])
smollm2/lot 0/seed* [0] smollm2.tuned(arm='lot 0', layers=[1])
"""

# The jobs whose trainings follow: what those of a kind share, and in what each differs.
TRAINING = ("llava.tune",)
RECIPES = """
ViCATraining on Shown: learning_rate=0.001, weight_decay=0.01, betas=(0.9, 0.98), warmup_steps=15, schedule='cosine', seed=1,
    stage='finetune', beta2=0.98, lora_rank=0, data.batch_size=16, data.seed=1, data.train_samples=1440, data.val_samples=96,
    data.scenes=1200, data.easy=300, data.easy_share=0.15, data.asked=12, data.captions=0.0, data.layers=[2, 9, 11],
    Trainer.max_steps=90, Trainer.max_epochs=-1, Trainer.gradient_clip_val=1.0, Trainer.precision='32-true'
dense/seed1: no more
few/seed1: no more
text/seed1: config.prefix_update='full', prefix_update='full'
top/seed1: config.cross_layers=(0, 1), config.prefix_update='full', cross_layers=[0, 1], prefix_update='full'
greedy/seed1: config.cross_layers=(0, 3), config.prefix_update='full', cross_layers=[0, 3], prefix_update='full'
drawn/seed1: config.cross_layers=(2, 4), config.prefix_update='full', cross_layers=[2, 4], prefix_update='full'
"""


def test_the_jobs_of_every_run_are_these(monkeypatch):
    assert listed(runs.EXPERIMENTS, monkeypatch).splitlines() == unwrapped(LISTED).splitlines()


def test_every_training_has_the_recipe_of_its_seed_and_what_its_name_says(monkeypatch):
    assert recipes(runs.EXPERIMENTS, TRAINING, monkeypatch).splitlines() == unwrapped(RECIPES).splitlines()
