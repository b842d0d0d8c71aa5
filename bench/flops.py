"""Floating-point operations of the networks, counted from their configs: two for each multiplication
in a product of matrices or a convolution; norms, activations and the like are left out.
"""


class Counter:
    """Collects the products of a forward pass in order, and which of them a backward pass repeats."""

    def __init__(self, in_scope):
        self.in_scope = in_scope  # tells of a weight's name whether it is trained; none: no backward pass
        self.forward = self.backward = 0

    def layer(self, name, multiplications, tracked):
        """A layer with weights; gives whether a gradient flows through its result."""
        self.forward += multiplications
        trained = self.in_scope is not None and self.in_scope(name)
        self.backward += multiplications * (trained + tracked)
        return trained or tracked

    def attention(self, multiplications, query, key, value):
        """Scores and weighted values of one attention, `multiplications` each."""
        self.forward += 2 * multiplications
        scores = query or key
        self.backward += multiplications * (query + key + scores + value)
        return scores or value

    def total(self):
        return 2 * (self.forward + self.backward)


def unet(config, batch, side, tokens, in_scope=None):
    count = Counter(in_scope)
    channels, levels = config["block_out_channels"], len(config["block_out_channels"])
    per_block = config["layers_per_block"]
    time_width = channels[0] * 4
    time = count.layer("time_embedding.linear_1", batch * channels[0] * time_width, False)
    time = count.layer("time_embedding.linear_2", batch * time_width * time_width, time)
    text = config["cross_attention_dim"]

    def resnet(at, inputs, outputs, side, x):
        pixels = batch * side * side
        count_time = count.layer(f"{at}.time_emb_proj", batch * time_width * outputs, time)
        y = count.layer(f"{at}.conv1", pixels * inputs * outputs * 9, x or norm(f"{at}.norm1"))
        y = count.layer(f"{at}.conv2", pixels * outputs * outputs * 9, y or count_time or norm(f"{at}.norm2"))
        if inputs != outputs:
            x = count.layer(f"{at}.conv_shortcut", pixels * inputs * outputs, x)
        return x or y

    def norm(name):
        return count.in_scope is not None and count.in_scope(name)

    def transformer(at, c, side, x):
        n = side * side
        x_in = count.layer(f"{at}.proj_in", batch * n * c * c, x or norm(f"{at}.norm"))
        block = f"{at}.transformer_blocks.0"
        for name, length, width in ((f"{block}.attn1", n, c), (f"{block}.attn2", tokens, text)):
            query_in = x_in or norm(f"{block}.norm1")
            context = query_in if name.endswith("attn1") else False
            q = count.layer(f"{name}.to_q", batch * n * c * c, query_in)
            k = count.layer(f"{name}.to_k", batch * length * width * c, context)
            v = count.layer(f"{name}.to_v", batch * length * width * c, context)
            y = count.attention(batch * n * length * c, q, k, v)
            x_in = count.layer(f"{name}.to_out.0", batch * n * c * c, y) or x_in
        y = count.layer(f"{block}.ff.net.0.proj", batch * n * c * c * 8, x_in or norm(f"{block}.norm3"))
        x_in = count.layer(f"{block}.ff.net.2", batch * n * c * c * 4, y) or x_in
        return count.layer(f"{at}.proj_out", batch * n * c * c, x_in) or x

    x = count.layer("conv_in", batch * side * side * config["in_channels"] * channels[0] * 9, False)
    skips, inputs = [(channels[0], x)], channels[0]
    for level, kind in enumerate(config["down_block_types"]):
        at = f"down_blocks.{level}"
        for index in range(per_block):
            x = resnet(f"{at}.resnets.{index}", inputs, channels[level], side, x)
            inputs = channels[level]
            if kind.startswith("CrossAttn"):
                x = transformer(f"{at}.attentions.{index}", inputs, side, x)
            skips.append((inputs, x))
        if level + 1 < levels:
            side //= 2
            x = count.layer(f"{at}.downsamplers.0.conv", batch * side * side * inputs * inputs * 9, x)
            skips.append((inputs, x))
    x = resnet("mid_block.resnets.0", inputs, inputs, side, x)
    x = transformer("mid_block.attentions.0", inputs, side, x)
    x = resnet("mid_block.resnets.1", inputs, inputs, side, x)
    for index, kind in enumerate(config["up_block_types"]):
        at, level = f"up_blocks.{index}", levels - 1 - index
        for layer in range(per_block + 1):
            skip, skip_tracked = skips.pop()
            x = resnet(f"{at}.resnets.{layer}", inputs + skip, channels[level], side, x or skip_tracked)
            inputs = channels[level]
            if kind.startswith("CrossAttn"):
                x = transformer(f"{at}.attentions.{layer}", inputs, side, x)
        if level > 0:
            side *= 2
            x = count.layer(f"{at}.upsamplers.0.conv", batch * side * side * inputs * inputs * 9, x)
    count.layer("conv_out", batch * side * side * channels[0] * config["out_channels"] * 9, x or norm("conv_norm_out"))
    return count.total()


def vae_decoder(config, batch, side):
    channels = config["block_out_channels"][::-1]
    latent, pixels, inputs = config["latent_channels"], batch * side * side, channels[0]
    total = pixels * latent * latent + pixels * latent * inputs * 9
    total += 4 * pixels * inputs * inputs * 9                               # the middle's two resnets
    total += 4 * pixels * inputs * inputs + 2 * pixels * side * side * inputs  # its attention
    for level, outputs in enumerate(channels):
        for _ in range(config["layers_per_block"] + 1):
            total += pixels * (inputs + outputs) * outputs * 9
            total += pixels * inputs * outputs if inputs != outputs else 0
            inputs = outputs
        if level + 1 < len(channels):
            pixels *= 4
            total += pixels * inputs * inputs * 9
    return 2 * (total + pixels * inputs * config["out_channels"] * 9)
