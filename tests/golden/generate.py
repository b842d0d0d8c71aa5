"""Writes every golden file beside this script; README.md names what is in them.

  python generate.py [part ...]
"""
import sys

import torch

import added_tokens
import emoji
import faults
import image_to_image
import judges
import networks
import primitives

PARTS = {"noise": primitives.noise, "ddim": primitives.ddim, "samplers": primitives.samplers, "zero_snr": primitives.zero_snr,
         "tokenizers": primitives.tokenizers, "added_tokens": added_tokens.added_tokens, "unets": networks.unets, "vae": networks.vae,
         "text_encoders": networks.text_encoders, "clip": networks.clip, "emoji": emoji.emoji_canvas, "faults": faults.faults,
         "image_to_image": image_to_image.image_to_image, "judges": judges.judges}

if __name__ == "__main__":
    torch.set_num_threads(1)
    for part in sys.argv[1:] or PARTS:
        PARTS[part]()
        print(part, flush=True)
