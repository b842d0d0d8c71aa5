"""PyTorch's side of `bench/run`: does one row's work as often as it is asked to.

Answers the same commands as `bench/ours/main.rs`, with the same numbers in the same order.
"""
import argparse
import json
import sys
import time

import torch
from safetensors.torch import load_file

VALUES, RATE, LOSSES = 4096, 1e-5, 8  # as bench/ours/rows.rs has them
SCOPES = {
    "train-kv": lambda name: "attn2.to_k" in name or "attn2.to_v" in name,
    "train-cross": lambda name: "attn2" in name,
    "train-rest": lambda name: "attn2" not in name,
    "train-all": lambda name: True,
}


class Pure:
    """A function of nothing but its inputs."""

    def __init__(self, function):
        self.function, self.last = function, None

    @torch.no_grad()
    def run(self):
        self.last = self.function()

    def values(self):
        return thinned(self.last.flatten().double().tolist())


class Training:
    """Forward, backward and a step of Adam."""

    def __init__(self, unet, scope, inputs):
        self.unet, self.inputs, self.losses = unet, inputs, []
        unet.requires_grad_(False)
        trained = [p for name, p in unet.named_parameters() if scope(name)]
        for parameter in trained:
            parameter.requires_grad_(True)
        self.adam = torch.optim.Adam(trained, lr=RATE)

    def run(self):
        i = self.inputs
        prediction = self.unet(i["sample"], i["timesteps"], i["context"]).sample
        loss = (prediction - i["target"]).pow(2).mean()
        self.adam.zero_grad()
        loss.backward()
        self.adam.step()
        self.losses.append(loss.item())

    def values(self):
        return self.losses[:LOSSES]


class Image:
    """A picture from prompt to pixels."""

    def __init__(self, pipe):
        self.pipe, self.picture = pipe, None

    def run(self):
        generator = torch.Generator().manual_seed(7)
        self.picture = self.pipe(
            "a cat in neon style", num_inference_steps=25, guidance_scale=5.0, generator=generator,
            output_type="np").images[0]

    def values(self):
        return thinned((self.picture * 255).round().flatten().tolist())


class Esd:
    """Iterations of Erased Stable Diffusion as published (`train-esd.py`): an object, so everything but
    cross-attention, batch 1, 50 steps, guidance 3, eta 1. An iteration denoises to a step drawn
    uniformly of 0 to 49; here steps go round an even grid with the same mean of 24.5."""

    STEPS = (2, 47, 7, 42, 12, 37, 17, 32, 22, 27)

    def __init__(self, pipe):
        import copy
        self.student, self.scheduler, self.taken = pipe.unet, pipe.scheduler, 0
        self.frozen = copy.deepcopy(pipe.unet).requires_grad_(False)
        self.student.requires_grad_(False)
        trained = [p for name, p in self.student.named_parameters() if SCOPES["train-rest"](name)]
        for parameter in trained:
            parameter.requires_grad_(True)
        self.adam = torch.optim.Adam(trained, lr=RATE)
        self.scheduler.set_timesteps(50)
        ids = pipe.tokenizer(["", "cat"], padding="max_length", max_length=pipe.tokenizer.model_max_length,
                             truncation=True, return_tensors="pt").input_ids
        with torch.no_grad():
            self.text = pipe.text_encoder(ids).last_hidden_state
        self.shape = (1, pipe.unet.config.in_channels) + (pipe.unet.config.sample_size,) * 2

    def run(self):
        step = self.STEPS[self.taken % len(self.STEPS)]
        self.taken += 1
        timesteps = self.scheduler.timesteps
        with torch.no_grad():
            z = torch.randn(self.shape)
            for t in timesteps[:step]:
                empty, concept = self.student(torch.cat([z, z]), t, self.text).sample.chunk(2)
                z = self.scheduler.step(empty + 3.0 * (concept - empty), t, z).prev_sample
            t = timesteps[step]
            empty, concept = self.frozen(torch.cat([z, z]), t, self.text).sample.chunk(2)
            target = empty - (concept - empty)
        loss = (self.student(z, t, self.text[1:]).sample - target).pow(2).mean()
        self.adam.zero_grad()
        loss.backward()
        self.adam.step()

    def values(self):
        return []


def thinned(values):
    return values[::max(1, -(-len(values) // VALUES))]


def load(work, model, inputs):
    inputs = load_file(inputs)
    if work == "gemm":
        return Pure(lambda: inputs["left"] @ inputs["right"])
    import diffusers
    diffusers.utils.logging.set_verbosity_error()
    if work in ("image", "erasure"):
        pipe = diffusers.StableDiffusionPipeline.from_pretrained(
            model, safety_checker=None, torch_dtype=torch.float32)
        pipe.set_progress_bar_config(disable=True)
        return Image(pipe) if work == "image" else Esd(pipe)
    if work == "vae-decode":
        vae = diffusers.AutoencoderKL.from_pretrained(model, subfolder="vae", torch_dtype=torch.float32)
        return Pure(lambda: vae.decode(inputs["sample"]).sample)
    unet = diffusers.UNet2DConditionModel.from_pretrained(model, subfolder="unet", torch_dtype=torch.float32)
    if work == "forward":
        return Pure(lambda: unet(inputs["sample"], inputs["timesteps"], inputs["context"]).sample)
    return Training(unet, SCOPES[work], inputs)


def peak_bytes():
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmHWM:"))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name in ("--model", "--work", "--inputs"):
        parser.add_argument(name, required=True)
    parser.add_argument("--threads", type=int, required=True)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.set_num_interop_threads(1)
    answers, sys.stdout = sys.stdout, sys.stderr  # what libraries print is no answer

    def answer(**fields):
        print(json.dumps(fields), file=answers, flush=True)

    row = load(options.work, options.model, options.inputs)
    answer(ready=True)
    for line in sys.stdin:
        command, _, count = line.strip().partition(" ")
        if command != "go":
            break
        start, cpu = time.perf_counter(), time.process_time()
        for _ in range(int(count)):
            row.run()
        seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
        answer(seconds=seconds / int(count), cpu_seconds=cpu / int(count))
    answer(peak_bytes=peak_bytes(), values=row.values(), notes="")


if __name__ == "__main__":
    main()
