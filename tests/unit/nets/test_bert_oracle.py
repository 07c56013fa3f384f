"""The encoder against the library `transformers`: its BERT in the classic configuration, its rotary turns."""

import pytest
import torch

from nbpkg.nets.bert import BertConfig, bert, turned, turns

transformers = pytest.importorskip("transformers")
pytestmark = pytest.mark.usefixtures("one_thread")

#: Our names for theirs, of a layer and of the rest.
LAYER = {
    "out": "attention.output.dense",
    "norm1": "attention.output.LayerNorm",
    "up": "intermediate.dense",
    "down": "output.dense",
    "norm2": "output.LayerNorm",
}
REST = {
    "tokens": "bert.embeddings.word_embeddings",
    "position_embedding": "bert.embeddings.position_embeddings",
    "norm": "bert.embeddings.LayerNorm",
    "transform": "cls.predictions.transform.dense",
    "head_norm": "cls.predictions.transform.LayerNorm",
}


def translated(theirs, layers):
    """Their state dict in our names; the segment of every token is the first, so it joins the places."""
    found = {f"{ours}.{kind}": theirs[f"{name}.{kind}"] for ours, name in REST.items() for kind in
             (("weight",) if "embedding" in name and "Norm" not in name else ("weight", "bias"))}  # fmt: skip
    found["position_embedding.weight"] = (
        found["position_embedding.weight"] + theirs["bert.embeddings.token_type_embeddings.weight"][0]
    )
    found["bias"] = theirs["cls.predictions.bias"]
    for i in range(layers):
        at = f"bert.encoder.layer.{i}."
        for kind in ("weight", "bias"):
            found |= {
                f"layers.{i}.{ours}.{kind}": theirs[f"{at}{name}.{kind}"] for ours, name in LAYER.items()
            }
            parts = [theirs[f"{at}attention.self.{name}.{kind}"] for name in ("query", "key", "value")]
            found[f"layers.{i}.qkv.{kind}"] = torch.cat(parts)
    return found


def test_the_classic_configuration_is_the_librarys_bert():
    config = BertConfig(vocabulary=37, layers=2, width=12, heads=3, length=10)
    theirs = transformers.BertForMaskedLM(
        transformers.BertConfig(
            vocab_size=37,
            hidden_size=12,
            num_hidden_layers=2,
            num_attention_heads=3,
            intermediate_size=48,
            max_position_embeddings=10,
            hidden_dropout_prob=0.0,
            attention_probs_dropout_prob=0.0,
            pad_token_id=None,
        )
    )
    rng = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in theirs.parameters():
            p.add_(torch.randn(p.shape, generator=rng), alpha=0.3)
    ours = bert(config)
    ours.load_state_dict(translated(theirs.state_dict(), 2))
    ids = torch.randint(5, 37, (4, 10), generator=rng)
    mask = torch.arange(10).expand(4, 10) < torch.tensor([10, 7, 10, 3])[:, None]
    want = theirs.eval()(ids, attention_mask=mask.long()).logits
    torch.testing.assert_close(ours.logits(ours.hidden(ids, mask))[mask], want[mask], rtol=1e-4, atol=1e-4)
    # One training step's gradients as well.
    places = torch.tensor([0, 3, 12, 21])
    torch.nn.functional.cross_entropy(ours(ids, places), ids.flatten()[places]).backward()
    logits = theirs(ids).logits.flatten(0, 1)[places]
    torch.nn.functional.cross_entropy(logits, ids.flatten()[places]).backward()
    gradients = {name: p.grad for name, p in theirs.named_parameters()} | {
        "bert.embeddings.token_type_embeddings.weight": torch.zeros(2, 12)
    }
    wanted = translated(gradients, 2)
    for name, p in ours.named_parameters():
        torch.testing.assert_close(p.grad, wanted[name], rtol=1e-3, atol=1e-5)


def test_rotary_positions_are_the_librarys():
    llama = pytest.importorskip("transformers.models.llama.modeling_llama")
    config = transformers.LlamaConfig(hidden_size=24, num_attention_heads=3)
    rng = torch.Generator().manual_seed(0)
    q, k = (torch.randn(2, 3, 10, 8, generator=rng) for _ in range(2))
    cosines, sines = llama.LlamaRotaryEmbedding(config)(q, torch.arange(10)[None])
    want = llama.apply_rotary_pos_emb(q, k, cosines, sines)
    by = turns(10, 8)
    torch.testing.assert_close((turned(q, by), turned(k, by)), want)
