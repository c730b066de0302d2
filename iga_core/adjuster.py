"""One adjusted step, once for all backends.

A backend hands in the cotangents of a step, piece by piece, and evaluates the factors of the
Jacobian where it is asked to; which points speak, when a transform is made, what is averaged over
time and what becomes of each cotangent is decided here.
"""

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import numpy as np
from array_api_compat import array_namespace, device
from numpy.typing import NDArray

from iga_core.adjustment import Adjustment, Reach
from iga_core.arrays import Array, on_host, require_finite, same_device, sent, short
from iga_core.filters import Transform, needs_kernel
from iga_core.ntk import Factor, gram
from iga_core.sampling import drawn, largest

FactorsAt: TypeAlias = Callable[[Array], Sequence[Factor] | Array]
Choose: TypeAlias = Callable[[Array, NDArray[np.int64], int], Array]

PLAIN = Transform(1.0)


@dataclass(frozen=True, eq=False)
class State:
    """What an adjustment carries from step to step; replaced, never changed.

    Parameters
    ----------
    step : int
        Steps so far.
    age : int
        How many of them the transform has served.
    kernel : array, shape (n, n), optional
        The running average.
    transform : Transform, optional
        The one that serves.
    """

    step: int = 0
    age: int = 0
    kernel: Array | None = None
    transform: Transform | None = None


class Adjuster:
    """An adjusted step, of data that come in one piece or in several.

    In every step, for each piece of columns in turn: `look` at its cotangent, `make` the transform
    (which the first piece decides, and the others share), and call to adjust the cotangent.

    Parameters
    ----------
    adjustment : Adjustment
        The settings.
    points : int, optional
        Columns of a step, the points of a group: a step is over when so many were seen. None where
        every piece is a step of its own.
    centre : ndarray of int64, shape (n,), optional
        Position of each group that the sampling "centre" takes; by default the middle column.
    choose : callable, optional
        Chooses the representatives in place of the adjustment's sampling: from the first piece's
        cotangent (n, b, C), its columns (b,) and the step, from 0, to positions in the group, an
        integer array (n, s).
    send : callable, optional
        Moves a host's array to the device of another, ``send(positions, like)``, for a backend
        that can do so without waiting; `asarray` by default.

    Raises
    ------
    TypeError
        If the settings are no Adjustment, or `choose` is no function.

    Examples
    --------
    >>> import numpy as np
    >>> from iga_core import Adjuster, Adjustment, Rows
    >>> generator = np.random.default_rng(0)
    >>> cotangent = generator.normal(size=(8, 16, 3))  # 8 groups of 16 points
    >>> jacobian = generator.normal(size=(8, 16, 50))  # of the outputs' sum at each point
    >>> def factors_at(positions):  # (8, 1)
    ...     return [Rows(np.take_along_axis(jacobian, positions[..., None], axis=1)[:, 0])]
    >>> adjuster = Adjuster(Adjustment(), points=16)
    >>> adjuster.look(cotangent, np.arange(16))
    >>> transform = adjuster.make(factors_at)
    >>> adjusted = adjuster(cotangent)  # back-propagate this
    >>> bool(np.all(adjusted.mean(axis=1) ** 2 <= cotangent.mean(axis=1) ** 2 + 1))
    True
    """

    def __init__(
        self,
        adjustment: Adjustment,
        points: int | None = None,
        *,
        centre: NDArray[np.int64] | None = None,
        choose: Choose | None = None,
        send: Callable[[NDArray[np.int64], Array], Array] | None = None,
    ) -> None:
        if not isinstance(adjustment, Adjustment):
            raise TypeError(
                f"adjustment: expected an Adjustment, got {short(adjustment)}; pass Adjustment()"
            )
        self.adjustment = adjustment
        self.state = State()
        self.finite: Array = True
        """Whether the last kernel was finite, for a backend that cannot be asked without waiting;
        an array () on an accelerator."""
        if choose is not None and not callable(choose):
            raise TypeError(
                f"choose: expected a function, got {short(choose)}; pass one that takes a "
                "cotangent, columns and a step"
            )
        self._points, self._centre = points, centre
        self._choose, self._send = choose or self._by_the_rule, send or sent
        self._seen: NDArray[np.bool_] | None = None  # columns of a step that is not over
        self._first: tuple[Array, NDArray[np.int64]] | None = None
        self._warned = False

    @property
    def transform(self) -> Transform | None:
        """The transform that serves; None before any."""
        return self.state.transform

    def look(self, cotangent: Array, columns: NDArray[np.int64] | None = None) -> None:
        """See a piece of a step.

        Parameters
        ----------
        cotangent : array, shape (n, b, C)
            Gradient of the loss with respect to the outputs at some columns of all groups.
        columns : ndarray of int64, shape (b,), optional
            Which columns they are; by default the first b. Columns that this step has seen already
            begin another one, as after a step that an exception broke off.
        """
        columns = np.arange(cotangent.shape[1]) if columns is None else columns
        seen = self._seen
        if self._points is None or seen is None or seen[columns].any():
            self._first = (cotangent, columns)
            seen = None if self._points is None else np.zeros(self._points, dtype=bool)
        if seen is not None:
            seen[columns] = True
        self._seen = None if seen is None or seen.all() else seen

    def make(self, factors_at: FactorsAt) -> Transform:
        """Make the transform of the step, or keep it.

        Parameters
        ----------
        factors_at : callable
            From positions in the group, an integer array (n, s) on the cotangent's device, to the
            factors of the Jacobian of the groups' mean outputs there, as `gram` takes them, or to
            the kernel (n, n) itself. Not called where a transform is kept or no kernel is needed.

        Returns
        -------
        Transform
            For every piece of this step. The identity where the kernel is not finite: such a one
            does not enter the average, and on a CPU a warning says so, once.

        Notes
        -----
        ``O(n³)`` where one is made. With an average the first kernel is taken as it is. Another
        number of groups, dtype or device starts afresh.
        """
        if self._first is None:
            return self.state.transform or PLAIN
        (cotangent, columns), self._first = self._first, None
        state, settings = self.state, self.adjustment
        if not needs_kernel(settings.filter):
            transform = settings.filter(None)
            self.state = replace(state, step=state.step + 1, transform=transform)
        elif state.age < settings.refresh and _serves(state.transform, cotangent):
            self.state = replace(state, step=state.step + 1, age=state.age + 1)
        else:
            found = factors_at(self._choose(cotangent, columns, state.step))
            kernel = gram(found) if isinstance(found, Sequence) else found
            self.state = self._renewed(kernel, cotangent)
        return self.state.transform or PLAIN

    def __call__(self, cotangent: Array, transform: Transform | None = None) -> Array:
        """Return the adjusted cotangent of a piece.

        Parameters
        ----------
        cotangent : array, shape (n, b, C)
            The piece's.
        transform : Transform, optional
            What `make` gave in the piece's step; by default the last one.

        Returns
        -------
        array, shape (n, b, C)
            The cotangent itself where its adjustment would not be finite.
        """
        transform = transform or self.state.transform or PLAIN
        return adjusted(transform, self.adjustment.reach, cotangent)[0]

    def with_rest(
        self,
        cotangent: Array,
        rest: Array,
        neighbours: Array,
        transform: Transform | None = None,
    ) -> tuple[Array, Array]:
        """Return the adjusted cotangents of a piece and of the points in no group.

        Parameters
        ----------
        cotangent : array, shape (n, b, C)
            The piece's.
        rest : array, shape (m, C)
            Of the points in no group.
        neighbours : array of int64, shape (m,)
            The group nearest each of them, see `Grouping.neighbours`; negative where there is none.
        transform : Transform, optional
            As for a call.

        Returns
        -------
        array, shape (n, b, C)
        array, shape (m, C)
            With reach "mean" these points take the correction of their nearest group's mean, in
            which they have no part; with "points" they keep their plain gradient.
        """
        transform = transform or self.state.transform or PLAIN
        return adjusted(transform, self.adjustment.reach, cotangent, rest, neighbours)

    def forget(self, centre: NDArray[np.int64] | None = None) -> None:
        """Begin afresh, as for other points; the stream of random samples goes on.

        Parameters
        ----------
        centre : ndarray of int64, shape (n,), optional
            Of the groups to come, where they are others.
        """
        self.state = State(self.state.step)
        self._centre = self._centre if centre is None else centre

    def state_dict(self) -> dict[str, Array]:
        """Return what is carried from step to step, by name.

        Returns
        -------
        dict of str to array
            Numbers as NumPy arrays (), the settings as the bytes of a line; not copies.
        """
        state, transform = self.state, self.state.transform
        found = {
            "settings": np.asarray(list(self.adjustment.describe().encode()), np.uint8),
            "step": np.asarray(state.step),
            "age": np.asarray(state.age),
            "kernel": state.kernel,
            "S": None if transform is None else _as_matrix(transform),
            "eigenvalues": None if transform is None else transform.eigenvalues,
        }
        return {name: array for name, array in found.items() if array is not None}

    def load_state_dict(
        self, state: Mapping[str, Array], like: Array = None, groups: int | None = None
    ) -> None:
        """Go on where another adjuster of the same settings stood.

        Parameters
        ----------
        state : mapping of str to array
            What `state_dict` gave.
        like : array, optional
            Of the library and on the device of the cotangents to come, for a state that may be
            elsewhere.
        groups : int, optional
            How many there will be, where that is known.

        Raises
        ------
        ValueError
            If it is no such mapping, or of other settings. Nothing is changed then.
        """
        self.state = _read(state, self.adjustment, like, groups)
        self._seen = self._first = None

    def _by_the_rule(self, cotangent: Array, columns: NDArray[np.int64], step: int) -> Array:
        """Choose the representatives among the columns of a first piece."""
        settings, (groups, count) = self.adjustment, cotangent.shape[:2]
        samples = min(settings.samples, count)
        if settings.sampling == "largest":
            xp = array_namespace(cotangent)
            found = largest(cotangent, samples)
            flat = xp.take(self._send(columns, cotangent), xp.reshape(found, (-1,)), axis=0)
            return xp.reshape(flat, found.shape)
        if settings.sampling == "centre":
            middle = np.full(groups, columns[(count - 1) // 2])
            positions = (middle if self._centre is None else self._centre)[:, None]
        else:
            positions = columns[drawn(groups, count, samples, [settings.seed, step])]
        return self._send(positions, cotangent)

    def _renewed(self, new: Array, cotangent: Array) -> State:
        """Let a kernel enter the average, and make the transform of that."""
        state, settings, xp = self.state, self.adjustment, array_namespace(new)
        self.finite = xp.all(xp.isfinite(new))
        known = on_host(new)
        if known and not bool(self.finite):
            self._warn_once()
            return State(state.step + 1, 0, state.kernel)
        kernel = self._averaged(new)
        transform = settings.filter(kernel)
        if not transform.uniform:
            S = transform.S
            if not known:  # by a mask, since asking would wait for the accelerator
                eye = xp.eye(S.shape[0], dtype=S.dtype, device=device(S))
                S = xp.where(self.finite, S, eye)
            transform = Transform(xp.astype(S, cotangent.dtype), transform.eigenvalues)
        return State(state.step + 1, 1, kernel if settings.average else None, transform)

    def _averaged(self, new: Array) -> Array:
        """Return the running average with a new kernel in it; where that is not finite, without."""
        kept, share, xp = self.state.kernel, self.adjustment.average, array_namespace(new)
        if kept is None or not share or not _alike(kept, new):
            kept = xp.zeros_like(new)
        # Nothing has entered yet where all is zero: the first average is the first kernel.
        empty = xp.all(kept == 0)
        average = xp.where(empty, new, share * kept + (1 - share) * new)
        return xp.where(self.finite, average, kept)

    def _warn_once(self) -> None:
        if not self._warned:
            self._warned = True
            warnings.warn(
                "kernel: expected finite values, got NaN or infinity; the step was left plain: "
                "lower the learning rate",
                stacklevel=4,
            )


def adjusted(
    transform: Transform,
    reach: Reach,
    cotangent: Array,
    rest: Array | None = None,
    neighbours: Array | None = None,
) -> tuple[Array, Array]:
    """Return the adjusted cotangents of grouped points and of the rest, of arguments that fit."""
    xp = array_namespace(cotangent)
    if reach == "points":
        moved = transform.applied(cotangent)
        # One infinite cotangent, as a GradScaler makes them, must not reach other groups.
        return xp.where(xp.all(xp.isfinite(moved)), moved, cotangent), rest
    change = transform.change(xp.mean(cotangent, axis=1))
    change = xp.where(xp.all(xp.isfinite(change)), change, xp.zeros_like(change))
    moved = cotangent + change[:, None, ...]
    if rest is None or neighbours is None or rest.shape[0] == 0:
        return moved, rest
    theirs = xp.take(
        change, xp.where(neighbours < 0, xp.zeros_like(neighbours), neighbours), axis=0
    )
    near = xp.astype(neighbours >= 0, rest.dtype)
    return moved, rest + near[:, None] * theirs


def _serves(transform: Transform | None, cotangent: Array) -> bool:
    """Say whether a transform is for as many groups, this dtype and this device."""
    if transform is None:
        return False
    return transform.uniform or (
        transform.S.shape[0] == cotangent.shape[0]
        and transform.S.dtype == cotangent.dtype
        and same_device(transform.S, cotangent)
    )


def _alike(a: Array, b: Array) -> bool:
    return a.shape == b.shape and a.dtype == b.dtype and same_device(a, b)


def _as_matrix(transform: Transform) -> Array:
    return np.asarray(float(transform.S)) if transform.uniform else transform.S


def _read(state: Any, adjustment: Adjustment, like: Array, groups: int | None) -> State:
    """Return the state that `Adjuster.state_dict` gave, or raise ValueError."""
    remedy = "load it into an adjustment of the same settings"
    if not isinstance(state, Mapping):
        raise ValueError(f"state: expected what state_dict returned, got {short(state)}; {remedy}")
    settings = adjustment.describe()
    try:
        theirs = bytes(state["settings"].tolist()).decode()
        step, age = int(state["step"]), int(state["age"])
    except (AttributeError, KeyError, TypeError, ValueError, OverflowError) as error:
        raise ValueError(
            f"state: expected settings, step and age, got {short(sorted(map(str, state)))} "
            f"({error}); {remedy}"
        ) from None
    if theirs != settings:
        raise ValueError(f"state: expected that of {settings}, got that of {theirs}; {remedy}")
    found = {name: state.get(name) for name in ("kernel", "S", "eigenvalues")}
    for name, array in found.items():
        if array is not None:
            try:
                found[name] = _matrix_of_a_state(array, like)
            except (AttributeError, TypeError, ValueError) as error:
                raise ValueError(
                    f"state: expected finite numbers as {name}, got {short(array)} ({error}); "
                    f"{remedy}"
                ) from None
    kernel, S, eigenvalues = found.values()
    shapes = {tuple(array.shape) for array in (kernel, S) if array is not None} - {()}
    n = max((shape[0] for shape in shapes), default=groups or 0)
    lost = (age > 0 and S is None) or (age > 0 and adjustment.average > 0 and kernel is None)
    fits = shapes <= {(n, n)} and (eigenvalues is None or tuple(eigenvalues.shape) == (n,))
    if min(step, age) < 0 or lost or not fits or n != (groups or n):
        raise ValueError(
            f"state: expected counts from 0 and square matrices of {groups or 'some'} groups, got "
            f"step {step}, age {age} and shapes {sorted(shapes)}; {remedy}"
        )
    uniform = S is not None and S.ndim == 0
    transform = None if S is None else Transform(float(S) if uniform else S, eigenvalues)
    return State(step, age, kernel, transform)


def _matrix_of_a_state(array: Any, like: Array) -> Array:
    """Return an array where the cotangents are; a number, () on the host, as it is."""
    if like is not None and array.ndim:
        array = array_namespace(like).asarray(array, device=device(like))
    require_finite("it", array, "it is damaged")
    return array
