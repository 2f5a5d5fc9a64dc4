"""RET-CLIP's forward pass in plain PyTorch, from a published state dict: an independent check."""

import torch
import torch.nn.functional as F


def vit(tensors, images, heads):
    """CLIP's vision transformer: images NCHW -> projected class token."""
    kernel = tensors["visual.conv1.weight"]
    x = F.conv2d(images, kernel, stride=kernel.shape[-1]).flatten(2).transpose(1, 2)
    first = tensors["visual.class_embedding"].expand(len(x), 1, -1)
    x = torch.cat([first, x], 1) + tensors["visual.positional_embedding"]
    x = _norm(tensors, "visual.ln_pre", x)
    layer = 0
    while f"visual.transformer.resblocks.{layer}.ln_1.weight" in tensors:
        prefix = f"visual.transformer.resblocks.{layer}."
        y = _norm(tensors, f"{prefix}ln_1", x)
        qkv = F.linear(
            y, tensors[f"{prefix}attn.in_proj_weight"], tensors[f"{prefix}attn.in_proj_bias"]
        )
        q, k, v = (part.unflatten(2, (heads, -1)).transpose(1, 2) for part in qkv.chunk(3, -1))
        y = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        x = x + _linear(tensors, f"{prefix}attn.out_proj", y)
        y = _linear(tensors, f"{prefix}mlp.c_fc", _norm(tensors, f"{prefix}ln_2", x))
        x = x + _linear(tensors, f"{prefix}mlp.c_proj", y * torch.sigmoid(1.702 * y))
        layer += 1
    return _norm(tensors, "visual.ln_post", x[:, 0]) @ tensors["visual.proj"]


def bert(tensors, tokens, heads):
    """Hugging Face's BERT: token ids -> hidden state of [CLS]."""
    from transformers import BertConfig, BertModel

    state = {
        name.removeprefix("bert."): value
        for name, value in tensors.items()
        if name.startswith("bert.")
    }
    words = state["embeddings.word_embeddings.weight"]
    model = BertModel(
        BertConfig(
            vocab_size=words.shape[0],
            hidden_size=words.shape[1],
            num_hidden_layers=1 + max(int(k.split(".")[2]) for k in state if "encoder.layer" in k),
            num_attention_heads=heads,
            intermediate_size=state["encoder.layer.0.intermediate.dense.weight"].shape[0],
            max_position_embeddings=len(state["embeddings.position_embeddings.weight"]),
        ),
        add_pooling_layer=False,
    )
    model.load_state_dict(state)
    return model.eval()(tokens, attention_mask=(tokens != 0).long()).last_hidden_state[:, 0]


@torch.no_grad()
def retclip(tensors, left, right, tokens, *, image_heads, text_heads):
    """The six unit-norm embeddings of patients with both eyes; images NCHW."""
    tensors = {name: torch.as_tensor(value) for name, value in tensors.items()}
    left, right = (vit(tensors, images, image_heads) for images in (left, right))
    images = {
        "patient": torch.cat([left, right], 1) @ tensors["global_feature_mapping.weight"].T,
        "left": left @ tensors["left_feature_mapping.weight"].T,
        "right": right @ tensors["right_feature_mapping.weight"].T,
    }
    hidden = bert(tensors, tokens, text_heads)
    out = {f"image_{level}": F.normalize(value) for level, value in images.items()}
    for level, suffix in (("patient", ""), ("left", "_left"), ("right", "_right")):
        y = F.relu(_linear(tensors, f"text_projection{suffix}.0", hidden))
        out[f"text_{level}"] = F.normalize(_linear(tensors, f"text_projection{suffix}.2", y))
    return {name: value.numpy() for name, value in out.items()}


def _linear(tensors, name, x):
    return F.linear(x, tensors[f"{name}.weight"], tensors[f"{name}.bias"])


def _norm(tensors, name, x):
    return F.layer_norm(x, x.shape[-1:], tensors[f"{name}.weight"], tensors[f"{name}.bias"])
