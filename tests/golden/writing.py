"""Where the files go, and how weights are made to show errors."""
import os

import torch
from safetensors.torch import save_file

HERE = os.path.dirname(os.path.abspath(__file__))


def generator(seed):
    return torch.Generator().manual_seed(seed)


@torch.no_grad()
def jitter(net, seed, spread=0.0):
    """Moves every bias and norm away from zeros and ones, so that leaving one out shows; matrices
    by `spread`, for classes whose own start is too small to matter. Queries and keys grow, or each
    softmax would be nearly flat and hide a wrong scale or number of heads."""
    g = generator(seed)
    for name, p in net.named_parameters():
        p.add_(torch.randn(p.shape, generator=g) * (0.2 if p.ndim <= 1 else spread))
        if any(part in name for part in ("to_q.weight", "to_k.weight", "q_proj.weight", "k_proj.weight")):
            p.mul_(3)
    return net


def path(name):
    full = os.path.join(HERE, name)
    os.makedirs(os.path.dirname(full), exist_ok=True)
    return full


def save(name, tensors):
    save_file({k: v.detach().contiguous().clone() for k, v in tensors.items()}, path(name))


def save_model(net, folder, half=False, rename=lambda name: name):
    """A diffusers or transformers folder: config.json and one file of weights."""
    target = os.path.dirname(path(f"{folder}/config.json"))
    (net.config.save_pretrained if hasattr(net.config, "save_pretrained") else net.save_config)(target)
    weights = {rename(k): (v.half() if half else v).contiguous().clone() for k, v in net.state_dict().items()
               if not k.endswith("position_ids")}
    name = "model" if hasattr(net.config, "save_pretrained") else "diffusion_pytorch_model"
    save_file(weights, os.path.join(target, f"{name}.safetensors"), metadata={"format": "pt"})
