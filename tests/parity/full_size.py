"""Writes a U-Net of the full size of Stable Diffusion 1.4 with random weights, and its outputs.

  python full_size.py FOLDER [--threads 1]

Needs tests/golden/requirements.txt, 3.5 GB of disk and 8 GB of memory. Nothing of it is committed:
it shows that speed, memory and numbers hold at the real size, which the golden files cannot.
FOLDER gets config.json, diffusion_pytorch_model.safetensors (f32, 860 million parameters) and
expected.safetensors: `context` [1,77,768]; for each side S of 32 and 64 `S.sample` [1,4,S,S] and
`S.t1`, `S.t500`, `S.t981`, the outputs.
"""
import argparse
import os

import torch
from diffusers import UNet2DConditionModel
from safetensors.torch import save_file

# CompVis/stable-diffusion-v1-4, unet/config.json
CONFIG = dict(
    sample_size=64, in_channels=4, out_channels=4, center_input_sample=False, flip_sin_to_cos=True, freq_shift=0,
    down_block_types=("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",), up_block_types=("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
    block_out_channels=(320, 640, 1280, 1280), layers_per_block=2, downsample_padding=1, mid_block_scale_factor=1,
    act_fn="silu", norm_num_groups=32, norm_eps=1e-5, cross_attention_dim=768, attention_head_dim=8,
)


@torch.no_grad()
def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder")
    parser.add_argument("--threads", type=int, default=1)
    a = parser.parse_args()
    torch.set_num_threads(a.threads)
    torch.manual_seed(14)
    unet = UNet2DConditionModel(**CONFIG).eval()
    g = torch.Generator().manual_seed(15)
    for name, p in unet.named_parameters():
        if p.ndim == 1:                 # biases and norms, away from zeros and ones
            p.add_(torch.randn(p.shape, generator=g) * 0.1)
        if "to_q.weight" in name or "to_k.weight" in name:
            p.mul_(3)                   # else each softmax is nearly flat
    print(sum(p.numel() for p in unet.parameters()), "parameters", flush=True)
    unet.save_pretrained(a.folder, max_shard_size="10GB")
    out = {"context": torch.randn(1, 77, 768, generator=g)}
    for side in (32, 64):
        out[f"{side}.sample"] = torch.randn(1, 4, side, side, generator=g)
        for t in (1, 500, 981):
            out[f"{side}.t{t}"] = unet(out[f"{side}.sample"], t, out["context"]).sample
            print(side, t, float(out[f"{side}.t{t}"].std()), flush=True)
    save_file(out, os.path.join(a.folder, "expected.safetensors"))


if __name__ == "__main__":
    main()
