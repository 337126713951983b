"""What the experiments in the small share: the shape of their models, a training on one CPU thread, and scores of text."""

from __future__ import annotations

import logging
import warnings

from common.benchmarks.translation import bleu_from_statistics, latency, sentence_statistics

from .data import StreamData
from .module import GPETraining
from .segments import Example

BASE_CONFIG = dict(model_type="llama", hidden_size=96, intermediate_size=192, num_hidden_layers=3, num_attention_heads=4,
                   num_key_value_heads=4, tie_word_embeddings=True, max_position_embeddings=2048, bos_token_id=None,
                   eos_token_id=None, pad_token_id=None)


def fit(module: GPETraining, data: StreamData, steps: int, bar: bool = False) -> list[float]:
    """Trains module.model in place by a Lightning Trainer on one CPU thread; returns the training losses. bar: show how far it is."""
    import lightning as L
    from lightning.pytorch.callbacks import TQDMProgressBar

    class Losses(L.Callback):
        def __init__(self):
            self.values: list[float] = []

        def on_train_batch_end(self, trainer, *_):
            self.values.append(float(trainer.callback_metrics["train/loss"]))

    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)
    losses = Losses()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer = L.Trainer(accelerator="cpu", devices=1, max_steps=steps, gradient_clip_val=1.0, logger=False,
                            enable_checkpointing=False, enable_progress_bar=bar, enable_model_summary=False,
                            limit_val_batches=0, callbacks=[losses, *([TQDMProgressBar(25)] if bar else [])])
        trainer.fit(module, data)
    module.model.eval()
    return losses.values


def scores(hypotheses: list[str], delays: list[list[int]], examples: list[Example], truncated: int = 0,
           tokenize: str = "13a") -> dict:
    """BLEU, exact matches and latency of one decoded set. statistics: per sentence, for paired bootstrap."""
    references = [e.reference for e in examples]
    statistics = sentence_statistics(hypotheses, references, tokenize)
    found = latency(delays, [e.n_words for e in examples], [len(r.split()) for r in references])
    return {
        "bleu": bleu_from_statistics(statistics.sum(0)),
        "exact": sum(h == r for h, r in zip(hypotheses, references)) / len(references),
        "truncated": truncated,
        **{name: found[name] for name in ("AL", "LAAL", "AP", "DAL")},
        "statistics": statistics.tolist(),
    }
