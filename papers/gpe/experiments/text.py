"""The claims in the small, on text: a batch-trained translator is taught to stream in every way, and then streams.

Per seed: a toy language (toy.py), a Llama of 0.3 M parameters that translates it perfectly when it sees whole sentences
(`standins/`, three committed; `make standins-gpe` trains them again, and SEEDS=n those of further seeds), and a copy of it
for every arm of method.py, tuned for the same short budget on the same sentences with k drawn from 1, 3, 5, 7. All copies
then translate the same unseen sentences, word by word, at every k. A short budget (60 steps) shows how far an arm is from
what the model knows, a longer one (200) what training makes up for. The functions under "the jobs" are one job each:
arguments in, JSON out (common/runs/jobs.py); how much of everything, by SIZES.
"""

from __future__ import annotations

import json
from dataclasses import dataclass

import torch
from torch import nn

from common.benchmarks.translation import bleu
from common.models import ModelSpec
from common.runs.jobs import Job
from common.seeds import asked
from common.training.fit import fit

from .. import method
from ..baselines import ABLATIONS, FACTORS, LADDER, of_other_sentences
from ..data import TUNE_FROM, ToyPairs
from ..module import StreamingTraining
from ..scoring import test_sentences, text_scores
from ..segments import Batch
from ..translators import COMMITTED, translator, translator_folder

KS = (1, 3, 5, 7)
PHIS = (0, 0.5, 16, 256)


@dataclass(frozen=True)
class Size:
    """short, long: steps of tuning. batch: sentences a step. test: unseen sentences that are
    streamed; maps: of these, in `diagonal`; resamples: of them, for an interval in a table. job_seconds: no job takes longer.

    seeds: what a run takes; what reads results takes the seeds that it finds in them."""

    seeds: tuple[int, ...]
    short: int
    long: int
    batch: int
    test: int
    maps: int
    resamples: int
    job_seconds: float


# Steps of size smoke: every arm still writes at every k. With a few more some write nothing at k = 1 until they have learned
# it, and the latency of nothing is an error.
SIZES = {"smoke": Size((0,), short=1, long=3, batch=4, test=8, maps=4, resamples=20, job_seconds=1),
         "cpu": Size(asked(), short=60, long=200, batch=32, test=160, maps=96, resamples=1000, job_seconds=90)}


# -- models ------------------------------------------------------------------------------------------------


def tuned(seed: int, arm: str, phi: float, steps: int, batch: int, ks=KS) -> tuple[nn.Module, list[float]]:
    """A copy of the seed's base, tuned as `arm` for `steps`: the same sentences in the same order for every arm."""
    module = StreamingTraining(ModelSpec(str(translator_folder(seed))), arm, phi, 1e-3, weight_decay=0.01,
                               beta2=0.98, warmup_steps=5, seed=seed)
    module.loaded = translator(seed)
    data = ToyPairs(list(ks), train_samples=steps * batch, first=TUNE_FROM, batch_size=batch, seed=seed, language=seed)
    losses = fit(module, data, steps)
    return module.model, losses


# -- the jobs ----------------------------------------------------------------------------------------------
def jobs(size: str = "cpu") -> list[Job]:
    """Seconds are for one core of a 2024 server at size cpu, and only order the work and estimate the rest."""
    s, found = SIZES[size], []
    trained = {seed: f"text/standin/seed{seed}" for seed in s.seeds if seed not in COMMITTED}
    found += [Job(name, f"{__name__}:standin", {"seed": seed, "size": size}, seconds=s.job_seconds) for seed, name in trained.items()]

    def job(name: str, function: str, seconds: float, **arguments) -> None:
        found.extend(Job(f"text/{name}/seed{seed}", f"{__name__}:{function}", {"seed": seed, "size": size, **arguments},
                         seconds=min(seconds, s.job_seconds), after=(trained[seed],) if seed in trained else ()) for seed in s.seeds)

    job("untuned", "untuned", 7)
    for arm in ("interleaved", "batch_streaming", "group"):
        job(f"{arm}, {s.long} steps", "tune", 17, arm=arm, budget="long")
    for arm in (*LADDER, *ABLATIONS, *FACTORS):
        job(f"{arm}, {s.short} steps", "tune", 7, arm=arm, budget="short")
    for phi in PHIS[1:]:  # the first is that of the plain group arm
        job(f"group, phi {phi}, {s.short} steps", "tune", 7, arm="group", phi=phi, budget="short")
    job(f"batch, {s.long} steps", "tune_batch", 15)
    job(f"group with batch, {s.long} steps", "tune_with_batch", 17)
    return found


def standin(seed: int, size: str = "cpu") -> dict:
    """The batch-trained model of a seed beyond the committed ones: trained where the cache lacks it; what it can do."""
    translator(seed)
    card = json.loads((translator_folder(seed) / "training.json").read_text(encoding="utf-8"))
    return {name: card[name] for name in ("seed", "steps", "bleu", "exact")}


def untuned(seed: int, size: str = "cpu") -> dict:
    """The batch-trained model as it is: whole sentences, with its own ids and with those of GPE ("wrong ids"), and a stream that
    encodes everything again at every word."""
    loaded, count = translator(seed), SIZES[size].test
    model = loaded.model
    examples, _ = test_sentences(seed, count)
    references = [e.reference for e in examples]
    return {
        "model": loaded.source,
        "random": bleu(of_other_sentences(references, seed), references, "none"),
        "batch": text_scores(model, method.arm("contiguous"), seed, count, (None,)),
        "wrong ids": text_scores(model, method.arm("group"), seed, count, (None,)),
        "kv_reencoding": text_scores(model, method.arm("kv_reencoding"), seed, count, KS),
    }


def tune(seed: int, arm: str, phi: float = 0.0, budget: str = "short", size: str = "cpu") -> dict:
    """One arm: its loss, its streaming scores, and what else its weights are asked. budget: "short" or "long".

    After the short budget batch_streaming also streams with KV re-encoding. After the long one every arm is asked for whole
    sentences, in its own way; GPE and frozen ids also for where they look; GPE also streams with contiguous ids, encoding again.
    """
    s = SIZES[size]
    model, losses = tuned(seed, arm, phi, getattr(s, budget), s.batch)
    own = method.arm(arm, phi)
    result = {"loss": sum(losses[-10:]) / len(losses[-10:]), "stream": text_scores(model, own, seed, s.test, KS)}
    if arm == "batch_streaming" and budget == "short":
        result["kv_reencoding"] = text_scores(model, method.arm("kv_reencoding"), seed, s.test, KS)
    if budget == "long":
        result["batch"] = text_scores(model, own, seed, s.test, (None,))
    if arm == "group" and budget == "long":
        result["contiguous ids"] = text_scores(model, method.arm("kv_reencoding"), seed, s.test, KS[-1:])
    if arm in ("group", "batch_streaming") and budget == "long":
        result["diagonal"] = {"tuned": diagonal(model, own, seed, s.maps),
                              "batch-trained": diagonal(translator(seed).model, method.arm("contiguous"), seed, s.maps)}
    return result


def tune_batch(seed: int, size: str = "cpu") -> dict:
    """The long budget spent on whole sentences: what batch mode could reach (claim C9)."""
    s = SIZES[size]
    model, losses = tuned(seed, "contiguous", 0.0, s.long, s.batch, ks=(None,))
    return {"loss": sum(losses[-10:]) / len(losses[-10:]),
            "batch": text_scores(model, method.arm("contiguous"), seed, s.test, (None,))}


def tune_with_batch(seed: int, size: str = "cpu") -> dict:
    """GPE with "everything first" among its k, long budget: one model for streaming and batch."""
    s = SIZES[size]
    model, losses = tuned(seed, "group", 0.0, s.long, s.batch, ks=(*KS, None))
    return {"loss": sum(losses[-10:]) / len(losses[-10:]), "stream": text_scores(model, method.arm("group"), seed, s.test, KS),
            "batch": text_scores(model, method.arm("group"), seed, s.test, (None,))}


def diagonal(model: nn.Module, arm: method.Arm, seed: int, count: int, k: int = 7, within: int = 2) -> dict:
    """How much target words attend to source words near their own number (claim C12a).

    share: attention from target words to source words (prompts and ends left out, mean over layers and heads) that falls
    within `within` words of the diagonal. even: what even attention over the visible words would give.
    """
    examples, _ = test_sentences(seed, count)
    before = model.config._attn_implementation
    model.set_attn_implementation("eager")  # the only one that gives its maps
    batch = Batch.of(examples, [k] * len(examples))
    mask = method.additive(method.attention_mask(arm, batch.layout), model.dtype)
    with torch.no_grad():
        maps = model(input_ids=torch.cat([batch.source, batch.target], 1), attention_mask=mask, use_cache=False,
                     position_ids=method.position_ids(arm, batch.layout), output_attentions=True).attentions
    model.set_attn_implementation(before)
    attention = torch.stack(maps).mean((0, 2))[:, batch.layout.n_source :, : batch.layout.n_source]  # (B, T, S)
    near, even = [], []
    for b, example in enumerate(examples):
        s_word = torch.tensor(example.source_units).cumsum(0)
        t_word = torch.tensor(example.target_units).cumsum(0)
        for j in range(1, len(example.target_units) - 1):  # the row that predicts the first token of word j
            row = int(t_word[j - 1]) - 1
            visible = int((s_word[1:-1] <= int(batch.layout.visible[b, row])).sum())
            per_word = torch.stack([attention[b, row, int(s_word[i - 1]) : int(s_word[i])].sum() for i in range(1, visible + 1)])
            inside = torch.tensor([abs(i - j) <= within for i in range(1, visible + 1)])
            near.append((per_word[inside].sum() / per_word.sum()).item())
            even.append(inside.float().mean().item())
    return {"share": sum(near) / len(near), "even": sum(even) / len(even)}
