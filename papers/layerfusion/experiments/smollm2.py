"""A pretrained decoder: DINOv2-S and SmolLM2-135M-Instruct with rank-4 LoRA, on hard scenes, by layer sets. Hours on two cores, once.

    make reproduce-layerfusion ONLY=smollm2

What the small LLaVAs cannot show, because their decoder never saw text. The recipe is that of the SmolLM2 LLaVA that is committed
(common/standins/llava_smollm2.py: captions, then questions, one token a word, bf16 autocast), with a fusion in place of its projector;
what is new and the adapters train in both stages. A killed run goes on from its checkpoints. What a run made, adapter and fusion in half
precision, no file over 4 MB, is kept with its card in the folder of its checkpoints; `opened` reads it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from common.errors import ModelError
from common.files import cache_dir, file_sha256, replacing, write_json
from common.lora import MOST, LoraSpec, add_lora, merge
from common.lora import save as save_adapter
from common.models import SMOLLM2, Loaded, load
from common.runs.jobs import Job
from common.runs.sources import closure
from common.seeds import asked as seeds_asked
from common.seeds import seed_of
from common.standins import llava as standins
from common.standins import llava_smollm2
from common.training.checkpoints import WholeCheckpoints, keeper, resume_from
from common.training.fit import quiet
from common.training.steps import FromStep
from common.vision import llava

from ..data import HardRows
from ..internal import Internal
from ..method import Fusion, Sizes, apart
from ..running import hidden
from ..small import Training, means, whitened
from . import trained
from .trained import DIRECT, PLAIN, Arm, asked, bits, fusion_layers, of_another, scenes_of, shown

ARMS = {name: Arm(DIRECT, of) for name, of in PLAIN.items()} | {
    "external direct, triple": Arm(DIRECT, "triple"), "internal direct, triple": Arm("internal direct", "triple")}
PARTS = ("projector", "extra")  # of a fusion, a file each


@dataclass(frozen=True)
class Size:
    """stage_1, stage_2: steps of captions, of questions. features: which features of trained.py. test: pictures."""

    seeds: tuple[int, ...]
    stage_1: int
    stage_2: int
    rows: int
    asked: int
    rank: int
    test: int
    features: str = "cpu"


SIZES = {"cpu": Size(seeds_asked(), 100, 1000, 16, 12, 4, 200)}
SIZES["smoke"] = SIZES["cpu"]  # never walked, nor its features


def jobs(size: str = "cpu") -> list[Job]:
    made = [Job("smollm2/features/dinov2", f"{__name__}:features", {"size": size}, seconds=300)]
    return made + [Job(f"smollm2/{arm}/seed{seed}", f"{__name__}:run", {"arm": arm, "seed": seed, "size": size}, seconds=5000,
                       after=("smollm2/features/dinov2",)) for arm in ARMS for seed in SIZES[size].seeds]


def features(size: str = "cpu") -> dict:
    """As trained.features, of the first pictures that are tested here."""
    s = SIZES[size]
    found = trained.features("smollm2", "dinov2", s.features)
    for which in ("test", "easy-VQA"):
        n = sum(picture < s.test for picture in found[which]["pictures"])
        found[which] = {name: of[:n] for name, of in found[which].items()}
    return found


class Reader:
    """SmolLM2 with adapters and a fusion: what `small.Training` reads of a small LLaVA. rank: None for a decoder without adapters.

    A visual token starts with the size of the decoder's own embeddings."""

    def __init__(self, decoder: nn.Module, words: Any, arm: Arm, seed: int, sample: Tensor, layers: Sequence[int], rank: int | None):
        of: Any = decoder
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed_of("fusion", seed))
            self.fusion = Fusion(arm.config(), Sizes.of(sample.shape[-1] // len(layers), of.config))
            torch.manual_seed(seed_of("adapters", seed))
            if rank:
                add_lora(decoder, LoraSpec(rank, alpha=4 * rank, dropout=0.0))  # the model itself has them: its class stays as it is
        self.decoder, self.tokenizer, self.layers = of, words, tuple(layers)
        self.internal = Internal(decoder, self.fusion).attach()
        self.projector = nn.Identity()
        whitened(self.fusion, apart(sample.float(), layers), seed)
        with torch.no_grad():
            tokens = self.fusion(apart(sample[:50].float(), layers))[0]
            self.fusion.projector.linear_2.weight *= of.get_input_embeddings().weight.std() / tokens.std()

    @property
    def prefix(self) -> list[int]:
        return self.tokenizer.convert_tokens_to_ids(["<bos>", *llava.SYSTEM.split()])

    def language_model(self) -> nn.Module:
        return self.decoder

    def hidden(self, layout: Any, features: Tensor) -> Tensor:
        return hidden(self.decoder, self.internal, self.fusion, layout, apart(features, self.layers))


class Adapting(Training):
    """A checkpoint holds what is trained alone."""

    def __init__(self, model: Reader, learning_rate: float = 1e-3):
        super().__init__(model, learning_rate)
        self.strict_loading = False

    def on_save_checkpoint(self, checkpoint: dict) -> None:
        super().on_save_checkpoint(checkpoint)
        free = {name for name, p in self.named_parameters() if p.requires_grad}
        checkpoint["state_dict"] = {name: value for name, value in checkpoint["state_dict"].items() if name in free}


def run(arm: str, seed: int, size: str = "cpu") -> dict:
    """{"end": {where: bits}, "all", "looked up": means of 50 steps of the loss of a question, "trained": parameters, "made": {file:
    sha256}}; where: test, shifted, another picture, as in trained.py."""
    import lightning as L

    s, of, loaded = SIZES[size], ARMS[arm], load(SMOLLM2)
    layers = fusion_layers(of)
    train = shown("train", "dinov2", s.features, layers)
    model = Reader(loaded.model.float(), llava_smollm2.words(loaded.tokenizer), of, seed, train[:500], layers, s.rank)
    model.decoder.set_attn_implementation("eager")  # backwards on a CPU it takes three quarters of sdpa's time on these short rows
    steps = s.stage_1 + s.stage_2
    rows = HardRows(scenes_of("train", len(train)), train, model.tokenizer, model.prefix, s.stage_1, steps, seed, s.rows, s.asked)
    module = Adapting(model)
    module.decoder.train()
    work = kept(arm, of, seed, s)
    last, done = resume_from(work)
    with quiet():
        L.Trainer(accelerator="cpu", devices=1, max_steps=steps, max_epochs=-1, gradient_clip_val=1.0, logger=False,
                  precision="bf16-mixed", enable_model_summary=False, enable_progress_bar=False, plugins=[WholeCheckpoints()],
                  callbacks=[keeper(work, min(20, steps))]).fit(module, DataLoader(FromStep(rows, done, steps), batch_size=None),
                                                                ckpt_path=last)
    whole, looked_up = zip(*module.curve[s.stage_1 :])
    found = {"end": tested(model, of, s), "all": means(whole), "looked up": means(looked_up),
             "trained": sum(p.numel() for p in module.parameters() if p.requires_grad)}
    card = {"arm": arm, "seed": seed, "size": asdict(s), "base": loaded.source, "torch": torch.__version__,
            "right": {where: right.count("1") / len(right) for where, right in found["end"].items()}}
    return found | {"made": save(model, work / "model", card)}


def kept(arm: str, of: Arm, seed: int, s: Size) -> Path:
    """The folder of a run's checkpoints: by what it is and by all code that it depends on."""
    key = Job(arm, f"{__name__}:run", {"arm": asdict(of), "seed": seed, "size": asdict(s)}, tuple(str(p) for p in closure(__name__))).key()
    return cache_dir() / "layerfusion" / f"smollm2-seed{seed}-{key}"


@torch.no_grad()
def tested(model: Reader, arm: Arm, s: Size) -> dict[str, str]:
    """{"test", "shifted", "another picture": bits}."""
    model.decoder.eval()
    model.fusion.eval()
    questions = asked(s.test)["test"]
    pictures = {where: shown(where, "dinov2", s.features, model.layers)[: s.test] for where in ("test", "shifted")}
    pictures["another picture"] = of_another(pictures["test"], arm.config().layers.main, model.layers)
    return {where: bits(hit for row in standins.accuracy(model, of, questions, model.hidden, batch=16) for hit in row)
            for where, of in pictures.items()}


# -- what a run made ---------------------------------------------------------------------------------------
def save(model: Reader, folder: Path, card: dict) -> dict[str, str]:
    """Adapter, a file for each part of the fusion, then the card; {file: sha256}. Raises ModelError for a file over 4 MB, and for a fusion
    of which something would be lost."""
    from safetensors.torch import save as as_bytes

    _covered(model.fusion)
    save_adapter(model.decoder, folder, base=card["base"]["name"])
    for part in PARTS:
        tensors = {name: value.detach().half().cpu().contiguous() for name, value in getattr(model.fusion, part).state_dict().items()}
        if not tensors:
            continue
        written = as_bytes(tensors, {"format": "pt"})
        if len(written) > MOST:
            raise ModelError(f"{part}.safetensors would have {len(written):,} bytes; a file of weights here has at most {MOST:,}")
        with replacing(folder / f"{part}.safetensors") as file:
            file.write(written)
    made = {path.name: file_sha256(path) for path in sorted(folder.glob("*.safetensors"))}
    write_json(folder / "training.json", card | {"files": made})  # written last
    return made


def opened(folder: Path, arm: Arm, dv: int = 384, base: Loaded | None = None) -> Reader:
    """What `save` wrote, its adapter merged into the decoder. base: another decoder than SmolLM2 (tests), which is changed.

    Raises ModelError where a part of the fusion is not there."""
    from safetensors.torch import load_file

    base = base or load(SMOLLM2)
    merge(base.model, folder)
    layers = fusion_layers(arm)
    sample = torch.randn(50, 4, len(layers) * dv, generator=torch.Generator().manual_seed(0))  # what starts from it is overwritten below
    model = Reader(base.model.float(), llava_smollm2.words(base.tokenizer), arm, 0, sample, layers, None)
    _covered(model.fusion)
    for part in PARTS:
        path, module = folder / f"{part}.safetensors", getattr(model.fusion, part)
        if not module.state_dict():
            continue
        if not path.is_file():
            raise ModelError(f"{folder} lacks {path.name}, which a fusion of kind {arm.kind!r} has")
        module.load_state_dict({name: value.float() for name, value in load_file(path).items()})
    model.decoder.eval()
    model.fusion.eval()
    return model


def _covered(fusion: Fusion) -> None:
    """Raises ModelError for a fusion with tensors outside of PARTS, such as MMFuser's or gates: its file would be another model's."""
    if outside := sorted(name for name in fusion.state_dict() if name.partition(".")[0] not in PARTS):
        raise ModelError(f"a fusion of kind {fusion.config.kind!r} has {outside[0]} and {len(outside) - 1} more tensors beside "
                         f"{' and '.join(PARTS)}, the parts that are kept here")
