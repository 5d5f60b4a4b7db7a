"""Decide before the start, and say why: which solver, which strategy, which engine, at what price."""

from tutti.planner.choose import Choice, choose
from tutti.planner.explain import Explanation, explain

__all__ = ["Choice", "Explanation", "choose", "explain"]
