"""Pictures that begin with a picture: StableDiffusionImg2ImgPipeline, its resizing, and runs of the samplers from the middle."""
import inspect

import torch
from diffusers import StableDiffusionImg2ImgPipeline
from PIL import Image
from safetensors.torch import load_file

from emoji import MODEL
from primitives import FOLDERS, NOISE_SEEDS, SAMPLERS, repaired, sampler_inputs
from writing import generator, path, save

STEPS, GUIDANCE, STRENGTHS = 6, 3.0, (0.5, 0.9)
PROMPTS, NEGATIVE = ["a cat in neon style", "a rocket"], "blueprint style"
# No multiples of what an autoencoder shrinks by.
SIZE = (42, 35)
RESIZED = ((42, 35), (40, 32), (42, 32), (40, 35), (16, 8), (1, 1), (50, 80))
RUN_STEPS, FIRST_STEPS = 8, (1, 5)


def image_to_image():
    pixels = load_file(path("emoji_canvas/expected.safetensors"))["pictures.u8"][1]
    image = Image.fromarray(pixels.numpy())
    small = image.resize(SIZE, Image.Resampling.BICUBIC)
    small.save(path("image_to_image/picture.png"))
    out = {f"resized.{w}x{h}": as_tensor(small.resize((w, h), Image.Resampling.LANCZOS)) for w, h in RESIZED}
    pipe = StableDiffusionImg2ImgPipeline.from_pretrained(MODEL, safety_checker=None, torch_dtype=torch.float32)
    pipe.set_progress_bar_config(disable=True)
    for name, one in (("whole", image), ("small", small)):
        with torch.no_grad():
            posterior = pipe.vae.encode(pipe.image_processor.preprocess(one)).latent_dist
        out |= {f"{name}.mean": posterior.mean, f"{name}.logvar": posterior.logvar}
    out["whole.u8"] = pixels
    own = pipe.scheduler
    for prediction in ("epsilon", "v_prediction"):
        trained = own.from_config(dict(own.config, prediction_type=prediction))
        for name, (kind, given) in SAMPLERS.items():
            pipe.scheduler = trained if isinstance(trained, kind) else kind.from_config(trained.config, **given)
            for strength in STRENGTHS:
                images = pipe(PROMPTS, image=small, strength=strength, negative_prompt=[NEGATIVE] * 2, output_type="np",
                              generator=[generator(s) for s in NOISE_SEEDS], num_inference_steps=STEPS, guidance_scale=GUIDANCE).images
                out[f"{prediction}.{name}.{strength}"] = (torch.from_numpy(images) * 255).round().to(torch.uint8)
    save("image_to_image/expected.safetensors", out)
    save("image_to_image/runs.safetensors", runs())


def as_tensor(image):
    return torch.tensor(list(image.tobytes()), dtype=torch.uint8).reshape(image.height, image.width, 3)


def runs():
    """Each sampler over the folders of `samplers`, from a step on, as `get_timesteps` and `prepare_latents` begin."""
    out = sampler_inputs()
    clean, outputs = out["sample"], out["model_outputs"]
    out = {}
    for spacing, folder in FOLDERS.items():
        for prediction in ("epsilon", "v_prediction"):
            for name, (kind, given) in SAMPLERS.items():
                for first in FIRST_STEPS:
                    s = repaired(dict(folder, prediction_type=prediction))
                    if not isinstance(s, kind):
                        s = kind.from_config(s.config, **given)
                    s.set_timesteps(RUN_STEPS)
                    timesteps = s.timesteps[first:]
                    if hasattr(s, "set_begin_index"):
                        s.set_begin_index(first)
                    generators = [generator(seed) for seed in NOISE_SEEDS]
                    draw = lambda: torch.cat([torch.randn(1, *clean.shape[1:], generator=g) for g in generators])
                    takes_noise = "generator" in inspect.signature(s.step).parameters
                    latents = s.add_noise(clean, draw(), timesteps[:1].repeat(2))
                    key = f"{spacing}.{prediction}.{name}.{first}"
                    out[f"{key}.start"] = latents
                    for t, output in zip(timesteps, outputs):
                        s.scale_model_input(latents, t)
                        latents = s.step(output, t, latents, **(dict(generator=generators) if takes_noise else {})).prev_sample
                    out[f"{key}.end"] = latents
    return out
