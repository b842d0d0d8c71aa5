"""Writes what both sides of `bench/run` read: a row's tensors, and a model of Stable Diffusion 1.4's
architecture with random weights (2.1 GB, in half precision as the model's own fp16 variant).

  python prepare.py inputs FILE --work train-all --batch 1 --channels 4 --side 64 --tokens 77 --width 768
  python prepare.py sd14 FOLDER
"""
import argparse
import json
import os
import sys

import torch
from safetensors.torch import save_file

REPOSITORY = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
GEMM = 2048


def inputs(a):
    g = torch.Generator().manual_seed(20)
    if a.work == "gemm":
        tensors = {name: torch.randn(GEMM, GEMM, generator=g) for name in ("left", "right")}
    else:
        picture = (a.batch, a.channels, a.side, a.side)
        tensors = {
            "sample": torch.randn(picture, generator=g),
            "context": torch.randn(a.batch, a.tokens, a.width, generator=g),
            "target": torch.randn(picture, generator=g),
            # An even spread of noise levels.
            "timesteps": torch.arange(a.batch) * 900 // a.batch + 50,
        }
    save_file(tensors, a.path)


@torch.no_grad()
def sd14(a):
    sys.path.insert(0, os.path.join(REPOSITORY, "tests", "parity"))
    from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
    from full_size import CONFIG
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

    torch.manual_seed(14)
    vae = AutoencoderKL(
        down_block_types=["DownEncoderBlock2D"] * 4, up_block_types=["UpDecoderBlock2D"] * 4,
        block_out_channels=[128, 256, 512, 512], layers_per_block=2, latent_channels=4, sample_size=512)
    text_encoder = CLIPTextModel(CLIPTextConfig(
        vocab_size=49408, hidden_size=768, intermediate_size=3072, num_hidden_layers=12, num_attention_heads=12,
        max_position_embeddings=77, hidden_act="quick_gelu", projection_dim=768))
    scheduler = DDIMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", steps_offset=1, set_alpha_to_one=False,
        clip_sample=False)
    # Words do not matter here: the smallest real tokenizer of the tree will do.
    tokenizer = CLIPTokenizer.from_pretrained(
        os.path.join(REPOSITORY, "tests", "golden", "tokenizer_sd1"), model_max_length=77)
    StableDiffusionPipeline(
        vae=vae, text_encoder=text_encoder, tokenizer=tokenizer, unet=UNet2DConditionModel(**CONFIG),
        scheduler=scheduler, safety_checker=None, feature_extractor=None, requires_safety_checker=False,
    ).to(torch.float16).save_pretrained(a.path)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=["inputs", "sd14"])
    parser.add_argument("path")
    parser.add_argument("--work")
    for name in ("batch", "channels", "side", "tokens", "width"):
        parser.add_argument(f"--{name}", type=int)
    a = parser.parse_args()
    inputs(a) if a.what == "inputs" else sd14(a)


if __name__ == "__main__":
    main()
