"""Row-wise operations of PyTorch and einkorn in turn: blocks of calls of the one, then of the other, in one run.

    torch_ops.py --bench EINKORN_BENCH --out FILE [--threads N] [--quick]

Run it with the Python of an environment that has PyTorch, and with LD_PRELOAD=libtcmalloc_minimal.so.4, without which
"usual" measures page faults. einkorn answers from a process of its own
(einkorn_bench --serve). PyTorch is measured twice: writing into the same output every time ("out"), where
it has a way to, and as it is usually called, allocating the output ("usual").
"""
import argparse
import json
import os
import subprocess
import time

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--bench", required=True)
parser.add_argument("--out", required=True)
parser.add_argument("--threads", type=int, default=min(2, os.cpu_count() or 1))
parser.add_argument("--quick", action="store_true")
args = parser.parse_args()
os.environ["OMP_NUM_THREADS"] = str(args.threads)

import torch  # noqa: E402

from statistics_of_pairs import median_interval  # noqa: E402

torch.set_num_threads(args.threads)
torch.manual_seed(0)
aten = torch.ops.aten
TOKENS, SCORES, LENGTH, CLASSES = 4608, 144 * 384, 384, 30522


def softmax(t):
    x, y = torch.randn(SCORES, LENGTH).to(t), torch.empty(SCORES, LENGTH, dtype=t)
    return {"out": lambda: aten._softmax.out(x, -1, False, out=y), "usual": lambda: aten._softmax(x, -1, False)}


def softmax_backward(t):
    y, dy = torch.randn(SCORES, LENGTH).softmax(-1).to(t), torch.randn(SCORES, LENGTH).to(t)
    dx = torch.empty_like(y)
    return {"out": lambda: aten._softmax_backward_data.out(dy, y, -1, t, grad_input=dx),
            "usual": lambda: aten._softmax_backward_data(dy, y, -1, t)}


def layernorm(t):
    x, g, b = torch.randn(TOKENS, 768).to(t), torch.randn(768).to(t), torch.randn(768).to(t)
    y, mean, rstd = aten.native_layer_norm(x, [768], g, b, 1e-12)
    return {"out": lambda: aten.native_layer_norm.out(x, [768], g, b, 1e-12, out0=y, out1=mean, out2=rstd),
            "usual": lambda: aten.native_layer_norm(x, [768], g, b, 1e-12)}


def layernorm_backward(t):
    x, dy, g, b = (torch.randn(TOKENS, 768).to(t), torch.randn(TOKENS, 768).to(t), torch.randn(768).to(t),
                   torch.randn(768).to(t))
    _, mean, rstd = aten.native_layer_norm(x, [768], g, b, 1e-12)
    dx, dg, db = torch.empty_like(x), torch.empty_like(g), torch.empty_like(b)
    every = [True, True, True]
    return {"out": lambda: aten.native_layer_norm_backward.out(dy, x, [768], mean, rstd, g, b, every, out0=dx,
                                                               out1=dg, out2=db),
            "usual": lambda: aten.native_layer_norm_backward(dy, x, [768], mean, rstd, g, b, every)}


def gelu(t):
    x = torch.randn(TOKENS, 3072).to(t)
    y = torch.empty_like(x)
    return {"out": lambda: aten.gelu.out(x, out=y), "usual": lambda: aten.gelu(x)}


def gelu_backward(t):
    x, dy = torch.randn(TOKENS, 3072).to(t), torch.randn(TOKENS, 3072).to(t)
    dx = torch.empty_like(x)
    return {"out": lambda: aten.gelu_backward.grad_input(dy, x, grad_input=dx),
            "usual": lambda: aten.gelu_backward(dy, x)}


def dropout(t):
    x = torch.randn(SCORES, LENGTH).to(t)
    return {"usual": lambda: aten.native_dropout(x, 0.1, True)}


def dropout_residual_layernorm(t):
    x, residual = torch.randn(TOKENS, 768).to(t), torch.randn(TOKENS, 768)
    g, b = torch.randn(768), torch.randn(768)

    def call():
        y = torch.nn.functional.layer_norm(torch.nn.functional.dropout(x, 0.1) + residual, [768], g, b, 1e-12)
        return y.to(t)
    return {"usual": call}


def cross_entropy(t):
    x = torch.randn(TOKENS, CLASSES).to(t).requires_grad_()
    targets = torch.randint(0, CLASSES, (TOKENS,))

    def call():
        x.grad = None
        torch.nn.functional.cross_entropy(x, targets).backward()
    return {"usual": call}


def parameters():
    shapes = [(30522, 768), (512, 768), (2, 768), (768,), (768,)]
    for _ in range(12):
        shapes += [(768, 768), (768,)] * 4 + [(768,), (768,), (3072, 768), (3072,), (768, 3072), (768,), (768,), (768,)]
    out = [torch.nn.Parameter(torch.randn(s) * 0.02) for s in shapes + [(2, 768), (2,)]]
    for p in out:
        p.grad = torch.randn_like(p) * 1e-3
    return out


def adamw(t):
    if t != torch.float32:
        return {}
    optimizer = torch.optim.AdamW(parameters(), lr=3e-5, fused=True)
    return {"out": optimizer.step}


def gradient_norm(t):
    held = parameters()
    return {"out": lambda: torch.nn.utils.get_total_norm([p.grad for p in held])}


def attention(dropout_p, backward):
    def make(t):
        # [batch, heads, length, columns] views of what three projections write, as Transformers makes them.
        leaves = [torch.randn(12, LENGTH, 12, 64).to(t).requires_grad_(backward) for _ in range(3)]
        q, k, v = (leaf.transpose(1, 2) for leaf in leaves)

        def plain():
            p = torch.nn.functional.softmax(q @ k.transpose(2, 3) * 0.125, -1)
            p = torch.nn.functional.dropout(p, dropout_p)
            return (p @ v).transpose(1, 2).reshape(TOKENS, 768)

        def flash():
            return torch.nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(TOKENS, 768)

        forward = plain if dropout_p > 0 else flash  # with dropout the flash kernel refuses
        if not backward:
            def call():
                with torch.no_grad():
                    forward()
            return {"usual": call}
        out = forward()
        dout = torch.randn_like(out)

        def call():
            for leaf in leaves:
                leaf.grad = None
            out.backward(dout, retain_graph=True)
        return {"usual": call}
    return make


OPERATIONS = {
    "softmax": softmax, "softmax_backward": softmax_backward, "layernorm": layernorm,
    "layernorm_backward": layernorm_backward, "gelu": gelu, "gelu_backward": gelu_backward, "dropout": dropout,
    "dropout_residual_layernorm": dropout_residual_layernorm, "cross_entropy": cross_entropy, "adamw": adamw,
    "gradient_norm": gradient_norm, "attention": attention(0.1, False), "attention_backward": attention(0.1, True),
    "attention_nodrop": attention(0.0, False), "attention_nodrop_backward": attention(0.0, True)}
QUICK = ["softmax", "layernorm", "gelu", "dropout", "attention"]


class Einkorn:
    def __init__(self):
        environment = {name: value for name, value in os.environ.items() if name != "LD_PRELOAD"}
        self.process = subprocess.Popen([args.bench, "--serve", f"--threads={args.threads}"], text=True,
                                        stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment)

    def ask(self, request):
        self.process.stdin.write(request + "\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline().strip()
        if not answer or answer.startswith("error"):
            raise RuntimeError(f"einkorn_bench: {request}: {answer or 'ended'}")
        return answer


def mean_seconds(call, budget):
    call()
    start, count = time.perf_counter(), 0
    while count == 0 or time.perf_counter() - start < budget:
        call()
        count += 1
    return (time.perf_counter() - start) / count


def main():
    ours = Einkorn()
    budget, rounds = (0.02, 5) if args.quick else (0.05, 11)
    rows = []
    for name, make in OPERATIONS.items():
        if args.quick and name not in QUICK:
            continue
        for type_name, t in (("f32", torch.float32), ("bf16", torch.bfloat16)):
            if name == "gradient_norm" and type_name != "f32":
                continue
            calls = make(t)
            if not calls:
                continue
            shape = ours.ask(f"prepare {name} {type_name} reused").split()[1]
            row = {"name": name, "type": type_name, "shape": shape, "seconds": [], "rivals": {}}
            pairs = {variant: [] for variant in calls}
            times = {variant: [] for variant in calls}
            slow = max(mean_seconds(call, 0) for call in calls.values()) > 0.1
            for _ in range(5 if slow else rounds):
                own = float(ours.ask(f"run {budget}"))
                row["seconds"].append(own)
                for variant, call in calls.items():
                    time.sleep(0.01)  # the threads of the other process go to sleep
                    times[variant].append(mean_seconds(call, budget))
                    pairs[variant].append(times[variant][-1] / own)
                time.sleep(0.01)
            for variant in calls:
                median, low, high = median_interval(pairs[variant])
                row["rivals"][f"torch_{variant}"] = {"seconds": times[variant], "ratio": median, "low": low,
                                                     "high": high}
            rows.append(row)
            print(f"{name}/{type_name}/{shape}: {median_interval(row['seconds'])[0] * 1e3:.3f} ms  " +
                  "  ".join(f"{k} {v['ratio']:.2f} x [{v['low']:.2f}, {v['high']:.2f}]"
                            for k, v in row["rivals"].items()), flush=True)
            with open(args.out, "w") as file:
                json.dump({"date": time.strftime("%Y-%m-%d"), "torch": torch.__version__, "threads": args.threads,
                           "preload": os.environ.get("LD_PRELOAD", ""), "rows": rows}, file, indent=1)
    ours.process.stdin.close()
    ours.process.wait()


main()
