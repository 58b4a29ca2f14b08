"""The story in order: train, capture, build, parity, measure, judge, report. The only folder that sees a recipe."""
