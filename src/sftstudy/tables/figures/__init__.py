"""A study's figures: training dynamics and scores over samples seen."""

from sftstudy.tables.figures.draw import render_figure
from sftstudy.tables.figures.look import MARKERS, OKABE_ITO, STYLE, WIDTH, encoded

__all__ = ["MARKERS", "OKABE_ITO", "STYLE", "WIDTH", "encoded", "render_figure"]
