"""Virtual nodes: adjacencies that hold them, a transform, sensitivities."""
