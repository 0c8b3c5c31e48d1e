"""`prediction_type` and what it is called here."""

from __future__ import annotations

from typing import Final

from ldm_registry.vocabulary import Prediction

PREDICTIONS: Final = {
    "epsilon": Prediction.EPSILON,
    "sample": Prediction.X0,
    "original_sample": Prediction.X0,
    "v_prediction": Prediction.V,
    "flow_prediction": Prediction.VELOCITY,
}


def name_of(prediction: Prediction, choices: tuple[str, ...], problems: list[str]) -> str:
    """The name that diffusers has for a prediction.

    Args:
        prediction: What the denoiser puts out.
        choices: The names that the class knows, at least one.
        problems: Gets a line when there is none.
    """
    for name in choices:
        if PREDICTIONS[name] is prediction:
            return name
    known = ", ".join(PREDICTIONS[name] for name in choices)
    problems.append(f"the denoiser's prediction is {prediction}; expected one of {known}")
    return choices[0]
