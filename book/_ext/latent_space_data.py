"""The data of the live figure ``latent-space`` (chapter 9): the decoder, the codes and the images of the digits.

    python book/_ext/latent_space_data.py

writes book/_static/interactive/data/latent-space.js from `course_lib.pretrained.pretrained_vae(2)`. Run it again when
that model was trained anew; a test fails until then. The numbers of a row are integers of BYTES bytes, a share of
the largest number of the row; the page must give the same probabilities of ink as the model, to TOLERANCE.
"""

import base64
import json
import math
from pathlib import Path

import numpy as np
import torch

from course_lib.data import load_digits
from course_lib.pretrained import pretrained_vae

TARGET = Path(__file__).resolve().parents[1] / "_static" / "interactive" / "data" / "latent-space.js"
BYTES = 3
TOLERANCE = 1e-4
ACTIVATIONS = ("relu", "silu", "tanh")  # those that latent-space.js knows
N_TRAIN = 1437
LINE = 100
ABOUT = "/* Made by book/_ext/latent_space_data.py from the trained model of chapter 9: do not edit. */\n"
BEGIN = 'CourseFigure.data["latent-space"] = '


def digits() -> tuple[torch.Tensor, torch.Tensor]:
    """Binary images and labels in the order of the chapter: first those for training, then those for the test."""
    data = load_digits()
    order = torch.from_numpy(np.random.RandomState(0).permutation(len(data.x)))
    return (data.x[order] >= 0.5).to(data.x.dtype), data.y[order]


def lines(content: bytes) -> list[str]:
    text = base64.b64encode(content).decode()
    return [text[i : i + LINE] for i in range(0, len(text), LINE)]


def pack(matrix: torch.Tensor, n_bytes: int = BYTES) -> dict:
    """Each row as integers, little end first, with the number that the largest of them stands for."""
    tops = [float(f"{top:.9g}") for top in matrix.abs().amax(1).clamp(min=1e-9).tolist()]
    highest = 256**n_bytes // 2 - 1
    shares = (matrix / torch.tensor(tops, dtype=matrix.dtype)[:, None]).clamp(-1, 1)
    integers = (shares * highest).round().to(torch.int64).flatten().tolist()
    content = b"".join(value.to_bytes(n_bytes, "little", signed=True) for value in integers)
    return {"bytes": n_bytes, "tops": tops, "lines": lines(content)}


def unpack(packed: dict) -> torch.Tensor:
    """What `pack` has packed, as the page reads it."""
    content, n_bytes, rows = base64.b64decode("".join(packed["lines"])), packed["bytes"], len(packed["tops"])
    starts = range(0, len(content), n_bytes)
    integers = [int.from_bytes(content[i : i + n_bytes], "little", signed=True) for i in starts]
    shares = torch.tensor(integers, dtype=torch.float64).reshape(rows, -1) / (256**n_bytes // 2 - 1)
    return shares * torch.tensor(packed["tops"], dtype=torch.float64)[:, None]


@torch.no_grad()
def contents(model) -> dict:
    """All that the page needs of a VAE with two latent dimensions."""
    if model.latent_dim != 2 or model.likelihood != "bernoulli" or model.decoder.activation not in ACTIVATIONS:
        raise ValueError(
            f"the page needs latent_dim 2, a Bernoulli likelihood and an activation of {', '.join(ACTIVATIONS)}; the "
            f"model has {model.latent_dim}, {model.likelihood} and {model.decoder.activation}"
        )
    x, y = digits()
    q = model.encode(x)
    log_var = 2 * torch.diagonal(q.tril, dim1=-2, dim2=-1).log()
    layers = [
        {"weight": pack(weight), "bias": pack(bias[None])}
        for weight, bias in zip(model.decoder.weights, model.decoder.biases, strict=True)
    ]
    return {
        "activation": model.decoder.activation,
        "layers": layers,
        "codes": pack(torch.cat([q.mean.T, log_var.T])),  # two rows of means, two of log-variances
        "nTrain": N_TRAIN,
        "labels": "".join(map(str, y.tolist())),
        "images": lines(np.packbits(x.to(torch.uint8).numpy()).tobytes()),  # a byte for each row of an image
    }


@torch.no_grad()
def difference(data: dict, model, reach: float = 5.0) -> float:
    """The largest difference of a probability of ink between the packed decoder and the model, on a grid."""
    side = torch.linspace(-reach, reach, 101, dtype=torch.float64)
    z = torch.cartesian_prod(side, side)
    h, activation = z, getattr(torch, data["activation"], None) or getattr(torch.nn.functional, data["activation"])
    for layer in data["layers"]:
        a = h @ unpack(layer["weight"]).T + unpack(layer["bias"])
        h = activation(a)
    return (a.sigmoid() - model.decode(z)).abs().max().item()


def read(path: Path = TARGET) -> dict:
    """The data as they lie in the file."""
    text = path.read_text(encoding="utf-8")
    return json.loads(text[text.index(BEGIN) + len(BEGIN) :].rstrip().removesuffix(";"))


def text_of(data: dict) -> str:
    """The file: every key and every line of numbers on a line of its own."""

    def folded(tops):
        words, row = [], ""
        for word in [f"{top}," for top in tops]:
            if len(row) + len(word) > LINE:
                words.append(row)
                row = ""
            row += word
        return "[\n" + "\n".join([*words, row.removesuffix(",")]) + "]"

    def written(value):
        if isinstance(value, dict):
            return "{\n" + ",\n".join(f'"{key}": {written(one)}' for key, one in value.items()) + "}"
        if isinstance(value, list) and isinstance(value[0], float):
            return folded(value)
        if isinstance(value, list):
            return "[\n" + ",\n".join(map(written, value)) + "]"
        return json.dumps(value)

    return ABOUT + BEGIN + written(data) + ";\n"


def main() -> None:
    model = pretrained_vae(2, dtype=torch.float64)
    data = contents(model)
    worst = difference(data, model)
    if not math.isfinite(worst) or worst > TOLERANCE:
        raise SystemExit(f"the page's probabilities would differ by {worst:.1e} from the model's: raise BYTES")
    TARGET.parent.mkdir(exist_ok=True)
    TARGET.write_text(text_of(data), encoding="utf-8", newline="\n")
    print(f"Made {TARGET.name}: {TARGET.stat().st_size / 1000:.0f} kB, probabilities to {worst:.0e}")


if __name__ == "__main__":
    main()
