#!/usr/bin/env python3
"""Times OpenVINO on the vision encoder and projector of a shape with random weights, one tile at a time. Prints JSON.

  ov_vit.py SHAPE.json THREADS REPS [bf16|f32]

The graph is built from OpenVINO's own operations; attention is its ScaledDotProductAttention.
"""
import json, sys, time
import numpy as np
import openvino as ov
from openvino import opset13 as op

RNG = np.random.default_rng(7)


def const(*shape, std):
    return op.constant((RNG.standard_normal(shape, dtype=np.float32) * np.float32(std)))


def linear(x, n, k):
    return op.add(op.matmul(x, const(n, k, std=k ** -0.5), False, True), const(n, std=0.01))


def norm(x, width):
    y = op.mvn(x, np.array([-1]), True, 1e-6, "INSIDE_SQRT")
    return op.add(op.multiply(y, const(width, std=1.0)), const(width, std=0.01))


def split(x, rows, heads, width):
    return op.transpose(op.reshape(x, np.array([1, rows, heads, width // heads]), False), np.array([0, 2, 1, 3]))


def graph(s):
    E, heads, side, patch, ff, merge, out = (s[k] for k in ("hidden", "heads", "image", "patch", "mlp", "merge", "proj_dim"))
    g = side // patch
    rows = g * g + 1
    tile = op.parameter([1, 3, side, side], np.float32)
    x = op.convolution(tile, const(E, 3, patch, patch, std=0.02), [patch, patch], [0, 0], [0, 0], [1, 1])
    x = op.transpose(op.reshape(x, np.array([1, E, g * g]), False), np.array([0, 2, 1]))
    x = op.add(op.concat([const(1, 1, E, std=0.02), x], 1), const(1, rows, E, std=0.02))
    for _ in range(s["layers"]):
        y = norm(x, E)
        q, k, v = (split(linear(y, E, E), rows, heads, E) for _ in range(3))
        y = op.scaled_dot_product_attention(q, k, v)
        y = linear(op.reshape(op.transpose(y, np.array([0, 2, 1, 3])), np.array([1, rows, E]), False), E, E)
        x = op.add(x, op.multiply(y, const(E, std=0.1)))
        y = linear(op.gelu(linear(norm(x, E), ff, E), "erf"), E, ff)
        x = op.add(x, op.multiply(y, const(E, std=0.1)))
    x = op.slice(x, np.array([1]), np.array([rows]), np.array([1]), np.array([1]))
    q, wide = g // merge, E * merge * merge
    x = op.reshape(x, np.array([1, q, merge, q, merge, E]), False)
    x = op.reshape(op.transpose(x, np.array([0, 1, 3, 2, 4, 5])), np.array([1, q * q, wide]), False)
    x = linear(op.gelu(linear(norm(x, wide), out, wide), "erf"), out, out)
    return ov.Model([x], [tile])


def main():
    shape, threads, reps, kind = json.load(open(sys.argv[1])), int(sys.argv[2]), int(sys.argv[3]), (sys.argv[4:] or ["bf16"])[0]
    settings = {"INFERENCE_NUM_THREADS": threads, "INFERENCE_PRECISION_HINT": kind, "PERFORMANCE_HINT": "LATENCY", "NUM_STREAMS": 1}
    request = ov.Core().compile_model(graph(shape), "CPU", settings).create_infer_request()
    tile = RNG.standard_normal((1, 3, shape["image"], shape["image"]), dtype=np.float32)
    request.infer({0: tile})
    ms = []
    for _ in range(reps):
        start = time.perf_counter()
        request.infer({0: tile})
        ms.append(round((time.perf_counter() - start) * 1e3, 1))
    print(json.dumps({"version": ov.__version__, "ms": ms, "finite": bool(np.isfinite(request.get_output_tensor(0).data).all())}))


main()
