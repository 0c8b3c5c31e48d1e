"""One thing that is asked of a component, and how it may turn out."""

from __future__ import annotations

import inspect
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

from torch import Tensor

from ldm_registry.testing.subject import Subject
from ldm_registry.vocabulary import Kind


class Status(StrEnum):
    """How a check turned out."""

    PASSED = "passed"
    FAILED = "failed"
    SKIPPED = "skipped"
    """The author says why it does not hold."""
    NOT_APPLICABLE = "not applicable"
    """The component has nothing that it could be tried on, or the machine lacks what it needs."""


class NotApplicableError(Exception):
    """Raised by a check that finds nothing to try."""


class NonconformityError(Exception):
    """Raised by a check that fails: what was got against what was expected."""


@dataclass(frozen=True, slots=True)
class CheckResult:
    """What came out of one check.

    Attributes:
        name: Of the check.
        status: How it turned out.
        detail: What was got against what was expected; the reason of a skip; empty when it passed.
        where: File and line of a failure: where the component raised, else where its class begins.
    """

    name: str
    status: Status
    detail: str = ""
    where: str = ""


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that is asked of every component of some kinds.

    Attributes:
        run: Returns when it holds, and raises when it does not. Its name is the check's name, and the first line of
            its docstring says what holds.
        kinds: Whom it is asked of.
    """

    run: Callable[[Subject], None]
    kinds: frozenset[Kind]

    @property
    def name(self) -> str:
        """As it is named in `skip`."""
        return self.run.__name__

    @property
    def about(self) -> str:
        """What holds when it passes, in one line."""
        return (self.run.__doc__ or "").partition("\n")[0]

    def result(self, subject: Subject) -> CheckResult:
        """Run it; whatever the component raises is a failure of the check, never of the suite."""
        try:
            self.run(subject)
        except NotApplicableError as reason:
            return CheckResult(self.name, Status.NOT_APPLICABLE, str(reason))
        except NonconformityError as failure:
            return CheckResult(self.name, Status.FAILED, str(failure), _where(subject.component, None))
        except (Exception, SystemExit) as error:
            detail = f"it raised {type(error).__name__}: {error}"
            return CheckResult(self.name, Status.FAILED, detail, _where(subject.component, error))
        return CheckResult(self.name, Status.PASSED)


def _where(component: type[object], error: BaseException | None) -> str:
    """Where the component's own module raised, as far as it did; else where its class begins."""
    try:
        place = f"{inspect.getsourcefile(component)}:{inspect.getsourcelines(component)[1]}"
    except (OSError, TypeError):
        place = component.__module__
    top = component.__module__.partition(".")[0]
    for frame, number in traceback.walk_tb(error.__traceback__ if error else None):
        if frame.f_globals.get("__name__", "").partition(".")[0] == top:
            place = f"{frame.f_code.co_filename}:{number}"
    return place


def asked_of(*kinds: Kind) -> Callable[[Callable[[Subject], None]], Check]:
    """Make a check out of a function.

    Args:
        kinds: Whom it is asked of; none means every kind.
    """
    return lambda run: Check(run, frozenset(kinds or Kind))


def require(holds: bool, otherwise: str) -> None:
    """Fail the check unless something holds.

    Args:
        holds: Whether it does.
        otherwise: What was got against what was expected.

    Raises:
        NonconformityError: It does not.
    """
    if not holds:
        raise NonconformityError(otherwise)


def require_equal(got: Tensor, expected: Tensor, what: str) -> None:
    """Fail the check unless two tensors are equal bit for bit, NaN counting as equal to itself."""
    require(got.shape == expected.shape, f"{what}: shape {list(got.shape)} against {list(expected.shape)}")
    same = (got == expected) | (got.isnan() & expected.isnan())
    if not bool(same.all()):
        apart = int((~same).sum())
        largest = float((got.double() - expected.double()).abs().max())
        require(False, f"{what}: {apart} of {got.numel()} values differ, by up to {largest:.3g}")


def require_close(got: Tensor, expected: Tensor, what: str, tolerance: float) -> None:
    """Fail the check unless two tensors agree.

    Args:
        got: What came out.
        expected: What should have.
        what: Named in the failure.
        tolerance: Largest allowed difference, relative to the largest value or to 1, whichever is larger.
    """
    require(got.shape == expected.shape, f"{what}: shape {list(got.shape)} against {list(expected.shape)}")
    got, expected = got.double(), expected.double()
    scale = max(1.0, float(expected.abs().max()))
    apart = float((got - expected).abs().max())
    require(
        apart <= tolerance * scale,
        f"{what}: values differ by up to {apart:.3g}, allowed {tolerance * scale:.1g}",
    )
