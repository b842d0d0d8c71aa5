"""The ids of tokenizer folders that know tokens beside their vocabulary, in every way that transformers reads."""
import json
import os
import shutil
import tempfile

from diffusers.loaders import TextualInversionLoaderMixin
from transformers import CLIPTokenizer

from emoji import MODEL
from writing import path

CONFIG, SPECIALS, ADDED, WHOLE = "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "tokenizer.json"
TEXTS = ["a <my-cat> in neon style", "a <MY-CAT> b", "a photo of sks cat", "sksy  <my-cat>  x", "<a> <B> <b> <c><|endoftext|>",
         "<my-cat>, <a> and <My-Cat>"]


def token(content, **rules):
    return dict(content=content, lstrip=False, normalized=True, rstrip=False, single_word=False, special=False) | rules


def typed(content, **rules):
    return dict(token(content, **rules), __type="AddedToken")


# The fields and files that each folder has; tokenizer.json lists its tokens after those that it has, and is absent otherwise.
CASES = {
    "added": {ADDED: {"<my-cat>": 875}},
    "added-word": {ADDED: {"sks": 875}},
    "added-two-in-reverse": {ADDED: {"<my-cat>": 876, "sks": 875}},
    "added-in-capitals": {ADDED: {"<MY-Cat>": 875}},
    "added-of-the-vocabulary": {ADDED: {"cat</w>": 594}},
    "added-special-by-config": {ADDED: {"<My-Cat>": 875}, CONFIG: {"additional_special_tokens": ["<My-Cat>"]}},
    "added-special-by-map": {ADDED: {"<My-Cat>": 875}, SPECIALS: {"additional_special_tokens": ["<My-Cat>"]}},
    "added-pad": {ADDED: {"<Pad>": 875}, SPECIALS: {"pad_token": "<Pad>"}},
    "vectors": {ADDED: {"<my-cat>": 875, "<my-cat>_1": 876, "<my-cat>_2": 877, "<a>": 878, "<a>_2": 879}},
    "vectors-in-capitals": {ADDED: {"<My-Cat>": 875, "<My-Cat>_1": 876}},
    "map": {SPECIALS: {"additional_special_tokens": ["<my-cat>", "<B>"]}},
    "map-extra": {CONFIG: {"extra_special_tokens": ["<a>"]}, SPECIALS: {"extra_special_tokens": ["<my-cat>"]}},
    "map-behind-config": {CONFIG: {"additional_special_tokens": ["<a>"]}, SPECIALS: {"additional_special_tokens": ["<my-cat>"]}},
    "config": {CONFIG: {"additional_special_tokens": ["<my-cat>", "<B>"]}},
    "config-objects": {CONFIG: {"additional_special_tokens": [typed("<my-cat>"), typed("<B>", normalized=False)]}},
    "config-extra": {CONFIG: {"extra_special_tokens": ["<my-cat>"]}},
    "config-extra-roles": {CONFIG: {"extra_special_tokens": {"cat_token": "<my-cat>"}}},
    "config-roles": {CONFIG: {"mask_token": "<my-cat>", "cls_token": "<c>", "cat_token": "sks"}},
    "decoder": {CONFIG: {"added_tokens_decoder": {"875": token("<my-cat>")}}, ADDED: {"<B>": 875}, SPECIALS: {"additional_special_tokens": ["<a>"]}},
    "decoder-empty": {CONFIG: {"added_tokens_decoder": {}}, ADDED: {"<my-cat>": 875}},
    "decoder-special": {CONFIG: {"added_tokens_decoder": {"875": token("<My-Cat>", special=True, normalized=False)}, "additional_special_tokens": ["<My-Cat>", "sks"]}},
    "decoder-strips": {CONFIG: {"added_tokens_decoder": {"875": token("<my-cat>", lstrip=True, rstrip=True)}}},
    "decoder-single-word": {CONFIG: {"added_tokens_decoder": {"875": token("sks", single_word=True)}}},
    "whole": {WHOLE: [token("<my-cat>", id=875)]},
    "whole-and-added": {WHOLE: [token("<my-cat>", id=875)], ADDED: {"sks": 876}},
    "whole-behind-decoder": {WHOLE: [token("sks", id=875)], CONFIG: {"added_tokens_decoder": {"875": token("<my-cat>")}}},
    "split": {CONFIG: {"split_special_tokens": True, "additional_special_tokens": ["<my-cat>"]}, ADDED: {"<my-cat>": 875, "sks": 876}},
}


def added_tokens():
    out, mixin = dict(texts=TEXTS, cases={}), TextualInversionLoaderMixin()
    for name, files in CASES.items():
        with tempfile.TemporaryDirectory() as place:
            folder = shutil.copytree(f"{MODEL}/tokenizer", f"{place}/tokenizer")
            files = dict(files)
            with open(f"{folder}/{CONFIG}") as f:
                files[CONFIG] = json.load(f) | files.get(CONFIG, {})
            if WHOLE in files:
                with open(f"{folder}/{WHOLE}") as f:
                    whole = json.load(f)
                whole["added_tokens"] += files.pop(WHOLE)
                added = dict(added_tokens=whole["added_tokens"])
                json.dump(whole, open(f"{folder}/{WHOLE}", "w"))
            else:
                os.unlink(f"{folder}/{WHOLE}")
                added = {}
            for file, value in files.items():
                json.dump(value, open(f"{folder}/{file}", "w"))
            tokenizer = CLIPTokenizer.from_pretrained(folder)
            texts = [mixin.maybe_convert_prompt(text, tokenizer) for text in TEXTS]
            ids = [tokenizer(text, padding="max_length").input_ids for text in texts]
            out["cases"][name] = dict(files=files, size=max(tokenizer.get_vocab().values()) + 1, ids=ids) | added
    with open(path("tokenizer/added.json"), "w") as f:
        f.write(json.dumps(out, separators=(",", ":")).replace('},"', '},\n"'))
        f.write("\n")
