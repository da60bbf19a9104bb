"""The models of the survey: all of torchvision, one for each file of timm, the families of transformers, others."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch

from fxlrp.errors import FxlrpError, InputError
from fxlrp.extras import import_torchvision, require
from fxlrp.survey import other_models
from fxlrp.survey.case import Case

_TIMM = """
beit_base_patch16_224 caformer_s18 cait_xxs24_224 coat_tiny convit_tiny convmixer_768_32 convnext_atto cpubone_nano
crossvit_tiny_240 csatv2 cspnext_tiny darknet17 davit_tiny deepseek_vit_412m deit_tiny_patch16_224 densenet264d dla34
dpn68 edgenext_small efficientformer_l1 efficientformerv2_s0 efficientvim_m1 efficientvit_b0 efficientvit_m0
eva02_tiny_patch14_224 fasternet_l fastvit_t8 focalnet_tiny_lrf gcvit_tiny gemma4_vit_167m ghostnet_050 gmlp_b16_224
halonet26t hardcorenas_a hgnet_tiny hiera_tiny_224 hrnet_w18_small iformer_h inception_next_atto inception_resnet_v2
inception_v3 inception_v4 lcnetv2_small legacy_seresnet18 legacy_xception levit_128 lowformer_b0 mambaout_femto
maxvit_pico_rw_256 mobilenetv3_small_050 mobilenetv5_300m mobilevit_xxs mvitv2_tiny naflexvit_base_patch16_gap
nasnetalarge nest_tiny nextvit_small pit_xs_224 pnasnet5large pvt_v2_b0 qwen3_vit_88m rdnet_tiny regnetv_040
repghostnet_050 repvit_m1 res2net50_26w_4s resnest26d resnetv2_18 rexnet_100 sam2_hiera_tiny samvit_base_patch16
selecsls42 sequencer2d_l shvit_s1 skresnet18 starnet_s050 swiftformer_xs swin_s3_tiny_224 swinv2_cr_tiny_224
swinv2_tiny_window8_256 test_byobnet test_efficientnet test_nfnet test_resnet test_vit test_vit_relpos
tiny_vit_5m_224 tnt_b_patch16_224 tresnet_l twins_svt_small vgg11 visformer_tiny vit_tiny_r_s16_p8_224
vitamin_small_224 volo_d1_224 vovnet39a xception41 xcit_nano_12_p8_224
""".split()

_TRANSFORMERS = """
albert bart bert bloom clip_text_model clip_vision_model convnext deberta-v2 deit dinov2 distilbert electra falcon
gemma2 gemma3_text gpt2 gpt_neox llama longformer mamba mistral mixtral modernbert olmo2 opt phi phi3 qwen2 qwen3
roberta segformer siglip_vision_model starcoder2 swin t5 vit wav2vec2 whisper xlnet
""".split()


Make = Callable[[], Case]


def names(libraries: list[str]) -> list[str]:
    """The names of all models of ``libraries``, as ``library:model``."""
    return [f"{library}:{name}" for library in libraries for name in LIBRARIES[library][0]()]


def make(name: str) -> Case:
    """Return the model with a name such as ``torchvision:resnet18``.

    Raises:
        InputError: The library is unknown, or it cannot make a model of that name.
        ImportError: The library is not installed.
    """
    check_name(name)
    library, _, model = canonical(name).partition(":")
    torch.manual_seed(0)
    try:
        return LIBRARIES[library][1](model)
    except (FxlrpError, ImportError):
        raise
    except Exception as error:
        reason = next(iter(str(error).strip().splitlines()), "")
        raise InputError(f"{library} cannot make the model {model!r}: {type(error).__name__}: {reason}") from error


def check_name(name: str) -> None:
    """Check that a name is that of a library, or of a model of one.

    Raises:
        InputError: The library is unknown.
    """
    library = canonical(name).partition(":")[0]
    if library not in LIBRARIES:
        raise InputError(
            f"unknown model {name!r}: models are named LIBRARY:MODEL, with one of the libraries {', '.join(LIBRARIES)}"
        )


def canonical(name: str) -> str:
    """The name of a library or a model with ``transformers`` in place of ``hf``."""
    library, colon, model = name.partition(":")
    return f"{_SHORT.get(library, library)}{colon}{model}"


def _torchvision_names() -> Iterator[str]:
    models = import_torchvision().models
    for module in (models, models.segmentation, models.video):
        yield from models.list_models(module=module)
    yield from ("fpn_resnet50", "fpn_mobilenet_v3_large")


def _torchvision(name: str) -> Case:
    models = import_torchvision().models
    if name.startswith("fpn_"):
        # The part of a detection model from which all boxes are computed.
        utils = importlib.import_module("torchvision.models.detection.backbone_utils")
        build = utils.resnet_fpn_backbone if "resnet" in name else utils.mobilenet_backbone
        backbone = name.removeprefix("fpn_")
        given = {"backbone_name": backbone, "weights": None}
        return Case(
            build(**given, **({} if "resnet" in name else {"fpn": True})).eval(),
            torch.rand(2, 3, 128, 128),
            {"output": "0"},
        )
    options: dict[str, Any] = {"weights": None}
    builder = models.get_model_builder(name)
    if "weights_backbone" in builder.__annotations__:
        options["weights_backbone"] = None
    if name in ("googlenet", "inception_v3"):
        options["init_weights"] = False
    model = builder(**options).eval()
    if name in models.list_models(module=models.segmentation):
        return Case(model, torch.rand(2, 3, 96, 96), {"output": "out"})
    if name in models.list_models(module=models.video):
        frames = 16 if name.startswith(("mvit", "s3d", "swin3d")) else 4
        size = 224 if name.startswith(("mvit", "s3d")) else 112
        return Case(model, torch.rand(1, 3, frames, size, size))
    return Case(model, torch.rand(2, 3, *(_torchvision_size(name),) * 2))


def _torchvision_size(name: str) -> int:
    """The image size of a model: small for convolutional networks, which take any size."""
    if name == "inception_v3":
        return 299
    return 256 if name.startswith("swin_v2") else 224 if name.startswith(("vit", "maxvit", "swin")) else 96


# Transformers whose balance at their own image size does not fit into memory, with a smaller one, in pixels.
_SMALLER = {"deepseek_vit_412m": 252, "gemma4_vit_167m": 192, "samvit_base_patch16": 256}


def _timm(name: str) -> Case:
    import_torchvision()
    size = _SMALLER.get(name)
    options = {} if size is None else {"img_size": size}
    model = require("timm", "survey").create_model(name, pretrained=False, **options).eval()
    shape = model.pretrained_cfg["input_size"] if size is None else (3, size, size)
    return Case(model, torch.rand(2 if shape[-1] <= 256 else 1, *shape))


# Sizes that make the model of a family small, used where its configuration has the entry.
_SMALL: Mapping[str, Any] = {
    **dict.fromkeys(
        ("hidden_size", "d_model", "n_embd", "dim", "embedding_size", "embed_dim", "word_embed_proj_dim"), 32
    ),
    **dict.fromkeys(("num_hidden_layers", "n_layers", "n_layer", "num_layers", "encoder_layers", "decoder_layers"), 2),
    **dict.fromkeys(("num_attention_heads", "n_heads", "n_head", "num_heads", "encoder_attention_heads"), 4),
    **dict.fromkeys(("decoder_attention_heads",), 4),
    **dict.fromkeys(("num_key_value_heads", "num_kv_heads"), 2),
    **dict.fromkeys(
        ("intermediate_size", "ffn_dim", "encoder_ffn_dim", "decoder_ffn_dim", "d_ff", "d_inner", "hidden_dim"), 64
    ),
    **dict(d_kv=8, head_dim=8, d_head=8, vocab_size=99, state_size=4, num_local_experts=4, image_size=32, patch_size=8),
    **dict(num_decoder_layers=2, max_source_positions=40, time_step_rank=4, pad_token_id=0),
}

# Exceptions from the table above.
_PARTICULAR: Mapping[str, Mapping[str, Any]] = {
    "mixtral": dict(_experts_implementation="batched_mm"),
    "swin": dict(
        num_attention_heads=None,
        num_hidden_layers=None,
        hidden_size=None,
        embed_dim=16,
        depths=[1, 1],
        num_heads=[2, 4],
        window_size=4,
        image_size=32,
        patch_size=2,
    ),
    "segformer": dict(
        hidden_sizes=[16, 16, 32, 32], depths=[1, 1, 1, 1], num_attention_heads=[1, 2, 2, 4], num_encoder_blocks=4
    ),
    "convnext": dict(
        num_hidden_layers=None,
        num_layers=None,
        hidden_size=None,
        hidden_sizes=[8, 16, 32, 64],
        depths=[1, 1, 1, 1],
        patch_size=4,
        num_stages=4,
    ),
    "longformer": dict(attention_window=4),
    "wav2vec2": dict(
        conv_dim=[16, 16],
        conv_kernel=[10, 3],
        conv_stride=[5, 2],
        num_feat_extract_layers=2,
        num_conv_pos_embeddings=16,
    ),
    "falcon": dict(head_dim=None),
    "gpt_neox": dict(rotary_pct=0.5),
    "phi": dict(partial_rotary_factor=0.5),
    "deberta-v2": dict(relative_attention=True, pos_att_type=["c2p", "p2c"], position_buckets=8),
    "modernbert": dict(pad_token_id=0, local_attention=8),
    "xlnet": dict(d_head=8),
}

_IMAGES = ("clip_vision_model", "convnext", "deit", "dinov2", "segformer", "siglip_vision_model", "swin", "vit")
# Models with only one implementation of attention.
_EAGER = ("deberta-v2", "longformer", "xlnet")
# Models in which the mask has to be declared: it is computed with, to look up positions or to make windows.
_COMPUTE_WITH_MASKS = ("longformer", "opt")


def _transformers(name: str) -> Case:
    import_torchvision()
    library = require("transformers", "survey")
    default = library.AutoConfig.for_model(name)
    small = {key: value for key, value in _SMALL.items() if hasattr(default, key)}
    given = {key: value for key, value in {**small, **_PARTICULAR.get(name, {})}.items() if value is not None}
    config = library.AutoConfig.for_model(name, **given)
    options = {"attn_implementation": "eager"} if name in _EAGER else {}
    model = library.AutoModel.from_config(config, **options).eval()
    constants = ["attention_mask"] if name in _COMPUTE_WITH_MASKS else []
    return Case(model, _inputs(name, model), {"output": "last_hidden_state", "constants": constants})


def _inputs(name: str, model: Any) -> dict[str, Any]:
    if name in _IMAGES:
        size = getattr(model.config, "image_size", 32)
        return {"pixel_values": torch.rand(2, 3, size, size)}
    if name == "wav2vec2":
        return {"input_values": torch.randn(2, 800)}
    if name == "whisper":
        frames = 2 * model.config.max_source_positions
        tokens = torch.randint(3, 90, (2, 7))
        return {
            "input_features": torch.randn(2, model.config.num_mel_bins, frames),
            "decoder_input_ids": tokens,
            "use_cache": False,
        }
    inputs: dict[str, Any] = {
        "input_ids": torch.randint(3, 90, (2, 12)),
        "attention_mask": torch.ones(2, 12, dtype=torch.long),
    }
    if name in ("t5", "bart"):
        inputs["decoder_input_ids"] = torch.randint(3, 90, (2, 7))
    if getattr(model.config, "use_cache", None) is not None and name not in ("xlnet",):
        inputs["use_cache"] = False
    if name == "xlnet":
        inputs["use_mems"] = False
    return inputs


_SHORT = {"hf": "transformers"}

LIBRARIES: Mapping[str, tuple[Callable[[], Any], Callable[[str], Case]]] = {
    "torchvision": (_torchvision_names, _torchvision),
    "timm": (lambda: _TIMM, _timm),
    "transformers": (lambda: _TRANSFORMERS, _transformers),
    "others": (lambda: other_models.NAMES, other_models.make),
}
