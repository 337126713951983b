"""Which jobs a run of each experiment is, at its default size, by name: an arm that becomes its neighbour, a seed or a rate that is
left out, or a split that is another shows here. [0 1 2]: seeds, of which * is a job's own. <: what must be there before."""

from tests.listing import listed, unwrapped
from tests.recipes import recipes

from .. import eval as runs

LISTED = """
chains:
base/seed* [0 1 2] chains.base()
opsft/seed* [0 1 2] chains.run(arm='opsft')
again/seed* [0 1 2] chains.run(arm='again')
by lot/seed* [0 1 2] chains.run(arm='by lot')
best of n/seed* [0 1 2] chains.run(arm='best of n')
fixed data/seed* [0 1 2] chains.run(arm='fixed data')
grpo/seed* [0 1 2] chains.run(arm='grpo')
grpo, length/seed* [0 1 2] chains.run(arm='grpo, length')
T 0.6/seed* [0 1 2] chains.run(arm='T 0.6')
T 1.5/seed* [0 1 2] chains.run(arm='T 1.5')
seq/seed* [0 1 2] chains.run(arm='seq')
G 4/seed* [0 1 2] chains.run(arm='G 4')
G 4, as many/seed* [0 1 2] chains.run(arm='G 4, as many')
L 24/seed* [0 1 2] chains.run(arm='L 24')
sums:
sums/base/seed* [3 4 5 6 7] sums.base()
sums/opsft/seed* [3 4 5 6 7] sums.run(arm='opsft')
sums/fixed data/seed* [3 4 5 6 7] sums.run(arm='fixed data')
sums/best of n/seed* [3 4 5 6 7] sums.run(arm='best of n')
sums/grpo/seed* [3 4 5 6 7] sums.run(arm='grpo')
sums/grpo, length/seed* [3 4 5 6 7] sums.run(arm='grpo, length')
five:
five/base/seed* [3 4 5] five.base()
five/opsft/seed* [3 4 5] five.run(arm='opsft')
five/fixed data/seed* [3 4 5] five.run(arm='fixed data')
five/best of n/seed* [3 4 5] five.run(arm='best of n')
five/grpo/seed* [3 4 5] five.run(arm='grpo')
five/grpo, length/seed* [3 4 5] five.run(arm='grpo, length')
five/by lot/seed* [3 4 5] five.run(arm='by lot')
rates:
rates/base/seed* [0] rates.base()
rates/opsft, 0.0001/seed* [0] rates.rate(arm='opsft', lr=0.0001)
rates/best of n, 0.0001/seed* [0] rates.rate(arm='best of n', lr=0.0001)
rates/fixed data, 0.0001/seed* [0] rates.rate(arm='fixed data', lr=0.0001)
rates/grpo, 0.0001/seed* [0] rates.rate(arm='grpo', lr=0.0001)
rates/grpo, length, 0.0001/seed* [0] rates.rate(arm='grpo, length', lr=0.0001)
rates/opsft, 0.0002/seed* [0] rates.rate(arm='opsft', lr=0.0002)
rates/best of n, 0.0002/seed* [0] rates.rate(arm='best of n', lr=0.0002)
rates/fixed data, 0.0002/seed* [0] rates.rate(arm='fixed data', lr=0.0002)
rates/grpo, 0.0002/seed* [0] rates.rate(arm='grpo', lr=0.0002)
rates/grpo, length, 0.0002/seed* [0] rates.rate(arm='grpo, length', lr=0.0002)
rates/opsft, 0.0005/seed* [0] rates.rate(arm='opsft', lr=0.0005)
rates/best of n, 0.0005/seed* [0] rates.rate(arm='best of n', lr=0.0005)
rates/fixed data, 0.0005/seed* [0] rates.rate(arm='fixed data', lr=0.0005)
rates/grpo, 0.0005/seed* [0] rates.rate(arm='grpo', lr=0.0005)
rates/grpo, length, 0.0005/seed* [0] rates.rate(arm='grpo, length', lr=0.0005)
rates/opsft, 0.001/seed* [0] rates.rate(arm='opsft', lr=0.001)
rates/best of n, 0.001/seed* [0] rates.rate(arm='best of n', lr=0.001)
rates/fixed data, 0.001/seed* [0] rates.rate(arm='fixed data', lr=0.001)
rates/grpo, 0.001/seed* [0] rates.rate(arm='grpo', lr=0.001)
rates/grpo, length, 0.001/seed* [0] rates.rate(arm='grpo, length', lr=0.001)
"""

# The jobs whose trainings follow: what those of a kind share, and in what each differs.
TRAINING = ("chains.run",)
RECIPES = """
OnPolicySFT on Chains: config.count='kept', config.require_eos=True, config.updates_per_rollout=1, config.micro_batch_size=256,
    config.lr=0.0005, config.grad_clip=1.0, config.warmup_steps=0, betas=(0.9, 0.95), weight_decay=0.0, samples=4, cap=170,
    done=0, skipped=0, data.batch_size=0, data.count=4096, data.held_out=96, data.end=(2,), Trainer.max_steps=-1,
    Trainer.max_epochs=1, Trainer.limit_train_batches=40
opsft/seed1: config.prompts_per_step=16, config.rollouts_per_prompt=16, config.max_new_tokens=40, config.temperature=1.0,
    config.length_norm='max', seed=1, data.seed=1
again/seed1: config.prompts_per_step=16, config.rollouts_per_prompt=16, config.max_new_tokens=40, config.temperature=1.0,
    config.length_norm='max', seed=1001, data.seed=1001
T 0.6/seed1: config.prompts_per_step=16, config.rollouts_per_prompt=16, config.max_new_tokens=40, config.temperature=0.6,
    config.length_norm='max', seed=1, data.seed=1
T 1.5/seed1: config.prompts_per_step=16, config.rollouts_per_prompt=16, config.max_new_tokens=40, config.temperature=1.5,
    config.length_norm='max', seed=1, data.seed=1
seq/seed1: config.prompts_per_step=16, config.rollouts_per_prompt=16, config.max_new_tokens=40, config.temperature=1.0,
    config.length_norm='seq', seed=1, data.seed=1
G 4/seed1: config.prompts_per_step=16, config.rollouts_per_prompt=4, config.max_new_tokens=40, config.temperature=1.0,
    config.length_norm='max', seed=1, data.seed=1
G 4, as many/seed1: config.prompts_per_step=64, config.rollouts_per_prompt=4, config.max_new_tokens=40, config.temperature=1.0,
    config.length_norm='max', seed=1, data.seed=1
L 24/seed1: config.prompts_per_step=16, config.rollouts_per_prompt=16, config.max_new_tokens=24, config.temperature=1.0,
    config.length_norm='max', seed=1, data.seed=1
ByLot on Chains: config.prompts_per_step=16, config.rollouts_per_prompt=16, config.max_new_tokens=40, config.temperature=1.0,
    config.length_norm='max', config.count='kept', config.require_eos=True, config.updates_per_rollout=1,
    config.micro_batch_size=256, config.lr=0.0005, config.grad_clip=1.0, config.warmup_steps=0, betas=(0.9, 0.95),
    weight_decay=0.0, samples=4, cap=170, seed=1, done=0, skipped=0, data.batch_size=0, data.seed=1, data.count=4096,
    data.held_out=96, data.end=(2,), Trainer.max_steps=-1, Trainer.max_epochs=1, Trainer.limit_train_batches=40
by lot/seed1: no more
BestOfN on Chains: config.prompts_per_step=16, config.rollouts_per_prompt=16, config.max_new_tokens=40, config.temperature=1.0,
    config.length_norm='max', config.count='kept', config.require_eos=True, config.updates_per_rollout=1,
    config.micro_batch_size=256, config.lr=0.0002, config.grad_clip=1.0, config.warmup_steps=0, betas=(0.9, 0.95),
    weight_decay=0.0, samples=4, cap=170, seed=1, done=0, skipped=0, data.batch_size=0, data.seed=1, data.count=4096,
    data.held_out=96, data.end=(2,), Trainer.max_steps=-1, Trainer.max_epochs=1, Trainer.limit_train_batches=40
best of n/seed1: no more
FixedData on Chains: config.prompts_per_step=16, config.rollouts_per_prompt=16, config.max_new_tokens=40, config.temperature=1.0,
    config.length_norm='max', config.count='kept', config.require_eos=True, config.updates_per_rollout=1,
    config.micro_batch_size=256, config.lr=0.0005, config.grad_clip=1.0, config.warmup_steps=0, betas=(0.9, 0.95),
    weight_decay=0.0, samples=4, cap=170, seed=1, done=0, skipped=0, data.batch_size=0, data.seed=1, data.count=4096,
    data.held_out=96, data.end=(2,), Trainer.max_steps=-1, Trainer.max_epochs=1, Trainer.limit_train_batches=40
fixed data/seed1: no more
GRPO on Chains: config.prompts_per_step=16, config.rollouts_per_prompt=16, config.temperature=1.0, config.length_norm='max',
    config.count='kept', config.require_eos=True, config.updates_per_rollout=1, config.micro_batch_size=256, config.lr=0.0005,
    config.grad_clip=1.0, config.warmup_steps=0, betas=(0.9, 0.95), weight_decay=0.0, samples=4, cap=170, seed=1, done=0,
    skipped=0, beta=0.04, data.batch_size=0, data.seed=1, data.count=4096, data.held_out=96, data.end=(2,), Trainer.max_steps=-1,
    Trainer.max_epochs=1, Trainer.limit_train_batches=40
grpo/seed1: config.max_new_tokens=40, reward='truncation'
grpo, length/seed1: config.max_new_tokens=170, reward='accuracy + length'
"""


def test_the_jobs_of_every_run_are_these(monkeypatch):
    assert listed(runs.EXPERIMENTS, monkeypatch).splitlines() == unwrapped(LISTED).splitlines()


def test_every_training_has_the_recipe_of_its_seed_and_what_its_name_says(monkeypatch):
    assert recipes(runs.EXPERIMENTS, TRAINING, monkeypatch).splitlines() == unwrapped(RECIPES).splitlines()
