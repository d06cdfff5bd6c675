import json

import pytest
import torch
from safetensors.torch import save_file
from support.method_kit import make_card, make_context

from dfkd_baselines.nayer import NayerOptions, NoisyLayerInversion, label_embeddings
from dfkd_bench.errors import DfkdError
from dfkd_bench.stages.base import Round

WARMUP, MAIN = Round(0, warmup=True), Round(1, warmup=False)


def synthesizer(context=None, **options) -> NoisyLayerInversion:
    small = {"batch_size": 7, "loops": 2, "warmup_loops": 3, "steps": 2, "noisy_dim": 6, "embedding_dim": 5}
    return NoisyLayerInversion(NayerOptions(**{**small, **options}), context or make_context())


def embeddings(card=None, **options) -> torch.Tensor:
    return label_embeddings(NayerOptions(**options), make_context(card or make_card()))


def test_onehot_embeddings_are_the_unit_vectors():
    assert embeddings(embedding="onehot").tolist() == [[1, 0, 0], [0, 1, 0], [0, 0, 1]]


@pytest.mark.parametrize(("classes", "length"), [(5, 16), (8, 8)])
def test_orthogonal_embeddings_have_orthogonal_rows_with_entries_of_order_one(classes, length):
    found = embeddings(make_card(classes=classes), embedding="orthogonal", embedding_dim=length)
    assert found.shape == (classes, length)
    torch.testing.assert_close(found @ found.T, length * torch.eye(classes), atol=1e-3, rtol=0)


def test_more_classes_than_dimensions_get_rows_that_differ():
    found = embeddings(make_card(classes=12), embedding="orthogonal", embedding_dim=4)
    assert found.shape == (12, 4)
    assert torch.pdist(found).min() > 1e-3


def test_another_seed_gives_other_orthogonal_embeddings_and_the_same_seed_the_same():
    one, same, other = (label_embeddings(NayerOptions(embedding_dim=6), make_context(seed=seed)) for seed in (1, 1, 2))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


def test_a_files_embeddings_are_taken_as_they_are_in_float32(tmp_path):
    wanted = torch.tensor([[1.0, 2.0], [3.0, 4.0], [5.0, -6.5]])
    save_file({"embeddings": wanted.half()}, tmp_path / "e.safetensors")
    found = embeddings(embedding="file", embedding_file=str(tmp_path / "e.safetensors"))
    assert found.dtype == torch.float32
    assert torch.equal(found, wanted)
    made = synthesizer(embedding="file", embedding_file=str(tmp_path / "e.safetensors"))
    assert made.generator.norm.num_features == 2


@pytest.mark.parametrize(
    ("tensors", "sentence"),
    [
        ({"embeddings": torch.zeros(4, 2)}, r"label embeddings are \[4, 2\]; tiny needs one row for each of 3 classes"),
        ({"embeddings": torch.zeros(3)}, r"label embeddings are \[3\]; tiny needs one row for each of 3 classes"),
        ({"other": torch.zeros(3, 2)}, "e.safetensors has no tensor 'embeddings'"),
        ({"embeddings": torch.full((3, 2), torch.nan)}, "'embeddings' holds numbers that are not finite"),
        (None, "there is no file .*e.safetensors with label embeddings"),
        ("nonsense", "e.safetensors is no safetensors file"),
    ],
)
def test_a_file_that_does_not_fit_is_refused_in_one_sentence(tmp_path, tensors, sentence):
    path = tmp_path / "e.safetensors"
    if isinstance(tensors, str):
        path.write_text(tensors, encoding="utf-8")
    elif tensors is not None:
        save_file(tensors, path)
    with pytest.raises(DfkdError, match=sentence) as refused:
        embeddings(embedding="file", embedding_file=str(path))
    assert "\n" not in str(refused.value)


def test_file_embeddings_without_a_file_are_refused_in_one_sentence():
    with pytest.raises(DfkdError, match="needs a file: give it with --set synthesizer.embedding_file=PATH"):
        embeddings(embedding="file")


CARD = make_card(class_names=("red_cat", "blue-dog", "red"))


@pytest.fixture(scope="module")
def clip_folder(tmp_path_factory):
    """A real CLIP text encoder with a tokenizer of its own, both very small."""
    from transformers import CLIPTextConfig, CLIPTextModelWithProjection

    folder = tmp_path_factory.mktemp("clip")
    letters = "abcdefghijklmnopqrstuvwxyz_-"
    words = [*letters, *(f"{letter}</w>" for letter in letters), "re", "red</w>", "<|startoftext|>", "<|endoftext|>"]
    ids = {word: index for index, word in enumerate(words)}
    start, end = ids["<|startoftext|>"], ids["<|endoftext|>"]
    (folder / "vocab.json").write_text(json.dumps(ids), encoding="utf-8")
    (folder / "merges.txt").write_text("#version: 0.2\nr e\nre d</w>\n", encoding="utf-8")
    special = {
        "bos_token": "<|startoftext|>",
        **dict.fromkeys(("eos_token", "pad_token", "unk_token"), "<|endoftext|>"),
    }
    tokenizer = {"tokenizer_class": "CLIPTokenizer", "model_max_length": 77, **special}
    (folder / "tokenizer_config.json").write_text(json.dumps(tokenizer), encoding="utf-8")
    config = CLIPTextConfig(
        vocab_size=len(words),
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        projection_dim=8,
        bos_token_id=start,
        eos_token_id=end,
        pad_token_id=end,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        encoder = CLIPTextModelWithProjection(config)
        for parameter in encoder.parameters():
            parameter.data.add_(0.3 * torch.randn_like(parameter))
    encoder.save_pretrained(folder)

    def token_ids(prompt: str) -> list[int]:
        pieces = []
        for word in prompt.split():
            # The only two merges make one piece of "red".
            pieces += ["red</w>"] if word == "red" else [*word[:-1], f"{word[-1]}</w>"]
        return [start, *(ids[piece] for piece in pieces), end]

    def embed(prompt: str) -> torch.Tensor:
        with torch.no_grad():
            return encoder.eval()(input_ids=torch.tensor([token_ids(prompt)])).text_embeds[0]

    return str(folder), embed


def clip_options(folder: str, **options) -> NayerOptions:
    return NayerOptions(embedding="clip", clip_model=folder, **options)


def test_clip_embeddings_are_the_encoders_for_each_classs_prompt_as_they_come(clip_folder):
    folder, embed = clip_folder
    found = label_embeddings(clip_options(folder), make_context(CARD))
    wanted = torch.stack([embed(f"a image of {label}") for label in ("red cat", "blue dog", "red")])
    assert found.shape == (3, 8)
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-4)
    assert torch.pdist(found).min() > 0.05  # the prompts do make a difference
    assert (found.norm(dim=1) - 1).abs().min() > 0.05  # not brought to unit length
    assert not found.requires_grad


def test_the_clip_prompt_can_be_another(clip_folder):
    folder, embed = clip_folder
    found = label_embeddings(clip_options(folder, clip_prompt="photo of {label}"), make_context(CARD))
    torch.testing.assert_close(found[1], embed("photo of blue dog"), atol=1e-5, rtol=1e-4)


def test_a_round_runs_on_clip_embeddings(clip_folder):
    folder, _ = clip_folder
    made = synthesizer(make_context(CARD), embedding="clip", clip_model=folder)
    assert made.generator.norm.num_features == 8
    assert len(made.synthesize(MAIN)) == 14


@pytest.mark.parametrize("there", [True, False])
def test_a_clip_folder_that_is_none_is_refused_in_one_sentence(tmp_path, there):
    folder = tmp_path / "encoder"
    if there:
        folder.mkdir()
    with pytest.raises(DfkdError, match=f"embedding=clip cannot load '{folder}'") as refused:
        label_embeddings(clip_options(str(folder)), make_context(CARD))
    assert "\n" not in str(refused.value)
    assert "synthesizer.clip_model=PATH" in str(refused.value)


@pytest.mark.parametrize(
    ("embedding", "prior"), [("orthogonal", "none"), ("onehot", "none"), ("clip", "text"), ("file", "text")]
)
def test_embeddings_from_a_language_model_are_a_prior(embedding, prior):
    assert NoisyLayerInversion.prior_with(NayerOptions(embedding=embedding)) == prior


def test_unless_told_otherwise_there_is_no_prior_and_batchnorm_is_required():
    assert NoisyLayerInversion.prior_with(NayerOptions()) == "none"
    assert NoisyLayerInversion.requires == {"batchnorm"}
