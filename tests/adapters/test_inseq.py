"""The method of inseq, against inseq's own gradient times input, and against the explainer itself."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import fxlrp
import zoo  # noqa: F401 - before transformers: it makes torchvision importable
from fxlrp.errors import InputError
from oracles import assert_relevance

inseq = pytest.importorskip("inseq", reason="inseq is not installed: pip install 'fxlrp[inseq]'")

import transformers  # noqa: E402
from tokenizers import Tokenizer, models, pre_tokenizers  # noqa: E402

import fxlrp.adapters.inseq  # noqa: E402

pytestmark = pytest.mark.slow  # torch.export captures the models

WORDS = "<pad> <s> </s> <unk> the cat dog sat ran on mat home a big small and".split()
SIZES = dict(vocab_size=len(WORDS), pad_token_id=0, bos_token_id=1, eos_token_id=2)
START, WHOLE = "a big dog ran", "a big dog ran on home and"


def tokenizer() -> Any:
    vocabulary = models.WordLevel({word: index for index, word in enumerate(WORDS)}, unk_token="<unk>")
    splitter = Tokenizer(vocabulary)
    splitter.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    special = dict(pad_token="<pad>", bos_token="<s>", eos_token="</s>", unk_token="<unk>")
    return transformers.PreTrainedTokenizerFast(tokenizer_object=splitter, **special)


def llama() -> Any:
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=1,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=32,
        **SIZES,
    )
    return transformers.LlamaForCausalLM(config).eval()


def attributed(model: Any, *texts: Any, **options: Any) -> Tensor:
    given = {"attributed_fn": "logit", "show_progress": False, **options}
    result = model.attribute(*texts, **given).sequence_attributions[0].target_attributions
    assert isinstance(result, Tensor)
    return result


def test_the_relevance_of_each_generated_token() -> None:
    language_model = llama()
    model = inseq.load_model(language_model, "lrp", tokenizer=tokenizer())
    relevance = attributed(model, START, WHOLE)
    ids = torch.tensor([[WORDS.index(word) for word in WHOLE.split()]])
    explain = fxlrp.compile(
        language_model, "attnlrp", output="logits", example_inputs={"input_ids": ids[:, :4], "use_cache": False}
    )
    assert relevance.shape == (7, 3)
    for column, position in enumerate((4, 5, 6)):
        wanted = explain(input_ids=ids[:, :position], target=(-1, int(ids[0, position])))
        assert_relevance(relevance[:position, column], wanted[0], 1e-5)
        assert relevance[position:, column].isnan().all()


def test_the_rule_gradient_is_input_x_gradient_of_inseq() -> None:
    language_model = llama()
    before = {name: value.clone() for name, value in language_model.state_dict().items()}
    model = inseq.load_model(language_model, "lrp", tokenizer=tokenizer())
    ours = attributed(model, START, WHOLE, rules="gradient")
    theirs = attributed(model, START, WHOLE, method="input_x_gradient").sum(-1)
    assert torch.equal(ours.isnan(), theirs.isnan())
    assert_relevance(ours.nan_to_num(), theirs.nan_to_num(), 1e-4)
    assert all(torch.equal(value, before[name]) for name, value in language_model.state_dict().items())


def test_texts_of_several_lengths_are_generated_and_explained_in_one_batch() -> None:
    model = inseq.load_model(llama(), "lrp", tokenizer=tokenizer())
    result = model.attribute(
        ["the cat sat", START],
        attributed_fn="logit",
        show_progress=False,
        generation_args={"max_new_tokens": 2, "min_new_tokens": 2, "do_sample": False},
        rules="gradient",
    )
    theirs = model.attribute(
        ["the cat sat", START],
        attributed_fn="logit",
        show_progress=False,
        generation_args={"max_new_tokens": 2, "min_new_tokens": 2, "do_sample": False},
        method="input_x_gradient",
        override_default_attribution=True,
    )
    for own, wanted in zip(result.sequence_attributions, theirs.sequence_attributions, strict=True):
        assert_relevance(own.target_attributions.nan_to_num(), wanted.target_attributions.sum(-1).nan_to_num(), 1e-4)


def test_the_table_of_inseq_shows_it() -> None:
    model = inseq.load_model(llama(), "lrp", tokenizer=tokenizer())
    result = model.attribute(START, WHOLE, attributed_fn="logit", show_progress=False)
    page = result.show(display=False, return_html=True)
    assert all(word in page for word in WHOLE.split())


def test_other_functions_than_the_logit_are_errors() -> None:
    model = inseq.load_model(llama(), "lrp", tokenizer=tokenizer())
    with pytest.raises(InputError, match="not 'probability_fn': pass attributed_fn='logit'"):
        model.attribute(START, WHOLE, show_progress=False)


def test_models_with_an_encoder_are_errors() -> None:
    config = transformers.T5Config(
        d_model=16, d_kv=4, d_ff=16, num_layers=1, num_heads=2, decoder_start_token_id=0, **SIZES
    )
    with pytest.raises(InputError, match="without an encoder"):
        inseq.load_model(transformers.T5ForConditionalGeneration(config).eval(), "lrp", tokenizer=tokenizer())


def test_rules_are_compared_by_value(monkeypatch: pytest.MonkeyPatch) -> None:
    """Equal rules share an explainer, and a list that has changed does not keep that of its former pairs."""
    compiled: list[Any] = []

    def counted(model: Any, rules: Any, **options: Any) -> fxlrp.Explainer:
        compiled.append(rules)
        return fxlrp.compile(model, rules, **options)

    monkeypatch.setattr("fxlrp.adapters.inseq.compile", counted)
    model = inseq.load_model(llama(), "lrp", tokenizer=tokenizer())
    pairs: list[Any] = [("linear", fxlrp.rules.Epsilon(1e-6))]
    first = attributed(model, START, WHOLE, rules=pairs)
    assert torch.allclose(attributed(model, START, WHOLE, rules=list(pairs)), first, equal_nan=True)
    pairs[0] = ("linear", fxlrp.rules.Epsilon(0.5))
    assert not torch.allclose(attributed(model, START, WHOLE, rules=pairs), first, equal_nan=True)
    assert len(compiled) == 2
