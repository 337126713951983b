"""Which jobs a run of each experiment is, at its default size, by name: an arm that becomes its neighbour, a seed or a rate that is
left out, or a split that is another shows here. [0 1 2]: seeds, of which * is a job's own. <: what must be there before."""

from tests.listing import listed, unwrapped
from tests.recipes import recipes

from .. import eval as runs

LISTED = """
text:
text/untuned/seed* [0 1 2] text.untuned()
text/interleaved, 200 steps/seed* [0 1 2] text.tune(arm='interleaved', budget='long')
text/batch_streaming, 200 steps/seed* [0 1 2] text.tune(arm='batch_streaming', budget='long')
text/group, 200 steps/seed* [0 1 2] text.tune(arm='group', budget='long')
text/interleaved, 60 steps/seed* [0 1 2] text.tune(arm='interleaved', budget='short')
text/batch_streaming, 60 steps/seed* [0 1 2] text.tune(arm='batch_streaming', budget='short')
text/position_reencoding, 60 steps/seed* [0 1 2] text.tune(arm='position_reencoding', budget='short')
text/kv_reencoding, 60 steps/seed* [0 1 2] text.tune(arm='kv_reencoding', budget='short')
text/group, 60 steps/seed* [0 1 2] text.tune(arm='group', budget='short')
text/no_source_positions, 60 steps/seed* [0 1 2] text.tune(arm='no_source_positions', budget='short')
text/no_target_positions, 60 steps/seed* [0 1 2] text.tune(arm='no_target_positions', budget='short')
text/no_positions, 60 steps/seed* [0 1 2] text.tune(arm='no_positions', budget='short')
text/interleaved_group, 60 steps/seed* [0 1 2] text.tune(arm='interleaved_group', budget='short')
text/finished_frozen, 60 steps/seed* [0 1 2] text.tune(arm='finished_frozen', budget='short')
text/finished_group, 60 steps/seed* [0 1 2] text.tune(arm='finished_group', budget='short')
text/group, phi 0.5, 60 steps/seed* [0 1 2] text.tune(arm='group', phi=0.5, budget='short')
text/group, phi 16, 60 steps/seed* [0 1 2] text.tune(arm='group', phi=16, budget='short')
text/group, phi 256, 60 steps/seed* [0 1 2] text.tune(arm='group', phi=256, budget='short')
text/batch, 200 steps/seed* [0 1 2] text.tune_batch()
text/group with batch, 200 steps/seed* [0 1 2] text.tune_with_batch()
speed:
speed speed.measure_cpu()
ratios:
ratios/process0 ratios.one_process(process=0)
ratios/process1 ratios.one_process(process=1)
ratios/process2 ratios.one_process(process=2)
speech:
speech/words speech.words(bank='espeak')
speech/phi 0/seed* [0 1 2] speech.tune(phi=0) < speech/words
speech/phi 64/seed* [0 1 2] speech.tune(phi=64) < speech/words
speech/phi 512/seed* [0 1 2] speech.tune(phi=512) < speech/words
speech/interleaved/seed* [0 1 2] speech.tune(phi=0, arm='interleaved') < speech/words
digits:
digits/phi 0/seed* [0] speech.recorded(phi=0) of speech/fsdd.zip
digits/phi 0/seed* [1 2] speech.recorded(phi=0) of the same
multi30k:
multi30k/en-de/untuned/seed* [0] multi30k.untuned(language='de') of translation/multi30k.train.en.gz,
    translation/multi30k.train.de.gz, translation/multi30k.val.en.gz, translation/multi30k.val.de.gz,
    translation/multi30k.test_2016_flickr.en.gz, translation/multi30k.test_2016_flickr.de.gz
multi30k/en-de/interleaved, 0.0003/seed* [0] multi30k.tune(language='de', arm='interleaved', rate=0.0003, held=True) of the same
multi30k/en-de/interleaved, 0.001/seed* [0] multi30k.tune(language='de', arm='interleaved', rate=0.001, held=True) of the same
multi30k/en-de/interleaved, 0.003/seed* [0] multi30k.tune(language='de', arm='interleaved', rate=0.003, held=True) of the same
multi30k/en-de/interleaved_group/seed* [0] multi30k.tune(language='de', arm='interleaved_group') of the same
multi30k/en-de/batch_streaming/seed* [0] multi30k.tune(language='de', arm='batch_streaming') of the same
multi30k/en-de/finished_frozen/seed* [0] multi30k.tune(language='de', arm='finished_frozen') of the same
multi30k/en-de/group/seed* [0] multi30k.tune(language='de', arm='group') of the same
multi30k/en-de/no_source_positions/seed* [0] multi30k.tune(language='de', arm='no_source_positions') of the same
multi30k/en-de/no_target_positions/seed* [0] multi30k.tune(language='de', arm='no_target_positions') of the same
multi30k/en-de/no_positions/seed* [0] multi30k.tune(language='de', arm='no_positions') of the same
multi30k/en-de/group, phi 0.5/seed* [0] multi30k.tune(language='de', arm='group', phi=0.5) of the same
multi30k/en-de/group, phi 64/seed* [0] multi30k.tune(language='de', arm='group', phi=64) of the same
multi30k/en-de/group, phi 256/seed* [0] multi30k.tune(language='de', arm='group', phi=256) of the same
multi30k/en-de/batch/seed* [0] multi30k.tune_batch(language='de') of the same
multi30k/en-de/base/seed* [1 2] multi30k.base(language='de') of the same
multi30k/en-de/untuned/seed* [1 2] multi30k.untuned(language='de') < multi30k/en-de/base/seed* of the same
multi30k/en-de/interleaved, 0.0003/seed* [1 2] multi30k.tune(language='de', arm='interleaved', rate=0.0003, held=True) <
    multi30k/en-de/base/seed* of the same
multi30k/en-de/interleaved, 0.001/seed* [1 2] multi30k.tune(language='de', arm='interleaved', rate=0.001, held=True) <
    multi30k/en-de/base/seed* of the same
multi30k/en-de/interleaved, 0.003/seed* [1 2] multi30k.tune(language='de', arm='interleaved', rate=0.003, held=True) <
    multi30k/en-de/base/seed* of the same
multi30k/en-de/interleaved_group/seed* [1 2] multi30k.tune(language='de', arm='interleaved_group') < multi30k/en-de/base/seed* of
    the same
multi30k/en-de/batch_streaming/seed* [1 2] multi30k.tune(language='de', arm='batch_streaming') < multi30k/en-de/base/seed* of the
    same
multi30k/en-de/finished_frozen/seed* [1 2] multi30k.tune(language='de', arm='finished_frozen') < multi30k/en-de/base/seed* of the
    same
multi30k/en-de/group/seed* [1 2] multi30k.tune(language='de', arm='group') < multi30k/en-de/base/seed* of the same
multi30k/en-de/no_source_positions/seed* [1 2] multi30k.tune(language='de', arm='no_source_positions') < multi30k/en-de/base/seed*
    of the same
multi30k/en-de/no_target_positions/seed* [1 2] multi30k.tune(language='de', arm='no_target_positions') < multi30k/en-de/base/seed*
    of the same
multi30k/en-de/no_positions/seed* [1 2] multi30k.tune(language='de', arm='no_positions') < multi30k/en-de/base/seed* of the same
multi30k/en-de/group, phi 0.5/seed* [1 2] multi30k.tune(language='de', arm='group', phi=0.5) < multi30k/en-de/base/seed* of the
    same
multi30k/en-de/group, phi 64/seed* [1 2] multi30k.tune(language='de', arm='group', phi=64) < multi30k/en-de/base/seed* of the same
multi30k/en-de/group, phi 256/seed* [1 2] multi30k.tune(language='de', arm='group', phi=256) < multi30k/en-de/base/seed* of the
    same
multi30k/en-de/batch/seed* [1 2] multi30k.tune_batch(language='de') < multi30k/en-de/base/seed* of the same
multi30k/en-fr/untuned/seed* [0] multi30k.untuned(language='fr') of translation/multi30k.train.en.gz,
    translation/multi30k.train.fr.gz, translation/multi30k.val.en.gz, translation/multi30k.val.fr.gz,
    translation/multi30k.test_2016_flickr.en.gz, translation/multi30k.test_2016_flickr.fr.gz
multi30k/en-fr/interleaved, 0.0003/seed* [0] multi30k.tune(language='fr', arm='interleaved', rate=0.0003, held=True) of the same
multi30k/en-fr/interleaved, 0.001/seed* [0] multi30k.tune(language='fr', arm='interleaved', rate=0.001, held=True) of the same
multi30k/en-fr/interleaved, 0.003/seed* [0] multi30k.tune(language='fr', arm='interleaved', rate=0.003, held=True) of the same
multi30k/en-fr/interleaved_group/seed* [0] multi30k.tune(language='fr', arm='interleaved_group') of the same
multi30k/en-fr/batch_streaming/seed* [0] multi30k.tune(language='fr', arm='batch_streaming') of the same
multi30k/en-fr/finished_frozen/seed* [0] multi30k.tune(language='fr', arm='finished_frozen') of the same
multi30k/en-fr/group/seed* [0] multi30k.tune(language='fr', arm='group') of the same
multi30k/en-fr/no_source_positions/seed* [0] multi30k.tune(language='fr', arm='no_source_positions') of the same
multi30k/en-fr/no_target_positions/seed* [0] multi30k.tune(language='fr', arm='no_target_positions') of the same
multi30k/en-fr/no_positions/seed* [0] multi30k.tune(language='fr', arm='no_positions') of the same
multi30k/en-fr/group, phi 0.5/seed* [0] multi30k.tune(language='fr', arm='group', phi=0.5) of the same
multi30k/en-fr/group, phi 64/seed* [0] multi30k.tune(language='fr', arm='group', phi=64) of the same
multi30k/en-fr/group, phi 256/seed* [0] multi30k.tune(language='fr', arm='group', phi=256) of the same
multi30k/en-fr/batch/seed* [0] multi30k.tune_batch(language='fr') of the same
multi30k/en-fr/base/seed* [1 2] multi30k.base(language='fr') of the same
multi30k/en-fr/untuned/seed* [1 2] multi30k.untuned(language='fr') < multi30k/en-fr/base/seed* of the same
multi30k/en-fr/interleaved, 0.0003/seed* [1 2] multi30k.tune(language='fr', arm='interleaved', rate=0.0003, held=True) <
    multi30k/en-fr/base/seed* of the same
multi30k/en-fr/interleaved, 0.001/seed* [1 2] multi30k.tune(language='fr', arm='interleaved', rate=0.001, held=True) <
    multi30k/en-fr/base/seed* of the same
multi30k/en-fr/interleaved, 0.003/seed* [1 2] multi30k.tune(language='fr', arm='interleaved', rate=0.003, held=True) <
    multi30k/en-fr/base/seed* of the same
multi30k/en-fr/interleaved_group/seed* [1 2] multi30k.tune(language='fr', arm='interleaved_group') < multi30k/en-fr/base/seed* of
    the same
multi30k/en-fr/batch_streaming/seed* [1 2] multi30k.tune(language='fr', arm='batch_streaming') < multi30k/en-fr/base/seed* of the
    same
multi30k/en-fr/finished_frozen/seed* [1 2] multi30k.tune(language='fr', arm='finished_frozen') < multi30k/en-fr/base/seed* of the
    same
multi30k/en-fr/group/seed* [1 2] multi30k.tune(language='fr', arm='group') < multi30k/en-fr/base/seed* of the same
multi30k/en-fr/no_source_positions/seed* [1 2] multi30k.tune(language='fr', arm='no_source_positions') < multi30k/en-fr/base/seed*
    of the same
multi30k/en-fr/no_target_positions/seed* [1 2] multi30k.tune(language='fr', arm='no_target_positions') < multi30k/en-fr/base/seed*
    of the same
multi30k/en-fr/no_positions/seed* [1 2] multi30k.tune(language='fr', arm='no_positions') < multi30k/en-fr/base/seed* of the same
multi30k/en-fr/group, phi 0.5/seed* [1 2] multi30k.tune(language='fr', arm='group', phi=0.5) < multi30k/en-fr/base/seed* of the
    same
multi30k/en-fr/group, phi 64/seed* [1 2] multi30k.tune(language='fr', arm='group', phi=64) < multi30k/en-fr/base/seed* of the same
multi30k/en-fr/group, phi 256/seed* [1 2] multi30k.tune(language='fr', arm='group', phi=256) < multi30k/en-fr/base/seed* of the
    same
multi30k/en-fr/batch/seed* [1 2] multi30k.tune_batch(language='fr') < multi30k/en-fr/base/seed* of the same
"""

# The jobs whose trainings follow: what those of a kind share, and in what each differs.
TRAINING = ("text.tune", "text.tune_batch", "text.tune_with_batch", "speech.tune")
RECIPES = """
StreamingTraining on ToyPairs: learning_rate=0.001, weight_decay=0.01, betas=(0.9, 0.98), warmup_steps=5, schedule='linear',
    seed=1, beta2=0.98, data.batch_size=32, data.seed=1, data.val_samples=256, data.first=1000000, data.language=1,
    Trainer.max_epochs=-1, Trainer.gradient_clip_val=1.0
text/interleaved, 200 steps/seed1: arm_name='interleaved', phi=0.0, data.ks=[1, 3, 5, 7], data.train_samples=6400,
    Trainer.max_steps=200
text/batch_streaming, 200 steps/seed1: arm_name='batch_streaming', phi=0.0, data.ks=[1, 3, 5, 7], data.train_samples=6400,
    Trainer.max_steps=200
text/group, 200 steps/seed1: arm_name='group', phi=0.0, data.ks=[1, 3, 5, 7], data.train_samples=6400, Trainer.max_steps=200
text/interleaved, 60 steps/seed1: arm_name='interleaved', phi=0.0, data.ks=[1, 3, 5, 7], data.train_samples=1920,
    Trainer.max_steps=60
text/batch_streaming, 60 steps/seed1: arm_name='batch_streaming', phi=0.0, data.ks=[1, 3, 5, 7], data.train_samples=1920,
    Trainer.max_steps=60
text/position_reencoding, 60 steps/seed1: arm_name='position_reencoding', phi=0.0, data.ks=[1, 3, 5, 7], data.train_samples=1920,
    Trainer.max_steps=60
text/kv_reencoding, 60 steps/seed1: arm_name='kv_reencoding', phi=0.0, data.ks=[1, 3, 5, 7], data.train_samples=1920,
    Trainer.max_steps=60
text/group, 60 steps/seed1: arm_name='group', phi=0.0, data.ks=[1, 3, 5, 7], data.train_samples=1920, Trainer.max_steps=60
text/no_source_positions, 60 steps/seed1: arm_name='no_source_positions', phi=0.0, data.ks=[1, 3, 5, 7], data.train_samples=1920,
    Trainer.max_steps=60
text/no_target_positions, 60 steps/seed1: arm_name='no_target_positions', phi=0.0, data.ks=[1, 3, 5, 7], data.train_samples=1920,
    Trainer.max_steps=60
text/no_positions, 60 steps/seed1: arm_name='no_positions', phi=0.0, data.ks=[1, 3, 5, 7], data.train_samples=1920,
    Trainer.max_steps=60
text/interleaved_group, 60 steps/seed1: arm_name='interleaved_group', phi=0.0, data.ks=[1, 3, 5, 7], data.train_samples=1920,
    Trainer.max_steps=60
text/finished_frozen, 60 steps/seed1: arm_name='finished_frozen', phi=0.0, data.ks=[1, 3, 5, 7], data.train_samples=1920,
    Trainer.max_steps=60
text/finished_group, 60 steps/seed1: arm_name='finished_group', phi=0.0, data.ks=[1, 3, 5, 7], data.train_samples=1920,
    Trainer.max_steps=60
text/group, phi 0.5, 60 steps/seed1: arm_name='group', phi=0.5, data.ks=[1, 3, 5, 7], data.train_samples=1920,
    Trainer.max_steps=60
text/group, phi 16, 60 steps/seed1: arm_name='group', phi=16, data.ks=[1, 3, 5, 7], data.train_samples=1920, Trainer.max_steps=60
text/group, phi 256, 60 steps/seed1: arm_name='group', phi=256, data.ks=[1, 3, 5, 7], data.train_samples=1920,
    Trainer.max_steps=60
text/batch, 200 steps/seed1: arm_name='contiguous', phi=0.0, data.ks=[None], data.train_samples=6400, Trainer.max_steps=200
text/group with batch, 200 steps/seed1: arm_name='group', phi=0.0, data.ks=[1, 3, 5, 7, None], data.train_samples=6400,
    Trainer.max_steps=200
StreamingTraining on SpokenWords: learning_rate=0.001, weight_decay=0.01, betas=(0.9, 0.98), warmup_steps=5, schedule='linear',
    seed=1, beta2=0.98, features=160, data.batch_size=32, data.seed=1, data.ks=[1, 3, 5], data.bank='espeak',
    data.train_samples=19200, data.val_samples=128, data.first=1000000, data.stack=4, data.chunk_tokens=6, Trainer.max_steps=600,
    Trainer.max_epochs=-1, Trainer.gradient_clip_val=1.0
speech/phi 0/seed1: arm_name='group', phi=0
speech/phi 64/seed1: arm_name='group', phi=64
speech/phi 512/seed1: arm_name='group', phi=512
speech/interleaved/seed1: arm_name='interleaved', phi=0
"""


def test_the_jobs_of_every_run_are_these(monkeypatch):
    assert listed(runs.EXPERIMENTS, monkeypatch).splitlines() == unwrapped(LISTED).splitlines()


def test_every_training_has_the_recipe_of_its_seed_and_what_its_name_says(monkeypatch):
    assert recipes(runs.EXPERIMENTS, TRAINING, monkeypatch).splitlines() == unwrapped(RECIPES).splitlines()
