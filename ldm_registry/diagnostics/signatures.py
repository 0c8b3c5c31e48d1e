"""How two batches of images or latents differ: fits and spectra in closed form, each named for what leaves it behind.

Everything is computed in float64 on the CPU. `given` is what went in, `made` what came out; both [N, C, H, W].
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

SMALLEST_MSE = 1e-10
SEAM_RUN = 8
"""Pixels along a seam that are averaged before its height is measured: tiles are wider."""
PEAK_TO_PEAK = 2.0
"""Pixels lie in [-1, 1]."""


def psnr_db(made: Tensor, true: Tensor) -> Tensor:
    """Peak signal-to-noise ratio of each image [N], after clamping to [-1, 1]; 106 dB stands for no error."""
    # Not from torchmetrics: the verdict rests on this line, and that library is an extra.
    error = made.double().clamp(-1.0, 1.0) - true.double()
    mse = error.square().flatten(1).mean(1).clamp(min=SMALLEST_MSE)
    return 10.0 * torch.log10(PEAK_TO_PEAK**2 / mse)


@dataclass(frozen=True, slots=True)
class AffineMap:
    """`made = matrix @ given + offset` over channels, by least squares.

    Attributes:
        matrix: [C, C]; diagonal where each channel was fitted by itself.
        offset: [C].
        unexplained: Share of the variance of `made` that the map leaves over, in [0, 1]; NaN where nothing varies.
    """

    matrix: Tensor
    offset: Tensor
    unexplained: float

    @property
    def gain(self) -> float:
        """Mean of the diagonal."""
        return float(self.matrix.diagonal().mean())

    @property
    def mixing(self) -> float:
        """How far the map is from acting on each channel by itself: off-diagonal share of its norm, in [0, 1]."""
        norm = float(self.matrix.norm())
        return float((self.matrix - self.matrix.diag().diag()).norm()) / norm if norm else 0.0

    def permutation(self) -> tuple[int, ...] | None:
        """Which input channel each output channel comes from, where one dominates each and they are not in order."""
        size = self.matrix.abs()
        order = size.argmax(1)
        kept = size.gather(1, order[:, None]).squeeze(1).square() / size.square().sum(1).clamp(min=1e-30)
        found = tuple(order.tolist())
        clear = bool((kept > 0.8).all()) and len(set(found)) == len(found)
        return found if clear and found != tuple(range(len(found))) else None


def channel_fit(given: Tensor, made: Tensor) -> AffineMap:
    """`made = a * given + b` for each channel by itself."""
    x, y = _rows(given), _rows(made)
    x_mean, y_mean = x.mean(0), y.mean(0)
    x, y = x - x_mean, y - y_mean
    gain = (x * y).sum(0) / x.square().sum(0).clamp(min=1e-30)
    return AffineMap(gain.diag(), y_mean - gain * x_mean, _share((y - gain * x), y))


def mixing_fit(given: Tensor, made: Tensor) -> AffineMap:
    """`made = A @ given + b` over all channels together; [C, C] of least norm where the input is degenerate."""
    x, y = _rows(given), _rows(made)
    x_mean, y_mean = x.mean(0), y.mean(0)
    x, y = x - x_mean, y - y_mean
    # A relative ridge of 1e-9 picks the solution of least norm for grey images, whose channels are equal.
    gram = x.T @ x
    ridge = 1e-9 * gram.diagonal().mean().clamp(min=1e-30)
    eye = torch.eye(len(gram), dtype=gram.dtype, device=gram.device)
    matrix = torch.linalg.solve(gram + ridge * eye, x.T @ y).T
    return AffineMap(matrix, y_mean - matrix @ x_mean, _share(y - x @ matrix.T, y))


def shift(given: Tensor, made: Tensor) -> tuple[float, float]:
    """By how many cells (down, right) the content has moved, to a fraction of a cell, by phase correlation.

    The whole cells come from the peak of the cross-correlation of all images together; the fraction from the slope
    of the remaining phase over the frequencies that carry power (Stone et al. 2001, section II).
    """
    height, width = given.shape[-2:]
    # A Hann window: images are not periodic, and the jump at their border is no content.
    window = _hann(height)[:, None] * _hann(width)
    peak = int(torch.fft.ifft2(_cross(given, made, window)).real.argmax())
    whole = (_signed(peak // width, height), _signed(peak % width, width))
    # Once more in place: a window that cuts other content out of each would pull the estimate to zero.
    aligned = _cross(given.roll(whole, (-2, -1)), made, window)
    ky = torch.fft.fftfreq(height, dtype=torch.float64)[:, None].expand(height, width)
    kx = torch.fft.fftfreq(width, dtype=torch.float64)[None].expand(height, width)
    low = (ky.abs() < 0.25) & (kx.abs() < 0.25)
    weight = aligned.abs()[low].sqrt()
    slopes = torch.stack([ky[low], kx[low]], 1) * (-2.0 * math.pi)
    phase = torch.angle(aligned[low])
    normal = slopes.T @ (slopes * weight[:, None] ** 2)
    if float(torch.linalg.det(normal)) <= 1e-30:
        return float(whole[0]), float(whole[1])
    fraction = torch.linalg.solve(normal, slopes.T @ (phase * weight**2))
    return whole[0] + float(fraction[0]), whole[1] + float(fraction[1])


def seam_profile(error: Tensor) -> tuple[Tensor, Tensor]:
    """How sharply an error [N, C, H, W] jumps between neighbouring rows [H - 1] and columns [W - 1].

    RMS of the mean jump along runs of `SEAM_RUN` pixels, in units of what its neighbours have (1 is an ordinary
    place): a tile that is too bright jumps along all of its side, a detail does not.
    """
    values = error.double()
    return _jumps(values.diff(dim=-2)), _jumps(values.diff(dim=-1).mT)


def seam_period(error: Tensor, periods: Sequence[int], threshold: float) -> tuple[int | None, float]:
    """The widest spacing at whose multiples the error jumps, and by how much more than elsewhere.

    Args:
        error: [N, C, H, W].
        periods: Candidates in pixels.
        threshold: Of `seam_profile`, above which a place counts as a seam.

    Returns:
        The period (None where no candidate exceeds the threshold), and the greatest excess of any candidate.
    """
    rows, columns = seam_profile(error)
    excess = {
        period: max(_excess(rows, period), _excess(columns, period))
        for period in periods
        if period < max(error.shape[-2:])
    }
    worst = max(excess.values(), default=0.0)
    # All multiples of a wider period are multiples of a narrower one only if that has seams in between, too.
    seams = [period for period, value in excess.items() if value >= max(threshold, 0.5 * worst)]
    return (min(seams) if seams else None), worst


def pattern_excess(error: Tensor, period: int) -> float:
    """Power of an error [N, C, H, W] at a period (its fundamental), beside that of the neighbouring frequencies.

    1 is an ordinary error; a checkerboard has its power at period 2, a transposed convolution at its stride.
    NaN where the image holds fewer than two periods.
    """
    height, width = error.shape[-2:]
    if height % period or width % period or min(height, width) < 2 * period or period < 2:
        return math.nan
    power = torch.fft.fft2(_centred(error)).abs().square().mean((0, 1))
    ratios = []
    for axis, length in ((0, height), (1, width)):
        line = power.mean(1 - axis)
        at = length // period
        near = [(at + step) % length for step in (-2, -1, 1, 2)]
        ratios.append(float(line[at]) / float(line[near].median().clamp(min=1e-20)))
    return max(ratios)


def border_excess(error: Tensor, activity: Tensor, width: int) -> float:
    """RMS error in a frame along the border, relative to the interior.

    Each is taken relative to how much the image varies there, so that an empty margin counts as little as it holds.

    Args:
        error: [N, C, H, W].
        activity: The true images, same shape.
        width: Of the frame in pixels.
    """
    frame = torch.ones(error.shape[-2:], dtype=torch.bool)
    frame[width:-width, width:-width] = False
    if bool(frame.all()):
        return math.nan
    power, detail = error.double().square().mean((0, 1)), _detail(activity)
    floor = 0.05 * float(detail.mean()) + 1e-12
    outside = float(power[frame].mean()) / (float(detail[frame].mean()) + floor)
    inside = float(power[~frame].mean()) / (float(detail[~frame].mean()) + floor)
    return math.sqrt(outside / max(inside, 1e-20)) if outside > 1e-12 else 0.0


def sharpness(given: Tensor, made: Tensor) -> float:
    """Power in the upper half of the frequencies of `made` relative to `given`: 1 kept, 0 blurred away, > 1 added."""
    spectra = [torch.fft.fft2(_centred(images)).abs().square().mean((0, 1)) for images in (given, made)]
    ky = torch.fft.fftfreq(given.shape[-2], dtype=torch.float64).abs()[:, None]
    kx = torch.fft.fftfreq(given.shape[-1], dtype=torch.float64).abs()[None]
    high = torch.maximum(ky, kx) > 0.25
    before = float(spectra[0][high].sum())
    return float(spectra[1][high].sum()) / before if before > 1e-12 else math.nan


def power_spectrum(images: Tensor, bins: int = 24) -> tuple[tuple[float, float], ...]:
    """Mean power of images [N, C, H, W] over rings of frequency: (cycles per pixel, power), rings that hold any."""
    power = torch.fft.fft2(_centred(images)).abs().square().mean((0, 1)) / images[0, 0].numel()
    ky = torch.fft.fftfreq(images.shape[-2], dtype=torch.float64)[:, None]
    kx = torch.fft.fftfreq(images.shape[-1], dtype=torch.float64)[None]
    radius = (ky.square() + kx.square()).sqrt()
    ring = (radius / 0.5 * bins).round().long()
    rings = [(ring == index) & (radius > 0) for index in range(bins + 1)]
    return tuple((float(radius[one].mean()), float(power[one].mean())) for one in rings if bool(one.any()))


def _rows(values: Tensor) -> Tensor:
    return values.detach().double().cpu().movedim(1, -1).flatten(0, -2)


def _share(rest: Tensor, whole: Tensor) -> float:
    total = float(whole.square().sum())
    return min(1.0, float(rest.square().sum()) / total) if total > 0 else math.nan


def _centred(images: Tensor) -> Tensor:
    values = images.double()
    return values - values.mean((-2, -1), keepdim=True)


def _cross(given: Tensor, made: Tensor, window: Tensor) -> Tensor:
    """Cross-power spectrum [H, W] of all images and channels together."""
    spectra = [torch.fft.fft2(_centred(images) * window) for images in (given, made)]
    total: Tensor = (spectra[0].conj() * spectra[1]).sum((0, 1))
    return total


def _hann(length: int) -> Tensor:
    return torch.hann_window(length + 2, periodic=False, dtype=torch.float64)[1:-1]


def _signed(index: int, length: int) -> int:
    return index - length if index > length // 2 else index


def _jumps(steps: Tensor) -> Tensor:
    """RMS over images and channels of jumps [N, C, L, along the seam], over the median of the places nearby."""
    runs = torch.nn.functional.avg_pool2d(steps, (1, min(SEAM_RUN, steps.shape[-1])))
    rms = runs.square().mean((0, 1, 3)).sqrt()
    padded = torch.cat([rms[:4].flip(0), rms, rms[-4:].flip(0)]) if len(rms) >= 4 else rms.repeat(9)
    around = padded.unfold(0, 9, 1).median(1).values[: len(rms)]
    return rms / around.clamp(min=max(1e-6, 0.1 * float(rms.median())))


def _excess(profile: Tensor, period: int) -> float:
    """The least excess over all multiples of a period: every one of them has to be a seam."""
    places = profile[period - 1 :: period]
    return float(places.min()) if len(places) else 0.0


def _detail(images: Tensor) -> Tensor:
    """Mean squared difference between neighbours at each pixel [H, W]."""
    values = images.double()
    down = torch.nn.functional.pad(values.diff(dim=-2), (0, 0, 0, 1), mode="replicate")
    right = torch.nn.functional.pad(values.diff(dim=-1), (0, 1, 0, 0), mode="replicate")
    return (down.square() + right.square()).mean((0, 1))
