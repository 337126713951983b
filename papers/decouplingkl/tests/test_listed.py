"""Which jobs a run of each experiment is, at its default size, by name: an arm that becomes its neighbour, a seed or a rate that is
left out, or a split that is another shows here. [0 1 2]: seeds, of which * is a job's own. <: what must be there before."""

from tests.listing import listed, unwrapped
from tests.recipes import recipes

from .. import eval as runs

LISTED = """
weak:
start/seed* [0 1 2] chains.start()
itself/seed* [0 1 2] chains.itself()
SF/seed* [0 1 2] chains.run(arm='SF')
mix 0.25/seed* [0 1 2] chains.run(arm='mix 0.25')
mix 0.5/seed* [0 1 2] chains.run(arm='mix 0.5')
mix 0.75/seed* [0 1 2] chains.run(arm='mix 0.75')
SR/seed* [0 1 2] chains.run(arm='SR')
TF/seed* [0 1 2] chains.run(arm='TF')
TR/seed* [0 1 2] chains.run(arm='TR')
short SF/seed* [0 1 2] chains.run(arm='short SF')
short SR/seed* [0 1 2] chains.run(arm='short SR')
curriculum/seed* [0 1 2] chains.run(arm='curriculum')
ladder/seed* [0 1 2] chains.run(arm='ladder')
by entropy/seed* [0 1 2] chains.run(arm='by entropy')
SF again/seed* [0 1 2] chains.run(arm='SF again')
shuffled/seed* [0 1 2] chains.run(arm='shuffled')
strong:
strong/start/seed* [0 1 2] strong.start()
strong/SF/seed* [0 1 2] strong.run(arm='SF')
strong/SR/seed* [0 1 2] strong.run(arm='SR')
strong/TF/seed* [0 1 2] strong.run(arm='TF')
strong/TR/seed* [0 1 2] strong.run(arm='TR')
strong/SF again/seed* [0 1 2] strong.run(arm='SF again')
strong/short SF/seed* [0 1 2] strong.run(arm='short SF')
strong/short SR/seed* [0 1 2] strong.run(arm='short SR')
strong/short TF/seed* [0 1 2] strong.run(arm='short TF')
strong/short TR/seed* [0 1 2] strong.run(arm='short TR')
strong/one end/seed* [0 1 2] strong.ends(stops='one end')
strong/two ends/seed* [0 1 2] strong.ends(stops='two ends')
real:
real/start/seed* [0 1 2] real.start()
real/SF/seed* [0 1 2] real.run(arm='SF')
real/SR/seed* [0 1 2] real.run(arm='SR')
real/TF/seed* [0 1 2] real.run(arm='TF')
real/TR/seed* [0 1 2] real.run(arm='TR')
real/mix 0.25/seed* [0 1 2] real.run(arm='mix 0.25')
real/SF again/seed* [0 1 2] real.run(arm='SF again')
real/curriculum/seed* [0 1 2] real.run(arm='curriculum')
real/ladder/seed* [0 1 2] real.run(arm='ladder')
real/short SF/seed* [0 1 2] real.run(arm='short SF')
real/short SR/seed* [0 1 2] real.run(arm='short SR')
reasoners:
reasoners/start/seed* [0 1 2] reasoners.start()
reasoners/SF/seed* [0 1 2] reasoners.run(arm='SF')
reasoners/SR/seed* [0 1 2] reasoners.run(arm='SR')
reasoners/TF/seed* [0 1 2] reasoners.run(arm='TF')
reasoners/TR/seed* [0 1 2] reasoners.run(arm='TR')
reasoners/mix 0.25/seed* [0 1 2] reasoners.run(arm='mix 0.25')
reasoners/mix 0.5/seed* [0 1 2] reasoners.run(arm='mix 0.5')
reasoners/curriculum/seed* [0 1 2] reasoners.run(arm='curriculum')
reasoners/SF again/seed* [0 1 2] reasoners.run(arm='SF again')
reasoners/SFT, brief/seed* [0 1 2] reasoners.run(arm='SFT, brief')
timing:
timing/loss/process0 timing.loss(process=0)
timing/loss/process1 timing.loss(process=1)
timing/loss/process2 timing.loss(process=2)
timing/sampling/process0 timing.sampling(process=0)
timing/sampling/process1 timing.sampling(process=1)
timing/sampling/process2 timing.sampling(process=2)
"""

# The jobs whose trainings follow: what those of a kind share, and in what each differs.
TRAINING = ("chains.run", "strong.run")
RECIPES = """
Distilling on Chains: config.switch_entropy=0.5, config.estimator='full', config.top_tokens=64, config.prompts_per_step=24,
    config.rollouts_per_prompt=1, config.temperature=1.0, config.top_p=1.0, config.top_k=0, config.loss_temperature=1.0,
    config.token_chunk=65536, config.micro_batch_size=24, config.lr=0.002, config.grad_clip=1.0, config.warmup_steps=0,
    betas=(0.9, 0.95), weight_decay=0.0, samples=4, cap=170, done=0, skipped=0, data.batch_size=0, data.held_out=96,
    data.end=(2,), Trainer.max_steps=-1, Trainer.max_epochs=1
SF/seed1: config.prefix='student', config.lam=0.0, config.mix='linear', config.max_new_tokens=170, seed=4067075206, length=170,
    data.seed=1, data.count=720, Trainer.limit_train_batches=30
mix 0.25/seed1: config.prefix='student', config.lam=0.25, config.mix='linear', config.max_new_tokens=170, seed=4067075206,
    length=170, data.seed=1, data.count=720, Trainer.limit_train_batches=30
mix 0.5/seed1: config.prefix='student', config.lam=0.5, config.mix='linear', config.max_new_tokens=170, seed=4067075206,
    length=170, data.seed=1, data.count=720, Trainer.limit_train_batches=30
mix 0.75/seed1: config.prefix='student', config.lam=0.75, config.mix='linear', config.max_new_tokens=170, seed=4067075206,
    length=170, data.seed=1, data.count=720, Trainer.limit_train_batches=30
SR/seed1: config.prefix='student', config.lam=1.0, config.mix='linear', config.max_new_tokens=170, seed=4067075206, length=170,
    data.seed=1, data.count=720, Trainer.limit_train_batches=30
TF/seed1: config.prefix='teacher', config.lam=0.0, config.mix='linear', config.max_new_tokens=170, seed=4067075206, length=170,
    data.seed=1, data.count=720, Trainer.limit_train_batches=30
TR/seed1: config.prefix='teacher', config.lam=1.0, config.mix='linear', config.max_new_tokens=170, seed=4067075206, length=170,
    data.seed=1, data.count=720, Trainer.limit_train_batches=30
short SF/seed1: config.prefix='student', config.lam=0.0, config.mix='linear', config.max_new_tokens=12, seed=4067075206,
    length=12, data.seed=1, data.count=720, Trainer.limit_train_batches=30
short SR/seed1: config.prefix='student', config.lam=1.0, config.mix='linear', config.max_new_tokens=12, seed=4067075206,
    length=12, data.seed=1, data.count=720, Trainer.limit_train_batches=30
curriculum/seed1: config.prefix='student', config.lam=1.0, config.mix='linear', config.max_new_tokens=170, seed=4067075206,
    length=170, data.seed=1, data.count=720, Trainer.limit_train_batches=30
ladder/seed1: config.prefix='student', config.lam=1.0, config.mix='linear', config.max_new_tokens=170, seed=4067075206,
    length=170, data.seed=1, data.count=720, Trainer.limit_train_batches=30
by entropy/seed1: config.prefix='student', config.lam=1.0, config.mix='by_entropy', config.max_new_tokens=170, seed=4067075206,
    length=170, data.seed=1, data.count=720, Trainer.limit_train_batches=30
SF again/seed1: config.prefix='student', config.lam=0.0, config.mix='linear', config.max_new_tokens=170, seed=2509111396,
    length=170, data.seed=1001, data.count=720, Trainer.limit_train_batches=30
shuffled/seed1: config.prefix='student', config.lam=0.0, config.mix='linear', config.max_new_tokens=170, seed=4067075206,
    length=170, data.seed=1, data.count=720, Trainer.limit_train_batches=30
strong/SF/seed1: config.prefix='student', config.lam=0.0, config.mix='linear', config.max_new_tokens=170, seed=4067075206,
    length=170, data.seed=1, data.count=1440, Trainer.limit_train_batches=60
strong/SR/seed1: config.prefix='student', config.lam=1.0, config.mix='linear', config.max_new_tokens=170, seed=4067075206,
    length=170, data.seed=1, data.count=1440, Trainer.limit_train_batches=60
strong/TF/seed1: config.prefix='teacher', config.lam=0.0, config.mix='linear', config.max_new_tokens=170, seed=4067075206,
    length=170, data.seed=1, data.count=1440, Trainer.limit_train_batches=60
strong/TR/seed1: config.prefix='teacher', config.lam=1.0, config.mix='linear', config.max_new_tokens=170, seed=4067075206,
    length=170, data.seed=1, data.count=1440, Trainer.limit_train_batches=60
strong/SF again/seed1: config.prefix='student', config.lam=0.0, config.mix='linear', config.max_new_tokens=170, seed=2509111396,
    length=170, data.seed=1001, data.count=1440, Trainer.limit_train_batches=60
strong/short SF/seed1: config.prefix='student', config.lam=0.0, config.mix='linear', config.max_new_tokens=12, seed=4067075206,
    length=12, data.seed=1, data.count=1440, Trainer.limit_train_batches=60
strong/short SR/seed1: config.prefix='student', config.lam=1.0, config.mix='linear', config.max_new_tokens=12, seed=4067075206,
    length=12, data.seed=1, data.count=1440, Trainer.limit_train_batches=60
strong/short TF/seed1: config.prefix='teacher', config.lam=0.0, config.mix='linear', config.max_new_tokens=12, seed=4067075206,
    length=12, data.seed=1, data.count=1440, Trainer.limit_train_batches=60
strong/short TR/seed1: config.prefix='teacher', config.lam=1.0, config.mix='linear', config.max_new_tokens=12, seed=4067075206,
    length=12, data.seed=1, data.count=1440, Trainer.limit_train_batches=60
"""


def test_the_jobs_of_every_run_are_these(monkeypatch):
    assert listed(runs.EXPERIMENTS, monkeypatch).splitlines() == unwrapped(LISTED).splitlines()


def test_every_training_has_the_recipe_of_its_seed_and_what_its_name_says(monkeypatch):
    assert recipes(runs.EXPERIMENTS, TRAINING, monkeypatch).splitlines() == unwrapped(RECIPES).splitlines()
