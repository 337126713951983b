"""A LLaVA with stages: its forward against stock decoders of some of the layers, its training on one process and on two, and what is
refused."""

import contextlib
import copy
import sys

import pytest
import torch
from safetensors.torch import load_file
from transformers import LlamaConfig, LlamaForCausalLM, Qwen3Config, Qwen3ForCausalLM

from common.errors import ModelError, SetupError
from common.vision.layout import packed
from common.vision.llava import dense_hidden
from tests.trainings import difference, trained

from ..baselines import ExitBehind
from ..method import paper
from ..module import StagedTraining
from ..pruners import VisiPruner
from ..session import PruningSession
from ..stages import Stages, hidden, multiply_adds
from ..train import cli
from .runs import fit, fit_in_processes, training

N, D, LAYERS = 5, 32, 5
CONFIG = dict(hidden_size=D, intermediate_size=48, num_hidden_layers=LAYERS, num_attention_heads=4, num_key_value_heads=2, head_dim=8,
              vocab_size=60, initializer_range=0.3)


@pytest.fixture(scope="module", params=["llama", "qwen3", "eager"])
def model(request):
    torch.manual_seed(0)
    kind, config = (Qwen3ForCausalLM, Qwen3Config) if request.param == "qwen3" else (LlamaForCausalLM, LlamaConfig)
    made = kind(config(**CONFIG)).double().eval()
    if request.param == "eager":
        made.set_attn_implementation("eager")
    return made


def rows():
    """Two rows of two questions about a picture each, of other lengths."""
    asked = [[([5, 6, 7], [-100, -100, 9]), ([8, 9], [-100, 3])], [([5, 11], [-100, 4]), ([12, 13, 14, 15], [-100, -100, 2, 2])]]
    layout = packed([1, 2], asked, N)
    return layout, torch.randn(2, N, D, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def of_layers(model, some):
    """A stock decoder of these layers alone, its last norm left out unless the last layer is among them."""
    part = copy.deepcopy(model)
    part.model.layers = torch.nn.ModuleList(list(part.model.layers)[some])
    if some.stop not in (None, LAYERS):
        part.model.norm = torch.nn.Identity()
    return part


def close(ours, theirs):
    return (ours - theirs).abs().max() < 1e-6 * theirs.abs().max()  # an eager softmax is in single precision


@torch.no_grad()
def test_attention_that_is_not_finite_drops_no_picture(model):
    """transformers' eager attention in double precision makes nan of padding on the left; a comparison with nan would drop everything."""
    real = torch.tensor([[0, 0, 1, 1, 1, 1], [1, 1, 1, 1, 1, 1]])
    shown = torch.zeros(2, 6, dtype=torch.bool)
    shown[:, 3:5] = True
    pruner = VisiPruner(paper(boundary=0, shallow=None, layer_threshold=2.0, tokens_threshold=0.0))
    eager = model.config._attn_implementation == "eager"
    with PruningSession(model, pruner, shown):
        call = dict(inputs_embeds=model.get_input_embeddings()(torch.arange(3, 15).view(2, 6)), attention_mask=real)
        with pytest.raises(ModelError, match="layer 1, row 0: the output of the last token's attention is not finite") if eager else (
                contextlib.nullcontext()):
            model(**call)
    assert eager or [rule.kept.tolist() for rule in pruner.rules] == [[3, 4], [3, 4]]


def test_all_layers_are_the_dense_model(model):
    layout, visual = rows()
    assert torch.equal(hidden(model, layout, visual, Stages(0, LAYERS - 1)), dense_hidden(model, layout, visual))


@pytest.mark.parametrize("first, last", [(0, 2), (2, 4), (1, 3), (3, 3), (4, 4), (0, 0)])
def test_stages_are_stock_decoders_one_behind_the_other(model, first, last):
    """Text alone through the first layers, with the picture through the middle, text alone through the rest."""
    layout, visual = rows()
    text, real = model.get_input_embeddings()(layout.ids), layout.real
    nothing = torch.zeros(2, 0, D, dtype=torch.float64)
    bare = packed([1, 2], [[([5, 6, 7], [-100] * 3), ([8, 9], [-100] * 2)], [([5, 11], [-100] * 2), ([12, 13, 14, 15], [-100] * 4)]], 0)
    bare.positions.copy_(layout.positions)
    if first:
        text = dense_hidden(of_layers(model, slice(0, first)), bare, nothing, text)
    text = dense_hidden(of_layers(model, slice(first, last + 1)), layout, visual, text)
    if last < LAYERS - 1:
        text = dense_hidden(of_layers(model, slice(last + 1, LAYERS)), bare, nothing, text)
    ours = hidden(model, layout, visual, Stages(first, last))
    assert close(ours[real], text[real])


def test_an_exit_is_that_of_a_session(model):
    """One question a row, the picture gone behind layer 2: what is trained is what a session runs."""
    layout = packed([1, 2], [[([5, 6, 7], [-100, -100, 9])]] * 2, N)
    visual = torch.randn(2, N, D, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    words = model.get_input_embeddings()(layout.ids)
    embeds = torch.cat([words[:, :2], visual, words[:, 2:]], 1)
    where = torch.zeros(2, N + 5, dtype=torch.bool)
    where[:, 2 : 2 + N] = True
    with torch.no_grad(), PruningSession(model, ExitBehind(2), where):
        session = model.model(inputs_embeds=embeds, attention_mask=torch.ones(2, N + 5, dtype=torch.long)).last_hidden_state
    assert close(hidden(model, layout, visual, Stages(0, 2)), session[~where].view(2, 5, D))


def test_gradients_reach_the_picture_and_every_layer(model):
    layout, visual = rows()
    visual.requires_grad_()
    hidden(model, layout, visual, Stages(2, 3))[layout.targets != -100].sum().backward()
    assert visual.grad.abs().sum() > 0 and all(p.grad.abs().sum() > 0 for p in model.model.layers.parameters())
    model.zero_grad()


def test_layers_that_are_not_there_are_refused(model):
    layout, visual = rows()
    for first, last in ((-1, 2), (3, 2), (0, LAYERS)):
        with pytest.raises(SetupError, match=f"first {first}, last {last}"):
            hidden(model, layout, visual, Stages(first, last))
    assert not any(layer._forward_pre_hooks for layer in model.model.layers)
    with pytest.raises(ValueError, match="give both"):
        StagedTraining(llava=None, first=2)


def test_multiply_adds_by_hand():
    """4 + 2 tokens, 7 weights, width 3: a layer is 7 x 6 + 6 x 36 = 258 with the picture and 7 x 2 + 6 x 4 = 38 without."""
    assert multiply_adds(3, 7, 3, 4, 2, Stages(1, 1)) == (3 * 258, 258 + 2 * 38)
    assert len(set(multiply_adds(3, 7, 3, 4, 2, Stages(0, 2)))) == 1


def test_two_steps_of_the_rehearsal(tmp_path, monkeypatch):
    import json
    from pathlib import Path

    monkeypatch.setattr(sys, "argv", ["train"])
    config = Path(__file__).parents[1] / "configs" / "cpu" / "rehearsal.yaml"
    cli(["fit", "--config", str(config), f"--trainer.default_root_dir={tmp_path}", "--trainer.logger=false",
         f"--trainer.callbacks.dirpath={tmp_path}", "--data.init_args.scenes=2", "--data.init_args.train_samples=16"])
    about = json.loads((tmp_path / "model" / "training.json").read_text())
    assert (about["first"], about["last"], about["steps"]) == (1, 5, 2) and (tmp_path / "model" / "decoder").is_dir()


@pytest.mark.parametrize("beta2", [1.0, -0.1, float("nan")])
def test_a_beta_that_means_nothing_is_refused_at_once(beta2):
    with pytest.raises(ValueError, match="model.beta2 is"):
        StagedTraining(llava=None, beta2=beta2)


def test_features_of_other_layers_are_refused():
    module = training()
    module.configure_model()
    batch = {"layout": packed([1, 2], [[([5, 6, 7], [-100, 8, 9])]], N), "features": torch.zeros(1, N, 768)}
    with pytest.raises(SetupError, match="features are 768 wide, and the projector reads 1152: name .* in data.layers"):
        module.loss_sum(batch)


# -- on two processes --------------------------------------------------------------------------------------
# In double precision, but for what losses are logged in: single precision. Adam magnifies roundings.
LOSSES, GRADIENTS, PARAMETERS = 1e-6, 1e-12, 1e-11


@pytest.fixture(scope="module")
def one_process(tmp_path_factory):
    """Two steps of four pictures on one process, in the order of additions that the children have."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield fit(training(), tmp_path_factory.mktemp("one"))
    torch.set_num_threads(threads)


@pytest.mark.numerics
@pytest.mark.parametrize("strategy", ["ddp", "fsdp2"])
def test_two_processes_equal_one_and_one_goes_on_from_two(strategy, one_process, tmp_path):
    """Blocks in shards or whole; the first two never see the picture, and a step behind the first is that of the unbroken run."""
    module, whole = one_process
    codes, ranks = fit_in_processes(tmp_path / "two", world=2, strategy=strategy, checkpoint_every=1)
    assert codes == [0, 0]
    for rank in ranks:
        assert rank["losses"] == pytest.approx(whole.losses, rel=LOSSES) and len(whole.losses) == 2
        if strategy == "ddp":  # beside shards gradients of what stays whole are summed in the step itself
            assert difference(rank["gradient"], whole.gradients[0]) < GRADIENTS
        assert difference(rank["parameters"], trained(module)) < PARAMETERS
    resumed, rest = fit(training(), tmp_path / "resumed", resume=tmp_path / "two" / "checkpoints" / "step=1.ckpt")
    assert rest.losses == pytest.approx(whole.losses[1:], rel=LOSSES)
    assert difference(trained(resumed), trained(module)) < PARAMETERS
    saved = load_file(tmp_path / "two" / "model" / "decoder" / "model.safetensors")
    name = "model.layers.6.self_attn.k_proj.weight"
    assert difference({name: saved[name]}, {name: trained(module)["decoder." + name]}) < PARAMETERS
