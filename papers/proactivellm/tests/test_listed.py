"""Which jobs a run of each experiment is, at its default size, by name: an arm that becomes its neighbour, a seed or a rate that is
left out, or a split that is another shows here. [0 1 2]: seeds, of which * is a job's own. <: what must be there before."""

from tests.listing import listed, unwrapped
from tests.recipes import recipes

from .. import eval as runs

LISTED = """
text:
qa/start/seed* [0 1 2] text.start(task='qa')
qa/full/seed* [0 1 2] text.run(task='qa', arm='full')
qa/plain law/seed* [0 1 2] text.run(task='qa', arm='plain law')
qa/no distillation/seed* [0 1 2] text.run(task='qa', arm='no distillation')
qa/no MSLM/seed* [0 1 2] text.run(task='qa', arm='no MSLM')
qa/batch only/seed* [0 1 2] text.run(task='qa', arm='batch only')
qa/MSLM only/seed* [0 1 2] text.run(task='qa', arm='MSLM only')
qa/labelled/seed* [0 1 2] text.run(task='qa', arm='labelled')
revised/full/seed* [0 1 2] text.run(task='revised', arm='full')
mt/start/seed* [0 1 2] text.start(task='mt')
mt/full/seed* [0 1 2] text.run(task='mt', arm='full')
mt/batch only/seed* [0 1 2] text.run(task='mt', arm='batch only')
mt/wait-1/seed* [0 2] text.run(task='mt', arm='wait-1')
mt/wait-3/seed* [0 1 2] text.run(task='mt', arm='wait-3')
mt/wait-5/seed* [0 1 2] text.run(task='mt', arm='wait-5')
mt/wait-*/seed* [1] text.run(task='mt', arm='wait-*')
speed:
speed/process0 speed.timed(number=0)
speed/process1 speed.timed(number=1)
speed/process2 speed.timed(number=2)
speech:
speech/words/bank speech.bank(task='words')
speech/words/start/seed* [0] speech.run(task='words', arm='start') < speech/words/bank
speech/words/full/seed* [0] speech.run(task='words', arm='full') < speech/words/bank
speech/words/batch only/seed* [0] speech.run(task='words', arm='batch only') < speech/words/bank
speech/words/made/seed* [1 2] speech.made(task='words') < speech/words/bank
speech/words/start/seed* [1 2] speech.run(task='words', arm='start') < speech/words/made/seed*
speech/words/full/seed* [1 2] speech.run(task='words', arm='full') < speech/words/made/seed*
speech/words/batch only/seed* [1 2] speech.run(task='words', arm='batch only') < speech/words/made/seed*
questions:
speech/spoken/bank speech.bank(task='spoken')
speech/spoken/made/seed* [0 1 2] speech.made(task='spoken') < speech/spoken/bank
speech/spoken/start/seed* [0 1 2] speech.run(task='spoken', arm='start') < speech/spoken/made/seed*
speech/spoken/full/seed* [0 1 2] speech.run(task='spoken', arm='full') < speech/spoken/made/seed*
speech/spoken/batch only/seed* [0 1 2] speech.run(task='spoken', arm='batch only') < speech/spoken/made/seed*
digits:
digits/seed* [0] speech.digits() of speech/fsdd.zip
digits/seed* [1 2] speech.digits() of the same
whisper:
whisper/heard whisper.heard() of speech/fsdd.zip
whisper/standin whisper.made() < whisper/heard of the same
whisper/words/trained/full/seed* [0 1 2] whisper.trained(task='words', arm='full') < whisper/standin of the same
whisper/words/full/seed* [0 1 2] whisper.run(task='words', arm='full') < whisper/words/trained/full/seed* of the same
whisper/words/trained/batch only/seed* [0 1 2] whisper.trained(task='words', arm='batch only') < whisper/standin of the same
whisper/words/batch only/seed* [0 1 2] whisper.run(task='words', arm='batch only') < whisper/words/trained/batch only/seed* of the
    same
whisper/spoken/trained/full/seed* [0 1 2] whisper.trained(task='spoken', arm='full') < whisper/standin of the same
whisper/spoken/full/seed* [0 1 2] whisper.run(task='spoken', arm='full') < whisper/spoken/trained/full/seed* of the same
whisper/spoken/trained/batch only/seed* [0 1 2] whisper.trained(task='spoken', arm='batch only') < whisper/standin of the same
whisper/spoken/batch only/seed* [0 1 2] whisper.run(task='spoken', arm='batch only') < whisper/spoken/trained/batch only/seed* of
    the same
vacuous:
letter/drawn vacuous.drawn()
abstracts:
letter/abstracts vacuous.abstracts() of text/pubmed_qa_labeled.jsonl
realtext:
realtext/frozen [0] realtext.frozen()
realtext/reader/seed* [0 1 2] realtext.reader()
realtext/start/seed* [0 1 2] realtext.start() < realtext/reader/seed*
realtext/trained/full/seed* [0 1 2] realtext.trained(arm='full') < realtext/reader/seed*
realtext/full/seed* [0 1 2] realtext.run(arm='full') < realtext/trained/full/seed*
realtext/trained/plain law/seed* [0 1 2] realtext.trained(arm='plain law') < realtext/reader/seed*
realtext/plain law/seed* [0 1 2] realtext.run(arm='plain law') < realtext/trained/plain law/seed*
realtext/trained/end counted/seed* [0 1 2] realtext.trained(arm='end counted') < realtext/reader/seed*
realtext/end counted/seed* [0 1 2] realtext.run(arm='end counted') < realtext/trained/end counted/seed*
realtext/trained/batch only/seed* [0 1 2] realtext.trained(arm='batch only') < realtext/reader/seed*
realtext/batch only/seed* [0 1 2] realtext.run(arm='batch only') < realtext/trained/batch only/seed*
multi30k:
multi30k/en-de multi30k.translate() of translation/multi30k.train.en.gz, translation/multi30k.train.de.gz,
    translation/multi30k.val.en.gz, translation/multi30k.val.de.gz, translation/multi30k.test_2016_flickr.en.gz,
    translation/multi30k.test_2016_flickr.de.gz
"""

# The jobs whose trainings follow: what those of a kind share, and in what each differs.
TRAINING = ("text.run",)
RECIPES = """
ProactiveTraining on Generated: learning_rate=0.001, weight_decay=0.01, betas=(0.9, 0.98), warmup_steps=10, schedule='linear',
    seed=1, k=100, direction='forward', tail='renormalise', beta2=0.98, data.batch_size=32, data.seed=2, data.power=0.0,
    data.alpha=1.0, data.bank='espeak', data.train_samples=4800, data.val_samples=128, data.first=1000000, data.language=1,
    Trainer.max_steps=150, Trainer.max_epochs=-1, Trainer.gradient_clip_val=1.0
qa/full/seed1: batch=1.0, stream=1.0, lam=0.1, data.law='slack', data.k=1, data.task='qa'
qa/plain law/seed1: batch=1.0, stream=1.0, lam=0.1, data.law='multinomial', data.k=1, data.task='qa'
qa/no distillation/seed1: batch=1.0, stream=1.0, lam=0.0, data.law='slack', data.k=1, data.task='qa'
qa/no MSLM/seed1: batch=1.0, stream=0.0, lam=0.1, data.law='slack', data.k=1, data.task='qa'
qa/batch only/seed1: batch=1.0, stream=0.0, lam=0.0, data.law='slack', data.k=1, data.task='qa'
qa/MSLM only/seed1: batch=0.0, stream=1.0, lam=0.0, data.law='slack', data.k=1, data.task='qa'
qa/labelled/seed1: batch=0.0, stream=1.0, lam=0.0, data.law='slack', data.k=1, data.oracle=True, data.task='qa'
revised/full/seed1: batch=1.0, stream=1.0, lam=0.1, data.law='slack', data.k=1, data.task='revised'
mt/full/seed1: batch=1.0, stream=1.0, lam=0.1, data.law='multinomial', data.k=1, data.task='mt'
mt/batch only/seed1: batch=1.0, stream=0.0, lam=0.0, data.law='multinomial', data.k=1, data.task='mt'
mt/wait-1/seed1: batch=0.0, stream=1.0, lam=0.0, data.law='waitk', data.k=1, data.task='mt'
mt/wait-3/seed1: batch=0.0, stream=1.0, lam=0.0, data.law='waitk', data.k=3, data.task='mt'
mt/wait-5/seed1: batch=0.0, stream=1.0, lam=0.0, data.law='waitk', data.k=5, data.task='mt'
"""


def test_the_jobs_of_every_run_are_these(monkeypatch):
    assert listed(runs.EXPERIMENTS, monkeypatch).splitlines() == unwrapped(LISTED).splitlines()


def test_every_training_has_the_recipe_of_its_seed_and_what_its_name_says(monkeypatch):
    assert recipes(runs.EXPERIMENTS, TRAINING, monkeypatch).splitlines() == unwrapped(RECIPES).splitlines()
