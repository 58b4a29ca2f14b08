"""The plots of the report, drawn by Vega-Lite into SVG: they need no script, and work offline and on paper."""
