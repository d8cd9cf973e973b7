"""Check an implementation against the parity cases of tests/testdata/cases.

    python tests/support/check_cases.py path/to/adapter.py [--only TEXT ...] [--atol 2e-5] [--cases DIR] [-v]

The adapter module offers run(case_dir, case) -> {output name: array}.  Every array in outputs.npz must be
there with the same shape, except past_key_values.*, which are compared only if returned.  Integers and
strings must be equal; floats must lie within atol * max(1, max|reference|).  NaN in the reference means
"not compared".  Exit status 0 means that all cases pass.
"""

import argparse
import collections
import importlib.util
import json
import sys
import time
from pathlib import Path

import numpy as np

CASES = Path(__file__).resolve().parents[1] / "testdata" / "cases"


def differences(reference, result, atol):
    """List of complaints, empty if the result matches the reference."""
    bad = []
    for name, ref in reference.items():
        if name not in result:
            if "past_key_values" not in name:  # a cache may have a layout of its own
                bad.append(f"{name}: missing")
            continue
        got = np.asarray(result[name])
        if got.shape != ref.shape:
            bad.append(f"{name}: shape {got.shape}, expected {ref.shape}")
        elif ref.dtype.kind != "f":
            wrong = got != ref
            if wrong.any():
                bad.append(f"{name}: {wrong.sum()} of {ref.size} entries differ")
        elif ref.size:
            used = ~np.isnan(ref)
            a, b = got[used].astype(np.float64), ref[used].astype(np.float64)
            if not np.isfinite(a).all():
                bad.append(f"{name}: not finite")
                continue
            scale = max(1.0, np.abs(b).max(initial=0.0))
            error = np.abs(a - b).max(initial=0.0)
            if error > atol * scale:
                bad.append(f"{name}: error {error:.2g} > {atol:g} * {scale:.3g}")
    return bad


def load_adapter(path):
    path = Path(path).resolve()
    sys.path.insert(0, str(path.parent))
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("adapter")
    p.add_argument("--cases", default=CASES, type=Path)
    p.add_argument("--only", nargs="*", default=[], help="run cases whose name or class contains one of these")
    p.add_argument("--atol", type=float, default=2e-5)
    p.add_argument("-v", "--verbose", action="store_true", help="every complaint, and the passing cases too")
    args = p.parse_args()

    adapter = load_adapter(args.adapter)
    passed, total = collections.Counter(), collections.Counter()
    for folder in sorted(f.parent for f in args.cases.glob("*/case.json")):
        case = json.loads((folder / "case.json").read_text())
        if args.only and not any(t in case["name"] or t in case["class"] for t in args.only):
            continue
        with np.load(folder / "outputs.npz") as z:
            reference = {k: z[k] for k in z.files}
        start = time.time()
        try:
            bad = differences(reference, adapter.run(folder, case), args.atol)
        except Exception as e:  # a crash of one case must not hide the others
            bad = [f"{type(e).__name__}: {str(e).strip().splitlines()[0] if str(e) else ''}"]
        group = "quirk" if case["quirk"] else case["class"]
        total[group] += 1
        passed[group] += not bad
        if bad:
            more = "" if args.verbose or len(bad) == 1 else f"  (+{len(bad) - 1} more)"
            print(f"FAIL {case['name']}: " + ("; ".join(bad) if args.verbose else bad[0] + more), flush=True)
        elif args.verbose:
            print(f"ok   {case['name']}  {time.time() - start:.2f}s", flush=True)
    for group in sorted(total):
        if passed[group] < total[group] or args.verbose:
            print(f"  {group}: {passed[group]} of {total[group]}")
    print(f"parity: {sum(passed.values())} of {sum(total.values())} cases pass")
    return sum(passed.values()) < sum(total.values())


if __name__ == "__main__":
    sys.exit(main())
