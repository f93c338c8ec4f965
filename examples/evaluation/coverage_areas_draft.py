import math

import numpy as np
from scipy import stats

from hf_ckt.evaluation.scoring.rates import *

rng = np.random.default_rng(0)
for m, n in ((60, 60), (16, 16), (120, 40), (300, 300)):
    for A in (0.5, 0.7, 0.85, 0.95, 0.99):
        mu = math.sqrt(2) * stats.norm.ppf(A)
        hit = hitd = 0
        w = 0
        R = 600
        for _ in range(R):
            c = rng.normal(size=m + n)
            x = [0.7 * c + 0.714 * rng.normal(size=m + n) for _ in range(2)]
            ids = list(range(m + n))
            for y in x:
                y[:m] += mu
            r = Rates({k: Separation(y[:m], y[m:], ids[:m], ids[m:]) for k, y in zip("ab", x)})
            d = r.draws(2000)
            lo, hi = r.interval(d["a"])
            hit += lo <= A <= hi
            w += hi - lo
            lo, hi = r.interval(d["a"] - d["b"])
            hitd += lo <= 0 <= hi
        print(m, n, A, hit / R, f"{w / R:.3f}", hitd / R, flush=True)
