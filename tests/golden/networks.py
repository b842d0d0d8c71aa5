"""Tiny networks with the real classes: configs, jittered weights, outputs, gradients."""
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from transformers import CLIPConfig, CLIPModel, CLIPTextConfig, CLIPTextModel

from writing import generator, jitter, save, save_model

LEVELS = dict(
    block_out_channels=(16, 16, 32, 32), norm_num_groups=8, cross_attention_dim=32, sample_size=8,
    down_block_types=("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
    up_block_types=("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
)
TIMESTEPS = (1, 500, 981)


def unet_inputs(seed):
    g = generator(seed)
    # Height and width differ in the second, so that a swap of the two shows.
    return {"batch1.sample": torch.randn(1, 4, 8, 8, generator=g), "batch1.context": torch.randn(1, 7, 32, generator=g),
            "batch2.sample": torch.randn(2, 4, 16, 8, generator=g), "batch2.context": torch.randn(2, 7, 32, generator=g)}


def listen(module, name, found):
    def keep(_, __, output):
        output = output[0] if isinstance(output, tuple) else output
        found[name] = (output if torch.is_tensor(output) else output.sample).detach().clone()
    return module.register_forward_hook(keep)


@torch.no_grad()
def unet_outputs(unet, tensors):
    tensors = dict(tensors)
    for batch in ("batch1", "batch2"):
        x, c = tensors[f"{batch}.sample"], tensors[f"{batch}.context"]
        for t in TIMESTEPS:
            tensors[f"{batch}.t{t}"] = unet(x, t, c).sample
    x, c = tensors["batch2.sample"], tensors["batch2.context"]
    tensors["batch2.mixed.timesteps"] = torch.tensor([981, 1])
    hooks = [listen(m, f"batch2.mixed.{n}", tensors) for n, m in (
        ("time_embedding", unet.time_embedding), ("conv_in", unet.conv_in),
        ("down_blocks.0.resnets.0", unet.down_blocks[0].resnets[0]),
        ("down_blocks.0.attentions.0", unet.down_blocks[0].attentions[0]),
        ("mid_block", unet.mid_block))]
    tensors["batch2.mixed"] = unet(x, tensors["batch2.mixed.timesteps"], c).sample
    for hook in hooks:
        hook.remove()
    return tensors


def training(unet, inputs):
    """Gradients of a plain loss, then ten Adam updates of the cross-attention."""
    g = generator(77)
    x, c = inputs["batch2.sample"], inputs["batch2.context"]
    t, target = torch.tensor([500, 20]), torch.randn(x.shape, generator=g)
    others = ("conv_in.weight", "down_blocks.1.resnets.0.conv1.weight", "down_blocks.0.resnets.0.norm1.weight",
              "down_blocks.0.attentions.0.norm.bias", "down_blocks.0.attentions.0.transformer_blocks.0.norm2.weight",
              "down_blocks.0.attentions.0.transformer_blocks.0.ff.net.0.proj.weight", "down_blocks.0.downsamplers.0.conv.weight",
              "time_embedding.linear_1.weight", "time_embedding.linear_2.bias", "mid_block.attentions.0.proj_in.weight",
              "mid_block.attentions.0.transformer_blocks.0.attn1.to_q.weight", "up_blocks.1.upsamplers.0.conv.weight",
              "up_blocks.3.resnets.2.conv_shortcut.weight", "conv_norm_out.weight", "conv_out.bias")
    names = dict(unet.named_parameters())
    out = {"sample": x, "context": c, "timesteps": t, "target": target}

    def loss():
        return ((unet(x, t, c).sample - target) ** 2).mean()

    value = loss()
    value.backward()
    out["loss"] = value.detach()
    for name, p in names.items():
        if "attn2" in name or name in others:
            out[f"gradient.{name}"] = p.grad.clone()
        p.grad = None
    attn2 = {n: p for n, p in names.items() if "attn2" in n}
    for name, p in names.items():
        p.requires_grad_(name in attn2)
    adam, losses = torch.optim.Adam(attn2.values(), lr=1e-3), []
    for _ in range(10):
        adam.zero_grad()
        value = loss()
        value.backward()
        adam.step()
        losses.append(value.detach())
    with torch.no_grad():
        losses.append(loss())
    out["adam.losses"] = torch.stack(losses)
    for name in ("down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k.weight",
                 "up_blocks.3.attentions.2.transformer_blocks.0.attn2.to_out.0.bias"):
        out[f"adam.final.{name}"] = names[name].detach().clone()
    return out


def unets():
    torch.manual_seed(1)
    sd1 = jitter(UNet2DConditionModel(**LEVELS, layers_per_block=2, attention_head_dim=4), 11).eval()
    inputs = unet_inputs(12)
    save_model(sd1, "unet_sd1")
    save("unet_sd1/expected.safetensors", unet_outputs(sd1, inputs))
    save("unet_sd1/training.safetensors", training(sd1, inputs))

    torch.manual_seed(2)
    sd2 = UNet2DConditionModel(**LEVELS, layers_per_block=1, attention_head_dim=[2, 4, 4, 4], use_linear_projection=True)
    # Stored in half precision: exact in single precision, and half the bytes.
    sd2 = jitter(sd2, 21).half().float().eval()
    save_model(sd2, "unet_sd2", half=True)
    save("unet_sd2/expected.safetensors", unet_outputs(sd2, unet_inputs(22)))


@torch.no_grad()
def vae():
    torch.manual_seed(3)
    net = AutoencoderKL(block_out_channels=(8, 8, 16, 16), layers_per_block=1, norm_num_groups=4, sample_size=32,
                        down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4)
    net = jitter(net, 31).eval()
    g = generator(32)
    image, latents = torch.rand(2, 3, 32, 24, generator=g) * 2 - 1, torch.randn(2, 4, 4, 3, generator=g)
    posterior = net.encode(image).latent_dist
    save_model(net, "vae")
    save("vae/expected.safetensors", {"image": image, "encode.mean": posterior.mean, "encode.logvar": posterior.logvar,
                                      "latents": latents, "decode": net.decode(latents).sample})


TEXT = dict(vocab_size=100, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
            max_position_embeddings=12, projection_dim=24, bos_token_id=98, eos_token_id=99, pad_token_id=99)


def token_ids():
    ids = torch.randint(0, 98, (2, 12), generator=generator(42))
    ids[:, 0], ids[0, 5:], ids[1, 11:] = 98, 99, 99
    return ids


@torch.no_grad()
def text_encoders():
    ids = token_ids()
    for activation, prefix in (("quick_gelu", "text_model."), ("gelu", "")):
        torch.manual_seed(4)
        net = jitter(CLIPTextModel(CLIPTextConfig(**TEXT, hidden_act=activation)), 41, 0.15).eval()
        out = net(ids)
        folder = f"text_encoder_{activation}"
        save_model(net, folder, rename=lambda name: prefix + name.removeprefix("text_model."))
        save(f"{folder}/expected.safetensors", {"input_ids": ids, "last_hidden_state": out.last_hidden_state,
                                                "pooler_output": out.pooler_output})


@torch.no_grad()
def clip():
    torch.manual_seed(5)
    config = CLIPConfig(text_config=dict(TEXT, hidden_act="quick_gelu"), projection_dim=24, vision_config=dict(
        hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4, image_size=16, patch_size=8,
        hidden_act="quick_gelu", projection_dim=24))
    net, ids = jitter(CLIPModel(config), 51, 0.15).eval(), token_ids()
    pixels = torch.randn(3, 3, 16, 16, generator=generator(52))
    out = net(input_ids=ids, pixel_values=pixels)
    image, text = net.get_image_features(pixel_values=pixels), net.get_text_features(input_ids=ids)
    save_model(net, "clip")
    save("clip/expected.safetensors", {
        "pixel_values": pixels, "input_ids": ids, "logits_per_image": out.logits_per_image,
        "image_features": image if torch.is_tensor(image) else image.pooler_output,
        "text_features": text if torch.is_tensor(text) else text.pooler_output})
