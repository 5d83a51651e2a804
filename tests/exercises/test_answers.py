"""Every exercise: right answers pass, and each known mistake gets its own hint."""

import jax
import pytest
from exercises.solutions import RIGHT, WRONG, source
