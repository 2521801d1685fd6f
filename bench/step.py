"""Runs bert_step and PyTorch, its extension and ONNX Runtime in turn, one step of each a round, and writes JSON.

    step.py --bert-step PROGRAM --torch PYTHON [--ipex PYTHON] --out FILE [--quick] [--only SUBSTRING]
"""
import argparse
import glob
import json
import os
import subprocess
import sys
import tempfile
import time

from statistics_of_pairs import median_interval

# Lengths with the mean (159 of 384) and the long tail of SQuAD's features: five batches of twelve.
SQUAD_LENGTHS = [
    112, 131, 384, 97, 158, 143, 176, 121, 205, 88, 147, 166, 109, 139, 154, 230, 102, 183, 127, 119, 171, 384,
    93, 136, 161, 148, 115, 193, 125, 82, 141, 218, 106, 152, 168, 134, 99, 129, 187, 145, 260, 117, 123, 156,
    91, 178, 137, 150, 164, 104, 141, 198, 113, 128, 173, 132, 167, 146, 300, 384]
# As a batch of questions comes: one sample fills the length, the others between a third and all of it.
BATCH_LENGTHS = [384, 131, 262, 345, 158, 297, 203, 371, 126, 240, 318, 187]


def case(name, peers, *, quick=False, model="base", precision="bf16", dropout=0.1, ours=(), batch=12, length=384,
         lengths=BATCH_LENGTHS, inference=False):
    return dict(name=name, peers=peers, quick=quick, model=model, precision=precision, dropout=dropout,
                ours=list(ours), batch=batch, length=length, lengths=lengths, inference=inference)


CASES = [
    case("train/base/bf16/dropout0.1", ["torch", "ipex"]),
    case("train/base/bf16/dropout0", ["torch", "ipex"], dropout=0.0),
    case("train/h384/bf16/dropout0.1", ["torch", "ipex"], model="h384", quick=True),
    case("train/h384/bf16/dropout0", ["torch", "ipex"], model="h384", dropout=0.0),
    case("train/base/f32/dropout0.1", ["torch"], precision="f32"),
    case("train/base/f32/dropout0", ["torch"], precision="f32", dropout=0.0),
    case("train/h384/f32/dropout0.1", ["torch"], precision="f32", model="h384"),
    case("train/base/fp16/dropout0.1", ["einkorn_f32"], precision="fp16"),
    case("train/base/bf16/squad/unpadded", ["torch", "ipex"], ours=["--unpadded"], lengths=SQUAD_LENGTHS),
    case("train/base/f32/squad/unpadded", ["torch"], precision="f32", ours=["--unpadded"], lengths=SQUAD_LENGTHS),
    case("train/base/bf16/checkpointing", ["einkorn_plain"], ours=["--checkpointing"]),
] + [
    case(f"infer/base/{precision}/{batch}x128", peers, precision=precision, batch=batch, length=128, lengths=[128],
         inference=True, dropout=0.0, quick=quick and batch == 1,
         ours=["--int8"] if precision == "int8" else [])
    for precision, peers, quick in (("f32", ["ort", "torch", "ipex"], False), ("bf16", ["ipex", "torch"], True),
                                    ("int8", ["ort", "torch"], False))
    for batch in (1, 8)
]


class Child:
    """A program that answers requests: `run SECONDS` and `end`."""

    def __init__(self, name, command, environment):
        self.name, self.seconds, self.losses, self.final = name, [], [], {}
        self.profiled = name in ("torch", "ipex")
        self.complaints = tempfile.TemporaryFile("w+")
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                        stderr=self.complaints, text=True, env={**os.environ, **environment})

    def ask(self, request):
        try:
            self.process.stdin.write(request + "\n")
            self.process.stdin.flush()
            answer = self.process.stdout.readline()
        except BrokenPipeError:
            answer = ""
        if not answer:
            self.complaints.seek(0)
            text = self.complaints.read().strip().splitlines()
            raise RuntimeError(f"{self.name}: {text[-1] if text else 'ended without an answer'}")
        return json.loads(answer)

    def close(self):
        self.process.kill()
        self.process.wait()


def first_that_exists(*patterns):
    for pattern in patterns:
        for path in sorted(glob.glob(pattern)):
            return path
    return ""


def commands(options, c):
    """(name, command, environment) of ours and of every peer of a case; None for a command: why it is absent."""
    threads = str(options.threads)
    shared = ["--model", c["model"], "--dropout", str(c["dropout"]), "--batch", str(c["batch"]), "--length",
              str(c["length"]), "--lengths", ",".join(map(str, c["lengths"])), "--threads", threads]
    shared += ["--inference"] if c["inference"] else []
    environment = {"OMP_NUM_THREADS": threads}
    tcmalloc = first_that_exists("/usr/lib/x86_64-linux-gnu/libtcmalloc_minimal.so.4",
                                 "/usr/lib/x86_64-linux-gnu/libtcmalloc.so.4")
    if not tcmalloc:
        print("step.py: tcmalloc is not installed: PyTorch runs without it", file=sys.stderr)
    own_precision = "bf16" if c["precision"] == "int8" else c["precision"]
    yield "einkorn", [options.bert_step, *shared, "--precision", own_precision, *c["ours"]], environment
    folder = os.path.dirname(os.path.abspath(__file__))
    for peer in c["peers"]:
        if peer == "einkorn_f32":
            yield peer, [options.bert_step, *shared, "--precision", "f32"], environment
            continue
        if peer == "einkorn_plain":
            yield peer, [options.bert_step, *shared, "--precision", own_precision], environment
            continue
        python = options.torch if peer == "torch" else options.ipex
        if not python or not os.path.exists(python):
            yield peer, None, "not installed"
            continue
        preload = [tcmalloc]
        if peer == "ipex":
            preload.append(first_that_exists(
                os.path.join(os.path.dirname(os.path.dirname(python)), "lib", "libiomp5.so"), options.iomp or ""))
        environment = {"OMP_NUM_THREADS": threads, "LD_PRELOAD": ":".join(p for p in preload if p)}
        if peer == "ipex":
            environment.update({"KMP_AFFINITY": "granularity=fine,compact,1,0", "KMP_BLOCKTIME": "1"})
        yield peer, [python, os.path.join(folder, "torch_step.py"), "--engine", peer, "--precision", c["precision"],
                     "--folder", os.path.dirname(os.path.abspath(options.out)), *shared], environment


def run(options, c):
    children, absent = [], {}
    try:
        for name, command, environment in commands(options, c):
            if command is None:
                absent[name] = environment
                continue
            child = Child(name, command, environment)
            try:  # the first step is the warm-up; a program that cannot do the case says so here
                child.losses.append(child.ask("run 0")["loss"])
                if c["inference"]:
                    child.ask("run 0.5")
                children.append(child)
            except RuntimeError as error:
                absent[name] = str(error)
                child.close()
                if name == "einkorn":
                    return {**c, "error": str(error)}
        rounds = (7 if options.quick else 15) if c["inference"] else (2 if options.quick else options.rounds)

        def asked(child, request):
            """The answer, or None of a peer that ends now: it is absent from here on."""
            try:
                return child.ask(request)
            except RuntimeError as error:
                if child is children[0]:
                    raise
                absent[child.name] = str(error)
                return None

        for number in range(rounds):
            order = children if number % 2 == 0 else children[::-1]
            for child in order:
                if child.name in absent:
                    continue
                time.sleep(0.3)  # the threads of the one before go to sleep
                if answer := asked(child, "run 0.4" if c["inference"] else "run 0"):
                    child.seconds.append(answer["seconds"])
                    child.losses.append(answer["loss"])
        for child in children:
            if child.name not in absent and child.profiled and not options.quick and not c["inference"]:
                asked(child, "profile")
            if child.name not in absent:
                child.final = asked(child, "end") or {}
    except RuntimeError as error:
        return {**c, "error": str(error)}
    finally:
        for child in children:
            child.close()
    ours = children[0]
    result = {**c, "seconds": ours.seconds, "losses": ours.losses, "einkorn": ours.final, "absent": absent,
              "rivals": {}}
    for child in children[1:]:
        if child.name in absent:
            continue
        median, low, high = median_interval([theirs / own for theirs, own in zip(child.seconds, ours.seconds)])
        result["rivals"][child.name] = {"seconds": child.seconds, "losses": child.losses, "ratio": median,
                                        "low": low, "high": high, "final": child.final}
    if not c["inference"]:
        # Random weights: every loss begins near log(length), whoever computes it.
        first = {child.name: child.losses[0] for child in children if child.name not in absent}
        if max(first.values()) - min(first.values()) > 2:
            result["error"] = f"the programs do not compute the same: first losses {first}"
    return result


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bert-step", required=True)
    parser.add_argument("--torch", default="")
    parser.add_argument("--ipex", default="")
    parser.add_argument("--iomp", default="", help="libiomp5.so, where the environment of --ipex has none")
    parser.add_argument("--threads", type=int, default=min(2, os.cpu_count() or 1))
    parser.add_argument("--rounds", type=int, default=3, help="measured training steps of each program")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--only", default="")
    parser.add_argument("--out", required=True)
    options = parser.parse_args()
    results = []
    for c in CASES:
        if options.only not in c["name"] or (options.quick and not c["quick"]):
            continue
        result = run(options, c)
        results.append(result)
        if "error" in result:
            print(f"{c['name']}: {result['error']}", file=sys.stderr)
        if "seconds" in result:
            rivals = "  ".join(f"{name} {r['ratio']:.2f} x [{r['low']:.2f}, {r['high']:.2f}]"
                               for name, r in result["rivals"].items())
            missing = "  ".join(f"{name}: {why}" for name, why in result["absent"].items())
            print(f"{c['name']}: {median_interval(result['seconds'])[0]:.3f} s  {rivals}  {missing}", flush=True)
        with open(options.out, "w") as file:
            json.dump({"date": time.strftime("%Y-%m-%d"), "threads": options.threads, "cases": results}, file,
                      indent=1)


main()
