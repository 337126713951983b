"""The claims in the small, on text: a batch-trained translator is taught to stream in every way, and then streams.

Per seed: a toy language (toy.py), a Llama of 0.3 M parameters that translates it perfectly when it sees whole sentences
(`standins/`, committed; `make standin-gpe` trains it again), and a copy of it for every arm of method.py, tuned for the
same short budget on the same sentences with k drawn from 1, 3, 5, 7. All copies then translate the same unseen
sentences, word by word, at every k. A short budget (60 steps) shows how far an arm is from what the model knows, a
longer one (300) what training makes up for. Every function here is one job: arguments in, JSON out (common/jobs.py).
"""

from __future__ import annotations

import argparse
import functools
import json
import logging
import warnings
from pathlib import Path

import torch
from torch import nn

from common.benchmarks.translation import bleu, bleu_from_statistics, latency, sentence_statistics
from common.jobs import write_json
from common.models import Loaded, ModelSpec, load

from . import method
from .baselines import of_other_sentences
from .data import StreamData, ToyPairs, toy_examples
from .decoding import Boundary, stream
from .module import GPETraining, StreamingTraining, TextPretraining
from .segments import Batch, Example
from .toy import TARGET_END, Language

STANDINS = Path(__file__).parent / "standins"
SEEDS = (0, 1, 2)
KS = (1, 3, 5, 7)
BASE_STEPS, SHORT, LONG, BATCH = 1000, 60, 300, 32
TUNE_FROM, TEST_FROM, TEST_SENTENCES = 10**6, 2 * 10**6, 256  # sentence numbers: no training sentence is tested
PHIS = (0, 0.5, 16, 256)
BASE_CONFIG = dict(model_type="llama", hidden_size=96, intermediate_size=192, num_hidden_layers=3, num_attention_heads=4,
                   num_key_value_heads=4, tie_word_embeddings=True, max_position_embeddings=2048, bos_token_id=None,
                   eos_token_id=None, pad_token_id=None)


# -- models ------------------------------------------------------------------------------------------------
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


def train_base(seed: int, steps: int = BASE_STEPS, folder: Path | None = None) -> dict:
    """The batch translator of a seed: AdamW 2e-3, 20 steps of warm-up, linear decay, next-token loss on all tokens."""
    language = Language.draw(seed)
    tokenizer = language.tokenizer()
    spec = ModelSpec("random", config=BASE_CONFIG | {"vocab_size": len(language.pieces())}, seed=seed)
    module = TextPretraining(spec, seed=seed)
    losses = fit(module, ToyPairs([None], train_samples=steps * BATCH, batch_size=BATCH, seed=seed), steps, bar=True)
    score = measure(module.model, method.arm("contiguous"), seed, (None,))["batch"]
    folder = Path(folder) if folder else STANDINS / f"seed{seed}"
    module.model.half().save_pretrained(folder)  # half precision on disk: 0.6 MB
    tokenizer.save_pretrained(folder)
    result = {"seed": seed, "steps": steps, "bleu": score["bleu"], "exact": score["exact"],
              "curve": [[step, round(losses[step], 4)] for step in range(0, steps, 25)]}
    write_json(folder / "training.json", result)
    return result


def base_model(seed: int) -> Loaded:
    folder = STANDINS / f"seed{seed}"
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder.name} of standins/ is missing: restore it or run `make standin-gpe`")
    return load(ModelSpec(str(folder)))


def tuned(seed: int, arm: method.Arm | str, phi: float, steps: int, ks=KS, learning_rate: float = 1e-3) -> tuple[nn.Module, list[float]]:
    """A copy of the seed's base, tuned as `arm` for `steps`: the same sentences in the same order for every arm."""
    module = StreamingTraining(ModelSpec(str(STANDINS / f"seed{seed}")), arm, phi, learning_rate, weight_decay=0.01,
                               beta2=0.98, warmup_steps=5, seed=seed)
    module.loaded = base_model(seed)
    data = ToyPairs(list(ks), train_samples=steps * BATCH, first=TUNE_FROM, batch_size=BATCH, seed=seed, language=seed)
    losses = fit(module, data, steps)
    return module.model, losses


# -- scores ------------------------------------------------------------------------------------------------
@functools.lru_cache(maxsize=4)
def test_sentences(seed: int, count: int) -> tuple[list[Example], Boundary]:
    language = Language.draw(seed)
    return toy_examples(language, count, TEST_FROM), Boundary("ends", language.word_ends(), language.pieces().index(TARGET_END))


def measure(model: nn.Module, arm: method.Arm, seed: int, ks=KS, count: int | None = None) -> dict[str, dict]:
    """{"1": {...}, ..., "batch": {...}}: quality and latency of streaming the seed's test sentences at each k."""
    examples, boundary = test_sentences(seed, count or TEST_SENTENCES)
    tokenizer, rows = Language.draw(seed).tokenizer(), {}
    for k in ks:
        streams = stream(model, arm, examples, boundary, k, max_target=40)
        rows[str(k or "batch")] = scores([s.text(tokenizer) for s in streams], [s.delays for s in streams], examples,
                                         truncated=sum(s.truncated for s in streams), tokenize="none")
    return rows


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


# -- the jobs ----------------------------------------------------------------------------------------------
def untuned(seed: int) -> dict:
    """The batch-trained model as it is: on whole sentences, and run in streaming without any tuning."""
    loaded = base_model(seed)
    model = loaded.model
    examples, _ = test_sentences(seed, TEST_SENTENCES)
    references = [e.reference for e in examples]
    return {
        "model": loaded.source,
        "random": bleu(of_other_sentences(references, seed), references, "none"),
        "batch": measure(model, method.arm("contiguous"), seed, (None,)),
        **{name: measure(model, method.arm(name), seed) for name in ("kv_reencoding", "batch_streaming", "group")},
    }


def tune(seed: int, arm: str, phi: float = 0.0, steps: int = SHORT) -> dict:
    """One arm: its loss, its streaming scores, and what else its weights are asked.

    batch_streaming also streams with KV re-encoding. group (phi 0, long budget) is also asked for whole sentences, with
    its own ids, to stream with contiguous ids, and where it looks. contiguous knows the source's length in training; it streams with it
    (an oracle) and with the ids that a stream can know.
    """
    model, losses = tuned(seed, arm, phi, steps)
    own = method.arm(arm, phi)
    result = {"loss": sum(losses[-10:]) / len(losses[-10:]), "stream": measure(model, own, seed)}
    if arm == "batch_streaming":
        result["kv_reencoding"] = measure(model, method.arm("kv_reencoding"), seed)
    if arm == "group" and phi == 0 and steps == LONG:
        result["batch"] = measure(model, own, seed, (None,))
        result["contiguous ids"] = measure(model, method.arm("kv_reencoding"), seed)
        result["diagonal"] = diagonal(model, seed)
    if arm == "contiguous":
        result["frozen ids"] = measure(model, method.arm("batch_streaming"), seed)
    return result


def tune_batch(seed: int, steps: int = LONG) -> dict:
    """The same budget spent on whole sentences: what batch mode could reach (claim C9)."""
    model, losses = tuned(seed, "contiguous", 0.0, steps, ks=(None,))
    return {"loss": sum(losses[-10:]) / len(losses[-10:]), "batch": measure(model, method.arm("contiguous"), seed, (None,))}


def tune_with_batch(seed: int, steps: int = LONG) -> dict:
    """GPE with "everything first" among its k: one model for streaming and batch."""
    model, losses = tuned(seed, "group", 0.0, steps, ks=(*KS, None))
    return {"loss": sum(losses[-10:]) / len(losses[-10:]), "stream": measure(model, method.arm("group"), seed),
            "batch": measure(model, method.arm("group"), seed, (None,))}


def diagonal(model: nn.Module, seed: int, k: int = 7, within: int = 2) -> dict:
    """How much target words attend to source words near their own number (claim C12a): tuned with group ids, and untuned.

    share: attention from target words to source words (prompts and ends left out, mean over layers and heads) that falls
    within `within` words of the diagonal. even: what even attention over the visible words would give.
    """
    examples, _ = test_sentences(seed, 128)
    rows = {}
    for name, weights, arm in (("group", model, "group"), ("batch-trained", base_model(seed).model, "contiguous")):
        before = weights.config._attn_implementation
        weights.set_attn_implementation("eager")  # the only one that gives its maps
        batch = Batch.of(examples, [k] * len(examples))
        own = method.arm(arm)
        lowest = torch.finfo(torch.float32).min
        mask = torch.zeros(1).masked_fill(~method.attention_mask(own, batch.layout), lowest)
        with torch.no_grad():
            maps = weights(input_ids=torch.cat([batch.source, batch.target], 1), attention_mask=mask, use_cache=False,
                           position_ids=method.position_ids(own, batch.layout), output_attentions=True).attentions
        weights.set_attn_implementation(before)
        attention = torch.stack(maps).mean((0, 2))[:, batch.layout.n_source :, : batch.layout.n_source]  # (B, T, S)
        near, even = [], []
        for b, example in enumerate(examples):
            s_word = torch.tensor(example.source_units).cumsum(0)
            t_word = torch.tensor(example.target_units).cumsum(0)
            for j in range(1, len(example.target_units) - 1):  # the row that predicts the first token of word j
                row = int(t_word[j - 1]) - 1
                visible = int((s_word[1:-1] <= int(batch.layout.visible[b, row])).sum())
                per_word = torch.stack([attention[b, row, int(s_word[i - 1]) : int(s_word[i])].sum()
                                        for i in range(1, visible + 1)])
                inside = torch.tensor([abs(i - j) <= within for i in range(1, visible + 1)])
                near.append((per_word[inside].sum() / per_word.sum()).item())
                even.append(inside.float().mean().item())
        rows[name] = {"share": sum(near) / len(near), "even": sum(even) / len(even)}
    return rows


def main() -> None:
    from . import speech_experiment

    parser = argparse.ArgumentParser(description="Train the committed stand-ins again: three batch translators (a CPU-minute "
                                                 "each) and three batch recognisers of speech (a minute and a half each).")
    parser.add_argument("--train-bases", action="store_true", required=True)
    parser.parse_args()
    for seed in SEEDS:
        result = train_base(seed)
        print(json.dumps({key: result[key] for key in ("seed", "bleu", "exact")}), flush=True)
        if result["bleu"] < 99:
            raise SystemExit(f"seed {seed} did not learn its language: BLEU {result['bleu']:.1f}")
    for seed in speech_experiment.SEEDS:
        result = speech_experiment.train_base(seed)
        print(json.dumps({key: result[key] for key in ("seed", "wer")}), flush=True)
        if result["wer"] > 5:
            raise SystemExit(f"seed {seed} did not learn its words: WER {result['wer']:.1f} %")


if __name__ == "__main__":
    main()
