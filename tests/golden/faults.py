"""Pictures of diffusers for model folders as people have them: the built-in model with one thing changed."""
import json
import os
import shutil
import tempfile

import numpy
import torch
from diffusers import DDIMScheduler, StableDiffusionPipeline
from safetensors.torch import load_file, save_file

from emoji import MODEL
from writing import generator, save

PROMPT, STEPS, GUIDANCE, SEED = "a cat in neon style", 10, 5.0, 1
CORE = dict(beta_end=0.012, beta_schedule="scaled_linear", beta_start=0.00085, num_train_timesteps=1000)
TEXT, UNET = "text_encoder/model.safetensors", "unet/config.json"


def edit(folder, name, drop=(), **new):
    value = json.load(open(f"{folder}/{name}"))
    for key in drop:
        value.pop(key)
    json.dump(value | new, open(f"{folder}/{name}", "w"))


def scheduler(folder, cls="DDIMScheduler", **fields):
    json.dump(CORE | dict(_class_name=cls) | fields, open(f"{folder}/scheduler/scheduler_config.json", "w"))
    edit(folder, "model_index.json", scheduler=["diffusers", cls])


def added_token(folder, token, ident):
    """A tokenizer without tokenizer.json that knows one more token, and a row for it."""
    os.unlink(f"{folder}/tokenizer/tokenizer.json")
    plain = lambda text: dict(content=text, lstrip=False, normalized=True, rstrip=False, single_word=False)
    begin, end = plain("<|startoftext|>"), plain("<|endoftext|>")
    special = dict(bos_token=begin, eos_token=end, unk_token=end, pad_token="<|endoftext|>")
    config = dict(special, do_lower_case=True, model_max_length=32, tokenizer_class="CLIPTokenizer")
    for key in ("bos_token", "eos_token", "unk_token"):
        config[key] = dict(special[key], __type="AddedToken")
    json.dump(config, open(f"{folder}/tokenizer/tokenizer_config.json", "w"))
    json.dump(special, open(f"{folder}/tokenizer/special_tokens_map.json", "w"))
    json.dump({token: ident}, open(f"{folder}/tokenizer/added_tokens.json", "w"))
    tensors = load_file(f"{folder}/{TEXT}")
    key = next(k for k in tensors if k.endswith("token_embedding.weight"))
    weight = tensors[key]
    # The row of "rocket", so that no random number is needed.
    row = json.load(open(f"{folder}/tokenizer/vocab.json"))["rocket</w>"]
    tensors[key] = torch.cat([weight, weight[row:row + 1]])
    save_file(tensors, f"{folder}/{TEXT}", metadata={"format": "pt"})
    edit(folder, "text_encoder/config.json", vocab_size=weight.shape[0] + 1)


CASES = {
    "offset0": (lambda d: scheduler(d, clip_sample=False, set_alpha_to_one=False, steps_offset=0), {}),
    "clip": (lambda d: scheduler(d, clip_sample=True, set_alpha_to_one=False, steps_offset=1), {}),
    "bare": (lambda d: scheduler(d), {}),
    "infinity": (lambda d: scheduler(d, "DPMSolverMultistepScheduler", lambda_min_clipped=float("-inf"), clip_sample=False,
                                     prediction_type="epsilon", steps_offset=1, timestep_spacing="linspace"), {}),
    "zero-snr": (lambda d: scheduler(d, clip_sample=False, set_alpha_to_one=False, steps_offset=1, prediction_type="v_prediction",
                                     rescale_betas_zero_snr=True, timestep_spacing="trailing"), {}),
    "size72x64": (lambda d: None, dict(width=72, height=64)),
    "size40x40": (lambda d: None, dict(width=40, height=40)),
    "sample18": (lambda d: edit(d, UNET, sample_size=18), {}),
    "absent-sample": (lambda d: edit(d, UNET, drop=["sample_size"]), dict(width=64, height=64)),
    "layers3": (lambda d: edit(d, "text_encoder/config.json", num_hidden_layers=3), {}),
    "added": (lambda d: added_token(d, "<my-cat>", 875), dict(prompt="a <my-cat> in neon style")),
    "added-word": (lambda d: added_token(d, "sks", 875), dict(prompt="a photo of sks cat")),
    "line-feed": (lambda d: None, dict(prompt="a cat\nin neon style")),
}


@torch.no_grad()
def faults():
    out = {}
    for name, (change, given) in CASES.items():
        with tempfile.TemporaryDirectory() as place:
            folder = shutil.copytree(MODEL, f"{place}/model", ignore=shutil.ignore_patterns("clip", "judge"))
            # What the folders of Stable Diffusion 1.x say.
            scheduler(folder, "PNDMScheduler", set_alpha_to_one=False, skip_prk_steps=True, steps_offset=1, clip_sample=False)
            change(folder)
            pipe = StableDiffusionPipeline.from_pretrained(folder, safety_checker=None, torch_dtype=torch.float32)
            pipe.set_progress_bar_config(disable=True)
            # From another class; from its own, `from_config` would undo what the pipeline repaired.
            if not isinstance(pipe.scheduler, DDIMScheduler):
                pipe.scheduler = DDIMScheduler.from_config(pipe.scheduler.config)
            draw = dict(prompt=PROMPT, num_inference_steps=STEPS, guidance_scale=GUIDANCE) | given
            images = pipe(generator=generator(SEED), output_type="np", **draw).images
            out[name] = torch.from_numpy((images[0] * 255).round().astype(numpy.uint8))
            print(name, pipe.tokenizer(draw["prompt"]).input_ids[:8], flush=True)
    save("faults/expected.safetensors", out)
