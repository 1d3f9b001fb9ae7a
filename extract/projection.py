"""Fewer numbers a vector: random projections, which need only a seed, and principal components, which are fitted.

A projection is part of what a feature is, so a spec names it: ``random:DIM:SEED`` or ``pca:DIM:sha256:HEX``.
"""

import dataclasses
import hashlib
import json
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from data.errors import MissingFile, ProjectionError, first_line
from data.staging import disk_full_hint, write_atomically

Floats = npt.NDArray[np.float32]

_KEY = "penult_pca"
_FORMAT = 1
_FORM = re.compile(r"random:(?P<random>[1-9]\d*):(?P<seed>\d+)|pca:(?P<pca>[1-9]\d*):(?P<digest>sha256:[0-9a-f]{64})")
# Rows of a random matrix whose signs are unpacked at once: one byte a sign, beside four in the result.
_ROWS = 4096


@dataclasses.dataclass(frozen=True)
class Projection:
    """What a spec's `projection` says.

    Parameters
    ----------
    kind : str
        ``random`` or ``pca``.
    dim : int
        Numbers of a projected vector.
    seed : int
        Of a random projection.
    digest : str
        Of a PCA: ``sha256:`` and the hex digest of its arrays (`Pca.digest`).
    """

    kind: str
    dim: int
    seed: int = 0
    digest: str = ""

    def __str__(self) -> str:
        return f"{self.kind}:{self.dim}:{self.seed if self.kind == 'random' else self.digest}"


def parse_projection(text: str) -> Projection:
    """Read a spec's `projection`.

    Raises
    ------
    ProjectionError
        If it has neither form.

    Examples
    --------
    >>> parse_projection("random:256:0")
    Projection(kind='random', dim=256, seed=0, digest='')
    """
    found = _FORM.fullmatch(text)
    if found is None:
        raise ProjectionError(f"no projection {text!r}: write random:DIM:SEED or pca:DIM:sha256:HEX, with DIM from 1")
    if found["random"]:
        return Projection("random", int(found["random"]), seed=int(found["seed"]))
    return Projection("pca", int(found["pca"]), digest=found["digest"])


def random_projection(dim_in: int, dim_out: int, seed: int) -> Floats:
    """Return a matrix that keeps lengths and distances of vectors about as they are.

    Every entry is plus or minus 1/sqrt(dim_out), by a fair coin (Achlioptas, "Database-friendly random projections",
    JCSS 2003, theorem 1.1). The coins of row i are the bits, highest first, of SHAKE-256 of
    ``penult random projection 1:SEED:i``, 1 for plus: the same on every machine, for ever. Rows do not depend on
    `dim_in`, nor their signs on `dim_out`.

    Parameters
    ----------
    dim_in, dim_out : int
        Numbers of a vector before and after.
    seed : int
        At least 0.

    Returns
    -------
    ndarray of shape (dim_in, dim_out), float32
        To multiply features with from the right.

    Raises
    ------
    ProjectionError
        If a size is below 1, or the seed below 0.

    Examples
    --------
    >>> random_projection(2, 4, 0) * 2
    array([[ 1., -1.,  1.,  1.],
           [-1., -1., -1., -1.]], dtype=float32)
    """
    if dim_in < 1 or dim_out < 1 or seed < 0:
        raise ProjectionError(
            f"a random projection from {dim_in} to {dim_out} numbers by seed {seed}: sizes begin at 1, seeds at 0"
        )
    scale = np.float32(1 / math.sqrt(dim_out))
    matrix = np.empty((dim_in, dim_out), np.float32)
    width = -(-dim_out // 8)  # bytes of a row
    for start in range(0, dim_in, _ROWS):
        stop = min(start + _ROWS, dim_in)
        coins = b"".join(
            hashlib.shake_256(b"penult random projection 1:%d:%d" % (seed, i)).digest(width) for i in range(start, stop)
        )
        bits = np.unpackbits(np.frombuffer(coins, np.uint8).reshape(-1, width), axis=1, count=dim_out)
        matrix[start:stop] = np.where(bits, scale, -scale)
    return matrix


@dataclasses.dataclass(frozen=True)
class Pca:
    """Principal components of some features.

    Parameters
    ----------
    mean : ndarray of shape (d,), float32
        Subtracted first.
    components : ndarray of shape (dim, d), float32
        Orthonormal rows, the direction of the largest variance first.
    """

    mean: Floats
    components: Floats

    def transform(self, X: npt.NDArray[Any]) -> Floats:
        """Return the coordinates of vectors, (n, d), along the components: (n, dim) float32.

        Raises
        ------
        ProjectionError
            If the vectors are of another width.
        """
        if X.ndim != 2 or X.shape[1] != len(self.mean):
            raise ProjectionError(
                f"a PCA of {len(self.mean)} numbers a vector cannot project features of shape {X.shape}: "
                "fit one on these features"
            )
        centred = X.astype(np.float32, copy=False) - self.mean
        return np.asarray(centred @ self.components.T, np.float32)

    __call__ = transform

    def affine(self, width: int) -> tuple[Floats, Floats]:
        """Return what is subtracted first, (width,), and what vectors are then multiplied with, (width, dim)."""
        return self.mean, np.ascontiguousarray(self.components.T)

    @property
    def digest(self) -> str:
        """``sha256:`` and the digest of mean and components: for each its name, its shape and its values.

        The shape is as Python prints a tuple, the values are little-endian float32.
        """
        digest = hashlib.sha256()
        for name, array in (("components", self.components), ("mean", self.mean)):
            digest.update(f"{name}{array.shape}".encode())
            digest.update(np.ascontiguousarray(array, "<f4").tobytes())
        return f"sha256:{digest.hexdigest()}"

    @property
    def projection(self) -> str:
        """What a spec says of it."""
        return str(Projection("pca", len(self.components), digest=self.digest))


def fit_pca(X: npt.NDArray[Any], dim_out: int) -> Pca:
    """Find the directions in which features vary most.

    Computed in float64 from the eigenvectors of the smaller of two matrices, (d, d) or (n, n), so that it takes
    memory for one of them and one copy of `X`. Of the two signs of a component the one is taken that makes its
    largest entry positive.

    Parameters
    ----------
    X : ndarray of shape (n, d)
        Features.
    dim_out : int
        How many directions.

    Raises
    ------
    ProjectionError
        If there are not so many, or a feature is not finite.
    """
    if X.ndim != 2 or 0 in X.shape:
        raise ProjectionError(f"a PCA is fitted on vectors, (n, d), not on an array of {X.shape}")
    n, d = X.shape
    if not 1 <= dim_out <= min(n, d):
        raise ProjectionError(
            f"{n} vectors of {d} numbers have at most {min(n, d)} components, not {dim_out}: ask for fewer, or fit on "
            "more pictures"
        )
    centred = X.astype(np.float64)
    mean = centred.mean(axis=0)
    if not np.isfinite(mean).all():
        raise ProjectionError("features with NaN or infinity have no principal components: verify the store")
    centred -= mean
    wide = n < d
    values, vectors = np.linalg.eigh(centred @ centred.T if wide else centred.T @ centred)  # ascending
    rank = int((values > values[-1] * max(n, d) * np.finfo(np.float64).eps).sum())
    if dim_out > rank:
        raise ProjectionError(
            f"these {n} vectors vary in {rank} directions only, not {dim_out}: ask for fewer, or fit on more pictures"
        )
    top = vectors[:, ::-1][:, :dim_out]  # (n, dim_out) or (d, dim_out)
    # QR takes out what rounding in the (n, n) matrix leaves between components of small variance
    components = np.linalg.qr(centred.T @ top)[0].T if wide else top.T
    largest = np.abs(components).argmax(axis=1)
    components = components * np.sign(components[np.arange(dim_out), largest])[:, None]
    return Pca(mean.astype(np.float32), np.ascontiguousarray(components, np.float32))


def save_pca(path: Path, pca: Pca) -> None:
    """Write a PCA as a safetensors file; the same PCA gives the same bytes.

    Raises
    ------
    DiskFull
        If it does not fit.
    """
    info = {"format": _FORMAT, "digest": pca.digest}
    arrays = {"components": pca.components, "mean": pca.mean}
    content = save(arrays, metadata={_KEY: json.dumps(info, sort_keys=True)})
    with disk_full_hint(path, len(content)):
        write_atomically(path, content)


def load_pca(path: Path) -> Pca:
    """Read a PCA; nothing in the file is run.

    Raises
    ------
    MissingFile
        If there is no such file.
    ProjectionError
        If it is no PCA, is damaged, or is of a newer format.
    """
    if not path.is_file():
        raise MissingFile(f"{path} does not exist: fit a PCA first, or check its path")
    try:
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            if _KEY not in metadata:
                raise ProjectionError(f"{path} is a safetensors file but not a PCA of Penult's: fit one")
            info = json.loads(metadata[_KEY])
            if info["format"] > _FORMAT:
                raise ProjectionError(
                    f"{path} has format {info['format']}, this Penult reads up to {_FORMAT}: update Penult"
                )
            pca = Pca(file.get_tensor("mean"), file.get_tensor("components"))
        if pca.digest != info["digest"] or pca.components.shape[1:] != pca.mean.shape:
            raise ProjectionError(f"{path} is damaged (its arrays are not what was written): fit the PCA anew")
        return pca
    except ProjectionError:
        raise
    except (SafetensorError, OSError, ValueError, KeyError, TypeError) as error:
        raise ProjectionError(f"{path} cannot be read as a PCA ({first_line(error)}): fit it anew") from None
