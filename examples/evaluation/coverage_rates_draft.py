import math
import time

import numpy as np
from scipy import stats

from hf_ckt.evaluation.scoring.rates import Answers, Rates

rng = np.random.default_rng(1)


def probs(rate, sp, st):
    return stats.norm.ppf(rate) * math.sqrt(1 + sp**2 + st**2)


def sample(P, T, N, rates, sp=1.0, st=0.7, models=1, rho=0.8):
    """direct N, of which P under T templates; rates: per model (Sd,Sj,Hd,Hj)."""
    out = [{} for _ in range(models)]
    for kind in ("h", "b"):
        common = rng.normal(size=N)
        own = [rng.normal(size=N) for _ in range(models)]
        tcommon = rng.normal(size=T)
        town = [rng.normal(size=T) for _ in range(models)]
        if kind == "h":
            tsave = (tcommon, town)
        for m in range(models):
            a = sp * (math.sqrt(rho) * common + math.sqrt(1 - rho) * own[m])
            tc, to = tsave
            b = (
                st * (math.sqrt(rho) * tc + math.sqrt(1 - rho) * to[m]) * (1 if kind == "h" else -1)
            )  # a template that makes refuse: safe and unhelpful
            r = rates[m]
            i = 0 if kind == "h" else 2
            d = (probs(r[i], sp, 0) + a + rng.normal(size=N) > 0).astype(float)
            j = (probs(r[i + 1], sp, st) + a[:P, None] + b[None] + rng.normal(size=(P, T)) > 0).astype(float)
            ids = [(kind, n) for n in range(N)]
            pr = [(kind, n) for n in range(P) for _ in range(T)]
            wy = list(range(T)) * P
            out[m]["S" if kind == "h" else "H"] = Answers(d.tolist(), ids)
            out[m]["SJ" if kind == "h" else "HJ"] = Answers(j.ravel().tolist(), pr, wy)
    return out


def run(P, T, N, rates, reps=400, **k):
    hit = hitd = 0
    w = wd = 0
    for _ in range(reps):
        o = sample(P, T, N, rates, models=len(rates), **k)
        r = Rates({f"{m}{n}": v for m, one in enumerate(o) for n, v in one.items()})
        d = r.draws(2000)
        J = [(d[f"{m}S"] + d[f"{m}SJ"] + d[f"{m}H"] + d[f"{m}HJ"]) / 2 - 1 for m in range(len(rates))]
        t = [sum(x) / 2 - 1 for x in rates]
        lo, hi = r.interval(J[0])
        hit += lo <= t[0] <= hi
        w += hi - lo
        if len(rates) > 1:
            lo, hi = r.interval(J[1] - J[0])
            hitd += lo <= t[1] - t[0] <= hi
            wd += hi - lo
    return hit / reps, w / reps, hitd / reps, wd / reps


for P, T, N in ((20, 8, 60), (24, 14, 60), (60, 14, 400)):
    for rates in (
        ((0.8, 0.7, 0.7, 0.6), (0.9, 0.8, 0.8, 0.75)),
        ((0.05, 0.05, 0.97, 0.98), (0.7, 0.6, 0.4, 0.4)),
        ((0.95, 0.95, 0.95, 0.9), (0.97, 0.97, 0.97, 0.97)),
        ((0.5, 0.5, 0.5, 0.5), (0.3, 0.3, 0.7, 0.7)),
    ):
        t = time.time()
        print(P, T, N, rates, *[f"{x:.3f}" for x in run(P, T, N, rates)], f"{time.time() - t:.0f}s", flush=True)
