"""What was tried to make an epoch faster, and where its time goes.

python benchmarks/speed_trials.py             the final recipe's epoch with one thing changed: benchmarks/trials.csv
python benchmarks/speed_trials.py --profile   its time by operation, by PyTorch's profiler: benchmarks/profile.csv
python benchmarks/speed_trials.py --table     print both tables from the files, measure nothing
"""

import argparse
import contextlib
import math
from dataclasses import replace

import pandas as pd
import torch
from torch.utils.data import TensorDataset

from recipes import AUGMENTED, FINAL, build
from results import BENCHMARKS, ROOT
from speed import measure

from helpers import TensorLoader, load_mnist, test, train

TRIALS = BENCHMARKS / "trials.csv"
PROFILE = BENCHMARKS / "profile.csv"


def trials(device: str) -> dict:
    """The final recipe's epoch with one thing changed, and its test, by name: functions without arguments."""
    train_set, test_set = load_mnist(ROOT / "data", device)

    def training(
        recipe=FINAL,
        batch_size=FINAL.batch_size,
        augment=FINAL.augment,
        average=FINAL.average,
        context=None,
        compiled=False,
        **options,
    ):
        torch.manual_seed(1)
        model = build(recipe, device)
        optimizer = torch.optim.SGD(model.parameters(), 0.05, momentum=0.9, nesterov=True, weight_decay=2e-4, **options)
        averaged = average(model) if average else None
        loader = TensorLoader(train_set, batch_size, shuffle=True, augment=augment)
        trained = torch.compile(model) if compiled else model

        def epoch():
            with context() if context else contextlib.nullcontext():
                train(trained, device, loader, optimizer, None, averaged)

        return epoch

    def testing(batch_size):
        model, loader = build(FINAL, device), TensorLoader(test_set, batch_size)
        return lambda: test(model, device, loader)

    @contextlib.contextmanager
    def one_thread():
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        yield
        torch.set_num_threads(threads)

    @contextlib.contextmanager
    def without_denormals():
        torch.set_flush_denormal(True)
        yield
        torch.set_flush_denormal(False)

    def half_precision():
        return torch.autocast(device, torch.bfloat16)

    return {
        "training, as it is": training(),
        "no augmentation": training(augment=None),
        "affine changes only": training(augment=AUGMENTED.augment),
        "no average": training(average=None),
        "one thread": training(context=one_thread),
        "not channels last": training(replace(FINAL, channels_last=False)),
        "batches of 64": training(batch_size=64),
        "batches of 256": training(batch_size=256),
        "optimiser: fused": training(fused=True),
        "optimiser: foreach": training(foreach=True),
        "denormals flushed to zero": training(context=without_denormals),
        "bfloat16 autocast": training(context=half_precision),
        "torch.compile": training(compiled=True),
        "test, batches of 1,000, as it is": testing(1000),
        "test, batches of 250": testing(250),
        "test, batches of 10,000": testing(10_000),
    }


def profile(device: str, batches=200) -> pd.DataFrame:
    """The shares of the final recipe's training time by operation, those of at least 1%."""
    train_set, _ = load_mnist(ROOT / "data", device)
    part = TensorDataset(*(tensor[: FINAL.batch_size * batches] for tensor in train_set.tensors))
    model = build(FINAL, device)
    optimizer, average = FINAL.optimizer(model.parameters()), FINAL.average(model)
    loader = TensorLoader(part, FINAL.batch_size, shuffle=True, augment=FINAL.augment)
    train(model, device, loader, optimizer, None, average)
    with torch.profiler.profile() as profiler:
        train(model, device, loader, optimizer, None, average)
    rows = pd.DataFrame(
        [
            {"operation": event.key, "calls_a_batch": event.count / batches, "microseconds": event.self_cpu_time_total}
            for event in profiler.key_averages()
        ]
    )
    rows["share"] = 100 * rows["microseconds"] / rows["microseconds"].sum()
    rows["microseconds"] = rows["microseconds"] / batches
    return rows[rows["share"] >= 1].sort_values("share", ascending=False)


def trials_table(rows: pd.DataFrame) -> str:
    """The Markdown table of what was tried: seconds, and in relation to the way it is."""
    lines, base = ["| what | seconds, median | fastest to slowest | ÷ as it is |", "|---|---|---|---|"], math.nan
    for row in rows.itertuples():
        base = row.seconds if "as it is" in row.way else base
        lines.append(
            f"| {row.way} | {row.seconds:.2f} | {row.fastest:.2f} to {row.slowest:.2f} | {row.seconds / base:.2f} |"
        )
    return "\n".join(lines)


def profile_table(rows: pd.DataFrame) -> str:
    """The Markdown table of where the time goes."""
    lines = ["| operation | calls a batch | µs a batch | share |", "|---|---|---|---|"]
    lines += [
        f"| `{row.operation}` | {row.calls_a_batch:.0f} | {row.microseconds:.0f} | {row.share:.0f}% |"
        for row in rows.itertuples()
    ]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--device", default="cpu")
    for name in ("profile", "table"):
        parser.add_argument(f"--{name}", action="store_true")
    options = parser.parse_args()
    if options.profile:
        profile(options.device).to_csv(PROFILE, index=False, float_format="%.4g")
    elif not options.table:
        measure(trials(options.device), options.device, options.repetitions).to_csv(
            TRIALS, index=False, float_format="%.4g"
        )
    print(trials_table(pd.read_csv(TRIALS)) + "\n")
    print(profile_table(pd.read_csv(PROFILE)))


if __name__ == "__main__":
    main()
