"""From an ``nn.Module`` to files that run elsewhere. Knows nothing of recipes, of timing or of judgement."""
