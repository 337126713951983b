"""Which jobs a run of each experiment is, at its default size, by name: an arm that becomes its neighbour, a seed or a rate that is
left out, or a split that is another shows here. [0 1 2]: seeds, of which * is a job's own. <: what must be there before."""

from tests.listing import listed, unwrapped

from .. import eval as runs

LISTED = """
scratch:
tier_a/static/seed* [0 1 2] scratch.dense_and_static()
tier_a/routers at 0.40/seed* [0 1 2] scratch.router_tuning(target=0.4, budget=0.4166666666666667, stage_2=True)
tier_a/coupled/seed* [0 1 2] scratch.router_tuning(target=0.4, budget=0.4166666666666667, coupled=True)
tier_a/token-blind/seed* [0 1 2] scratch.router_tuning(target=0.4, budget=0.4166666666666667, token_blind=True)
tier_a/joint/seed* [0 1 2] scratch.joint(target=0.4)
tier_a/MoD-D/seed* [0 1 2] scratch.mixture_of_depths(target=0.4)
smollm2:
tier_b/dense smollm2.dense()
tier_b/positions at 0.25 smollm2.positions_and_tokens(target=0.25) < tier_b/dense
tier_b/static at 0.25 smollm2.static(target=0.25) < tier_b/dense
tier_b/routers at 0.25/seed* [0] smollm2.learned(target=0.25) < tier_b/dense
tier_b/static at 0.40 smollm2.static(target=0.4) < tier_b/dense
tier_b/routers at 0.40/seed* [0] smollm2.learned(target=0.4) < tier_b/dense
speed:
speed/process0 speed.one_process(process=0)
speed/process1 speed.one_process(process=1)
speed/process2 speed.one_process(process=2)
ratios:
ratios/process0 ratios.one_process(process=0)
ratios/process1 ratios.one_process(process=1)
ratios/process2 ratios.one_process(process=2)
extras:
tier_a/routers at 0.25/seed* [0] scratch.router_tuning(target=0.25)
tier_a/MoD-D with LoRA/seed* [0] scratch.mixture_of_depths(target=0.4, rank=8)
tier_a/D-LLM/seed* [0] scratch.joint(target=0.4, whole_layers=True)
tier_a/paper's learning rate/seed* [0] scratch.router_tuning(target=0.25, learning_rate=0.002)
sampled:
tier_b/sampled at 0.25 smollm2.sampled(target=0.25)
tier_b/sampled at 0.40 smollm2.sampled(target=0.4)
rates:
rates/routers at 0.005/seed* [0] rates.validated(method='routers', rate=0.005)
rates/routers at 0.01/seed* [0] rates.validated(method='routers', rate=0.01)
rates/routers at 0.02/seed* [0] rates.validated(method='routers', rate=0.02)
rates/routers at 0.04/seed* [0] rates.validated(method='routers', rate=0.04)
rates/coupled at 0.005/seed* [0] rates.validated(method='coupled', rate=0.005)
rates/coupled at 0.01/seed* [0] rates.validated(method='coupled', rate=0.01)
rates/coupled at 0.02/seed* [0] rates.validated(method='coupled', rate=0.02)
rates/coupled at 0.04/seed* [0] rates.validated(method='coupled', rate=0.04)
rates/token-blind at 0.005/seed* [0] rates.validated(method='token-blind', rate=0.005)
rates/token-blind at 0.01/seed* [0] rates.validated(method='token-blind', rate=0.01)
rates/token-blind at 0.02/seed* [0] rates.validated(method='token-blind', rate=0.02)
rates/token-blind at 0.04/seed* [0] rates.validated(method='token-blind', rate=0.04)
rates/MoD-D at 0.005/seed* [0] rates.validated(method='MoD-D', rate=0.005)
rates/MoD-D at 0.01/seed* [0] rates.validated(method='MoD-D', rate=0.01)
rates/MoD-D at 0.02/seed* [0] rates.validated(method='MoD-D', rate=0.02)
rates/MoD-D at 0.04/seed* [0] rates.validated(method='MoD-D', rate=0.04)
rates/joint at 0.0025/seed* [0] rates.validated(method='joint', rate=0.0025)
rates/joint at 0.005/seed* [0] rates.validated(method='joint', rate=0.005)
rates/joint at 0.01/seed* [0] rates.validated(method='joint', rate=0.01)
rates/joint at 0.02/seed* [0] rates.validated(method='joint', rate=0.02)
blind:
blind/token-blind at 0.25/seed* [0 1 2] blind.token_blind(target=0.25)
blind/token-blind at 0.40/seed* [0 1 2] blind.token_blind(target=0.4)
gemma:
gemma/dense gemma.dense()
gemma/static gemma.static() < gemma/dense
real:
real/dense smollm2.real_data(method='dense') of text/wikitext2_word.test.txt, text/ptb.test.txt, text/piqa.jsonl,
    text/arc_easy.jsonl, text/winogrande.jsonl, text/lambada_openai.jsonl
real/routers at 0.25 smollm2.real_data(method='routers', target=0.25) of the same
real/matched random at 0.25 smollm2.real_data(method='matched random', target=0.25) of the same
real/static at 0.25 smollm2.real_data(method='static', target=0.25) of the same
real/routers at 0.40 smollm2.real_data(method='routers', target=0.4) of the same
real/matched random at 0.40 smollm2.real_data(method='matched random', target=0.4) of the same
real/static at 0.40 smollm2.real_data(method='static', target=0.4) of the same
"""


def test_the_jobs_of_every_run_are_these(monkeypatch):
    assert listed(runs.EXPERIMENTS, monkeypatch).splitlines() == unwrapped(LISTED).splitlines()
