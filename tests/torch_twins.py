"""Record torch's results for networks with a twin in flax or equinox: ``python -m tests.torch_twins``."""

import functools
from pathlib import Path

import numpy as np

FOLDER = Path(__file__).parent / "reference" / "twins"
VOCABULARY, WIDTH, HEADS, HIDDEN, LAYERS, LENGTH, BATCH = 11, 16, 2, 24, 2, 7, 8
BEFORE, AFTER = 10, 20
MLP_SIZES = (5, 7, 3)
MLP_OPTIMIZERS = {
    "adamw": ("AdamW", {"lr": 1e-2}),
    "sgd": ("SGD", {"lr": 1e-2, "momentum": 0.9}),
    "adafactor": ("Adafactor", {"lr": 1e-2}),
    "muon": ("Muon", {"lr": 1e-2}),
    "lbfgs": ("LBFGS", {"lr": 0.5, "max_iter": 3, "history_size": 5}),
}


def token_batches():
    """Return the data of all steps: sequences, labeled with the sum of their tokens modulo the vocabulary size."""
    tokens = np.random.default_rng(0).integers(0, VOCABULARY, (BEFORE + AFTER, BATCH, LENGTH))
    return tokens, tokens.sum(-1) % VOCABULARY


def vector_batch():
    rng = np.random.default_rng(1)
    x = rng.normal(size=(BATCH, MLP_SIZES[0]))
    return x, np.sin(x[:, :3]) * 2


def transformer(dtype):
    """Return the model and optimizer after BEFORE steps, the scores there, and the parameters after all steps."""
    import torch

    torch.manual_seed(0)

    class Model(torch.nn.Module):
        def __init__(self):
            super().__init__()
            layer = torch.nn.TransformerEncoderLayer(WIDTH, HEADS, HIDDEN, dropout=0.0, batch_first=True)
            self.embed = torch.nn.Embedding(VOCABULARY, WIDTH)
            self.encoder = torch.nn.TransformerEncoder(layer, LAYERS, enable_nested_tensor=False)
            self.head = torch.nn.Linear(WIDTH, VOCABULARY)

        def forward(self, tokens):
            return self.head(self.encoder(self.embed(tokens)).mean(1))

    model = Model().to(getattr(torch, dtype))
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    tokens, labels = map(torch.tensor, token_batches())

    def step(index):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model(tokens[index]).double(), labels[index]).backward()
        optimizer.step()

    return _run(model, optimizer, step, lambda: model(tokens[BEFORE]))


def mlp(case):
    """Return a two-layer network under one of the optimizers; Muon gets only the matrices."""
    import torch

    torch.manual_seed(0)
    name, options = MLP_OPTIMIZERS[case]
    model = torch.nn.Sequential(
        torch.nn.Linear(*MLP_SIZES[:2]), torch.nn.Tanh(), torch.nn.Linear(*MLP_SIZES[1:])
    ).double()
    named = [(key, p) for key, p in model.named_parameters() if name != "Muon" or p.ndim == 2]
    optimizer = getattr(torch.optim, name)(named, **options)
    x, y = map(torch.tensor, vector_batch())

    def closure():
        model.zero_grad()
        value = ((model(x) - y) ** 2).mean()
        value.backward()
        return value

    return _run(model, optimizer, lambda _: optimizer.step(closure), lambda: model(x))


def _run(model, optimizer, step, forward):
    import copy

    for index in range(BEFORE):
        step(index)
    scores = forward().detach().clone()
    before = copy.deepcopy({"model": model.state_dict(), "optimizer": optimizer.state_dict()})
    for index in range(BEFORE, BEFORE + AFTER):
        step(index)
    return {**before, "scores": scores, "after": model.state_dict()}


def zoo():
    """Return each kind of layer's parameters, an input, and its output."""
    import torch
    from torch import nn

    torch.manual_seed(0)
    image, sequence = torch.randn(2, 4, 5, 6), torch.randn(2, 3, 8)
    layers = {
        "linear": (nn.Linear(8, 3), sequence),
        "conv1d": (nn.Conv1d(4, 6, 3, padding=1), image[:, :, 0]),
        "conv2d": (nn.Conv2d(4, 6, (3, 2)), image),
        "conv_groups": (nn.Conv2d(4, 6, 3, groups=2), image),
        "conv_transpose": (nn.ConvTranspose2d(4, 6, (3, 2)), image),
        "embedding": (nn.Embedding(5, 3), torch.arange(5)),
        "layer_norm": (nn.LayerNorm(8), sequence),
        "group_norm": (nn.GroupNorm(2, 4), image),
        "batch_norm": (nn.BatchNorm2d(4), image),
        "prelu": (nn.PReLU(), sequence),
        "attention": (nn.MultiheadAttention(8, 2, batch_first=True), sequence),
        "attention_dims": (nn.MultiheadAttention(8, 2, batch_first=True, kdim=3, vdim=5), sequence),
    }
    result = {}
    for name, (layer, x) in layers.items():
        for value in layer.state_dict().values():
            if value.is_floating_point():
                value.copy_(torch.rand_like(value) + 0.1)
        layer.eval()
        if name == "attention":
            y = layer(x, x, x)[0]
        elif name == "attention_dims":
            y = layer(x, x[..., :3], x[..., :5])[0]
        else:
            y = layer(x)
        result[name] = {"params": layer.state_dict(), "x": x, "y": y.detach()}
    return result


CASES = {
    **{f"transformer_{dtype}": functools.partial(transformer, dtype) for dtype in ("float64", "float32", "bfloat16")},
    **{f"mlp_{case}": functools.partial(mlp, case) for case in MLP_OPTIMIZERS},
    "zoo": zoo,
}


def record():
    import torch

    FOLDER.mkdir(exist_ok=True)
    for name, run in CASES.items():
        torch.save(run(), FOLDER / f"{name}.pt")


if __name__ == "__main__":
    record()
