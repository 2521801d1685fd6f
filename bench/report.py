"""Tables and plots of what bench/run.sh measured.

    report.py --results build/bench/results --out build/bench/report [--docs docs/benchmarks.md]

Writes gemm.md, rows.md and step.md, and with matplotlib SVG plots beside them. --docs also puts the tables
between the marks <!-- NAME --> and <!-- end --> of that file.
"""
import argparse
import datetime
import json
import math
import os
import re

from statistics_of_pairs import median_interval

PEER_NAMES = {"onednn": "oneDNN 3.2", "onednn_new": "oneDNN 3.13", "openblas": "OpenBLAS",
              "libxsmm": "libxsmm", "mkl": "MKL", "numkong": "NumKong",
              "torch": "PyTorch", "ipex": "IPEX", "ort": "ONNX Runtime", "torch_out": "PyTorch, output reused",
              "torch_usual": "PyTorch, usual call", "einkorn_f32": "our f32", "einkorn_plain": "ours without"}
GROUPS = [("BERT-base, 12 x 384 tokens", lambda s: max(s["dims"]) >= 768 and s["flop"] > 5e9 and "4608" in s["shape"]),
          ("Attention's products", lambda s: s["batch"] > 1),
          ("One to sixteen rows", lambda s: s["dims"][0] in (1, 4, 16) and s["dims"] != [16, 16, 16]),
          ("Small", lambda s: s["flop"] < 1e8),
          ("Square, tall and skinny", lambda s: True)]


def load(folder, name):
    path = os.path.join(folder, name + ".json")
    if not os.path.exists(path):
        return None
    with open(path) as file:
        return json.load(file)


def rivals_of(row):
    """{peer: (ratio, low, high)} of a Google Benchmark row; our own variants left out."""
    return {key[:-6]: (row[key], row[key[:-6] + "_low"], row[key[:-6] + "_high"])
            for key in row if key.endswith("_ratio") and key != "best_ratio" and not key.startswith("own_")}


def best_of(rivals):
    return min(rivals.items(), key=lambda item: item[1][0]) if rivals else None


def interval(ratio, low, high):
    return f"{ratio:.2f} [{low:.2f}, {high:.2f}]"


def table(head, rows):
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    return "\n".join(lines + ["| " + " | ".join(map(str, row)) + " |" for row in rows])


def geometric_mean(values):
    return math.exp(sum(map(math.log, values)) / len(values))


def machine_of(documents):
    context = documents[0]["context"]
    lines = [f"{context['einkorn_cpu']}, level `{context['einkorn_isa']}`, {context['date'][:10]}."]
    peers = {key: value for d in reversed(documents) for key, value in d["context"].items() if key.startswith("peer_")}
    present = [value for value in peers.values() if not value.startswith("absent")]
    absent = [f"{key[5:]} ({value[8:]})" for key, value in peers.items() if value.startswith("absent")]
    lines.append("Peers: " + "; ".join(present) + "." if present else "No peers.")
    if absent:
        lines.append("Absent: " + "; ".join(absent) + ".")
    return " ".join(lines)


# ---- GEMM

def gemm_rows(documents):
    """All rows of gemm/..., taken apart."""
    for document in documents:
        for row in document["benchmarks"]:
            parts = row["name"].replace("/manual_time", "").split("/")
            if parts[0] not in ("gemm", "gemm_bias_gelu"):
                continue
            dims = list(map(int, parts[4].split("x")))
            batch = dims.pop(0) if len(dims) == 4 else 1
            yield {**row, "operation": parts[0], "type": parts[1], "level": parts[2], "layout": parts[3],
                   "shape": parts[4], "packed": "packed" in parts, "plan": "plan" in parts, "batch": batch, "dims": dims,
                   "threads": int(parts[-1].split(":")[1]), "flop": 2 * batch * math.prod(dims)}


def mark_disturbed(rows):
    """Rows during which even the loop on registers was slow: somebody else had the cores."""
    best = {}
    for r in rows:
        key = (r["level"], r["type"], r["threads"])
        best[key] = max(best.get(key, 0), r.get("peak_GFLOP/s", 0))
    for r in rows:
        r["disturbed"] = r.get("peak_GFLOP/s", math.inf) < 0.85 * best[r["level"], r["type"], r["threads"]]


def group_of(row):
    return next(title for title, belongs in GROUPS if belongs(row))


def gemm_cell(row):
    if row is None:
        return ""
    text = f"{row['GFLOP/s']:.{0 if row['GFLOP/s'] >= 10 else 1}f}"
    if row.get("%peak"):
        text += f", {row['%peak']:.0f} %"
    if "own_f32_ratio" in row:
        text += f", {row['own_f32_ratio']:.2f} x own f32"
    best = best_of(rivals_of(row))
    if best:
        text += f", **{best[1][0]:.2f}** [{best[1][1]:.2f}, {best[1][2]:.2f}] {PEER_NAMES.get(best[0], best[0])}"
    if row.get("disturbed"):
        text += " ~"
    if "WRONG" in row.get("label", ""):
        text += " (!)"
    return text


def gemm_tables(rows):
    out = []
    levels = sorted({r["level"] for r in rows}, key=lambda level: sum(r["level"] == level for r in rows), reverse=True)
    for level in levels:
        for title, _ in GROUPS:
            mine = [r for r in rows if r["level"] == level and r["operation"] == "gemm" and group_of(r) == title]
            if not mine:
                continue
            types = [t for t in ("f32", "bf16", "bf16_f32", "fp16", "fp16_f32", "u8s8", "s8s8")
                     if any(r["type"] == t for r in mine)]
            out.append(f"#### {title}, `{level}`\n")
            for part in (["f32", "bf16", "u8s8"], ["fp16", "fp16_f32", "bf16_f32", "s8s8"]):
                shown = [t for t in types if t in part]
                if not shown:
                    continue
                columns = [(t, p) for t in shown for p in (False, True)
                           if any(r["type"] == t and r["packed"] == p for r in mine)]
                keys = list(dict.fromkeys((r["layout"], r["shape"], r["threads"], r["plan"])
                                          for r in mine if r["type"] in shown))
                keys.sort(key=lambda k: k[2])
                cells = {(r["layout"], r["shape"], r["threads"], r["plan"], r["type"], r["packed"]): r for r in mine}
                body = [[f"{k[0]} {k[1]}" + (", plan" if k[3] else ""), k[2], *(gemm_cell(cells.get((*k, t, p))) for t, p in columns)] for k in keys]
                means = []
                for t, p in columns:
                    best = [best_of(rivals_of(r)) for r in mine if r["type"] == t and r["packed"] == p]
                    best = [b[1][0] for b in best if b]
                    means.append(f"**{geometric_mean(best):.3f}**" if best else "")
                body.append(["geometric mean of the ratios", "", *means])
                head = ["shape", "threads"] + [t + (", packed B" if p else "") for t, p in columns]
                out.append(table(head, body) + "\n")
    single = {(r["name"].replace("/threads:1", ""), r["level"]): r for r in rows if r["threads"] == 1}
    scaling = [(r, single[key]) for r in rows if r["threads"] > 1 and r["flop"] > 1e9 and r["operation"] == "gemm" and
               (key := (r["name"].replace(f"/threads:{r['threads']}", ""), r["level"])) in single]
    if scaling:
        out.append("#### More threads over one, large products (two runs)\n")
        out.append(table(["type", "packed B", "threads", "geometric mean of the speeds' ratios", "least"],
                         [[t, "yes" if p else "no", n, f"{geometric_mean(s):.2f}", f"{min(s):.2f}"]
                          for t, p, n in dict.fromkeys((r["type"], r["packed"], r["threads"]) for r, _ in scaling)
                          for s in [[r["GFLOP/s"] / one["GFLOP/s"] for r, one in scaling
                                     if (r["type"], r["packed"], r["threads"]) == (t, p, n)]]]) + "\n")
    fused = [r for r in rows if r["operation"] == "gemm_bias_gelu"]
    if fused:
        out.append("#### Bias, GELU and the stored pre-activation in the same pass\n")
        out.append(table(["shape", "type", "level", "threads", "GFLOP/s", "time over the bare product's"],
                         [[f"{r['layout']} {r['shape']}", r["type"], r["level"], r["threads"], f"{r['GFLOP/s']:.0f}",
                           interval(1 / r["own_bare_ratio"], 1 / r["own_bare_high"], 1 / r["own_bare_low"])]
                          for r in fused]) + "\n")
    if any(r["disturbed"] for r in rows):
        out.append("~: other programs had the cores meanwhile; even the loop on registers was slow.\n")
    wrong = [f"- {r['name']}: {r['label']}" for r in rows if "WRONG" in r.get("label", "")]
    if wrong:
        out.append("#### Results that differ from ours (!)\n\n" + "\n".join(wrong) + "\n")
    return "\n".join(out)


# ---- row-wise operations

def rows_rows(documents):
    for document in documents:
        for row in document["benchmarks"]:
            parts = row["name"].replace("/manual_time", "").split("/")
            if parts[0].startswith("gemm"):
                continue
            yield {**row, "operation": parts[0], "type": parts[1], "level": parts[2], "placement": parts[3],
                   "threads": int(parts[-1].split(":")[1])}


def milliseconds(seconds):
    return f"{seconds * 1e3:.3f}" if seconds < 0.01 else f"{seconds * 1e3:.1f}"


def rows_table(rows):
    body = []
    for r in rows:
        rivals = "; ".join(f"{PEER_NAMES.get(n, n)} {interval(*v)}" for n, v in sorted(rivals_of(r).items()))
        share = f"{r['%stream']:.0f} / {r['%stream_nt']:.0f}" if r["placement"] != "cache" else ""
        if "own_products_ratio" in r:
            rivals += f"products alone: {100 * r['own_products_ratio']:.0f} % of their rate"
            share = ""
        if "own_without_dropout_ratio" in r:
            rivals += f"dropout adds {100 / r['own_without_dropout_ratio'] - 100:.0f} %"
        body.append([r["operation"], r["type"], r["placement"], r["threads"], milliseconds(r["real_time"] * 1e-6),
                     f"{r['GB/s']:.1f}", share, rivals])
    return table(["operation", "type", "buffers", "threads", "ms", "GB/s", "% of the stream loop (plain / streaming stores)",
                  "peer's time over ours"], body)


def torch_table(document):
    body = []
    for r in document["rows"]:
        cells = [interval(v["ratio"], v["low"], v["high"]) if (v := r["rivals"].get("torch_" + k)) else ""
                 for k in ("out", "usual")]
        body.append([r["name"], r["type"], r["shape"], milliseconds(median_interval(r["seconds"])[0]), *cells])
    return table(["operation", "type", "shape", "ms", f"PyTorch {document['torch']}, output reused", "usual call"], body)


# ---- the step

def step_table(document):
    body = []
    for c in document["cases"]:
        if "seconds" not in c:
            body.append([c["name"], f"not measured: {c.get('error', '')}", "", "", "", ""])
            continue
        own = c["einkorn"]
        time = median_interval(c["seconds"])[0]
        rivals = "; ".join(
            f"**{r['ratio']:.2f}** [{r['low']:.2f}, {r['high']:.2f}] {PEER_NAMES.get(n, n)} "
            f"({median_interval(r['seconds'])[0]:.3f} s, {r['final'].get('peak_rss_gib', 0):.1f} GiB)"
            for n, r in c["rivals"].items())
        absent = "; ".join(f"{PEER_NAMES.get(n, n)}: {why}" for n, why in c["absent"].items())
        body.append([c["name"] + (" (!)" if "error" in c else ""), f"{time:.3f}", f"{own['peak_rss_gib']:.2f}",
                     "" if c["precision"] == "int8" else f"{100 * own['mfu']:.0f} %", rivals, absent])
    return table(["case", "s", "peak GiB", "MFU", "peer's time over ours", "absent"], body)


def breakdown_table(c):
    body = []
    for op in c["einkorn"]["operations"]:
        if op["seconds"] < 1e-5:
            continue
        body.append([op["name"], f"{op['seconds'] * 1e3:.1f}",
                     f"{op['flop'] * 1e-9:.0f}" if op.get("flop") else "",
                     f"{op['bytes'] * 1e-9:.2f}" if op.get("bytes") else "",
                     f"{100 * op['share_of_limit']:.0f} %" if op.get("flop") or op.get("bytes") else ""])
    return table(["operation", "ms", "GFLOP", "GB", "share of its limit"], body)


# ---- plots

INK, MUTED, OURS = "#222222", "#8a8f98", "#c8553d"
PALETTE = ["#5b7db1", "#8fb3d9", "#6b9f71", "#b8cf9a", "#8c7aa9", "#c9b458", "#b0b0b0", "#d0a5a5"]


def style(plt):
    plt.rcParams.update({"font.size": 10, "axes.spines.top": False, "axes.spines.right": False, "axes.edgecolor": MUTED,
                         "axes.labelcolor": INK, "xtick.color": INK, "ytick.color": INK, "svg.fonttype": "path",
                         "axes.axisbelow": True, "grid.color": "#e3e5e8", "figure.dpi": 100})


def plot_gemm_bars(plt, rows, folder):
    """Per cent of the register-only peak, ours and every peer's, at the shapes of BERT."""
    rows = [r for r in rows if r["operation"] == "gemm" and r.get("%peak") and r["type"] in ("f32", "bf16", "u8s8")]
    level = max({r["level"] for r in rows}, key=lambda x: sum(r["level"] == x for r in rows)) if rows else None
    for threads in sorted({r["threads"] for r in rows}):
        chosen = [r for r in rows if r["threads"] == threads and r["level"] == level and
                  group_of(r) in (GROUPS[0][0], GROUPS[1][0]) and not r["packed"]]
        if not chosen:
            continue
        types = [t for t in ("f32", "bf16", "u8s8") if any(r["type"] == t for r in chosen)]
        shapes = list(dict.fromkeys((r["layout"], r["shape"]) for r in chosen))
        peers = [p for p in PEER_NAMES if any(p in rivals_of(r) for r in chosen)]
        names = ["einkorn"] + peers
        colours = dict(zip(names, [OURS] + PALETTE))
        figure, axes = plt.subplots(len(types), 1, figsize=(max(9.5, 1.25 * len(shapes) + 1.5), 2.4 * len(types) + 0.8),
                                    sharex=True, squeeze=False)
        width = 0.84 / len(names)
        for axis, type_name in zip(axes[:, 0], types):
            rows_here = {(r["layout"], r["shape"]): r for r in chosen if r["type"] == type_name}
            for x, key in enumerate(shapes):
                row = rows_here.get(key)
                present = ["einkorn"] + [p for p in peers if p in rivals_of(row)] if row else []
                for n, name in enumerate(present):
                    height = row["%peak"] if name == "einkorn" else row["%peak"] / rivals_of(row)[name][0]
                    axis.bar(x + (n - (len(present) - 1) / 2) * width, height, width * 0.92, color=colours[name])
            peak = max(r.get("peak_GFLOP/s", 0) for r in chosen if r["type"] == type_name)
            axis.axhline(100, color=INK, linewidth=1.2)
            axis.text(len(shapes) - 0.45, 101.5, f"registers only: {peak:.0f} {'Gop/s' if type_name == 'u8s8' else 'GFLOP/s'}",
                      ha="right", va="bottom", fontsize=9)
            axis.set_ylim(0, 114)
            axis.set_xlim(-0.55, len(shapes) - 0.45)
            axis.set_ylabel(f"{type_name}, % of peak")
            axis.grid(axis="y")
        axes[-1, 0].set_xticks(range(len(shapes)), [f"{layout}\n{shape.replace('x', ' x ')}" for layout, shape in shapes],
                               fontsize=8)
        figure.legend([plt.Rectangle((0, 0), 1, 1, color=colours[n]) for n in names],
                      [PEER_NAMES.get(n, n) for n in names], loc="upper center", ncols=min(8, len(names)),
                      frameon=False, fontsize=9, columnspacing=1.2, handlelength=1.4)
        figure.tight_layout(rect=(0, 0, 1, 0.955))
        figure.savefig(os.path.join(folder, f"gemm_bars_{threads}.svg"))
        plt.close(figure)


def plot_roofline(plt, rows, folder, byte_rate):
    """Every product of one thread count under the roofs of registers and memory."""
    for threads in sorted({r["threads"] for r in rows}):
        chosen = [r for r in rows if r["threads"] == threads and r["operation"] == "gemm" and r.get("peak_GFLOP/s") and
                  r["type"] in ("f32", "bf16", "u8s8") and not r["packed"]]
        if not chosen:
            continue
        level = max({r["level"] for r in chosen}, key=lambda x: sum(r["level"] == x for r in chosen))
        chosen = [r for r in chosen if r["level"] == level]
        figure, axis = plt.subplots(figsize=(7.5, 5))
        size = {"f32": (4, 4, 4), "bf16": (2, 2, 2), "u8s8": (1, 1, 4)}
        colours = {"f32": "#5b7db1", "bf16": OURS, "u8s8": "#6b9f71"}
        intensity_range = [0.2, 3000]
        rate = byte_rate.get(threads)
        for type_name in ("f32", "bf16", "u8s8"):
            mine = [r for r in chosen if r["type"] == type_name]
            if not mine:
                continue
            peak = max(r["peak_GFLOP/s"] for r in mine)
            xs, ys, faces = [], [], []
            for r in mine:
                m, n, k = r["dims"]
                a, b, c = size[type_name]
                moved = r["batch"] * (m * k * a + k * n * b + m * n * c)
                xs.append(r["flop"] / moved)
                ys.append(r["GFLOP/s"])
                faces.append(colours[type_name] if moved > 32e6 else "white")
            axis.scatter(xs, ys, s=34, color=faces, edgecolors=colours[type_name], linewidths=1.2, zorder=3)
            axis.plot([peak / rate if rate else intensity_range[0], intensity_range[1]], [peak, peak],
                      color=colours[type_name], linewidth=1.6)
            axis.text(intensity_range[1], peak * 1.06, f"{type_name} {peak:.0f}", ha="right", color=colours[type_name])
        if rate:
            top = max(r["peak_GFLOP/s"] for r in chosen)
            axis.plot([intensity_range[0], top / rate], [intensity_range[0] * rate, top], color=INK, linewidth=1.4)
            axis.text(intensity_range[0] * 1.15, intensity_range[0] * rate * 1.75, f"memory, {rate:.0f} GB/s", rotation=38,
                      rotation_mode="anchor", fontsize=9)
        axis.set_xscale("log")
        axis.set_yscale("log")
        axis.set_xlim(*intensity_range)
        axis.set_xlabel("operations per byte of the operands\nfilled: operands beyond 32 MB; hollow: they can stay in cache")
        axis.set_ylabel("GFLOP/s (Gop/s)")
        axis.set_title(f"Products at level {level}, {threads} thread{'s' if threads > 1 else ''}", fontsize=11, loc="left")
        axis.grid(which="major")
        figure.tight_layout()
        figure.savefig(os.path.join(folder, f"roofline_{threads}.svg"))
        plt.close(figure)


CATEGORIES = [("linear layers", ("linear", "linear_dx", "linear_dw", "pack_weights")),
              ("attention", ("attention", "attention_backward")),
              ("layer norm, residual (peers: dropout's random numbers)", ("layernorm", "layernorm_backward")),
              ("GELU (ours: backward)", ("gelu_backward",)),
              ("embedding, head, loss", ("embedding", "embedding_backward", "head_and_loss")),
              ("norm and AdamW", ("gradient_norm", "adamw")),
              ("rest (peers: dropout's products, residual, biases)", ("rest",))]
TORCH_CATEGORIES = {"linear": 0, "attention": 1, "dropout": 2, "layernorm": 2, "gelu": 3, "embedding": 4, "optimizer": 5,
                    "rest": 6}


def step_bars(c):
    """(name, seconds of each of CATEGORIES), ours first: ours as measured, of a peer the shares of its profile."""
    own = {op["name"]: op["seconds"] for op in c["einkorn"]["operations"]}
    bars = [("einkorn", [sum(own.get(n, 0) for n in names) for _, names in CATEGORIES])]
    for name, r in c["rivals"].items():
        final = r["final"]
        if "operations" in final and name.startswith("einkorn"):
            theirs = {op["name"]: op["seconds"] for op in final["operations"]}
            bars.append((PEER_NAMES.get(name, name), [sum(theirs.get(n, 0) for n in names) for _, names in CATEGORIES]))
            continue
        total = median_interval(r["seconds"])[0]
        parts = [0.0] * len(CATEGORIES)
        shares = final.get("shares") or {"rest": 1.0}
        for key, share in shares.items():
            parts[TORCH_CATEGORIES[key]] += share * total
        bars.append((PEER_NAMES.get(name, name), parts))
    return bars


def sides_table(c):
    """The same as a table."""
    bars = step_bars(c)
    body = [[label] + [f"{parts[i]:.2f}" for _, parts in bars] for i, (label, _) in enumerate(CATEGORIES)]
    return table(["s a step"] + [name for name, _ in bars], body)


def plot_steps(plt, document, folder):
    """The training step by operation, ours and the peers', side by side."""
    for c in document["cases"]:
        if c["inference"] or "seconds" not in c:
            continue
        bars = step_bars(c)
        bars.reverse()
        colours = ["#c8553d", "#e0a458", "#5b7db1", "#6b9f71", "#8c7aa9", "#c9b458", "#c4c7cc"]
        figure, axis = plt.subplots(figsize=(9, 1.1 + 0.62 * len(bars)))
        left = [0.0] * len(bars)
        for index, (label, _) in enumerate(CATEGORIES):
            values = [parts[index] for _, parts in bars]
            axis.barh(range(len(bars)), values, left=left, color=colours[index], label=label, height=0.62)
            for y, (value, start) in enumerate(zip(values, left)):
                if value > 0.06 * max(sum(parts) for _, parts in bars):
                    axis.text(start + value / 2, y, f"{value:.2f}", ha="center", va="center", color="white", fontsize=9)
            left = [a + b for a, b in zip(left, values)]
        for y, total in enumerate(left):
            axis.text(total * 1.005 + 0.01 * max(left), y, f"{total:.2f} s", va="center", fontsize=10, color=INK)
        axis.set_yticks(range(len(bars)), [name for name, _ in bars])
        axis.set_xlim(0, max(left) * 1.12)
        axis.set_xlabel("seconds a step")
        axis.grid(axis="x")
        axis.legend(ncols=4, frameon=False, fontsize=9, loc="lower center", bbox_to_anchor=(0.45, 1.0))
        figure.tight_layout()
        figure.savefig(os.path.join(folder, "step_" + c["name"].replace("/", "_") + ".svg"))
        plt.close(figure)


# ---- all of it

def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--results", required=True)
    parser.add_argument("--out", required=True)
    parser.add_argument("--docs", default="")
    options = parser.parse_args()
    os.makedirs(options.out, exist_ok=True)
    parts = {}
    gemm = [d for d in (load(options.results, n) for n in ("gemm_1", "gemm_2", "gemm_avx2")) if d]
    rows = [d for d in (load(options.results, n) for n in ("rows_2", "rows_1")) if d]
    torch = load(options.results, "torch_ops")
    step = load(options.results, "step")
    products, operations = list(gemm_rows(gemm)), list(rows_rows(rows))
    mark_disturbed(products)
    if products:
        parts["gemm"] = machine_of(gemm) + "\n\n" + gemm_tables(products)
    if operations:
        parts["rows"] = machine_of(rows) + "\n\n" + rows_table(operations) + "\n"
    if torch:
        parts["rows"] = parts.get("rows", "") + "\n" + torch_table(torch) + "\n"
    if step:
        text = f"{step['date']}, {step['threads']} threads.\n\n" + step_table(step) + "\n"
        for c in step["cases"]:
            if "seconds" in c and not c["inference"] and c["name"].endswith("dropout0.1"):
                own = c["einkorn"]
                text += (f"\n{c['name']}, by operation (peak {own['peak_flops'] * 1e-9:.0f} GFLOP/s, "
                         f"{own['sustained_flops'] * 1e-9:.0f} on average between the steps; stream "
                         f"{own['stream_bytes_per_second'] * 1e-9:.0f} GB/s):\n\n" + breakdown_table(c) + "\n\n" + sides_table(c) + "\n")
        parts["step"] = text
    for name, text in parts.items():
        with open(os.path.join(options.out, name + ".md"), "w") as file:
            file.write(text)
        print(f"{os.path.join(options.out, name)}.md")
    if options.docs:
        with open(options.docs) as file:
            text = file.read()
        for name, part in parts.items():
            text = re.sub(rf"(<!-- {name} -->\n).*?(<!-- end -->)", lambda m: m[1] + "\n" + part + "\n" + m[2], text,
                          flags=re.S)
        with open(options.docs, "w") as file:
            file.write(text)
    try:
        import matplotlib
        matplotlib.use("Agg")
        import matplotlib.pyplot as plt
    except ImportError:
        print("no plots: matplotlib is not installed")
        return
    style(plt)
    # What memory gives a product that reads its operands once: the stream loop beside the largest of one row.
    byte_rate = {}
    for r in products:
        if "%stream" in r and r["dims"][0] == 1 and r["flop"] > 3e7 and r["type"] == "f32":
            used = r["flop"] / 2 * 4 / (r["real_time"] * 1e-6) * 1e-9
            byte_rate[r["threads"]] = max(byte_rate.get(r["threads"], 0), used / (r["%stream"] / 100))
    plot_gemm_bars(plt, products, options.out)
    plot_roofline(plt, products, options.out, byte_rate)
    if step:
        plot_steps(plt, step, options.out)
    print(f"plots in {options.out}, {datetime.date.today()}")


main()
