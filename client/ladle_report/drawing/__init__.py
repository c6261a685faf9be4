"""Plots as SVG, by hand: dots, lines, bars, heat maps and a contour map. They know nothing of reports."""
