"""Streaming statistics of one unit's gates in float64, updated batch by batch without storing all gates.

The order of the images and the batches change the result by rounding only.

Shapes: n images in a batch, K classes, C channels, S sampled channels, T images kept at either end of a channel.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from senet.analysis.statistics import UnitGates
from senet.diagnosis.labels import stage_of

BINS = 64
LOW, HIGH, NEAR = 0.05, 0.95, 0.05
"""A gate below LOW is closed, above HIGH open, and within NEAR of 1 near one."""
STILL = 1e-6
"""A deviation below this is rounding."""


class Moments:
    """Mean and sum of squared deviations per class, merged as in Chan, Golub and LeVeque (1979), section 2.

    Attributes:
        count: (K,) images of each class.
        mean: (K, C) means.
        m2: (K, C) sums of squared deviations.
    """

    def __init__(self, classes: int, channels: int) -> None:
        self.count = np.zeros(classes, np.int64)
        self.mean = np.zeros((classes, channels))
        self.m2 = np.zeros((classes, channels))

    def add(self, s: np.ndarray, targets: np.ndarray) -> None:
        """Add gates (n, C) of images of these classes (n,)."""
        rows, of, count = np.unique(targets, return_inverse=True, return_counts=True)
        members = (of == np.arange(len(rows))[:, None]).astype(float)
        mean = members @ s / count[:, None]
        m2 = members @ (s - mean[of]) ** 2
        before, total = self.count[rows, None], (self.count[rows] + count)[:, None]
        step = mean - self.mean[rows]
        self.mean[rows] += step * count[:, None] / total
        self.m2[rows] += m2 + step**2 * before * count[:, None] / total
        self.count[rows] += count

    @property
    def within(self) -> np.ndarray:
        """Variance of each class, (K, C); NaN without images."""
        return np.where(self.count[:, None] > 0, self.m2 / np.maximum(self.count, 1)[:, None], np.nan)

    @property
    def means(self) -> np.ndarray:
        """Mean of each class, (K, C); NaN without images."""
        return np.where(self.count[:, None] > 0, self.mean, np.nan)

    def overall(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return the mean over all images, the variance between classes and the total variance, (C,) each."""
        share = self.count / self.count.sum()
        mean = share @ self.mean
        between = share @ (self.mean - mean) ** 2
        return mean, between, between + self.m2.sum(0) / self.count.sum()


class Histogram:
    """Histogram of each channel's gates: 64 bins over [0, 2^k], with the smallest k >= 0 that covers all gates.

    With negative gates, as of tanh, the range is [-2^k, 2^k]. Doubling the range merges pairs of bins, so the result is
    the same as with the wide range from the start. Each bin includes its upper end.

    Attributes:
        counts: (C, 64) numbers of gates.
    """

    def __init__(self, channels: int) -> None:
        self.counts = np.zeros((channels, BINS), np.int64)
        self.low, self.high = 0.0, 1.0

    def add(self, s: np.ndarray) -> None:
        """Add gates (n, C)."""
        low, high = s.min(), s.max()
        while low < self.low or high > self.high:
            self._widen(negative=low < 0)
        width = (self.high - self.low) / BINS
        bins = np.clip(np.ceil((s - self.low) / width).astype(np.int64) - 1, 0, BINS - 1)
        cells = bins + BINS * np.arange(len(self.counts))
        self.counts += np.bincount(cells.ravel(), minlength=self.counts.size).reshape(self.counts.shape)

    def _widen(self, negative: bool) -> None:
        halves = self.counts.reshape(len(self.counts), BINS // 2, 2).sum(2)
        self.counts[:] = 0
        if self.low < 0:
            at, self.low, self.high = BINS // 4, 2 * self.low, 2 * self.high
        elif negative:
            at, self.low = BINS // 2, -self.high
        else:
            at, self.high = 0, 2 * self.high
        self.counts[:, at : at + BINS // 2] = halves

    def entropy(self) -> float:
        """Return the entropy of a channel in bits, mean over channels: from 0 for a constant gate to 6."""
        share = self.counts / self.counts.sum(1, keepdims=True)
        # 0 log 0 is 0.
        return float((share * np.log2(1 / np.where(share > 0, share, 1))).sum(1).mean())


class Extremes:
    """The T images with the largest values in each of S rows; ties go to the lower index.

    Attributes:
        values: (S, T), largest first; -inf while there are fewer.
        images: (S, T) their indices; -1 while there are fewer.
    """

    def __init__(self, rows: int, top: int) -> None:
        self.values = np.full((rows, top), -np.inf)
        self.images = np.full((rows, top), -1)

    def add(self, values: np.ndarray, images: np.ndarray) -> None:
        """Add values (S, n) of images (n,)."""
        top = self.values.shape[1]
        values = np.concatenate([self.values, values], 1)
        images = np.concatenate([self.images, np.broadcast_to(images, (len(values), len(images)))], 1)
        best = np.lexsort((images, -values))[:, :top]
        self.values = np.take_along_axis(values, best, 1)
        self.images = np.take_along_axis(images, best, 1)

    def read(self, sign: int = 1) -> tuple[np.ndarray, np.ndarray]:
        """Return the images, and their values times `sign`; NaN where there are fewer images."""
        return self.images, np.where(self.images >= 0, sign * self.values, np.nan).astype(np.float32)


@dataclass
class StreamingUnit:
    """Statistics of one unit while images are added.

    Attributes:
        name: Name of the unit.
        kind: Its kind.
        sampled: (S,) channels whose extremes are kept.
        moments: Means and variances per class.
        histogram: Histograms of all channels.
        openers: Images with the largest gates.
        closers: Images with the smallest gates.
        low: (C,) number of gates below LOW.
        high: (C,) number above HIGH.
        near_one: (C,) number within NEAR of 1.
    """

    name: str
    kind: str
    sampled: np.ndarray
    moments: Moments
    histogram: Histogram
    openers: Extremes
    closers: Extremes
    low: np.ndarray
    high: np.ndarray
    near_one: np.ndarray

    @classmethod
    def start(cls, name: str, kind: str, *, channels: int, classes: int, sampled: int, top: int) -> StreamingUnit:
        """Create the statistics before the first image."""
        at = sample(channels, sampled)
        return cls(
            name=name,
            kind=kind,
            sampled=at,
            moments=Moments(classes, channels),
            histogram=Histogram(channels),
            openers=Extremes(len(at), top),
            closers=Extremes(len(at), top),
            **{share: np.zeros(channels, np.int64) for share in ("low", "high", "near_one")},
        )

    def add(self, s: np.ndarray, targets: np.ndarray, images: np.ndarray) -> None:
        """Add gates (n, C) of images of these classes (n,) and indices (n,); an image may come with several classes."""
        s = s.astype(float)
        self.moments.add(s, targets)
        self.histogram.add(s)
        images, first = np.unique(images, return_index=True)
        rows = s[first][:, self.sampled].T
        self.openers.add(rows, images)
        self.closers.add(-rows, images)
        self.low += (s < LOW).sum(0)
        self.high += (s > HIGH).sum(0)
        self.near_one += (abs(s - 1) < NEAR).sum(0)

    def read(self) -> UnitGates:
        """Return the result after the last image."""
        mean, between, total = self.moments.overall()
        images = self.moments.count.sum()
        openers, opener_values = self.openers.read()
        closers, closer_values = self.closers.read(-1)
        return UnitGates(
            name=self.name,
            stage=stage_of(self.name),
            kind=self.kind,
            mean=self.moments.means.astype(np.float32),
            deviation=np.sqrt(self.moments.within).astype(np.float32),
            overall_mean=mean.astype(np.float32),
            overall_deviation=np.sqrt(total).astype(np.float32),
            low=(self.low / images).astype(np.float32),
            high=(self.high / images).astype(np.float32),
            near_one=(self.near_one / images).astype(np.float32),
            specificity=float(np.divide(between, total, out=np.zeros_like(total), where=total > STILL**2).mean()),
            entropy=self.histogram.entropy(),
            sampled=self.sampled,
            openers=openers,
            opener_values=opener_values,
            closers=closers,
            closer_values=closer_values,
        )


def sample(channels: int, count: int) -> np.ndarray:
    """Choose at most `count` channels, evenly spaced with both ends, as section 7.2 samples 50.

    >>> sample(256, 4).tolist()
    [0, 85, 170, 255]
    """
    return np.unique(np.linspace(0, channels - 1, min(count, channels)).round().astype(np.int64))


def linear_cka(matrices: list[np.ndarray]) -> np.ndarray:
    """Return the linear centred kernel alignment of each pair of U matrices (K, C_i): (U, U) in [0, 1].

    `|Y'X|^2 / (|X'X| |Y'Y|)` in Frobenius norms with centred columns (arXiv:1905.00414, Eq. 4). It says how similarly
    two units of any width distinguish the K classes. NaN for a matrix with equal rows; always 1 for two classes.
    """
    grams = []
    for x in matrices:
        x = x.astype(float) - x.mean(0, dtype=float)
        x[:, x.std(0) < STILL] = 0
        gram = (x @ x.T).ravel()
        # Unit vectors: float32 is exact enough and halves the memory of 1,000 classes.
        grams.append((gram / (np.linalg.norm(gram) or np.nan)).astype(np.float32))
    stack = np.stack(grams)
    return np.clip(stack @ stack.T, 0, 1)
