"""The same step as bert_step.cpp in PyTorch, Intel's extension for it, or (inference) ONNX Runtime.

Answers on the standard output, one line of JSON for each line on the standard input:
    run SECONDS   steps until so many seconds are over, at least one: mean seconds, loss
    profile       one step under PyTorch's profiler: shares of the time by kind of operation
    end           peak memory, versions
bench/step.py starts it with the memory allocator and the OpenMP library that the vendors advise.
"""
import argparse
import json
import os
import resource
import sys
import time

parser = argparse.ArgumentParser()
parser.add_argument("--engine", choices=["torch", "ipex", "ort"], default="torch")
parser.add_argument("--model", choices=["base", "h384"], default="base")
parser.add_argument("--precision", choices=["f32", "bf16", "int8"], default="bf16")
parser.add_argument("--dropout", type=float, default=0.1)
parser.add_argument("--batch", type=int, default=12)
parser.add_argument("--length", type=int, default=384)
parser.add_argument("--lengths", type=lambda s: [int(x) for x in s.split(",")], default=[])
parser.add_argument("--threads", type=int, default=2)
parser.add_argument("--inference", action="store_true")
parser.add_argument("--folder", default=".", help="where ONNX files may be written")
args = parser.parse_args()
os.environ["OMP_NUM_THREADS"] = str(args.threads)

# What the libraries print while they are loaded must not be taken for an answer.
answers = os.fdopen(os.dup(1), "w")
os.dup2(2, 1)

import torch  # noqa: E402
from transformers import BertConfig, BertForQuestionAnswering  # noqa: E402

ipex = None
if args.engine == "ipex":
    import intel_extension_for_pytorch as ipex  # noqa: E402

torch.set_num_threads(args.threads)
torch.manual_seed(0)


def made_up_batches():
    """Batches as bert_step makes them: random words, the real lengths, padded to --length."""
    generator = torch.Generator().manual_seed(1)
    lengths = args.lengths or [args.length] * args.batch
    count = max(args.batch, len(lengths) // args.batch * args.batch)
    lengths = [lengths[i % len(lengths)] for i in range(count)]
    for first in range(0, count, args.batch):
        real = torch.tensor(lengths[first:first + args.batch])
        position = torch.arange(args.length)[None, :]
        mask = (position < real[:, None]).long()
        start = (torch.rand(args.batch, generator=generator) * real).long()
        yield {
            "input_ids": torch.randint(1000, 30000, (args.batch, args.length), generator=generator) * mask,
            "attention_mask": mask,
            "token_type_ids": (position >= 16).long() * mask,
            "start_positions": start,
            "end_positions": torch.minimum(start + 3, real - 1),
        }


def make_config():
    dropout = dict(hidden_dropout_prob=args.dropout, attention_probs_dropout_prob=args.dropout)
    if args.model == "base":
        return BertConfig(**dropout)
    return BertConfig(hidden_size=384, num_hidden_layers=12, num_attention_heads=12, intermediate_size=1536,
                      **dropout)


def training_step():
    # Flash attention on the CPU takes no dropout; with dropout the plain form is the faster of the two.
    attention = "eager" if args.dropout > 0 else "sdpa"
    model = BertForQuestionAnswering._from_config(make_config(), attn_implementation=attention).train()
    # The fused form is PyTorch's fastest; the extension brings its own in place of the plain one.
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-5, weight_decay=0.0, fused=None if ipex else True)
    bf16 = args.precision == "bf16"
    if ipex is not None:
        model, optimizer = ipex.optimize(model, optimizer=optimizer, inplace=True, level="O1",
                                         dtype=torch.bfloat16 if bf16 else torch.float32)
    batches = list(made_up_batches())
    turn = [0]

    def step():
        batch = batches[turn[0] % len(batches)]
        turn[0] += 1
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=bf16):
            loss = model(**batch).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        return loss.item()

    return step


def inputs():
    batch = next(made_up_batches())
    return batch["input_ids"], batch["attention_mask"], batch["token_type_ids"]


def fastest(candidates):
    """The one that needs the least time: each has a few calls."""
    def seconds(call):
        for _ in range(2):
            call()
        start = time.perf_counter()
        for _ in range(3):
            call()
        return time.perf_counter() - start
    return min(candidates, key=seconds)


def torch_inference():
    model = BertForQuestionAnswering._from_config(make_config(), attn_implementation="sdpa").eval()
    x = inputs()
    if args.precision == "bf16":
        model = model.to(torch.bfloat16)
    if args.precision == "int8":
        model = torch.ao.quantization.quantize_dynamic(model, {torch.nn.Linear}, dtype=torch.qint8)

    def step():
        with torch.inference_mode():
            model(*x)
        return 0.0

    return step


def ipex_inference():
    if args.precision == "int8":
        raise SystemExit("torch_step: int8 of the extension is not measured")
    bf16 = args.precision == "bf16"
    model = BertForQuestionAnswering._from_config(make_config(), attn_implementation="sdpa").eval()
    model = ipex.optimize(model, dtype=torch.bfloat16 if bf16 else torch.float32)
    x = inputs()
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16, enabled=bf16):
        traced = torch.jit.freeze(torch.jit.trace(model, x, strict=False, check_trace=False))

    def step():
        with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16, enabled=bf16):
            traced(*x)
        return 0.0

    return step


def ort_inference():
    import onnx
    import onnxruntime
    from onnxruntime.quantization import QuantType, quantize_dynamic
    if args.precision == "bf16":
        raise SystemExit("torch_step: ONNX Runtime has no bf16 on this CPU")
    plain = os.path.join(args.folder, f"{args.model}.onnx")
    if not os.path.exists(plain):
        model = BertForQuestionAnswering._from_config(make_config(), attn_implementation="eager").eval()
        model.config.return_dict = False
        names = ["ids", "mask", "types", "start", "end"]
        torch.onnx.export(model, inputs(), plain, input_names=names[:3], output_names=names[3:], opset_version=17,
                          dynamic_axes={name: {0: "batch", 1: "length"} for name in names}, dynamo=False)
    files = [plain]
    fused = plain.replace(".onnx", "_fused.onnx")
    try:
        from onnxruntime.transformers import optimizer
        if not os.path.exists(fused):
            config = make_config()
            optimizer.optimize_model(plain, model_type="bert", num_heads=config.num_attention_heads,
                                     hidden_size=config.hidden_size).save_model_to_file(fused)
        files.append(fused)
    except Exception as error:  # the plain model remains
        print("torch_step: no fused model:", error, file=sys.stderr)
    if args.precision == "int8":
        for file in list(files):
            narrow = file.replace(".onnx", "_int8.onnx")
            if not os.path.exists(narrow):
                quantize_dynamic(file, narrow, weight_type=QuantType.QInt8,  # the fused operators hide the types
                                 extra_options={"DefaultTensorType": onnx.TensorProto.FLOAT})
            files[files.index(file)] = narrow
    feed_values = [t.numpy() for t in inputs()]
    calls = []
    for file in files:
        session_options = onnxruntime.SessionOptions()
        session_options.intra_op_num_threads = args.threads
        session = onnxruntime.InferenceSession(file, session_options, providers=["CPUExecutionProvider"])
        feed = dict(zip([i.name for i in session.get_inputs()], feed_values))
        calls.append(lambda session=session, feed=feed: session.run(None, feed))
    call = fastest(calls)

    def step():
        call()
        return 0.0

    return step


# Which of PyTorch's operators belong to what; the first that fits. Softmax and batched products are attention's.
KINDS = [("optimizer", ("AdamW", "adamw", "clip_grad", "_foreach_", "linalg_vector_norm")),
         ("attention", ("bmm", "softmax", "attention")),
         ("linear", ("addmm", "aten::mm", "linear", "mkldnn", "matmul")),
         ("dropout", ("dropout", "bernoulli")),
         ("layernorm", ("layer_norm",)),
         ("gelu", ("gelu",)),
         ("embedding", ("embedding", "index_select", "nll_loss"))]


def profile(step):
    from torch.profiler import ProfilerActivity, profile as recording
    with recording(activities=[ProfilerActivity.CPU]) as recorded:
        step()
    shares = {}
    events = recorded.key_averages()
    total = sum(event.self_cpu_time_total for event in events)
    for event in events:
        kind = next((kind for kind, words in KINDS if any(word in event.key for word in words)), "rest")
        shares[kind] = shares.get(kind, 0.0) + event.self_cpu_time_total / total
    return shares


def main():
    shares = {}
    if not args.inference:
        step = training_step()
    else:
        step = {"torch": torch_inference, "ipex": ipex_inference, "ort": ort_inference}[args.engine]()
    for line in sys.stdin:
        words = line.split()
        if words and words[0] == "run":
            start, count = time.perf_counter(), 0
            while count == 0 or time.perf_counter() - start < float(words[1]):
                loss = step()
                count += 1
            answer = {"seconds": (time.perf_counter() - start) / count, "loss": loss}
        elif words and words[0] == "profile":
            shares = profile(step)
            answer = shares
        elif words and words[0] == "end":
            answer = {"engine": args.engine, "shares": shares, "torch": torch.__version__,
                      "peak_rss_gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1048576,
                      "preload": os.environ.get("LD_PRELOAD", "")}
        else:
            continue
        print(json.dumps(answer), file=answers, flush=True)
        if words[0] == "end":
            return


main()
