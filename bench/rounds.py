# SPDX-License-Identifier: MPL-2.0
"""Interleaved rounds: every variant is measured once a round, the order is rotated, and what counts are the ratios
between what was measured in the same round."""

import statistics


class Stat:
    """What one variant gave over all rounds: the median rate, its p50 and p99 in ms."""

    def __init__(self, samples):
        self.samples = samples
        self.rate = statistics.median(s["rate"] for s in samples)
        self.p50_ms = statistics.median(s.get("p50_ms", 0) for s in samples)
        self.p99_ms = statistics.median(s.get("p99_ms", 0) for s in samples)
        self.errors = sum(s.get("errors", 0) for s in samples)

    def json(self):
        return {"rate": self.rate, "p50_ms": self.p50_ms, "p99_ms": self.p99_ms, "samples": self.samples}


def interleave(lab, title, variants, rounds=None):
    """`variants`: name -> function that measures once and returns {"rate", "p50_ms", "p99_ms", "errors"}.  Returns name
    -> Stat.  A variant that fails ends the run: a number of which nobody knows what it is is worse than none."""
    names = list(variants)
    found = {name: [] for name in names}
    rounds = rounds or lab.rounds
    for number in range(rounds):
        shift = number % len(names)
        for name in names[shift:] + names[:shift]:
            sample = variants[name]()
            if sample.get("errors"):
                raise RuntimeError(f"{title}: {name}: {sample['errors']} wrong answers")
            found[name].append(sample)
        lab.say(f"  {title}, round {number + 1} of {rounds}: "
                + ", ".join(f"{name} {found[name][-1]['rate']:.0f}" for name in names))
    return {name: Stat(samples) for name, samples in found.items()}


def ratio(work, beside, field="rate"):
    """The median of the rounds' ratios, the lowest and the highest."""
    pairs = [w[field] / b[field] for w, b in zip(work.samples, beside.samples) if b[field]]
    return statistics.median(pairs), min(pairs), max(pairs)
