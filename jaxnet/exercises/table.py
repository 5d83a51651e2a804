"""The table of all exercises."""

from __future__ import annotations

import importlib

from jaxnet.exercises.exercise import Exercise

MODULES = (
    "e01_numpy",
    "e02_jax_numpy",
    "e03_grad",
    "e04_custom_vjp",
    "e05_sequential",
    "e06_optax",
    "e07_module",
    "e08_dynamic",
    "e09_random_keys",
    "e10_state",
    "e11_recompilation",
    "e12_scan",
    "e13_precision",
    "e14_donation",
    "e15_vmap",
    "e16_devices",
)
_IMPORTED = [importlib.import_module(f"jaxnet.exercises.{name}") for name in MODULES]
EXERCISES: dict[str, Exercise] = {one.EXERCISE.number: one.EXERCISE for one in _IMPORTED}
