"""Writes every golden file beside this script; README.md names what is in them.

  python generate.py [part ...]
"""
import sys

import torch

import emoji
import networks
import primitives

PARTS = {"noise": primitives.noise, "ddim": primitives.ddim, "tokenizers": primitives.tokenizers, "unets": networks.unets,
         "vae": networks.vae, "text_encoders": networks.text_encoders, "clip": networks.clip, "emoji": emoji.emoji_canvas}

if __name__ == "__main__":
    torch.set_num_threads(1)
    for part in sys.argv[1:] or PARTS:
        PARTS[part]()
        print(part, flush=True)
