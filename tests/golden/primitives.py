"""Noise, the samplers and the tokenizer."""
import inspect
import json
import os
import shutil

import diffusers
import numpy
import torch
from diffusers import (DDIMScheduler, DPMSolverMultistepScheduler, EulerAncestralDiscreteScheduler, EulerDiscreteScheduler, LCMScheduler,
                       PNDMScheduler, UniPCMultistepScheduler)
from transformers import CLIPTokenizer

from writing import generator, path, save

SIZES = (1, 2, 5, 15, 16, 17, 24, 31, 32, 100, 1024)
MIXED = (3, 16, 1, 17, 5, 2, 40, 7)
SEEDS = (0, 1, 1234, 2**32 - 1, 2**32 + 1, 2**63 + 11)


def noise():
    out = {f"seed{s}.randn{n}": torch.randn(n, generator=generator(s)) for s in SEEDS[:3] for n in SIZES}
    for s in SEEDS:
        g = generator(s if s < 2**63 else s - 2**64)    # torch takes the same bits as a signed number
        out |= {f"seed{s}.mixed{i}": torch.randn(n, generator=g) for i, n in enumerate(MIXED)}
    # A million values in one number: a coefficient wrong in its last place changes one in 10,000.
    bits = torch.randn(1 << 20, generator=generator(3)).view(torch.int32).long() & 0xFFFFFFFF
    out["seed3.bits"] = bits.sum()
    save("noise/expected.safetensors", out)


SD = dict(num_train_timesteps=1000, beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False,
          set_alpha_to_one=False)
SCHEDULERS = {
    "leading": dict(SD, steps_offset=1),
    "trailing": dict(SD, timestep_spacing="trailing", steps_offset=1),
    "linspace": dict(SD, timestep_spacing="linspace", set_alpha_to_one=True),
    "velocity": dict(SD, prediction_type="v_prediction", steps_offset=1),
    "cosine": dict(SD, beta_schedule="squaredcos_cap_v2", clip_sample=True, clip_sample_range=1.5),
    "linear": dict(num_train_timesteps=400),            # everything else by default
    "trained": dict(SD, num_train_timesteps=50, trained_betas=[0.001 * (i + 1) for i in range(50)]),
}
RUNS = (1, 2, 3, 7, 10, 25, 30, 48, 50, 61, 96, 100, 112, 333)


def ddim():
    g = generator(5)
    x, noise_ = torch.randn(2, 4, 4, 3, generator=g), torch.randn(2, 4, 4, 3, generator=g)
    outputs = torch.randn(10, 2, 4, 4, 3, generator=g)
    out = {"sample": x, "noise": noise_, "model_outputs": outputs}
    for name, config in SCHEDULERS.items():
        s = DDIMScheduler(**config)
        with open(path(f"ddim/{name}.json"), "w") as f:
            json.dump({"_class_name": "DDIMScheduler", **config}, f, indent=1)
        trained = s.config.num_train_timesteps
        out[f"{name}.alphas_cumprod"] = s.alphas_cumprod
        for n in RUNS:
            if n <= trained:
                s.set_timesteps(n)
                # numpy's arange gives one value too many for some trailing runs.
                out[f"{name}.timesteps{n}"] = s.timesteps[:n]
        s.set_timesteps(10)
        latents, samples, x0 = x, [], []
        for t, output in zip(s.timesteps, outputs):
            r = s.step(output, t, latents)
            latents = r.prev_sample
            samples.append(latents)
            x0.append(r.pred_original_sample)
        out |= {f"{name}.samples": torch.stack(samples), f"{name}.x0": torch.stack(x0)}
        out[f"{name}.add_noise{trained // 2}"] = s.add_noise(x, noise_, torch.tensor([trained // 2] * 2))
    save("ddim/expected.safetensors", out)


# Short enough for 32 ids each.
TEXTS = [
    "", " ", "a cat in neon style", "A CAT in NEON Style", "  a   cat\t\nin \u00a0 neon\u3000style ", "cat", "cats", "catcat",
    "don't, we're, it's, I'll", "I'd, we've, I'm", "style-style_style", "1234567 cats", "½ ² Ⅷ ٣", "!", "!!!", "hello!", "a ! b",
    "<|endoftext|>", "a <|startoftext|>cat<|endoftext|> b", "<|ENDOFTEXT|>", "<|endoftext", "</w>", "cat</w>",
    "café", "cafe\u0301", "Ångström", "İstanbul", "ß ẞ", "ΑΣ ας", "Ǆ ǆ", "Привет", "你好世界", "こんに", "안녕", "नमस्ते", "مرحبا", "שלום",
    "🐱", "👩‍🚀", "🏳️‍🌈", "👍🏽", "\u0000", "a\u0000b", "\u0007\u001b[0m", "\u200b", "a\u200bb", "\ufeffcat", "\u202ecat", "\ufffd", "\U0010ffff",
    "\ue000", "a\u0301\u0302\u0303", "ﬁ ﬂ", "𝒞𝒶𝓉", "`~@#$%^&*()", "'s 't 're", "''s", "a's's", "\r\n", "x\u0085y", "\u2028cat\u2029", "¿qué?", "…", "—", "a.b,c;d",
]


def tokenizers():
    source = os.path.join(os.path.dirname(__file__), "../../assets/emoji-canvas/model/tokenizer")
    token = {"__type": "AddedToken", "lstrip": False, "rstrip": False, "single_word": False, "normalized": True}
    named = {"bos_token": dict(token, content="<|startoftext|>"), "eos_token": dict(token, content="<|endoftext|>"),
             "unk_token": dict(token, content="<|endoftext|>"), "pad_token": "<|endoftext|>", "model_max_length": 32}
    # As the folders of Stable Diffusion 1.x and 2.x lie about: no tokenizer.json; 2.x pads with "!".
    for folder, extra in (("sd1", None), ("sd2", {"pad_token": "!"})):
        target = os.path.dirname(path(f"tokenizer_{folder}/vocab.json"))
        for f in ("vocab.json", "merges.txt"):
            shutil.copy(os.path.join(source, f), target)
        with open(os.path.join(target, "tokenizer_config.json"), "w") as f:
            json.dump(named, f, indent=1)
        if extra:
            plain = {k: {**{i: j for i, j in v.items() if i != "__type"}} for k, v in named.items() if isinstance(v, dict)}
            with open(os.path.join(target, "special_tokens_map.json"), "w") as f:
                json.dump({**plain, **extra}, f, indent=1)
    ids = {}
    for name, folder in (("emoji", source), ("sd1", path("tokenizer_sd1")), ("sd2", path("tokenizer_sd2"))):
        t = CLIPTokenizer.from_pretrained(folder)
        lists = [t(text, padding="max_length").input_ids for text in TEXTS]
        assert all(len(one) == 32 for one in lists), [x for x, one in zip(TEXTS, lists) if len(one) > 32]
        ids[name] = torch.tensor(lists)
    with open(path("tokenizer/texts.json"), "w") as f:
        json.dump(TEXTS, f, indent=0)
    save("tokenizer/expected.safetensors", ids)


# A folder's scheduler config each, as published ones name it: of several classes, with and without the keys that classes default.
FOLDERS = {
    "leading": dict(SD, _class_name="PNDMScheduler", skip_prk_steps=True, steps_offset=1, timestep_spacing="leading"),
    "trailing": dict(SD, _class_name="DDIMScheduler", steps_offset=0, timestep_spacing="trailing"),
    "linspace": dict(SD, _class_name="EulerDiscreteScheduler", timestep_spacing="linspace", steps_offset=1),
    "unmended": dict(SD, _class_name="DDIMScheduler", steps_offset=0, clip_sample=True),
    "bare": {k: v for k, v in dict(SD, _class_name="DDIMScheduler").items() if k in ("_class_name", "beta_start", "beta_end", "beta_schedule")},
}
SAMPLERS = {
    "ddim": (DDIMScheduler, {}), "pndm": (PNDMScheduler, dict(skip_prk_steps=True)), "euler": (EulerDiscreteScheduler, {}),
    "euler-ancestral": (EulerAncestralDiscreteScheduler, {}), "dpmpp-2m": (DPMSolverMultistepScheduler, dict(use_karras_sigmas=False)),
    "dpmpp-2m-karras": (DPMSolverMultistepScheduler, dict(use_karras_sigmas=True)), "unipc": (UniPCMultistepScheduler, {}),
    "lcm": (LCMScheduler, {}),
}
NOISE_SEEDS = (11, 2**32 - 1)


def repaired(folder):
    """The scheduler that StableDiffusionPipeline makes of a folder's: it mends steps_offset and clip_sample."""
    config = dict(folder)
    scheduler = getattr(diffusers, config.pop("_class_name"))
    scheduler = scheduler.from_config({**config, "_class_name": scheduler.__name__})
    return diffusers.StableDiffusionPipeline(None, None, None, None, scheduler, None, None, requires_safety_checker=False).scheduler


# Of a schedule whose last timestep has no signal, which needs v prediction. Of its own file: written by `zero_snr`.
ZERO_SNR = {
    "zero-snr": dict(SD, _class_name="DDIMScheduler", steps_offset=1, timestep_spacing="trailing", rescale_betas_zero_snr=True),
    "zero-snr-linspace": dict(SD, _class_name="EulerDiscreteScheduler", timestep_spacing="linspace", rescale_betas_zero_snr=True),
}


def samplers():
    out = sampler_inputs()
    for spacing, folder in FOLDERS.items():
        for prediction in ("epsilon", "v_prediction"):
            out |= sampler_runs(f"{spacing}.{prediction}", dict(folder, prediction_type=prediction), out)
    save("samplers/expected.safetensors", out)
    sampled_pictures()


def zero_snr():
    out, root = sampler_inputs(), torch.Tensor.sqrt
    # MKL rounds 5 of the 1,000 roots wrongly by a digit, which the ancestral sampler's differences enlarge to 6e-5; torch on
    # other processors does not. Here every root is rounded as IEEE 754 says.
    torch.Tensor.sqrt = lambda x: torch.from_numpy(numpy.asarray(numpy.sqrt(x.numpy())))
    for spacing, folder in ZERO_SNR.items():
        folder = dict(folder, prediction_type="v_prediction")
        out |= sampler_runs(f"{spacing}.v_prediction", folder, out)
        out[f"{spacing}.v_prediction.alphas_cumprod"] = DDIMScheduler.from_config(repaired(folder).config).alphas_cumprod
    torch.Tensor.sqrt = root
    save("samplers/zero_snr.safetensors", out)


def sampler_inputs():
    g = generator(6)
    x, outputs = torch.randn(2, 4, 4, 3, generator=g), torch.randn(12, 2, 4, 4, 3, generator=g)
    return {"sample": x, "model_outputs": outputs, "noise_seeds": torch.tensor(NOISE_SEEDS)}


def sampler_runs(file, folder, inputs_):
    x, outputs, out = inputs_["sample"], inputs_["model_outputs"], {}
    with open(path(f"samplers/{file}.json"), "w") as f:
        json.dump(folder, f, indent=1)
    for name, (kind, given) in SAMPLERS.items():
        for steps in (1, 4, 10):
            s = repaired(folder)                # as it comes, where it is the sampler asked for
            if not isinstance(s, kind):
                s = kind.from_config(s.config, **given)
            s.set_timesteps(steps)
            generators = [generator(seed) for seed in NOISE_SEEDS]
            takes_noise = "generator" in inspect.signature(s.step).parameters
            latents, samples, inputs = x * s.init_noise_sigma, [], []
            for t, output in zip(s.timesteps, outputs):
                inputs.append(s.scale_model_input(latents, t))
                latents = s.step(output, t, latents, **(dict(generator=generators) if takes_noise else {})).prev_sample
                samples.append(latents)
            key = f"{file}.{name}.{steps}"
            out[f"{key}.timesteps"] = s.timesteps.double()
            if hasattr(s, "sigmas"):
                out[f"{key}.sigmas"] = s.sigmas
            out[f"{key}.samples"] = torch.stack(samples)
            # The first of them shows the initial scale, the last that of a step.
            out[f"{key}.inputs"] = torch.stack([inputs[0], inputs[-1]])
    return out


def sampled_pictures():
    """Through the whole pipeline: the first noise and the later one of a generator, its scale, what the network is given."""
    model = os.path.join(os.path.dirname(__file__), "../../assets/emoji-canvas/model")
    pipe = diffusers.StableDiffusionPipeline.from_pretrained(model, safety_checker=None, torch_dtype=torch.float32)
    pipe.set_progress_bar_config(disable=True)
    own, pictures = pipe.scheduler, {}
    for name, (kind, given) in SAMPLERS.items():
        pipe.scheduler = own if isinstance(own, kind) else kind.from_config(own.config, **given)
        images = pipe(["a cat in neon style", "a rocket"], generator=[generator(s) for s in NOISE_SEEDS], output_type="np",
                      num_inference_steps=3, guidance_scale=2.0, height=64, width=64).images
        pictures[name] = (torch.from_numpy(images) * 255).round().to(torch.uint8)
    save("samplers/pictures.safetensors", pictures)
