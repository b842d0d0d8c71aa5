"""The shipped emoji canvas through the real pipeline and both judges."""
import importlib
import json
import os
import sys

import torch
from diffusers import StableDiffusionPipeline
from safetensors.torch import load_file
from transformers import CLIPModel, CLIPTokenizer

from writing import HERE, generator, path, save

CANVAS = os.path.join(HERE, "../../assets/emoji-canvas")
MODEL = os.path.join(CANVAS, "model")
PROMPTS = ["", "a cat", "a cat in neon style", "a photo of a dog in comic style", "a flat apple", "an emoji in sketch style",
           "mushroom, pixel style", "something in stencil style", "A Rocket In GLOSSY Style!", "a purple dragon 🐉",
           "blueprint style sailboat", "an emoji of an airplane, flat style"]
PICTURES = [("a cat in neon style", 1), ("a rocket in flat style", 1234), ("an emoji in sketch style", 7)]
STEPS, GUIDANCE = 25, 5.0


def features(output):
    return output if torch.is_tensor(output) else output.pooler_output


@torch.no_grad()
def emoji_canvas():
    sys.path.insert(0, os.path.join(CANVAS, "recipe"))
    canvas, judge = importlib.import_module("canvas"), importlib.import_module("04_train_judge")
    pipe = StableDiffusionPipeline.from_pretrained(MODEL, safety_checker=None, torch_dtype=torch.float32)
    pipe.set_progress_bar_config(disable=True)
    assert all(p.dtype == torch.float32 for part in (pipe.unet, pipe.vae, pipe.text_encoder) for p in part.parameters())

    ids = torch.tensor([pipe.tokenizer(p, padding="max_length").input_ids for p in PROMPTS])
    out = {"prompts.input_ids": ids, "prompts.hidden_states": pipe.text_encoder(ids).last_hidden_state}
    g = generator(9)
    x, c = torch.randn(2, 4, 16, 16, generator=g), out["prompts.hidden_states"][1:3]
    out["unet.sample"], out["unet.context"] = x, c
    for t in (1, 500, 981):
        out[f"unet.batch1.t{t}"] = pipe.unet(x[:1], t, c[:1]).sample
        out[f"unet.batch2.t{t}"] = pipe.unet(x, t, c).sample
    out["unet.batch2.mixed"] = pipe.unet(x, torch.tensor([981, 1]), c).sample

    prompts = [p for p, _ in PICTURES]
    draw = dict(num_inference_steps=STEPS, guidance_scale=GUIDANCE, height=64, width=64)
    seeds = [generator(s) for _, s in PICTURES]
    out["pictures.latents"] = pipe(prompts, generator=seeds, output_type="latent", **draw).images
    seeds = [generator(s) for _, s in PICTURES]
    images = torch.from_numpy(pipe(prompts, generator=seeds, output_type="np", **draw).images)
    pictures = (images * 255).round().to(torch.uint8)
    out["pictures.u8"] = pictures

    pixels = pictures.permute(0, 3, 1, 2).float() / 127.5 - 1
    posterior = pipe.vae.encode(pixels[:2]).latent_dist
    out |= {"vae.encode.mean": posterior.mean, "vae.encode.logvar": posterior.logvar,
            "vae.decode": pipe.vae.decode(out["pictures.latents"][:2] / pipe.vae.config.scaling_factor).sample}

    clip, tokenizer = CLIPModel.from_pretrained(os.path.join(MODEL, "clip")).eval(), CLIPTokenizer.from_pretrained(os.path.join(MODEL, "clip"))
    texts = prompts + [canvas.canonical(o=o) for o in canvas.OBJECT_NAMES] + [canvas.canonical(s=s) for s in canvas.STYLE_NAMES]
    clip_ids = torch.tensor([tokenizer(t, padding="max_length").input_ids for t in texts])
    out |= {"clip.input_ids": clip_ids, "clip.text_features": features(clip.get_text_features(input_ids=clip_ids)),
            "clip.image_features": features(clip.get_image_features(pixel_values=pixels)),
            "clip.logits_per_image": clip(input_ids=clip_ids, pixel_values=pixels).logits_per_image}
    cnn = judge.Judge().eval()
    cnn.load_state_dict(load_file(os.path.join(MODEL, "judge/judge.safetensors")))
    out["judge.object_logits"], out["judge.style_logits"] = cnn(pixels)
    print("judge:", [(canvas.OBJECT_NAMES[o], canvas.STYLE_NAMES[s]) for o, s in zip(
        out["judge.object_logits"].argmax(1).tolist(), out["judge.style_logits"].argmax(1).tolist())])
    save("emoji_canvas/expected.safetensors", out)
    with open(path("emoji_canvas/inputs.json"), "w") as f:
        json.dump({"prompts": PROMPTS, "pictures": PICTURES, "steps": STEPS, "guidance_scale": GUIDANCE, "clip_texts": texts},
                  f, indent=1, ensure_ascii=False)
