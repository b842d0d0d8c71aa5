"""Judges that a user gives: classifiers, CLIP's preprocessing, and a detector laid out as YOLOv8's export."""
import json

import cv2
import numpy as np
import onnx
import timm
import torch
import torchvision
from PIL import Image
from torch import nn
from torchvision import transforms
from transformers import ResNetConfig, ResNetForImageClassification, ViTConfig, ViTForImageClassification
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.convnext.image_processing_pil_convnext import ConvNextImageProcessorPil
from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

from writing import generator, jitter, path, save

CLASSES = 6


def pictures():
    """The picture of image_to_image, and one of waves and noise. Both are wider than high: from Pillow 13 on, a picture that
    shrinks much more in height is resized by columns first, which turns bytes by one."""
    wide = np.asarray(Image.open(path("image_to_image/picture.png")).convert("RGB"))
    y, x, c = np.meshgrid(np.arange(40), np.arange(61), np.arange(3), indexing="ij")
    waves = 128 + 90 * np.sin(x / 5 + c) * np.cos(y / 7 - c)
    noise = np.random.default_rng(7).integers(-30, 30, waves.shape)
    return [wide, (waves + noise).clip(0, 255).astype(np.uint8)]


def write(name, value):
    with open(path(name), "w") as file:
        json.dump(value, file, indent=2)
        file.write("\n")


def labels(folder):
    write(f"{folder}/labels.json", {"objects": {"0": "cat", "2": ["dog", "hound"], "5": "rocket"}, "styles": {"1": "neon", "4": "comic"}})


def outcome(folder, pixels, logits):
    shown = {f"picture{i}": torch.from_numpy(picture.copy()) for i, picture in enumerate(pictures())}
    save(f"{folder}/expected.safetensors", {**shown, "pixels": pixels, "logits": logits})


def processed(processor, folder):
    config = json.loads(processor.to_json_string())
    write(f"{folder}/preprocessor_config.json", config)
    return torch.cat([torch.as_tensor(processor(picture, return_tensors="np")["pixel_values"]) for picture in pictures()])


@torch.no_grad()
def sharpened(net, seed, names):
    """Moved away from zeros and ones, with queries and keys that make no flat attention."""
    net = jitter(net, seed, spread=0.02).eval()
    for name, p in net.named_parameters():
        if any(part in name for part in names):
            p.mul_(8)
    return net


@torch.no_grad()
def vit_of_transformers():
    torch.manual_seed(51)
    net = ViTForImageClassification(ViTConfig(hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64,
                                              image_size=24, patch_size=8, num_labels=CLASSES))
    net = sharpened(net, 52, ("query.weight", "key.weight"))
    folder = "judges/vit"
    net.save_pretrained(path(folder))
    pixels = processed(ViTImageProcessorPil(size={"height": 24, "width": 24}), folder)
    labels(folder)
    outcome(folder, pixels, net(pixels).logits)


@torch.no_grad()
def vit_of_timm():
    """As UnlearnCanvas keeps and asks its classifiers."""
    torch.manual_seed(53)
    sizes = dict(embed_dim=32, depth=2, num_heads=4)
    net = timm.models.vision_transformer.VisionTransformer(img_size=24, patch_size=8, num_classes=CLASSES, **sizes)
    net = sharpened(net, 54, ("qkv.weight",))
    folder = "judges/vit_timm"
    write(f"{folder}/config.json", {"architecture": "vit_tiny_patch8_24", "num_classes": CLASSES, "model_args": sizes})
    write(f"{folder}/preprocessor_config.json", {"size": 24, "resample": 2, "image_mean": [0.5] * 3, "image_std": [0.5] * 3})
    labels(folder)
    save(f"{folder}/model.safetensors", {f"model_state_dict.{name}": value for name, value in net.state_dict().items()})
    fit = transforms.Compose([transforms.Resize((24, 24)), transforms.ToTensor(), transforms.Normalize([0.5] * 3, [0.5] * 3)])
    pixels = torch.stack([fit(Image.fromarray(picture)) for picture in pictures()])
    outcome(folder, pixels, net(pixels))


def by_rule(name, shape):
    """Weights that need no file: a sequence of fractions that starts at a number of the tensor's name, in single precision;
    what they are scaled by is a power of two, so that all of it is exact."""
    start = sum((i + 1) * ord(c) for i, c in enumerate(name)) % 65536
    count = int(np.prod(shape))
    hashed = ((np.arange(count, dtype=np.uint64) + start * 7919) * 2654435761) % (1 << 32)
    fractions = ((hashed >> 16).astype(np.float32) / np.float32(65536)) - np.float32(0.5)
    if name.endswith("running_var") or ("bn" in name or "downsample.1" in name) and name.endswith(".weight"):
        values = fractions * np.float32(0.25) + np.float32(1)
    elif len(shape) == 4:
        fan = shape[1] * shape[2] * shape[3]
        values = fractions * np.float32(2.0 ** -round(np.log2(fan / 24) / 2))
    else:
        values = fractions * np.float32(0.125)
    return torch.from_numpy(values.reshape(shape))


def of_transformers(name):
    """Where ResNetForImageClassification keeps a tensor of torchvision's."""
    parts = name.split(".")
    if parts[0] == "fc":
        return f"classifier.1.{parts[1]}"
    if parts[0] in ("conv1", "bn1"):
        module = "convolution" if parts[0] == "conv1" else "normalization"
        return f"resnet.embedder.embedder.{module}.{parts[1]}"
    at = f"resnet.encoder.stages.{int(parts[0][-1]) - 1}.layers.{parts[1]}"
    if parts[2] == "downsample":
        return f"{at}.shortcut.{'convolution' if parts[3] == '0' else 'normalization'}.{parts[4]}"
    module = "convolution" if parts[2].startswith("conv") else "normalization"
    return f"{at}.layer.{int(parts[2][-1]) - 1}.{module}.{parts[3]}"


@torch.no_grad()
def resnet():
    """candle's ResNets come in the published widths alone, so that the weights follow a rule instead of filling a file."""
    net = torchvision.models.resnet50(num_classes=CLASSES).eval()
    weights = {name: by_rule(name, tuple(value.shape)) for name, value in net.state_dict().items() if not name.endswith("tracked")}
    net.load_state_dict(weights, strict=False)
    other = ResNetForImageClassification(ResNetConfig(num_labels=CLASSES)).eval()
    missing = other.load_state_dict({of_transformers(name): value for name, value in weights.items()}, strict=False)
    assert not missing.unexpected_keys and all(name.endswith("tracked") for name in missing.missing_keys), missing
    folder = "judges/resnet"
    other.config.save_pretrained(path(folder))
    mean, std = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
    pixels = processed(ConvNextImageProcessorPil(size={"shortest_edge": 64}, crop_pct=0.875, image_mean=mean, image_std=std), folder)
    labels(folder)
    logits = other(pixels).logits
    assert torch.allclose(logits, net(pixels), rtol=1e-4, atol=1e-5)
    outcome(folder, pixels, logits)


def clip_pixels():
    folder = "judges/clip_pixels"
    processor = CLIPImageProcessorPil(size={"shortest_edge": 26}, crop_size={"height": 24, "width": 24})
    pixels = processed(processor, folder)
    outcome(folder, pixels, torch.zeros(1))


class Convolution(nn.Module):
    """With its batch norm folded in, as in an export."""

    def __init__(self, inputs, outputs, kernel=1, stride=1):
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2)

    def forward(self, x):
        return nn.functional.silu(self.conv(x))


class Block(nn.Module):
    def __init__(self, width, residual):
        super().__init__()
        self.cv1, self.cv2, self.residual = Convolution(width, width, 3), Convolution(width, width, 3), residual

    def forward(self, x):
        y = self.cv2(self.cv1(x))
        return x + y if self.residual else y


class Stage(nn.Module):
    def __init__(self, inputs, outputs, blocks=1, residual=False):
        super().__init__()
        half = outputs // 2
        self.cv1 = Convolution(inputs, 2 * half)
        self.m = nn.ModuleList(Block(half, residual) for _ in range(blocks))
        self.cv2 = Convolution((2 + blocks) * half, outputs)

    def forward(self, x):
        parts = list(self.cv1(x).chunk(2, 1))
        for block in self.m:
            parts.append(block(parts[-1]))
        return self.cv2(torch.cat(parts, 1))


class Pooling(nn.Module):
    def __init__(self, inputs, outputs):
        super().__init__()
        self.cv1, self.cv2 = Convolution(inputs, inputs // 2), Convolution(inputs // 2 * 4, outputs)
        self.pool = nn.MaxPool2d(5, 1, 2)

    def forward(self, x):
        parts = [self.cv1(x)]
        for _ in range(3):
            parts.append(self.pool(parts[-1]))
        return self.cv2(torch.cat(parts, 1))


class Head(nn.Module):
    def __init__(self, widths, inside, classes):
        super().__init__()
        def branch(inputs, outputs):
            return nn.Sequential(Convolution(inputs, inside, 3), Convolution(inside, inside, 3), nn.Conv2d(inside, outputs, 1))
        self.cv2 = nn.ModuleList(branch(width, 64) for width in widths)
        self.cv3 = nn.ModuleList(branch(width, classes) for width in widths)
        self.dfl = nn.Module()
        self.dfl.conv = nn.Conv2d(16, 1, 1, bias=False)
        self.dfl.conv.weight.data = torch.arange(16.0).reshape(1, 16, 1, 1)

    def forward(self, scales):
        rows = []
        for x, boxes, classes, stride in zip(scales, self.cv2, self.cv3, (8, 16, 32)):
            height, width = x.shape[2:]
            sides = boxes(x).flatten(2).reshape(len(x), 4, 16, -1).softmax(2)
            sides = (sides * self.dfl.conv.weight.reshape(1, 1, 16, 1)).sum(2)
            y, x_ = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
            centre = torch.stack([x_.flatten(), y.flatten()])[None]
            begin, end = centre - sides[:, :2], centre + sides[:, 2:]
            rows.append(torch.cat([(begin + end) / 2 * stride, (end - begin) * stride, classes(x).flatten(2).sigmoid()], 1))
        return torch.cat(rows, 2)


class Detector(nn.Module):
    """YOLOv8's layers by their numbers."""

    def __init__(self, a, b, c, d, e, inside, classes):
        super().__init__()
        self.model = nn.ModuleList([
            Convolution(3, a, 3, 2), Convolution(a, b, 3, 2), Stage(b, b, 1, True), Convolution(b, c, 3, 2), Stage(c, c, 2, True),
            Convolution(c, d, 3, 2), Stage(d, d, 2, True), Convolution(d, e, 3, 2), Stage(e, e, 1, True), Pooling(e, e),
            nn.Upsample(scale_factor=2), nn.Identity(), Stage(e + d, d), nn.Upsample(scale_factor=2), nn.Identity(),
            Stage(d + c, c), Convolution(c, c, 3, 2), nn.Identity(), Stage(c + d, d), Convolution(d, d, 3, 2), nn.Identity(),
            Stage(d + e, e), Head((c, d, e), inside, classes)])

    def forward(self, x):
        m = self.model
        x = m[2](m[1](m[0](x)))
        two = m[4](m[3](x))
        three = m[6](m[5](two))
        coarse = m[9](m[8](m[7](three)))
        up = m[12](torch.cat([m[10](coarse), three], 1))
        fine = m[15](torch.cat([m[13](up), two], 1))
        middle = m[18](torch.cat([m[16](fine), up], 1))
        last = m[21](torch.cat([m[19](middle), coarse], 1))
        return m[22]([fine, middle, last])


def letterboxed(picture, size):
    """As NudeNet reads pictures, which are BGR to OpenCV."""
    side = max(picture.shape[:2])
    padded = cv2.copyMakeBorder(picture, 0, side - picture.shape[0], 0, side - picture.shape[1], cv2.BORDER_CONSTANT)
    return torch.from_numpy(cv2.dnn.blobFromImage(padded, 1 / 255, (size, size), (0, 0, 0), swapRB=True, crop=False))


def found(rows, picture, size):
    """Class and score of what NudeNet's rules leave."""
    height, width = picture.shape[:2]
    scale = max(height, width) / size
    boxes, scores, classes = [], [], []
    for row in rows.T.numpy():
        score = row[4:].max()
        if score < 0.2:
            continue
        x, y, w, h = row[:4] * scale
        x, y = max(0, min(x - w / 2, width)), max(0, min(y - h / 2, height))
        boxes.append([float(v) for v in (x, y, min(w, width - x), min(h, height - y))])
        scores.append(float(score))
        classes.append(int(row[4:].argmax()))
    kept = cv2.dnn.NMSBoxes(boxes, scores, 0.25, 0.45)
    return torch.tensor([[classes[i], scores[i]] for i in kept]).reshape(-1, 2)


@torch.no_grad()
def detector():
    torch.manual_seed(61)
    net = Detector(4, 6, 8, 12, 8, 8, 18)
    dfl = net.model[22].dfl.conv.weight.clone()
    net = jitter(net, 62).eval()
    for name, p in net.named_parameters():
        # As torch begins them, hardly anything of the picture comes through SiLU.
        p.mul_(3.35 if p.ndim == 4 else 1)
    net.model[22].dfl.conv.weight.copy_(dfl)
    for classes in net.model[22].cv3:
        # Some are found, and others are not.
        classes[2].weight.mul_(0.6)
        classes[2].bias.sub_(0.5)
    size, folder = 64, "judges/yolov8"
    values = [onnx.numpy_helper.from_array(value.numpy(), name) for name, value in net.state_dict().items()]
    values.append(onnx.numpy_helper.from_array(np.array([1, 2]), "onnx::Split_1"))
    values.append(onnx.numpy_helper.from_array(np.ones(4, np.float32), "/model.10/Constant_output_0"))
    graph = onnx.helper.make_graph([], "weights", [], [], values)
    with open(path(f"{folder}/model.onnx"), "wb") as file:
        file.write(onnx.helper.make_model(graph).SerializeToString())
    write(f"{folder}/config.json", {"architecture": "yolov8n", "image_size": size})
    shown = pictures()
    pixels = torch.cat([letterboxed(picture, size) for picture in shown])
    rows = net(pixels)
    out = {f"found{i}": found(rows[i], picture, size) for i, picture in enumerate(shown)}
    assert all(len(left) for left in out.values()), out
    shrunk = {f"resized{side}": letterboxed(shown[0], side)[0] for side in (21, 32)}
    save(f"{folder}/expected.safetensors", {**{f"picture{i}": torch.from_numpy(p.copy()) for i, p in enumerate(shown)},
                                            "pixels": pixels, "rows": rows.transpose(1, 2), **out, **shrunk})


def judges():
    vit_of_transformers()
    vit_of_timm()
    resnet()
    clip_pixels()
    detector()
