"""Which jobs a run of each experiment is, at its default size, by name: an arm that becomes its neighbour, a seed or a rate that is
left out, or a split that is another shows here. [0 1 2]: seeds, of which * is a job's own. <: what must be there before."""

from tests.listing import listed, unwrapped

from .. import eval as runs

LISTED = """
gold:
gold exact.gold()
gate:
gate gates.gate()
arms:
start/seed* [0 2 4] arms.start()
batch/seed* [0 2 4] arms.run(arm='batch')
batch spe/seed* [0 2 4] arms.run(arm='batch spe')
streaming/seed* [0 2 4] arms.run(arm='streaming')
streaming far/seed* [0 2 4] arms.run(arm='streaming far')
interleaved/seed* [0 2 4] arms.run(arm='interleaved')
batch own/seed* [0 2 4] arms.run(arm='batch own')
schedules/seed* [0 2 4] arms.schedules()
attention:
attention/batch/seed* [0 2 4] attention.attention(arm='batch')
attention/batch spe/seed* [0 2 4] attention.attention(arm='batch spe')
attention/streaming/seed* [0 2 4] attention.attention(arm='streaming')
clock:
clock/process0 clock.clock(process=0)
clock/process1 clock.clock(process=1)
clock/process2 clock.clock(process=2)
clock/process3 clock.clock(process=3)
clock/process4 clock.clock(process=4)
encoders:
encoders gates.encoders()
gated:
gated/all/seed* [0 2 4] gated.run(arm='all')
gated/gated/seed* [0 2 4] gated.run(arm='gated')
gated/lot/seed* [0 2 4] gated.run(arm='lot')
gated/clean/seed* [0 2 4] gated.run(arm='clean')
variants:
context/untuned/seed* [0 2 4] variants.run(variant='context', arm='untuned')
context/batch/seed* [0 2 4] variants.run(variant='context', arm='batch')
context/streaming/seed* [0 2 4] variants.run(variant='context', arm='streaming')
rules/untuned/seed* [0 2 4] variants.run(variant='rules', arm='untuned')
rules/batch/seed* [0 2 4] variants.run(variant='rules', arm='batch')
rules/streaming/seed* [0 2 4] variants.run(variant='rules', arm='streaming')
places/untuned/seed* [0 2 4] variants.run(variant='places', arm='untuned')
places/batch/seed* [0 2 4] variants.run(variant='places', arm='batch')
places/streaming/seed* [0 2 4] variants.run(variant='places', arm='streaming')
ahead/untuned/seed* [0 2 4] variants.run(variant='ahead', arm='untuned')
ahead/batch spe/seed* [0 2 4] variants.run(variant='ahead', arm='batch spe')
ahead/streaming/seed* [0 2 4] variants.run(variant='ahead', arm='streaming')
aligned:
aligned aligned.aligned()
symbolic:
symbolic/asked symbolic.questions()
symbolic/untuned symbolic.untuned()
symbolic/batch/seed* [0 1 2] symbolic.run(way='batch')
symbolic/interleaved/seed* [0 1 2] symbolic.run(way='interleaved')
symbolic/streaming/seed* [0 1 2] symbolic.run(way='streaming')
paced:
paced/process0 paced.paced(process=0)
paced/process1 paced.paced(process=1)
paced/process2 paced.paced(process=2)
paced/process3 paced.paced(process=3)
paced/process4 paced.paced(process=4)
realtext:
realtext realtext.waited() of math/gsm8k_test.jsonl, text/pubmed_qa_labeled.jsonl
speed:
step/process0 speed.step(process=0)
step/process1 speed.step(process=1)
step/process2 speed.step(process=2)
"""


def test_the_jobs_of_every_run_are_these(monkeypatch):
    assert listed(runs.EXPERIMENTS, monkeypatch).splitlines() == unwrapped(LISTED).splitlines()
